"""What lies in a folder: the data set it looks like, and what a converter needs to know of it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataset_conversion.checking.dicom_inspection import lines_of, property_line
from dataset_conversion.converter import Converter, Part
from dataset_conversion.datasets import converters
from dataset_conversion.reading.dicom_cases import (
    DICOM_ENDINGS,
    DicomConverter,
    headers_below,
    sharing,
)
from dataset_conversion.reading.download_folder import is_hidden, natural_key
from dataset_conversion.reading.label_values import distinct_values
from dataset_conversion.reading.nifti_cases import intensity_unit
from dataset_conversion.reading.nifti_headers import open_volume, states_orientation
from dataset_conversion.reading.pictures import open_picture
from dataset_conversion.reading.volumes import axial_axis, read_voxels, right_angled, spacing_of
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.folder_scan import Scan
    from nnunet_ext.dicom.reading.headers import Slice

FEW = 16  # so many values at most are listed as labels
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DEPTH = 12
MOST_ODDITIES = 5  # of a group that are listed
PIXEL_KINDS = {"P": "palette", "L": "8-bit grey"}


@dataclass
class Group:
    """Files of one kind in one folder.

    ``counts`` has a counter per property, ``values`` the extremes of each file that was ``read``.
    """

    folder: str
    kind: str
    files: list[Path] = field(default_factory=list)
    read: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    values: list[tuple[float, float]] = field(default_factory=list)
    oddities: list[str] = field(default_factory=list)

    def count(self, name: str, value: str) -> None:
        """Count a property of a file."""
        self.counts.setdefault(name, Counter())[value] += 1


@dataclass
class Match:
    """A data set that a folder looks like.

    ``parts`` counts its cases with default options; ``problem`` says why there are none.
    """

    converter: Converter
    parts: dict[Part, int]
    problem: str = ""


def recognised(folder: Path, scan: Scan | None = None) -> list[Match]:
    """Return the data sets that the folder looks like.

    NIfTI files and pictures are known by their names, so what finds cases is a match. DICOM files
    are alike, so a converter of them is only asked for cases where it recognises the collection.

    Args:
        folder: of the download.
        scan: headers of its DICOM files; None: it has none, or they cannot be read.
    """
    found = []
    slices = scan.slices if scan else []
    with sharing(scan):
        for kind in converters().values():
            match = _match(kind(folder), slices)
            if match is not None:
                found.append(match)

    return found


def _match(converter: Converter, slices: Sequence[Slice]) -> Match | None:
    """Return what a converter finds in its folder; None where it is another data set."""
    is_dicom = isinstance(converter, DicomConverter)
    try:
        if isinstance(converter, DicomConverter) and not converter.recognises(slices):
            return None

        cases = converter.find_cases().cases
    except InputError as error:
        return Match(converter, {}, str(error)) if is_dicom else None

    if not cases:
        return None

    return Match(converter, dict(Counter(case.part for case in cases)))


@dataclass
class Inspection:
    """What a folder holds.

    ``others`` counts hidden and other files; ``dicom`` are lines about its DICOM files.
    """

    groups: list[Group]
    others: Counter[str]
    dicom: list[str]
    matches: list[Match]


def inspect(folder: Path, sample: int | None) -> Inspection:
    """Look into a folder; headers of DICOM files are read once.

    Args:
        folder: to look into, to a depth of 12.
        sample: read the voxels of so many files, or DICOM slices, per group, evenly spread; None:
            of all.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a download")

    groups: dict[tuple[str, str], Group] = {}
    dicom_files = 0
    others: Counter[str] = Counter()
    for file in _files(folder, DEPTH, others):
        kind = _kind(file)
        if kind == "DICOM":
            dicom_files += 1
        elif kind in ("NIfTI", "picture"):
            place = os.path.relpath(file.parent, folder)
            group = groups.setdefault((place, kind), Group(place, kind))
            group.files.append(file)
        else:
            others[kind] += 1

    for group in groups.values():
        group.files.sort(key=lambda file: natural_key(file.name))
        _describe(group, sample)

    scan, lines = _dicom(folder, dicom_files, sample)
    matches = recognised(folder, scan)
    by_folder = sorted(groups.values(), key=lambda group: natural_key(group.folder))

    return Inspection(by_folder, others, lines, matches)


def _dicom(folder: Path, files: int, sample: int | None) -> tuple[Scan | None, list[str]]:
    if not files:
        return None, []
    try:
        scan = headers_below(folder)
    except InputError as error:
        return None, [f"DICOM: {files} files; {error}"]
    return scan, lines_of(scan, folder, sample)


