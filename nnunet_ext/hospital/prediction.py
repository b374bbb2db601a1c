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

    @property
    def folds(self) -> int:
        """Return how many folds the ensemble has."""
        return len(self.predictor.list_of_parameters)

    def predict_with_folds(
        self, images: Sequence[Path], output: Path, *, probabilities: bool = False
    ) -> tuple[Path, list[Path]]:
        """Predict one case as :meth:`predict` does, and keep what each fold says on its own.

        The folds run once. Their logits stay in memory, and are resampled one by one.

        Args:
            images: one file per channel.
            output: of the prediction, without its ending.
            probabilities: also write ``output.npz``, of the ensemble.

        Returns:
            The file of the prediction, and that of each fold.
        """
        import torch
        from nnunetv2.inference.export_prediction import export_prediction_from_logits

        stock = self.predictor
        with self._quiet():
            preprocessor = stock.configuration_manager.preprocessor_class(verbose=self.verbose)
            plans = (stock.plans_manager, stock.configuration_manager, stock.dataset_json)
            data, _, properties = preprocessor.run_case(list(map(str, images)), None, *plans)
            with _kept_logits(stock) as of_folds:
                mean = stock.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()

            def export(logits: Any, target: Path, *, soft: bool) -> Path:
                export_prediction_from_logits(
                    logits,
                    properties,
                    stock.configuration_manager,
                    stock.plans_manager,
                    stock.dataset_json,
                    str(target),
                    soft,
                )
                return target.with_name(target.name + self.ending)

            file = export(mean, output, soft=probabilities)
            files: list[Path] = []
            while of_folds:
                target = output.with_name(f"{output.name}-fold-{len(files)}")
                files.append(export(of_folds.pop(0), target, soft=False))
        return file, files

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


@contextlib.contextmanager
def _kept_logits(predictor: Any) -> Iterator[list[Any]]:
    """Collect a copy of the logits of each fold, which nnU-Net adds up in place."""
    kept: list[Any] = []
    sliding_window = predictor.predict_sliding_window_return_logits

    def keep(data: Any) -> Any:
        logits = sliding_window(data)
        kept.append(logits.to("cpu", copy=True))
        return logits

    predictor.predict_sliding_window_return_logits = keep
    try:
        yield kept
    finally:
        del predictor.predict_sliding_window_return_logits


def _require_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("-device cuda: no such device here; use -device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise InputError("-device mps: no such device here; use -device cpu")
