"""nnU-Net's own predictor, one case after the other in this process.

So the memory stays that of one case.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError, first_line
from nnunet_ext.hospital.model import ModelFolder

DEVICES = ("cuda", "cpu", "mps")


class Predictor:
    """A model in memory."""

    def __init__(
        self,
        model: ModelFolder,
        folds: Sequence[str],
        checkpoint: str,
        device: str,
        *,
        step_size: float = 0.5,
        mirroring: bool = True,
        verbose: bool = False,
    ) -> None:
        """Load the weights of all folds.

        Raises:
            InputError: the device is absent, the trainer is not found, or weights do not fit.
        """
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        _require_device(device)
        self.verbose = verbose
        self.ending = model.file_ending
        with self._quiet():
            self.predictor: Any = nnUNetPredictor(
                tile_step_size=step_size,
                use_mirroring=mirroring,
                perform_everything_on_device=device == "cuda",
                device=torch.device(device),
                verbose=verbose,
                allow_tqdm=sys.stderr.isatty(),
            )
            try:
                self.predictor.initialize_from_trained_model_folder(
                    str(model.folder), tuple(folds), checkpoint
                )
            except InputError:
                raise
            except Exception as error:
                raise InputError(
                    f"{model.folder}: model cannot be loaded ({first_line(error)}); is its trainer "
                    "known?"
                ) from error

        if self.predictor.configuration_manager.previous_stage_name is not None:
            raise InputError(
                f"{model.folder}: is the second stage of a cascade; use a model of one stage"
            )

    def predict(self, images: Sequence[Path], output: Path, *, probabilities: bool = False) -> Path:
        """Predict one case.

        Args:
            images: one file per channel.
            output: of the prediction, without its ending.
            probabilities: also write ``output.npz``.

        Returns:
            The file of the prediction.
        """
        files = list(map(str, images))
        with self._quiet():
            self.predictor.predict_from_files_sequential(
                [files], [str(output)], save_probabilities=probabilities
            )
        return output.with_name(output.name + self.ending)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Hide what nnU-Net prints, which includes names of files."""
        if self.verbose:
            yield
            return
        with contextlib.redirect_stdout(io.StringIO()):
            yield


def _require_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("-device cuda: no such device here; use -device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise InputError("-device mps: no such device here; use -device cpu")
