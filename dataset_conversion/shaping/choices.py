"""What the user wants of any data set: which labels, which part, volumes or slices, HU or a
window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dataset_conversion.converter import Converter, Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.label_values import LabelRenumbering, choose_labels
from dataset_conversion.reading.volumes import axial_axis, spacing_of
from dataset_conversion.shaping.cropping import (
    Box,
    box_from_text,
    box_of_mask_file,
    box_text,
    lung_box,
)
from dataset_conversion.shaping.resizing import resized_image, resized_label
from nnunet_ext.errors import InputError

# Columns of conversion.csv that nnUNetv2_ext_uncrop needs
ORIGINAL_SHAPE, ORIGINAL_AFFINE = "original_shape", "original_affine"  # of the volume
CROP_BOX = "crop_box"  # in voxels of the volume
SLICE = "slice"  # index in the volume, along its axial axis
RESIZED_FROM = "resized_from"  # shape of a slice before --resize
WINDOWED_CT = "windowed CT"  # not "CT": nnU-Net would normalise grey values as Hounsfield units


def output_labels(converter: Converter) -> LabelRenumbering:
    """From the labels that the data set reads to those that are written.

    Raises:
        InputError: ``--labels`` names an unknown label, or one twice.
    """
    return choose_labels(converter.labels, converter.labels_wanted, converter.label_groups)


def output_channels(converter: Converter) -> tuple[str, ...]:
    """Names of the channels that are written.

    Raises:
        InputError: a window of something other than CT.
    """
    names = converter.channel_names
    if converter.window is None:
        return names
    if any(name.casefold() != "ct" for name in names):
        raise InputError(
            f"--window is for CT in HU; {converter.source} has {', '.join(names)}; "
            "if that is CT in HU, Generic needs --channel CT"
        )
    low, high = converter.window
    if not low < high:
        raise InputError(f"--window {low:g} {high:g}: the low end comes first")
    return (WINDOWED_CT,) * len(names)


def require_possible(converter: Converter) -> None:
    """Refuse options that are wrong in themselves, before any case is read.

    Raises:
        InputError: says which and what is valid.
    """
    output_labels(converter)
    output_channels(converter)
    if converter.slices:
        chosen_slices(converter.slices, 1)
        if converter.file_ending == ".png":
            raise InputError(
                f"--slices {converter.slices}: {converter.name} is single slices already; leave "
                f"it out"
            )
        if converter.slices == "lesion" and converter.unlabeled:
            raise InputError(
                "--slices lesion needs labels; with --unlabeled choose all, every:N or FIRST:LAST"
            )
    if converter.crop is not None or converter.lung_masks is not None:
        _require_croppable(converter)
    if converter.resize is not None:
        if converter.resize < 1:
            raise InputError(
                f"--resize {converter.resize}: write the new width and height in pixels, such as "
                f"352"
            )
        if not converter.slices and converter.file_ending != ".png":
            raise InputError(
                f"--resize {converter.resize}: is for single slices; add --slices lesion, all or "
                f"every:N"
            )
    if converter.split and converter.split not in converter.splits:
        kind, _, count = converter.split.partition(":")
        if kind != "patient" or not count.isascii() or not count.isdigit() or int(count) < 2:
            valid = ", ".join([*converter.splits, "patient:K with K of 2 or more"])
            raise InputError(f"--split {converter.split}: {converter.name} has {valid}")


def _require_croppable(converter: Converter) -> None:
    if converter.crop not in (None, "lungs"):
        raise InputError(f"--crop {converter.crop}: there is only lungs")
    if converter.crop is not None and converter.lung_masks is not None:
        raise InputError("--crop lungs finds the lungs, --lung-masks gives them; choose one")
    if converter.lung_masks is not None and not converter.lung_masks.is_dir():
        raise InputError(f"--lung-masks {converter.lung_masks}: no such folder")
    if converter.file_ending == ".png":
        raise InputError(
            f"--crop, --lung-masks: are for volumes; {converter.name} is single slices already"
        )


def chosen_slices(slices: str, count: int) -> range:
    """Return which slices of a volume are looked at, by index from 0.

    Args:
        slices: what the user wants; ``lesion`` looks at all.
        count: slices of the volume.

    Raises:
        InputError: not ``lesion``, ``all``, ``every:N`` or ``FIRST:LAST``.
    """
    if slices in ("lesion", "all"):
        return range(count)
    first, separator, last = slices.partition(":")
    if separator and last.isascii() and last.isdigit():
        if first == "every" and int(last) > 0:
            return range(0, count, int(last))
        if first.isascii() and first.isdigit() and int(first) <= int(last):
            return range(int(first), min(int(last) + 1, count))
    raise InputError(
        f"--slices {slices}: write lesion, all, every:N or FIRST:LAST, e.g. every:5 or 60:99"
    )


def wanted_cases(converter: Converter, found: Inventory) -> Inventory:
    """With ``--unlabeled``: what the data set gives as unlabelled, or else its training images
    without labels.
    """
    if not converter.unlabeled:
        return found
    cases = [case for case in found.cases if case.part == "Un"]
    if not cases:
        cases = [
            replace(case, part="Un", label_files=()) for case in found.cases if case.part == "Tr"
        ]
    return Inventory(cases, found.problems, found.notes)


def pieces(
    converter: Converter, case: SourceCase, reading: LoadedCase
) -> Iterator[tuple[SourceCase, LoadedCase]]:
    """What is written for a case: itself, or its slices; image and label already on one grid."""
    label = None if reading.label is None else output_labels(converter)(reading.label)
    reading = replace(reading, label=label)
    is_volume = reading.image.ndim == 4 and reading.affine_mm is not None
    if is_volume and (converter.resize is not None or crops(converter)):
        case = _with_original_grid(case, reading)
    if crops(converter):
        try:
            box = _box(converter, case, reading)
        except InputError as error:
            raise InputError(f"{case.image_files[0]}: {error}") from error
        case, reading = _cropped(case, reading, box)

    image, label, transforms = reading.image, reading.label, reading.transforms
    if label is not None and output_labels(converter).changes:
        transforms += (f"labels {output_labels(converter).new_value}",)
    if converter.window is not None:
        low, high = converter.window
        image = windowed(image, low, high)
        transforms += (f"window {low:g} to {high:g} HU",)
        reading = replace(reading, intensity_unit="grey values 0..255 of a CT window")
    reading = replace(reading, image=image, transforms=transforms)
    is_slice = not converter.slices or image.ndim == 3
    written = iter([(case, reading)]) if is_slice else _slices(converter.slices, case, reading)
    for piece, content in written:
        yield (
            (piece, content)
            if converter.resize is None
            else _resized(piece, content, converter.resize)
        )


def crops(converter: Converter) -> bool:
    """Whether images are cropped to the lungs."""
    return converter.crop is not None or converter.lung_masks is not None


def _with_original_grid(case: SourceCase, reading: LoadedCase) -> SourceCase:
    """The case with the volume's shape and affine in ``details``."""
    assert reading.affine_mm is not None
    numbers = (repr(float(value)) for value in reading.affine_mm[:3].ravel())
    grid = {
        ORIGINAL_SHAPE: "x".join(map(str, reading.image.shape[1:])),
        ORIGINAL_AFFINE: " ".join(numbers),
    }
    return replace(case, details={**case.details, **grid})


