"""What the user wants of any data set: which labels, which part, slices, a window, a crop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dataset_conversion.converter import Converter, Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.label_values import LabelRenumbering, choose_labels
from dataset_conversion.reading.volumes import axial_axis, spacing_of
from dataset_conversion.shaping.cropping import Box, box_of_mask_file, box_text, lung_box
from dataset_conversion.shaping.option_values import SliceChoice, slice_choice, split_choice
from dataset_conversion.shaping.resizing import resized_image, resized_label
from nnunet_ext.errors import InputError, naming

# Columns of conversion.csv that nnUNetv2_ext_uncrop needs
ORIGINAL_SHAPE, ORIGINAL_AFFINE = "original_shape", "original_affine"  # of the volume
CROP_BOX = "crop_box"  # in voxels of the volume
SLICE = "slice"  # index in the volume, along its axial axis
RESIZED_FROM = "resized_from"  # shape of a slice before --resize
WINDOWED_CT = "windowed CT"  # not "CT": nnU-Net would normalise grey values as Hounsfield units


def output_labels(converter: Converter) -> LabelRenumbering:
    """Return how the labels that the data set reads become those that are written.

    Raises:
        InputError: ``--labels`` names an unknown label, or one twice.
    """
    return choose_labels(converter.labels, converter.labels_wanted, converter.label_groups)


def output_channels(converter: Converter) -> tuple[str, ...]:
    """Return the names of the channels that are written.

    Raises:
        InputError: a window of something other than CT.
    """
    names = converter.channel_names
    if converter.window is None:
        return names

    if any(name.casefold() != "ct" for name in names):
        raise InputError(
            f"--window is for CT in HU; {converter.source} has {', '.join(names)}; "
            f"if that is CT in HU, Generic needs --channel CT"
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
    _require_possible_slices(converter)
    if crops(converter):
        _require_croppable(converter)
    _require_resizable(converter)
    split_choice(converter)


def _holds_slices(converter: Converter) -> bool:
    """Whether the data set's cases are single slices anyway."""
    return converter.file_ending == ".png"


def _require_possible_slices(converter: Converter) -> None:
    choice = slice_choice(converter)
    if choice is None:
        return

    if _holds_slices(converter):
        raise InputError(
            f"--slices {converter.slices}: {converter.name} is single slices already; leave it out"
        )
    if choice.with_label and converter.unlabeled:
        raise InputError(
            "--slices lesion needs labels; with --unlabeled choose all, every:N or FIRST:LAST"
        )


def _require_croppable(converter: Converter) -> None:
    if converter.crop not in (None, "lungs"):
        raise InputError(f"--crop {converter.crop}: there is only lungs")
    if converter.crop is not None and converter.lung_masks is not None:
        raise InputError("--crop lungs finds the lungs, --lung-masks gives them; choose one")
    if converter.lung_masks is not None and not converter.lung_masks.is_dir():
        raise InputError(f"--lung-masks {converter.lung_masks}: no such folder")
    if _holds_slices(converter):
        raise InputError(
            f"--crop, --lung-masks: are for volumes; {converter.name} is single slices already"
        )


def _require_resizable(converter: Converter) -> None:
    if converter.resize is None:
        return

    if converter.resize < 1:
        raise InputError(
            f"--resize {converter.resize}: write the new width and height in pixels, such as 352"
        )
    if not converter.slices and not _holds_slices(converter):
        raise InputError(
            f"--resize {converter.resize}: is for single slices; add --slices lesion, all or "
            f"every:N"
        )


def wanted_cases(converter: Converter, found: Inventory) -> Inventory:
    """Return what is converted; with ``--unlabeled`` only images without labels.

    Where the data set gives none, these are its training images, without their labels.
    """
    if not converter.unlabeled:
        return found

    cases = [case for case in found.cases if case.part == "Un"]
    if not cases:
        training = [case for case in found.cases if case.part == "Tr"]
        cases = [replace(case, part="Un", label_files=()) for case in training]

    return Inventory(cases, found.problems, found.notes)


