"""Predictions of cropped, resized or sliced images, back on the grid that the download had."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataset_conversion.reading.download_folder import natural_key
from dataset_conversion.reading.nifti_headers import open_volume
from dataset_conversion.reading.pictures import read_grey, write_png
from dataset_conversion.reading.volumes import axial_axis, read_voxels, same_grid, write_volume
from dataset_conversion.shaping.choices import (
    CROP_BOX,
    ORIGINAL_AFFINE,
    ORIGINAL_SHAPE,
    RESIZED_FROM,
    SLICE,
)
from dataset_conversion.shaping.cropping import Box, box_from_text
from dataset_conversion.shaping.resizing import resized_label
from dataset_conversion.writing.result_files import PROVENANCE_NAME
from nnunet_ext.errors import InputError
from nnunet_ext.files.whole_file import whole_file

ENDINGS = (".nii.gz", ".png")


@dataclass(frozen=True)
class WrittenCase:
    """A row of conversion.csv, as far as the way back needs it.

    ``volume`` is what the case is a slice of, or itself. ``shape`` is that of the written image.
    The original grid is None for pictures.
    """

    name: str
    volume: str
    shape: tuple[int, ...]
    resized_from: tuple[int, int] | None
    index: int | None
    box: Box | None
    original_shape: tuple[int, ...] | None
    original_affine_mm: np.ndarray | None = field(compare=False)


def uncrop(predictions: Path, dataset: Path, output: Path) -> list[str]:
    """Write every prediction on the original grid; slices become volumes again.

    Outside the lung box, and where a slice of a volume has no prediction, the label is 0.

    Args:
        predictions: folder with label files ``CASE.nii.gz`` or ``CASE.png``.
        dataset: raw data set whose images were predicted; its conversion.csv says how they were
            cut.
        output: folder to write, made if absent; other files there stay.

    Returns:
        What the user should know, such as volumes of which not all slices were predicted.

    Raises:
        InputError: no predictions, a case that conversion.csv does not have, or one with another
            shape or grid.
    """
    cases = written_cases(dataset / PROVENANCE_NAME)
    files = _prediction_files(predictions)
    by_volume: dict[str, list[Path]] = {}
    for name, file in files.items():
        if name not in cases:
            raise InputError(
                f"{file}: {dataset / PROVENANCE_NAME} has no case {name}; -d names another data set"
            )
        by_volume.setdefault(cases[name].volume, []).append(file)

    if output.resolve() == predictions.resolve():
        raise InputError(f"-o {output}: holds the predictions themselves; choose another folder")

    output.mkdir(parents=True, exist_ok=True)
    notes = []
    for volume, of_volume in by_volume.items():
        parts = [(cases[_case_name(file)], file) for file in of_volume]
        notes += _write_volume(volume, parts, output)

    return notes


def written_cases(path: Path) -> dict[str, WrittenCase]:
    """Read a conversion.csv.

    Raises:
        InputError: no such file, or not one of this command.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; -d names a data set that nnUNetv2_ext_convert made"
        )
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return {row["case"]: _written_case(row) for row in rows}
    except (KeyError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: is not a table of nnUNetv2_ext_convert ({error}); convert the data set again"
        ) from error


def _written_case(row: Mapping[str, str]) -> WrittenCase:
    name = row["case"]
    index = row.get(SLICE)
    box = row.get(CROP_BOX)
    resized = row.get(RESIZED_FROM)
    original = row.get(ORIGINAL_SHAPE)
    affine = row.get(ORIGINAL_AFFINE)
    volume = row.get("volume") if index else None

    return WrittenCase(
        name=name,
        volume=volume or name,
        shape=_shape(row["shape"]),
        resized_from=_size(resized) if resized else None,
        index=int(index) if index else None,
        box=box_from_text(box) if box else None,
        original_shape=_shape(original) if original else None,
        original_affine_mm=_affine(affine) if affine else None,
    )


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


def _size(text: str) -> tuple[int, int]:
    rows, columns = _shape(text)
    return rows, columns


def _affine(text: str) -> np.ndarray:
    numbers = list(map(float, text.split()))
    affine_mm = np.eye(4)
    affine_mm[:3] = np.reshape(numbers, (3, 4))

    return affine_mm


def _prediction_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")

    files = {}
    for file in sorted(folder.iterdir(), key=lambda file: natural_key(file.name)):
        if file.name.endswith(ENDINGS) and not file.name.startswith("."):
            name = _case_name(file)
            files[name] = file
    if not files:
        raise InputError(f"{folder}: holds no predictions ({', '.join(ENDINGS)})")

    return files


def _case_name(file: Path) -> str:
    ending = next(ending for ending in ENDINGS if file.name.endswith(ending))
    return file.name.removesuffix(ending)


def _write_volume(
    volume: str, parts: Sequence[tuple[WrittenCase, Path]], output: Path
) -> list[str]:
    """Put the predictions of one volume, or a single picture, back."""
    first, file = parts[0]
    if first.original_shape is None or first.original_affine_mm is None:
        is_picture = first.index is None and file.name.endswith(".png")
        if first.resized_from is None or not is_picture:
            raise InputError(f"{file}: was neither cropped nor resized; use it as it is")

        label = resized_label(_picture(first, file), first.resized_from)
        with whole_file(output / f"{volume}.png") as unfinished:
            write_png(unfinished, label)
        return []

    labels = np.zeros(first.original_shape, np.uint8)
    for case, of_case in parts:
        _place(labels, case, of_case)
    with whole_file(output / f"{volume}.nii.gz") as unfinished:
        write_volume(unfinished, labels, first.original_affine_mm)

    slices = first.original_shape[axial_axis(first.original_affine_mm)]
    if first.index is None or len(parts) == slices:
        return []

    return [f"{volume}: {len(parts)} of {slices} slices were predicted; the others are background"]


def _picture(case: WrittenCase, file: Path) -> np.ndarray:
    label = read_grey(file)
    _require_shape(case, file, label.shape)
    return label


def _place(labels: np.ndarray, case: WrittenCase, file: Path) -> None:
    """Put one prediction into its volume."""
    assert case.original_affine_mm is not None and case.original_shape is not None
    volume = open_volume(file)
    label = np.asarray(read_voxels(file, volume))
    box = case.box or tuple((0, size) for size in case.original_shape)
    inside = [slice(start, stop) for start, stop in box]

    if case.index is None:
        _require_shape(case, file, label.shape)
        shift = np.eye(4)
        shift[:3, 3] = [start for start, _ in box]
        cropped_mm = case.original_affine_mm @ shift
        if not same_grid(volume.affine, cropped_mm, label.shape):
            raise InputError(
                f"{file}: lies elsewhere than the image that was converted; predict that image"
            )

        labels[tuple(inside)] = label
        return

    label = label.reshape(label.shape[:2])
    _require_shape(case, file, label.shape)
    if case.resized_from is not None:
        label = resized_label(label, case.resized_from)
    axis = axial_axis(case.original_affine_mm)
    slices = np.moveaxis(labels, axis, -1)
    of_slice = slices[..., case.index]
    del inside[axis]
    of_slice[tuple(inside)] = label


def _require_shape(case: WrittenCase, file: Path, shape: tuple[int, ...]) -> None:
    if shape == case.shape:
        return

    size = "x".join(map(str, shape))
    size_of_image = "x".join(map(str, case.shape))
    raise InputError(
        f"{file}: has {size} voxels, and the converted image {size_of_image}; predict that image"
    )