def _box(converter: Converter, case: SourceCase, reading: LoadedCase) -> Box:
    """Where the lungs lie.

    Raises:
        InputError: no volume, none in HU, no lungs, or no mask for it.
    """
    affine_mm = reading.affine_mm
    if affine_mm is None or reading.image.ndim != 4:
        raise InputError("is a single slice; --crop and --lung-masks are for volumes")
    if converter.lung_masks is not None:
        file = converter.lung_masks / f"{case.id}.nii.gz"
        if not file.is_file():
            raise InputError(
                f"{file}: no such lung mask; --lung-masks needs one per case, called after it"
            )
        return box_of_mask_file(file, reading.image.shape[1:], affine_mm)
    if not reading.intensity_unit.startswith("HU"):
        raise InputError(
            f"is in {reading.intensity_unit}; --crop lungs needs HU, --lung-masks does not"
        )
    return lung_box(reading.image[0], affine_mm)


def _cropped(case: SourceCase, reading: LoadedCase, box: Box) -> tuple[SourceCase, LoadedCase]:
    """Image and label within a box, which ``details`` note; a warning where lesions are cut off."""
    assert reading.affine_mm is not None
    inside = tuple(slice(start, stop) for start, stop in box)
    shift = np.eye(4)
    shift[:3, 3] = [start for start, _ in box]

    label, warnings = reading.label, reading.warnings
    if label is not None:
        before, label = np.count_nonzero(label), label[inside]
        if lost := before - np.count_nonzero(label):
            warnings += (f"{lost} of {before} label voxels lie outside the lung box",)
    shape = reading.image.shape[1:]
    transforms = (*reading.transforms, f"cropped to {box_text(box)} of {'x'.join(map(str, shape))}")
    content = replace(
        reading,
        image=reading.image[(slice(None), *inside)],
        label=label,
        affine_mm=reading.affine_mm @ shift,
        transforms=transforms,
        warnings=warnings,
    )
    return replace(case, details={**case.details, CROP_BOX: box_text(box)}), content