def pieces(
    converter: Converter, case: SourceCase, loaded: LoadedCase
) -> Iterator[tuple[SourceCase, LoadedCase]]:
    """Yield what is written for a case: itself, or its slices.

    Args:
        converter: with the user's options.
        case: to convert.
        loaded: the case in memory, image and label already on one grid.
    """
    loaded = _with_output_labels(converter, loaded)
    is_cropped = crops(converter)
    is_volume = loaded.image.ndim == 4 and loaded.affine_mm is not None
    if is_volume and (is_cropped or converter.resize is not None):
        case = _with_original_grid(case, loaded)

    box = _box(converter, case, loaded) if is_cropped else None
    if box is not None:
        case, loaded = _cropped(case, loaded, box)

    loaded = _with_note_of_labels(converter, loaded)
    if converter.window is not None:
        loaded = _windowed(loaded, *converter.window)

    for piece, content in _written(converter, case, loaded, box):
        if converter.resize is None:
            yield piece, content
        else:
            yield _resized(piece, content, converter.resize)


def _written(
    converter: Converter, case: SourceCase, loaded: LoadedCase, box: Box | None
) -> Iterator[tuple[SourceCase, LoadedCase]]:
    """Yield the chosen slices of a case; the case itself where none are chosen or it is one."""
    choice = slice_choice(converter)
    is_slice = loaded.image.ndim == 3
    if choice is None or is_slice:
        yield case, loaded
    else:
        yield from _slices(choice, case, loaded, box)


def _with_output_labels(converter: Converter, loaded: LoadedCase) -> LoadedCase:
    if loaded.label is None:
        return loaded

    renumbering = output_labels(converter)

    return replace(loaded, label=renumbering(loaded.label))


def _with_note_of_labels(converter: Converter, loaded: LoadedCase) -> LoadedCase:
    renumbering = output_labels(converter)
    if loaded.label is None or not renumbering.changes:
        return loaded

    done = f"labels {renumbering.new_value}"

    return replace(loaded, transforms=(*loaded.transforms, done))


def crops(converter: Converter) -> bool:
    """Whether images are cropped to the lungs."""
    return converter.crop is not None or converter.lung_masks is not None


def _with_details(case: SourceCase, **details: str) -> SourceCase:
    """Return the case with further columns of conversion.csv."""
    return replace(case, details={**case.details, **details})


def _with_original_grid(case: SourceCase, loaded: LoadedCase) -> SourceCase:
    """Return the case with columns for the volume's shape and affine."""
    assert loaded.affine_mm is not None
    shape = loaded.image.shape[1:]
    numbers = loaded.affine_mm[:3].ravel().tolist()
    columns = {
        ORIGINAL_SHAPE: "x".join(map(str, shape)),
        ORIGINAL_AFFINE: " ".join(map(repr, numbers)),
    }

    return _with_details(case, **columns)


def _box(converter: Converter, case: SourceCase, loaded: LoadedCase) -> Box:
    """Return where the lungs lie.

    Raises:
        InputError: the case is not a volume or not in HU, has no lungs, or has no mask of them.
    """
    with naming(case.image_files[0]):
        return _lungs(converter, case, loaded)


def _lungs(converter: Converter, case: SourceCase, loaded: LoadedCase) -> Box:
    affine_mm = loaded.affine_mm
    if affine_mm is None or loaded.image.ndim != 4:
        raise InputError("is a single slice; --crop and --lung-masks are for volumes")

    if converter.lung_masks is not None:
        file = converter.lung_masks / f"{case.id}.nii.gz"
        if not file.is_file():
            raise InputError(
                f"{file}: no such lung mask; --lung-masks needs one per case, called after it"
            )

        return box_of_mask_file(file, loaded.image.shape[1:], affine_mm)

    if not loaded.intensity_unit.startswith("HU"):
        raise InputError(
            f"is in {loaded.intensity_unit}; --crop lungs needs HU, --lung-masks does not"
        )

    return lung_box(loaded.image[0], affine_mm)


def _cropped(case: SourceCase, loaded: LoadedCase, box: Box) -> tuple[SourceCase, LoadedCase]:
    """Return image and label within a box, with a warning where lesions are cut off."""
    assert loaded.affine_mm is not None
    inside = tuple(slice(start, stop) for start, stop in box)
    shift = np.eye(4)
    shift[:3, 3] = [start for start, _ in box]

    label = loaded.label
    warnings = loaded.warnings
    if label is not None:
        before = np.count_nonzero(label)
        label = label[inside]
        lost = before - np.count_nonzero(label)
        if lost:
            warnings += (f"{lost} of {before} label voxels lie outside the lung box",)

    _, *shape = loaded.image.shape
    size = "x".join(map(str, shape))
    done = f"cropped to {box_text(box)} of {size}"
    content = replace(
        loaded,
        image=loaded.image[(slice(None), *inside)],
        label=label,
        affine_mm=loaded.affine_mm @ shift,
        transforms=(*loaded.transforms, done),
        warnings=warnings,
    )

    return _with_details(case, **{CROP_BOX: box_text(box)}), content


