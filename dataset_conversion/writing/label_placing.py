"""A label on its image: where the headers put it, proven by the intensities under it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset_conversion.converter import Converter, LoadedCase
from dataset_conversion.reading.mirroring import MIRRORED, in_words, mirrored_axes, wrong_side
from dataset_conversion.reading.volumes import UNSTATED, label_on_image_grid, spacing_of
from nnunet_ext.errors import InputError

UNPROVEN = "label axes follow the headers; no intensity range is known that would prove them"
UNSTATED_UNPROVEN = (
    "no header states how the label lies, so it is taken as it is; no intensity range proves that"
)
AGAINST_HEADER = "label as it lies: turned after its header it does not fit the image"


@dataclass(frozen=True)
class PlacedLabel:
    """A label (x, y, z) on its image's voxels, what was done to it, and what is odd."""

    voxels: np.ndarray
    transforms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def placed_label(converter: Converter, loaded: LoadedCase, label: np.ndarray) -> PlacedLabel:
    """Bring a label onto the grid of its image.

    Where a label turned after its header contradicts the intensities, it is tried as it lies,
    before the source is blamed.

    Args:
        converter: says which intensities a label may have.
        loaded: the image, and both places.
        label: of integers.

    Raises:
        InputError: another grid, or the intensities prove that the label lies elsewhere.
    """
    shape = loaded.image.shape[1:]
    place_mm = loaded.label_affine_mm
    if loaded.affine_mm is None or place_mm is None or label.ndim != 3:
        if label.shape != shape:
            size = "x".join(map(str, shape[::-1]))
            label_size = "x".join(map(str, label.shape[::-1]))
            raise InputError(
                f"image and mask have different sizes ({size} and {label_size} pixels); "
                f"remove the case or replace a file"
            )

        return _proven(converter, loaded, PlacedLabel(label))

    turned, done = label_on_image_grid(label, place_mm, shape, loaded.affine_mm)
    try:
        return _proven(converter, loaded, PlacedLabel(turned, done))
    except InputError:
        if not done or not _may_lie_as_it_is(label, place_mm, shape, loaded.affine_mm):
            raise

        as_it_lies = PlacedLabel(label, (AGAINST_HEADER,), (AGAINST_HEADER,))
        try:
            return _proven(converter, loaded, as_it_lies)
        except InputError:
            pass
        raise


def _may_lie_as_it_is(
    label: np.ndarray, place_mm: np.ndarray, shape: tuple[int, ...], affine_mm: np.ndarray
) -> bool:
    """Whether a label that was turned has the image's voxels without a turn, too."""
    if place_mm.ndim == 1 or label.shape != shape:
        return False
    return bool(np.allclose(spacing_of(place_mm), spacing_of(affine_mm), rtol=1e-3))


def _proven(converter: Converter, loaded: LoadedCase, placed: PlacedLabel) -> PlacedLabel:
    """Return the label with warnings.

    Raises:
        InputError: the intensities prove that it lies elsewhere.
    """
    label, transforms = placed.voxels, placed.transforms
    warnings = list(placed.warnings)
    is_proven = _check_intensities(converter, loaded.image[0], label, loaded.intensity_unit)
    if label.ndim == 3:
        warnings += _check_sides(converter, loaded, label)

    if transforms and not is_proven and AGAINST_HEADER not in transforms:
        warnings.append(UNSTATED_UNPROVEN if UNSTATED in transforms else UNPROVEN)

    return PlacedLabel(label, transforms, tuple(warnings))


def _check_sides(converter: Converter, loaded: LoadedCase, label: np.ndarray) -> list[str]:
    """Return a warning where label and header disagree about left and right.

    Raises:
        InputError: the label is mirrored on its image.
    """
    image, unit, affine_mm = loaded.image[0], loaded.intensity_unit, loaded.affine_mm
    if affine_mm is None:
        return []

    side = wrong_side(image, unit, label, converter.labels, affine_mm)
    axes = mirrored_axes(image, label, converter.labels, affine_mm) if unit == "HU" else ()
    if axes:
        words = in_words(axes, affine_mm)
        raise InputError(
            f"{MIRRORED} {words}: flipped it fits the image clearly better; remove the case"
        )

    return [side] if side else []


def _check_intensities(
    converter: Converter, image: np.ndarray, label: np.ndarray, unit: str
) -> bool:
    """Whether a label's median intensity proves that label and image fit.

    Equal headers prove nothing where a publisher wrote masks in another orientation.

    Raises:
        InputError: it proves the contrary.
    """
    is_proven = False
    for name, (low, high) in converter.plausible(unit).items():
        if name not in converter.labels:
            continue

        values = image[label == converter.labels[name]]
        if not values.size:
            continue

        median = float(np.median(values))
        if not low <= median <= high:
            raise InputError(
                f"label {name} has a median of {median:g} {unit}, expected {low:g} to {high:g}: "
                f"label and image do not fit, perhaps one is flipped; remove the case"
            )

        is_proven = True

    return is_proven