def _resized(case: SourceCase, reading: LoadedCase, size: int) -> tuple[SourceCase, LoadedCase]:
    """A slice of ``size`` x ``size`` pixels, called 1 x 1 mm large; its shape before stands in
    ``details``.

    Raises:
        InputError: a volume.
    """
    shape = reading.image.shape[1:]
    if len(shape) != 2:
        raise InputError(
            f"{case.image_files[0]}: is a volume, which --resize cannot take; add --slices"
        )
    image = resized_image(reading.image, size)
    label = None if reading.label is None else resized_label(reading.label, (size, size))

    # Slices of one size are of one spacing, too: nnU-Net resamples what has another to the median.
    affine_mm = None if reading.affine_mm is None else slice_affine(np.ones(2))
    size_before = "x".join(map(str, shape))
    transforms = (*reading.transforms, f"resized from {size_before} to {size}x{size}")
    details = {**case.details, RESIZED_FROM: size_before}
    content = replace(reading, image=image, label=label, affine_mm=affine_mm, transforms=transforms)
    return replace(case, details=details), content


def _slices(
    wanted: str, case: SourceCase, reading: LoadedCase
) -> Iterator[tuple[SourceCase, LoadedCase]]:
    """Axial slices as 2-D images, with the volume and the slice's index in ``details``."""
    if reading.affine_mm is None:
        raise TypeError("a volume has an affine")
    axis = axial_axis(reading.affine_mm)
    image = np.moveaxis(reading.image, 1 + axis, -1)
    label = None if reading.label is None else np.moveaxis(reading.label, axis, -1)
    affine_mm = slice_affine(np.delete(spacing_of(reading.affine_mm), axis))
    first = box_from_text(case.details[CROP_BOX])[axis][0] if CROP_BOX in case.details else 0
    for index in chosen_slices(wanted, image.shape[-1]):
        if wanted == "lesion" and (label is None or not label[..., index].any()):
            continue
        details = {"patient": case.id, **case.details, "volume": case.id, SLICE: str(first + index)}
        piece = replace(case, id=f"{case.id}_s{first + index:04d}", details=details)
        own = None if label is None else np.ascontiguousarray(label[..., index])
        yield (
            piece,
            replace(
                reading,
                image=np.ascontiguousarray(image[..., index]),
                label=own,
                affine_mm=affine_mm,
            ),
        )


def slice_affine(spacing_mm: np.ndarray) -> np.ndarray:
    """Affine (4, 4) of a 2-D image with this spacing (2,) in mm; its place in the volume is not
    kept.

    A 2-D file makes nnU-Net treat it as a slice whatever the thickness: in a volume of one slice,
    nnU-Net would cut along another axis where slices are thinner than pixels are wide.
    """
    return np.diag(
        [-spacing_mm[0], -spacing_mm[1], 1.0, 1.0]
    )  # ITK reads this as the identity direction


def windowed(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey values 0..255 (uint8) of values between ``low`` and ``high``; slice by slice, to save
    memory.
    """

    def grey_of(values: np.ndarray) -> np.ndarray:
        part = (values.astype(np.float64) - low) / (high - low)
        return np.round(255 * np.clip(part, 0, 1)).astype(np.uint8)

    grey = np.empty_like(image, np.uint8)
    table = None
    if image.dtype.kind in "iu" and image.size:
        lowest, highest = int(image.min()), int(image.max())
        if highest - lowest < 2**16:  # each value once
            table = grey_of(np.arange(lowest, highest + 1))
    for index in range(image.shape[-1]):
        part = image[..., index]
        grey[..., index] = grey_of(part) if table is None else table[part.astype(np.intp) - lowest]
    return grey