def _files(folder: Path, depth: int, others: Counter[str]) -> Iterable[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        others["folders that cannot be listed"] += 1
        return
    for entry in entries:
        if is_hidden(entry.name):
            others["hidden files of operating systems"] += 1
        elif entry.is_dir(follow_symlinks=False):
            if re.search(r"\.(nii|nii\.gz|dcm|png)$", entry.name):
                others["folders named like a file"] += 1
            if depth:
                yield from _files(Path(entry.path), depth - 1, others)
        elif Path(entry.path).is_file():  # of a link to nowhere, the entry's own method may raise
            yield Path(entry.path)
        elif entry.is_symlink():
            others["links that lead to no file"] += 1


def _kind(file: Path) -> str:
    """Return NIfTI, DICOM, picture, or the ending of anything else.

    Content decides, because endings get lost.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(352)
    except OSError:
        return "files that cannot be read"

    if not start:
        return "empty files"

    name = file.name.lower()
    if start[128:132] == b"DICM" or name.endswith(DICOM_ENDINGS):
        return "DICOM"
    if name.endswith((".nii", ".nii.gz")) or _is_nifti(file, start):
        return "NIfTI"
    if name.endswith(PICTURE_ENDINGS):
        return "picture"

    ending = file.suffix.lower() or " without ending"

    return f"*{ending}"


def _is_nifti(file: Path, start: bytes) -> bool:
    """Whether the first bytes of a file, unpacked or not, are a NIfTI header's."""
    if start[344:347] in (b"n+1", b"ni1"):
        return True

    is_gzip = start[:2] == b"\x1f\x8b"
    return is_gzip and _unzipped(file)[344:347] == b"n+1"


def _unzipped(file: Path) -> bytes:
    """Return the first bytes behind the compression, however far the file would expand."""
    import gzip

    try:
        with gzip.open(file) as stream:
            return stream.read(352)
    except (OSError, EOFError):
        return b""


def _describe(group: Group, sample: int | None) -> None:
    sampled = _sampled(group.files, sample)
    for file in group.files:
        is_sampled = file in sampled
        try:
            if group.kind == "NIfTI":
                _describe_volume(group, file, is_sampled)
            elif group.kind == "picture" and is_sampled:
                _describe_picture(group, file)
        except InputError as error:
            group.oddities.append(str(error))
        except MemoryError:
            group.oddities.append(f"{file}: does not fit into memory")


def _sampled(files: Sequence[Path], sample: int | None) -> set[Path]:
    """Return so many files, evenly spread; None: all."""
    if sample is None or sample >= len(files):
        return set(files)

    last = len(files) - 1
    places = np.linspace(0, last, sample)

    return {files[round(place)] for place in places}


def _describe_volume(group: Group, file: Path, with_voxels: bool) -> None:
    import nibabel

    volume = open_volume(file)
    affine_mm = volume.affine
    orientation = nibabel.aff2axcodes(affine_mm)
    sizes_mm = [f"{size:.3g}" for size in spacing_of(affine_mm)]
    group.count("shape", "x".join(map(str, volume.shape)))
    group.count("voxel size (mm)", "x".join(sizes_mm))
    group.count("orientation", "".join(orientation))
    group.count("stored as", str(volume.get_data_dtype()))
    if _is_default(volume):
        group.oddities.append(f"{file.name}: voxel size 1x1x1 mm, perhaps lost")
    if len(volume.shape) >= 3:
        _note_odd_axes(group, file, volume)

    if with_voxels:
        voxels = read_voxels(file, volume)
        _describe_values(group, file, voxels)


def _note_odd_axes(group: Group, file: Path, volume: Any) -> None:
    axis = axial_axis(volume.affine)
    if axis != 2:
        group.oddities.append(f"{file.name}: axis {axis} runs from feet to head, not the last")
    try:
        right_angled(volume.affine, volume.shape[:3])
    except InputError:
        group.oddities.append(f"{file.name}: axes are not at right angles (tilted gantry?)")


def _is_default(volume: Any) -> bool:
    """Whether the geometry is what programs write that know none.

    This is 1 mm, with axes along the patient's, at the origin.

    A volume that was resampled to 1 mm has a place of its own.
    """
    directions_mm = np.abs(volume.affine[:3, :3])
    has_place = states_orientation(volume) and volume.affine[:3, 3].any()

    return np.array_equal(directions_mm, np.eye(3)) and not has_place


def _describe_picture(group: Group, file: Path) -> None:
    picture = open_picture(file)
    width, height = picture.size
    pixels = PIXEL_KINDS.get(picture.mode, picture.mode)
    group.count("size", f"{width}x{height}")
    group.count("pixels", pixels)
    _describe_values(group, file, np.asarray(picture))


def _describe_values(group: Group, file: Path, values: np.ndarray) -> None:
    group.read += 1
    if not values.size:
        group.oddities.append(f"{file.name}: holds no voxels")
        return
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        group.oddities.append(f"{file.name}: holds NaN or infinite values")
        return

    low, high = float(values.min()), float(values.max())
    group.values.append((low, high))
    may_be_labels = values.ndim == 2 or group.kind == "NIfTI"
    if may_be_labels:
        distinct = distinct_values(values)
        if len(distinct) <= FEW:
            shown = " ".join(f"{value:g}" for value in distinct)
            group.count("values", shown)
            return

    unit = intensity_unit(values)
    group.count("unit", unit)


def table(group: Group) -> list[str]:
    """Return lines to print of a group."""
    lines = [f"{group.folder}: {len(group.files)} {group.kind} files"]
    for name, counter in group.counts.items():
        lines.append(property_line(name, counter))
    if group.values:
        lows, highs = zip(*group.values, strict=True)
        low = min(lows)
        high = max(highs)
        lines.append(f"  range: {low:g} to {high:g} (of {group.read} files read)")

    shown = group.oddities[:MOST_ODDITIES]
    further = len(group.oddities) - len(shown)
    for line in shown:
        lines.append(f"  odd: {line}")
    if further:
        lines.append(f"  odd: {further} more")

    return lines


def advice(inspection: Inspection, folder: Path) -> list[str]:
    """Return what to type next."""
    lines = []
    for match in inspection.matches:
        name, licence = match.converter.name, match.converter.licence
        counts = [f"{number} in images{part}" for part, number in sorted(match.parts.items())]
        what = ", ".join(counts) or match.problem
        lines.append(f"looks like {name} ({what}); licence: {licence}")
        if match.parts:
            lines.append(f"  nnUNetv2_ext_convert {name} -i {folder} -d ID --dry-run")

    is_known_dicom = any(isinstance(m.converter, DicomConverter) for m in inspection.matches)
    if inspection.dicom and not is_known_dicom:
        lines.append("DICOM of no known data set")
    elif not lines:
        lines.append(
            "looks like no known data set with default options; Generic converts any folder of "
            "images and masks"
        )

    return lines
