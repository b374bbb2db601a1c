"""``--strip-skull``: head CT in which everything but the brain has one value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dataset_conversion.converter import Reading
from dataset_conversion.reading.volumes import axial_axis, spacing_of
from nnunet_ext.errors import InputError
from nnunet_ext.synthesis.skull import without_skull


def reading_without_skull(reading: Reading, background_hu: int) -> Reading:
    """Return a head CT without skull, scalp and head rest, axial slice by axial slice.

    Args:
        reading: one channel in HU with its affine.
        background_hu: value of everything but the brain.

    Raises:
        InputError: the values are not Hounsfield units.
    """
    if reading.intensity_unit != "HU" or reading.affine_mm is None:
        raise InputError(
            "--strip-skull needs Hounsfield units, which tell bone from brain; leave it out"
        )

    axis = axial_axis(reading.affine_mm)
    spacing_mm = np.delete(spacing_of(reading.affine_mm), axis).tolist()
    stripped = reading.image[0].copy()
    slices = np.moveaxis(stripped, axis, 0)  # a view: what is assigned to it lands in `stripped`
    without_brain = 0
    for index, hu in enumerate(slices):
        slices[index], has_brain = without_skull(hu, spacing_mm, background_hu)
        without_brain += not has_brain

    warnings = reading.warnings
    if without_brain:
        warnings += (f"no brain found in {without_brain} of {len(slices)} slices",)
    return replace(
        reading,
        image=stripped[None],
        transforms=(*reading.transforms, f"skull removed, {background_hu} HU outside the brain"),
        warnings=warnings,
        as_read=None,
    )
