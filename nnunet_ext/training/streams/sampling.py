"""nnU-Net's loader with three additions.

These are cases on demand, no spatial augmentation, and which samples were forced.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_ext.errors import InputError
from nnunet_ext.training.streams.transforms import without_spatial_transforms


class StreamDataLoader(nnUNetDataLoader):
    """Draws as nnU-Net's loader does, random number for random number, unless it is told otherwise.

    A batch has one more key, ``forced``: bool ``[B]``, True where the patch was placed on a lesion
    on purpose. Such samples show more lesion than those of a stream without labels, and a critic
    would learn to tell them apart by it.
    """

    need_to_pad: np.ndarray
    transforms: ComposeTransforms

    paired = False  # keys are demanded, batch by batch
    centred = False
    demanded_keys: list[str] | None = None

    @classmethod
    def take_over(cls, loader: nnUNetDataLoader) -> StreamDataLoader:
        """Turn a loader that nnU-Net has built into one of these; it is the same object."""
        loader.__class__ = cls
        return loader

    def leave_out_spatial_augmentation(self) -> None:
        """Take the centre of every case as it is; intensities are augmented as before.

        In 2d the slice of a volume is still drawn. No lesion is searched for.
        """
        self.centred = True
        self.oversample_foreground_percent = 0.0
        self.patch_size = self.final_patch_size
        self.need_to_pad = np.zeros_like(self.need_to_pad)
        self.transforms = without_spatial_transforms(self.transforms)

    def forces_every_sample(self) -> bool:
        """Return whether no sample of a batch has a random position."""
        return all(self.get_do_oversample(sample) for sample in range(self.batch_size))

    def get_indices(self) -> Any:
        """Return the keys of the next batch: the demanded ones, or drawn by nnU-Net."""
        keys = self.demanded_keys
        if keys is None:
            keys = super().get_indices()
        self._keys = keys
        return keys

    def generate_train_batch(self) -> dict[str, Any]:
        """Return one batch of nnU-Net's, with ``forced``."""
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
            InputError: a volume whose slices would have to fit those of another.
        """
        assert self._keys is not None  # nnU-Net draws the cases of a batch before their patches
        key = self._keys[len(self._forced)]
        self._forced.append(bool(force_fg))
        lower, upper = super().get_bbox(
            data_shape, force_fg, class_locations, overwrite_class, verbose
        )
        if not self.centred:
            return lower, upper

        if self.patch_size_was_2d and self.paired and data_shape[0] > 1:
            raise InputError(
                f"{key} has {data_shape[0]} slices; pairs of slices need data sets with one slice "
                "per case"
            )
        first = 1 if self.patch_size_was_2d else 0
        for axis in range(first, len(data_shape)):
            lower[axis] = (data_shape[axis] - self.patch_size[axis]) // 2
            upper[axis] = lower[axis] + self.patch_size[axis]
        return lower, upper


def check_matches(
    role: str, matches: dict[str, list[str]], labelled_keys: list[str], stream_keys: list[str]
) -> None:
    """Check that every labelled case has a match and that every match exists.

    Raises:
        InputError: the first case for which this does not hold.
    """
    alone = [key for key in labelled_keys if not matches.get(key)]
    if alone:
        raise InputError(
            f"{len(alone)} of {len(labelled_keys)} labelled cases have no match in the {role} "
            f"stream, e.g. {alone[0]}; match the cases again"
        )

    known = set(stream_keys)
    for labelled in labelled_keys:
        lost = [key for key in matches[labelled] if key not in known]
        if lost:
            raise InputError(
                f"the match {lost[0]} of the labelled case {labelled} is not in the {role} stream; "
                "match the cases again"
            )
