"""``--strip-skull``: head CT in which everything but the brain has one value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dataset_conversion.converter import LoadedCase
from dataset_conversion.reading.volumes import axial_axis, spacing_of
from nnunet_ext.errors import InputError
from nnunet_ext.synthesis.skull import without_skull


def case_without_skull(loaded: LoadedCase, background_hu: int) -> LoadedCase:
    """Return a head CT without skull, scalp and head rest, axial slice by axial slice.

    Args:
        loaded: one channel in HU with its affine.
        background_hu: value of everything but the brain.

    Raises:
        InputError: the values are not Hounsfield units.
    """
    if loaded.intensity_unit != "HU" or loaded.affine_mm is None:
        raise InputError(
            "--strip-skull needs Hounsfield units, which tell bone from brain; leave it out"
        )

    axis = axial_axis(loaded.affine_mm)
    spacing_mm = np.delete(spacing_of(loaded.affine_mm), axis).tolist()
    stripped = loaded.image[0].copy()
    slices = np.moveaxis(stripped, axis, 0)  # a view: what is assigned to it lands in `stripped`
    without_brain = 0
    for index, hu in enumerate(slices):
        slices[index], has_brain = without_skull(hu, spacing_mm, background_hu)
        without_brain += not has_brain

    warnings = loaded.warnings
    if without_brain:
        warnings += (f"no brain found in {without_brain} of {len(slices)} slices",)
    return replace(
        loaded,
        image=stripped[None],
        transforms=(*loaded.transforms, f"skull removed, {background_hu} HU outside the brain"),
        warnings=warnings,
        as_read=None,
    )
