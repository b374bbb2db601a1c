"""What the page says of segments and lesions beyond their measurements: place, share, certainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from nnunet_ext.dicom.reading.series import Acquisition
from nnunet_ext.dicom.writing.measurements import (
    MM3_PER_ML,
    Measurement,
    lesions_of,
    voxel_volumes_mm3,
)
from nnunet_ext.dicom.writing.segments import Segment
from nnunet_ext.errors import InputError
from nnunet_ext.lungs import find_lungs

LUNG_CODE = "39607008"  # SNOMED CT, as known_segments.json has it
Box = tuple[slice, slice, slice]
# Mean of the soft map in a lesion; nnU-Net's own limit between labels is 0.5.
UNCERTAIN_BELOW = 0.75


@dataclass(frozen=True)
class Spread:
    """How folds differ in a lesion: their least and largest volume, and mean Dice of all pairs."""

    least_ml: float
    largest_ml: float
    dice: float


@dataclass(frozen=True)
class Finding:
    """A segment (lesion 0) or one of its lesions on the slices.

    ``slices`` are the first and the last index, ``box`` is left, top, right, bottom in pixels, both
    inclusive; None where nothing was found. ``certainty`` is the mean of the soft map in it, from 0
    to 1. ``percent_of_lung`` relates its volume to that of the lungs.
    ``spread`` tells how the folds differ in a lesion.
    """

    measurement: Measurement
    slices: tuple[int, int] | None = None
    box: tuple[int, int, int, int] | None = None
    certainty: float | None = None
    percent_of_lung: float | None = None
    spread: Spread | None = None

    @property
    def is_uncertain(self) -> bool:
        """Return whether the soft map is low in it."""
        return self.certainty is not None and self.certainty < UNCERTAIN_BELOW


def findings_of(
    measurements: Sequence[Measurement],
    mask: np.ndarray,
    acquisition: Acquisition,
    fractions: np.ndarray | None = None,
    lung_ml: float | None = None,
) -> list[Finding]:
    """Return what is known of each measured segment and lesion, in their order.

    Args:
        measurements: of the mask, from :func:`nnunet_ext.dicom.writing.measurements.measure`.
        mask: (n, row, column) label values on the slices.
        acquisition: the slices.
        fractions: (segment, n, row, column) from 0 to 1, in the order of the segments.
        lung_ml: volume of the lungs, if it is known.
    """
    result = []
    components = np.zeros(mask.shape, np.int32)
    boxes: list[Box] = []
    for item in measurements:
        segment = item.segment
        if item.lesion == 0:
            components = lesions_of(segment.of(mask), acquisition).astype(np.int32)
            boxes = _boxes_of(components)

        soft = None if fractions is None else fractions[segment.number - 1]
        place = _place(item.lesion, boxes)
        certainty = None
        if place is not None and soft is not None:
            inside = components[place] == item.lesion if item.lesion else components[place] > 0
            certainty = float(soft[place][inside].mean())

        share = None
        if lung_ml and not is_lung(segment):
            share = 100 * item.volume_ml / lung_ml
        result.append(_finding(item, place, certainty, share))
    return result


def with_folds(
    findings: Sequence[Finding],
    mask: np.ndarray,
    folds: Sequence[np.ndarray],
    acquisition: Acquisition,
) -> list[Finding]:
    """Return findings with the spread of the folds in each lesion.

    It is measured inside the lesion's box, without the voxels of other lesions there.

    Args:
        findings: of the mask, from :func:`findings_of`.
        mask: (n, row, column) label values on the slices.
        folds: masks like it, of each fold on its own; fewer than two tell nothing.
        acquisition: the slices.
    """
    if len(folds) < 2:
        return list(findings)

    result = []
    components = np.zeros(mask.shape, np.int32)
    for item in findings:
        lesion, segment = item.measurement.lesion, item.measurement.segment
        if not lesion:
            components = lesions_of(segment.of(mask), acquisition).astype(np.int32)
        if not lesion or item.slices is None or item.box is None:
            result.append(item)
            continue

        left, top, right, bottom = item.box
        slices = slice(item.slices[0], item.slices[1] + 1)
        place = (slices, slice(top, bottom + 1), slice(left, right + 1))
        own = np.isin(components[place], (0, lesion))
        masks = [segment.of(fold[place]) & own for fold in folds]
        result.append(replace(item, spread=_spread(masks, slices, acquisition)))
    return result


def _spread(masks: Sequence[np.ndarray], slices: slice, acquisition: Acquisition) -> Spread:
    """Return how masks of some of the slices differ; two empty ones agree."""
    layers_ml = voxel_volumes_mm3(acquisition.stack)[slices] / MM3_PER_ML
    volumes_ml = [float(mask.sum(axis=(1, 2)) @ layers_ml) for mask in masks]

    dices = []
    for (first, first_ml), (second, second_ml) in combinations(
        zip(masks, volumes_ml, strict=True), 2
    ):
        shared_ml = float((first & second).sum(axis=(1, 2)) @ layers_ml)
        total_ml = first_ml + second_ml
        dices.append(2 * shared_ml / total_ml if total_ml else 1.0)
    return Spread(min(volumes_ml), max(volumes_ml), float(np.mean(dices)))


def _boxes_of(components: np.ndarray) -> list[Box]:
    """Return the box (slices, rows, columns) of each component, in the order of their numbers."""
    from scipy import ndimage

    return [(box[0], box[1], box[2]) for box in ndimage.find_objects(components)]


def _place(lesion: int, boxes: Sequence[Box]) -> Box | None:
    """Return the box of a lesion, or of all for lesion 0; None where there is nothing."""
    if lesion:
        return boxes[lesion - 1]
    if not boxes:
        return None

    bounds = []
    for axis in range(3):
        start = min(box[axis].start for box in boxes)
        stop = max(box[axis].stop for box in boxes)
        bounds.append(slice(start, stop))
    return bounds[0], bounds[1], bounds[2]


def _finding(
    item: Measurement, place: Box | None, certainty: float | None, share: float | None
) -> Finding:
    if place is None:
        return Finding(item, percent_of_lung=share)

    slices, rows, columns = place
    return Finding(
        item,
        slices=(slices.start, slices.stop - 1),
        box=(columns.start, rows.start, columns.stop - 1, rows.stop - 1),
        certainty=certainty,
        percent_of_lung=share,
    )


def is_lung(segment: Segment) -> bool:
    """Return whether a segment is a lung, by its code."""
    return segment.type.value == LUNG_CODE


def lung_volume_ml(
    mask: np.ndarray, acquisition: Acquisition, segments: Sequence[Segment]
) -> float | None:
    """Return the volume of the lungs with all that lies in them, as the model's labels tell.

    A model that labels lungs and lesions takes the lesions out of the lungs; so they are added.
    None if it labels no lung.
    """
    lungs = [segment for segment in segments if is_lung(segment)]
    if not lungs:
        return None

    inside = _lesions(mask, segments)
    for segment in lungs:
        inside |= segment.of(mask)
    return volume_ml(inside, acquisition) or None


def found_lung_volume_ml(
    values_hu: np.ndarray,
    mask: np.ndarray,
    acquisition: Acquisition,
    segments: Sequence[Segment],
) -> float | None:
    """Return the volume of the lungs that their air shows, with the lesions of the mask.

    None if no lungs are found.

    Args:
        values_hu: (n, row, column) of the slices in HU.
        mask: (n, row, column) label values.
        acquisition: the slices.
        segments: what the values of the mask mean.
    """
    stack = acquisition.stack
    columns_mm, rows_mm = stack.spacing_mm
    spacing_mm = np.array([stack.step_mm, rows_mm, columns_mm])
    axial = int(np.abs(stack.directions[::-1, 2]).argmax())
    try:
        lungs = find_lungs(values_hu, spacing_mm, axial)
    except InputError:
        return None

    inside = _lesions(mask, segments) | lungs.on(mask.shape)
    return volume_ml(inside, acquisition)


def given_lung_volume_ml(
    lungs: np.ndarray, mask: np.ndarray, acquisition: Acquisition, segments: Sequence[Segment]
) -> float:
    """Return the volume of given lungs (n, row, column), boolean, with the lesions of the mask."""
    return volume_ml(_lesions(mask, segments) | lungs, acquisition)


def _lesions(mask: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    inside = np.zeros(mask.shape, bool)
    for segment in segments:
        if segment.lesions:
            inside |= segment.of(mask)
    return inside


def volume_ml(inside: np.ndarray, acquisition: Acquisition) -> float:
    """Return the volume of a boolean mask (n, row, column) on the slices."""
    pixels = inside.sum(axis=(1, 2))
    return float(pixels @ voxel_volumes_mm3(acquisition.stack)) / MM3_PER_ML
