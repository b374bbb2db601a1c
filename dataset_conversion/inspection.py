"""What lies in a folder: the data set it looks like, and what a converter needs to know of its files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.converter import Converter, Part
from dataset_conversion.datasets import converters
from dataset_conversion.download_folder import is_hidden, natural_key
from dataset_conversion.label_values import distinct_values
from dataset_conversion.nifti_cases import intensity_unit
from dataset_conversion.pictures import open_picture
from dataset_conversion.volumes import axial_axis, open_volume, read_voxels, right_angled, spacing_of
from nnunet_ext.errors import InputError

FEW = 16  # so many values at most are listed as labels
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DEPTH = 12


@dataclass
class Group:
    """Files of one kind in one folder; ``counts`` has a counter per property, ``ranges`` the extremes."""

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


def recognised(folder: Path) -> list[tuple[Converter, dict[Part, int]]]:
    """Data sets that find cases in the folder with their default options, and cases by part."""
    found = []
    for kind in converters().values():
        try:
            converter = kind(folder)
            cases = converter.find_cases().cases
        except InputError:
            continue
        if cases:
            found.append((converter, dict(Counter(case.part for case in cases))))
    return found


def inspect(folder: Path, sample: int | None) -> tuple[list[Group], Counter[str]]:
    """Groups of files, and how many hidden or other files were passed over.

    Args:
        folder: to look into, to a depth of 12.
        sample: read the voxels of so many files per group, evenly spread; None: of all.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a download")
    groups: dict[tuple[str, str], Group] = {}
    others: Counter[str] = Counter()
    for file in _files(folder, DEPTH, others):
        kind = _kind(file)
        if kind in ("NIfTI", "picture", "DICOM"):
            place = os.path.relpath(file.parent, folder)
            groups.setdefault((place, kind), Group(place, kind)).files.append(file)
        else:
            others[kind] += 1
    for group in groups.values():
        group.files.sort(key=lambda file: natural_key(file.name))
        _describe(group, sample)
    return sorted(groups.values(), key=lambda group: natural_key(group.folder)), others


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
        elif entry.is_file():
            yield Path(entry.path)


def _kind(file: Path) -> str:
    """By content, because endings get lost: NIfTI, DICOM, picture, or the ending of anything else."""
    try:
        with file.open("rb") as stream:
            start = stream.read(352)
    except OSError:
        return "files that cannot be read"
    name = file.name.lower()
    if not start:
        return "empty files"
    if start[128:132] == b"DICM":
        return "DICOM"
    if start[344:347] in (b"n+1", b"ni1") or name.endswith((".nii", ".nii.gz")):
        return "NIfTI"
    if start[:2] == b"\x1f\x8b" and _unzipped(file)[344:347] == b"n+1":
        return "NIfTI"
    return "picture" if name.endswith(PICTURE_ENDINGS) else f"*{file.suffix.lower() or ' without ending'}"


def _unzipped(file: Path) -> bytes:
    """The first bytes behind the compression; never more, however far the file would expand."""
    import gzip

    try:
        with gzip.open(file) as stream:
            return stream.read(352)
    except (OSError, EOFError):
        return b""


def _describe(group: Group, sample: int | None) -> None:
    count = len(group.files)
    wanted = range(count) if sample is None else {round(i) for i in np.linspace(0, count - 1, min(sample, count))}
    for index, file in enumerate(group.files):
        try:
            if group.kind == "NIfTI":
                _describe_volume(group, file, index in wanted)
            elif group.kind == "picture" and index in wanted:
                _describe_picture(group, file)
        except InputError as error:
            group.oddities.append(str(error))
        except MemoryError:
            group.oddities.append(f"{file}: does not fit into memory")


def _describe_volume(group: Group, file: Path, with_voxels: bool) -> None:
    import nibabel

    volume = open_volume(file)
    group.count("shape", "x".join(map(str, volume.shape)))
    group.count("voxel size (mm)", "x".join(f"{size:.3g}" for size in spacing_of(volume.affine)))
    group.count("orientation", "".join(nibabel.aff2axcodes(volume.affine)))
    group.count("stored as", str(volume.get_data_dtype()))
    if np.array_equal(np.abs(volume.affine[:3, :3]), np.eye(3)):
        group.oddities.append(f"{file.name}: voxel size 1x1x1 mm, perhaps lost")
    if len(volume.shape) >= 3:
        if axial_axis(volume.affine) != 2:
            group.oddities.append(f"{file.name}: axis {axial_axis(volume.affine)} runs from feet to head, not the last")
        try:
            right_angled(volume.affine, volume.shape[:3])
        except InputError:
            group.oddities.append(f"{file.name}: axes are not at right angles (tilted gantry?)")
    if with_voxels:
        _describe_values(group, file, read_voxels(file, volume))


def _describe_picture(group: Group, file: Path) -> None:
    picture = open_picture(file)
    group.count("size", f"{picture.width}x{picture.height}")
    group.count("pixels", {"P": "palette", "L": "8-bit grey"}.get(picture.mode, picture.mode))
    _describe_values(group, file, np.asarray(picture))


def _describe_values(group: Group, file: Path, values: np.ndarray) -> None:
    group.read += 1
    if not values.size:
        group.oddities.append(f"{file.name}: holds no voxels")
        return
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        group.oddities.append(f"{file.name}: holds NaN or infinite values")
        return
    group.values.append((float(values.min()), float(values.max())))
    if values.ndim == 2 or group.kind == "NIfTI":
        found = distinct_values(values)
        if len(found) <= FEW:
            group.count("values", " ".join(f"{value:g}" for value in found))
            return
    group.count("unit", intensity_unit(values))


def table(group: Group) -> list[str]:
    """Lines to print of a group."""
    lines = [f"{group.folder}: {len(group.files)} {group.kind} files"]
    for name, counter in group.counts.items():
        common = [f"{value} ({number})" if len(counter) > 1 else value for value, number in counter.most_common(4)]
        more = f", and {len(counter) - 4} more" if len(counter) > 4 else ""
        lines.append(f"  {name}: {', '.join(common)}{more}")
    if group.values:
        low, high = min(low for low, _ in group.values), max(high for _, high in group.values)
        lines.append(f"  range: {low:g} to {high:g} (of {group.read} files read)")
    lines += [f"  odd: {line}" for line in group.oddities[:5]]
    if len(group.oddities) > 5:
        lines.append(f"  odd: {len(group.oddities) - 5} more")
    return lines


def advice(found: list[tuple[Converter, dict[Part, int]]], folder: Path) -> list[str]:
    """What to type next."""
    if not found:
        return ["looks like no known data set with default options; Generic converts any folder of images and masks"]
    lines: list[Any] = []
    for converter, parts in found:
        counts = ", ".join(f"{number} in images{part}" for part, number in sorted(parts.items()))
        lines.append(f"looks like {converter.name} ({counts}); licence: {converter.licence}")
        lines.append(f"  nnUNetv2_ext_convert {converter.name} -i {folder} -d ID --dry-run")
    return lines
