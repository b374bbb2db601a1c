"""A trained synthesis: from a raw source case to its image in the target's domain and unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch.nn import functional

from nnunet_ext.errors import InputError, first_line
from nnunet_ext.networks.translation import (
    SegmentationThroughSynthesis,
    Translator,
    with_dark_background,
)
from nnunet_ext.training.settings.plans_entry import PlansEntry
from nnunet_ext.training.streams.normalization import Window
from nnunet_ext.training.weights.checkpoint_files import read_content

# their arrays have SimpleITK's order of axes; other readers reorder them
READERS = ("SimpleITKIO", "NaturalImage2DIO")
ROLE = "target_domain"
NARROWEST_WINDOW = 20.0  # images are written as whole numbers


@dataclass(frozen=True)
class SynthesisModel:
    """The translator of a finished or running training, and what its images need.

    ``window`` is that of the target: the translator's -1 and 1 are its bounds.
    """

    translator: Translator
    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    window: Window
    device: torch.device

    @classmethod
    def load(cls, folder: Path, fold: str, checkpoint: str, device: torch.device) -> SynthesisModel:
        """Load a trained model as nnU-Net's predictor does.

        Args:
            folder: nnU-Net's results of one trainer, plans and configuration.
            fold: ``0`` to ``4``, or ``all``.
            checkpoint: name of the file in the fold's folder.
            device: of the translation.

        Raises:
            InputError: no such model, one that does not synthesise, or one without a window of the
                target.
        """
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        file = folder / f"fold_{fold}" / checkpoint
        read_content(
            file, "train the synthesis first, or name another fold (-f) or checkpoint (-chk)"
        )

        predictor = nnUNetPredictor(device=device, verbose=False, allow_tqdm=False)
        use_fold: Any = fold if fold == "all" else int(fold)
        try:
            predictor.initialize_from_trained_model_folder(
                str(folder),
                (use_fold,),
                checkpoint,
            )
        except Exception as error:  # plans, trainer or weights of others
            raise InputError(
                f"{file}: cannot be loaded ({first_line(error)}); train the synthesis again"
            ) from error

        network: Any = getattr(predictor.network, "_orig_mod", predictor.network)
        if not isinstance(network, SegmentationThroughSynthesis):
            raise InputError(
                f"{file}: was written by a trainer that does not synthesise images; use "
                "PseudoCTSynthesisTrainer"
            )

        network.load_state_dict(predictor.list_of_parameters[0])
        plans = predictor.plans_manager
        return cls(
            translator=network.translator.to(device).eval(),
            plans=plans,
            configuration=predictor.configuration_manager,
            dataset_json=predictor.dataset_json,
            window=_window_of(plans, file),
            device=device,
        )

    @torch.inference_mode()
    def synthesize(self, images: Sequence[str]) -> np.ndarray:
        """Return the target-domain image of one raw case, on the grid of its files.

        Args:
            images: one file per channel.

        Returns:
            ``[channels, slices, height, width]`` float32 in the window's unit (HU of CT), within
            its bounds. What nnU-Net crops away as empty has the lower bound.
        """
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case(
            list(images),
            None,
            self.plans,
            self.configuration,
            self.dataset_json,
        )

        channels_first = torch.as_tensor(np.asarray(data)).float()
        slices_first = channels_first.movedim(1, 0)
        translated = []
        for one_slice in slices_first:
            batch = one_slice[None].to(self.device)
            translated.append(self._translate_slice(batch))

        joined = torch.cat(translated).movedim(0, 1)
        normalized = joined.cpu().numpy()
        values = self.window.inverse(normalized)
        return self._on_original_grid(values, properties)

    def _translate_slice(self, image: torch.Tensor) -> torch.Tensor:
        """Translate ``[1, channels, H, W]`` as it was seen in training.

        An image smaller than the patch is padded on all sides.
        """
        patch_height, patch_width = self.configuration.patch_size
        height, width = image.shape[2:]
        missing_rows = max(0, patch_height - height)
        missing_columns = max(0, patch_width - width)
        top = missing_rows // 2
        left = missing_columns // 2
        bottom = missing_rows - top
        right = missing_columns - left

        margins = (left, right, top, bottom)
        padded = functional.pad(image, margins)
        source = with_dark_background(padded)
        translated = self.translator(source)
        rows = slice(top, top + height)
        columns = slice(left, left + width)
        return translated[..., rows, columns]

    def _on_original_grid(self, values: np.ndarray, properties: dict[str, Any]) -> np.ndarray:
        """Undo nnU-Net's resampling, cropping and transposing."""
        shape = properties["shape_after_cropping_and_before_resampling"]
        own_shape = values.shape[1:]
        if own_shape != tuple(shape):
            values = self._resampled(values, shape, properties["spacing"])

        low = self.window.low
        high = self.window.high
        channels = len(values)
        whole_shape = (channels, *properties["shape_before_cropping"])
        whole = np.full(whole_shape, low, dtype=np.float32)
        bounds_of_axes = properties["bbox_used_for_cropping"]
        box = [slice(*bounds) for bounds in bounds_of_axes]
        whole[(slice(None), *box)] = values.clip(low, high)

        axes = [1 + axis for axis in self.plans.transpose_backward]
        return whole.transpose([0, *axes])

    def _resampled(
        self, values: np.ndarray, shape: Sequence[int], file_spacing: Sequence[float]
    ) -> np.ndarray:
        """Undo nnU-Net's resampling to the planned spacing."""
        order_of_axes = self.plans.transpose_forward
        spacing = [file_spacing[axis] for axis in order_of_axes]
        planned = self.configuration.spacing
        unplanned_axes = len(spacing) - len(planned)
        unplanned = spacing[:unplanned_axes]
        whole_planned = [*unplanned, *planned]

        resample = self.configuration.resampling_fn_data
        resampled = resample(
            values,
            shape,
            whole_planned,
            spacing,
        )
        return np.asarray(resampled)


def _window_of(plans: PlansManager, file: Path) -> Window:
    """Return the window of the target stream.

    Raises:
        InputError: the plans have none, or one that is too narrow for whole numbers, or nnU-Net's
            reader of the images reorders axes.
    """
    entry = PlansEntry.from_plans(plans.plans)
    normalization = entry.normalizations.get(ROLE)
    if normalization is None:
        raise InputError(
            f"{file}: was trained without a window of the target, so its output has no unit; run "
            f'nnUNetv2_ext_configure -d {plans.dataset_name} --normalize "{ROLE}=window(0,80)" '
            "and train again"
        )

    reader = plans.image_reader_writer_class.__name__
    if reader not in READERS:
        usable = " or ".join(READERS)
        raise InputError(
            f"{file}: its images are read by {reader}; plan the data set with {usable}"
        )
    window = Window.parse(normalization)
    if window.high - window.low < NARROWEST_WINDOW:
        raise InputError(
            f"{file}: was trained with {window} of the target, in which whole numbers are too "
            "coarse; convert the target in Hounsfield units or grey values 0..255, and train again "
            f"with a window of {NARROWEST_WINDOW:g} or more"
        )
    return window
