"""nnU-Net's loader, extended: cases on demand, no spatial augmentation, marks on forced samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_ext.errors import InputError
from nnunet_ext.training.streams.transforms import without_spatial_transforms


class StreamDataLoader(nnUNetDataLoader):
    """Draws the same random numbers as nnU-Net's loader unless an addition is switched on.

    A batch has one more key, ``forced``: bool ``[B]``, True where the patch was placed on a lesion
    on purpose. Such samples show more lesion than those of a stream without labels, and a critic
    would learn to distinguish them by it.
    """

    need_to_pad: np.ndarray
    transforms: ComposeTransforms

    paired = False  # the keys of every batch are demanded
    centred = False
    demanded_keys: list[str] | None = None

    @classmethod
    def take_over(cls, loader: nnUNetDataLoader) -> StreamDataLoader:
        """Turn a loader that nnU-Net has built into one of these; it is the same object."""
        loader.__class__ = cls
        return loader

    def leave_out_spatial_augmentation(self) -> None:
        """Take the centre of every case, unmoved; intensities are augmented as before.

        In 2d the slice of a volume is still drawn. Patches are no longer placed on lesions.
        """
        self.centred = True
        self.oversample_foreground_percent = 0.0
        self.patch_size = self.final_patch_size
        self.need_to_pad = np.zeros_like(self.need_to_pad)
        self.transforms = without_spatial_transforms(self.transforms)

    def forces_every_sample(self) -> bool:
        """Return whether no sample of a batch has a random position."""
        samples = range(self.batch_size)
        return all(map(self.get_do_oversample, samples))

    def get_indices(self) -> Any:
        """Return the keys of the next batch: the demanded ones, or those that nnU-Net draws."""
        keys = self.demanded_keys
        if keys is None:
            keys = super().get_indices()
        self._keys = keys
        return keys

    def generate_train_batch(self) -> dict[str, Any]:
        """Return nnU-Net's batch with the additional key ``forced``."""
        self._forced: list[bool] = []
        batch = super().generate_train_batch()
        batch["forced"] = torch.tensor(self._forced)
        return batch

    def get_bbox(
        self,
        data_shape: Any,
        force_fg: bool,
        class_locations: Any,
        overwrite_class: Any = None,
        verbose: bool = False,
    ) -> tuple[list[int], list[int]]:
        """Place the patch in a case, as nnU-Net does or in the centre.

        Raises:
            InputError: a case with several slices, where pairs need one.
        """
        assert self._keys is not None  # nnU-Net draws the cases of a batch before their patches
        sample = len(self._forced)
        key = self._keys[sample]
        self._forced.append(bool(force_fg))
        lower, upper = super().get_bbox(
            data_shape,
            force_fg,
            class_locations,
            overwrite_class,
            verbose,
        )
        if not self.centred:
            return lower, upper

        slices = data_shape[0]
        if self.patch_size_was_2d and self.paired and slices > 1:
            raise InputError(
                f"{key} has {slices} slices; pairs of slices need data sets with one slice per case"
            )

        first_axis = 1 if self.patch_size_was_2d else 0
        for axis in range(first_axis, len(data_shape)):
            edge = self.patch_size[axis]
            lower[axis] = (data_shape[axis] - edge) // 2
            upper[axis] = lower[axis] + edge
        return lower, upper


def check_matches(
    role: str, matches: dict[str, list[str]], labelled_keys: list[str], stream_keys: list[str]
) -> None:
    """Check that every labelled case has a match and that every match exists.

    Raises:
        InputError: the first case for which this does not hold.
    """
    unmatched = [key for key in labelled_keys if not matches.get(key)]
    if unmatched:
        raise InputError(
            f"{len(unmatched)} of {len(labelled_keys)} labelled cases have no match in the {role} "
            f"stream, e.g. {unmatched[0]}; match the cases again"
        )

    known = set(stream_keys)
    for labelled in labelled_keys:
        for match in matches[labelled]:
            if match not in known:
                raise InputError(
                    f"the match {match} of the labelled case {labelled} is not in the {role} "
                    "stream; match the cases again"
                )