def _windowed(loaded: LoadedCase, low: float, high: float) -> LoadedCase:
    return replace(
        loaded,
        image=windowed(loaded.image, low, high),
        transforms=(*loaded.transforms, f"window {low:g} to {high:g} HU"),
        intensity_unit="grey values 0..255 of a CT window",
    )


def _resized(case: SourceCase, loaded: LoadedCase, size: int) -> tuple[SourceCase, LoadedCase]:
    """Return a slice of ``size`` x ``size`` pixels, called 1 x 1 mm large.

    Raises:
        InputError: the case is a volume.
    """
    shape = loaded.image.shape[1:]
    if len(shape) != 2:
        raise InputError(
            f"{case.image_files[0]}: is a volume, which --resize cannot take; add --slices"
        )

    label = loaded.label
    if label is not None:
        label = resized_label(label, (size, size))

    # Slices of one size are of one spacing, too: nnU-Net resamples what has another to the median.
    affine_mm = None if loaded.affine_mm is None else slice_affine(np.ones(2))
    size_before = "x".join(map(str, shape))
    content = replace(
        loaded,
        image=resized_image(loaded.image, size),
        label=label,
        affine_mm=affine_mm,
        transforms=(*loaded.transforms, f"resized from {size_before} to {size}x{size}"),
    )

    return _with_details(case, **{RESIZED_FROM: size_before}), content


def _slices(
    choice: SliceChoice, case: SourceCase, loaded: LoadedCase, box: Box | None
) -> Iterator[tuple[SourceCase, LoadedCase]]:
    """Yield axial slices as 2-D images; they are numbered as in the volume before a crop."""
    if loaded.affine_mm is None:
        raise TypeError("a volume has an affine")

    axis = axial_axis(loaded.affine_mm)
    image = np.moveaxis(loaded.image, 1 + axis, -1)
    label = None if loaded.label is None else np.moveaxis(loaded.label, axis, -1)
    affine_mm = slice_affine(np.delete(spacing_of(loaded.affine_mm), axis))
    cut_off = 0 if box is None else box[axis][0]

    for index in choice.indices(image.shape[-1]):
        of_slice = None if label is None else label[..., index]
        if choice.with_label and (of_slice is None or not of_slice.any()):
            continue

        number = cut_off + index
        details = {"patient": case.id, **case.details, "volume": case.id, SLICE: str(number)}
        piece = replace(case, id=f"{case.id}_s{number:04d}", details=details)
        content = replace(
            loaded,
            image=np.ascontiguousarray(image[..., index]),
            label=None if of_slice is None else np.ascontiguousarray(of_slice),
            affine_mm=affine_mm,
        )
        yield piece, content


def slice_affine(spacing_mm: np.ndarray) -> np.ndarray:
    """Return the affine (4, 4) of a 2-D image; its place in the volume is not kept.

    A 2-D file makes nnU-Net treat it as a slice whatever the thickness: in a volume of one slice,
    nnU-Net would cut along another axis where slices are thinner than pixels are wide.

    Args:
        spacing_mm: (2,).
    """
    # ITK reads these signs as the identity direction.
    return np.diag([-spacing_mm[0], -spacing_mm[1], 1.0, 1.0])


def windowed(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values between ``low`` and ``high`` as grey values 0..255 (uint8).

    It works slice by slice, to save memory.
    """
    table = None
    lowest = 0
    if image.dtype.kind in "iu" and image.size:
        lowest = int(image.min())
        highest = int(image.max())
        if highest - lowest < 2**16:
            each_value_once = np.arange(lowest, highest + 1)
            table = _grey(each_value_once, low, high)

    grey = np.empty_like(image, np.uint8)
    for index in range(image.shape[-1]):
        values = image[..., index]
        if table is None:
            grey[..., index] = _grey(values, low, high)
        else:
            places = values.astype(np.intp) - lowest
            grey[..., index] = table[places]

    return grey


def _grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = (values.astype(np.float64) - low) / (high - low)
    grey = 255 * np.clip(share, 0, 1)
    whole = np.round(grey)

    return whole.astype(np.uint8)
