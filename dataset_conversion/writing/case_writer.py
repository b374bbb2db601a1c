"""One case: read, prove, shape, write, read back. Runs in a worker process."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dataset_conversion.converter import Converter, LoadedCase, SourceCase
from dataset_conversion.reading.download_folder import sha256_of_file
from dataset_conversion.reading.label_values import count_values, integer_labels
from dataset_conversion.reading.pictures import check_written_png, write_png
from dataset_conversion.reading.volumes import (
    check_written_volume,
    copy_volume,
    right_angled,
    spacing_of,
    voxels_sha256,
    write_volume,
)
from dataset_conversion.shaping.choices import output_channels, output_labels, pieces
from dataset_conversion.writing.label_placing import placed_label
from nnunet_ext.errors import InputError
from nnunet_ext.files.whole_file import TEMPORARY_PREFIX, to_disk
from nnunet_ext.keyed_names import keyed_name, read_key
from nnunet_ext.worker_processes import first_line

LONGEST_NAME = 255  # bytes, on most file systems; names of cases are ASCII
SLICE_SUFFIX = "_s0000"  # of a case that is one slice


@dataclass(frozen=True)
class Record:
    """What is known of a written case: a row of conversion.csv. ``volume`` is the case it is a
    slice of, or itself.

    ``outputs`` and ``source_bytes`` give sizes in bytes, by path relative to the data set and to
    the download, as ``source_mtime_ns`` gives times of change. ``image_sha256`` (by channel, with
    spaces between) and ``label_sha256`` are of the voxels. ``label_sha256`` is empty without label,
    as is ``label_voxels`` (voxels by label value); ``spacing_mm`` is empty for pictures.
    """

    case: str
    volume: str
    part: str
    outputs: dict[str, int]
    source_bytes: dict[str, int]
    source_mtime_ns: dict[str, int]
    source_sha256: dict[str, str]
    image_sha256: str
    label_sha256: str
    intensity_unit: str
    shape: list[int]
    spacing_mm: list[float]
    label_voxels: dict[str, int]
    transforms: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)


def output_names(converter: Converter, case: SourceCase) -> tuple[list[str], str | None]:
    """Image files and label file of a case, relative to the data set's folder."""
    channels = range(len(converter.channel_names))
    images = [
        f"images{case.part}/{case.id}_{channel:04d}{converter.file_ending}" for channel in channels
    ]
    return (
        images,
        f"labels{case.part}/{case.id}{converter.file_ending}" if case.label_files else None,
    )


def case_of(name: str) -> str:
    """The case that an output file or its temporary file belongs to, also if it is one slice of it.

    >>> case_of("imagesTr/lung_001_s0012_0000.nii.gz"), case_of(".part-77-lung_001.nii.gz")
    ('lung_001', 'lung_001')
    """
    stem = re.sub(rf"^{re.escape(TEMPORARY_PREFIX)}[0-9a-f]+-", "", Path(name).name).partition(".")[
        0
    ]
    return re.sub(r"(_s\d{4})?(_\d{4})?$", "", stem)


def source_names(converter: Converter, case: SourceCase) -> dict[str, Path]:
    """A case's files as conversion.csv names them: relative to the download, with forward slashes.

    Of private data the names are those of the paths under the user's own key; ``sources_sha256``
    tells the files.
    """
    files = {
        Path(os.path.relpath(file, converter.source)).as_posix(): file
        for file in (*case.image_files, *case.label_files)
    }
    if not converter.is_private(case):
        return files
    key = read_key()
    return {keyed_name("file", name, key=key): file for name, file in files.items()}


def is_unchanged(converter: Converter, case: SourceCase, record: Record) -> bool:
    """Whether a case still has the files that it was converted from; they are read only where their
    times differ.
    """
    sources = source_names(converter, case)
    try:
        return _has_sources(sources, record)
    except OSError:  # of a source; its conversion will say what is wrong
        return False


def _has_sources(sources: dict[str, Path], record: Record) -> bool:
    stats = {name: file.stat() for name, file in sources.items()}
    if record.source_bytes != {name: stat.st_size for name, stat in stats.items()}:
        return False
    touched = [
        name for name, stat in stats.items() if stat.st_mtime_ns != record.source_mtime_ns[name]
    ]
    return all(sha256_of_file(sources[name]) == record.source_sha256[name] for name in touched)


def convert_case(converter: Converter, case: SourceCase, folder: Path) -> list[Record]:
    """Convert one case into the data set's folder; its files appear complete or not at all.

    Returns:
        One record, or one per slice.

    Raises:
        InputError: the case is unfit; the message names its file. Nothing of it is left behind.
        OSError: the result cannot be written.
    """
    sources = source_names(converter, case)
    _require_possible_names(converter, case)
    try:
        stats = {name: file.stat() for name, file in sources.items()}  # before they are read
        reading = _proven(converter, case, converter.read_case(case))
        hashes = {name: sha256_of_file(file) for name, file in sources.items()}
    except OSError as error:  # nothing is written yet, so it is a source that cannot be read
        file = error.filename or case.image_files[0]
        reason = error.strerror or first_line(error)
        raise InputError(
            f"{file}: cannot be read ({reason}); copy it again, or check the disk it lies on"
        ) from error
    except InputError as error:
        text = str(error)
        named = any(str(file) in text for file in (*case.image_files, *case.label_files))
        files = case.label_files or case.image_files  # what concerns the image alone names it
        raise InputError(text if named else f"{files[0]}: {text}") from error
    values = sorted(set(output_labels(converter).names.values()))
    records = []
    for piece, content in pieces(converter, case, reading):
        image_names, label_name = output_names(converter, piece)
        arrays = dict(zip(image_names, content.image, strict=True))
        if label_name is not None and content.label is not None:
            # The label comes first: nnU-Net takes what lies in imagesTr for a case.
            arrays = {label_name: content.label, **arrays}
        copies = (
            {image_names[0]: case.image_files[0]}
            if _is_array(content.image[0], reading.as_read)
            else {}
        )
        _write(folder, arrays, content.affine_mm, copies)
        outputs = {name: (folder / name).stat().st_size for name in arrays}
        voxels = {} if content.label is None else count_values(content.label, values)
        records.append(_record(case.id, piece, content, outputs, stats, hashes, voxels))
    return records


def _require_possible_names(converter: Converter, case: SourceCase) -> None:
    """Refuse a case whose files would have names that file systems do not take."""
    images, label = output_names(converter, case)
    longest = max(len(Path(name).name) for name in (*images, *filter(None, [label])))
    if longest + len(SLICE_SUFFIX) + len(_temporary_prefix()) > LONGEST_NAME:
        raise InputError(
            f"{case.image_files[0]}: its name is too long for files named after it; rename it "
            f"shorter"
        )


def _temporary_prefix() -> str:
    """Return what no other writer has or guesses: a worker may outlive a killed run, and no link is
    followed.
    """
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}-"


def _proven(converter: Converter, case: SourceCase, reading: LoadedCase) -> LoadedCase:
    """The reading on one grid, with storable values; InputError where it breaks what was
    declared.
    """
    image, affine_mm, transforms = reading.image, reading.affine_mm, list(reading.transforms)
    warnings = list(reading.warnings)
    image_file = case.image_files[0]
    if len(image) != len(output_channels(converter)):
        raise InputError(
            f"{image_file}: has {len(image)} channels, expected "
            f"{', '.join(converter.channel_names)}"
        )
    if 0 in image.shape:
        raise InputError(f"{image_file}: holds no voxels (shape {image.shape[1:]})")
    if image.dtype.kind == "f" and not all(
        np.isfinite(image[..., k]).all() for k in range(image.shape[-1])
    ):
        raise InputError(
            f"{image_file}: image holds NaN or infinite values, and nnU-Net takes none; remove "
            f"the case"
        )
    if (reading.label is None) != (not case.label_files):
        raise TypeError(
            f"{converter.name}: read_case gives a label exactly where the case has label files"
        )
    label = reading.label
    if label is not None:
        label = integer_labels(label, sorted(converter.labels.values()))
        placed = placed_label(converter, reading, label)
        label = placed.voxels
        transforms += placed.transforms
        warnings += placed.warnings
    if affine_mm is not None and image.ndim == 4:
        try:
            affine_mm = right_angled(affine_mm, image.shape[1:])
        except InputError as error:
            raise InputError(f"{image_file}: {error}") from error
    return replace(
        reading,
        label=label,
        affine_mm=affine_mm,
        label_affine_mm=None,
        transforms=tuple(transforms),
        warnings=tuple(warnings),
    )


def _is_array(voxels: np.ndarray, other: np.ndarray | None) -> bool:
    """Whether one is a view of all of the other, which nobody can have changed."""
    if other is None or other.flags.writeable:
        return False
    return voxels.__array_interface__ == other.__array_interface__


def _write(
    folder: Path,
    arrays: dict[str, np.ndarray],
    affine_mm: np.ndarray | None,
    copies: dict[str, Path],
) -> None:
    """Write under temporary names, read back, then rename all.

    ``copies`` gives, by output, a file that holds the array already.
    """
    prefix = _temporary_prefix()
    temporaries = {name: (folder / name).parent / f"{prefix}{Path(name).name}" for name in arrays}
    try:
        for name, values in arrays.items():
            if affine_mm is None:
                write_png(temporaries[name], values)
                check_written_png(temporaries[name], values)
            elif name not in copies or not copy_volume(
                copies[name], temporaries[name], values, affine_mm
            ):
                write_volume(temporaries[name], values, affine_mm)
                check_written_volume(temporaries[name], values, affine_mm)
            to_disk(temporaries[name])
        for name, temporary in temporaries.items():
            temporary.replace(folder / name)
        for place in {temporary.parent for temporary in temporaries.values()}:
            to_disk(place)  # before the journal says that the case is done
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _record(
    volume: str,
    case: SourceCase,
    reading: LoadedCase,
    outputs: dict[str, int],
    stats: dict[str, os.stat_result],
    hashes: dict[str, str],
    voxels: dict[int, int],
) -> Record:
    spacing_mm = (
        np.empty(0)
        if reading.affine_mm is None
        else spacing_of(reading.affine_mm)[: reading.image.ndim - 1]
    )
    return Record(
        case=case.id,
        volume=volume,
        part=case.part,
        outputs=outputs,
        source_bytes={name: stat.st_size for name, stat in stats.items()},
        source_mtime_ns={name: stat.st_mtime_ns for name, stat in stats.items()},
        source_sha256=hashes,
        image_sha256=" ".join(map(voxels_sha256, reading.image)),
        label_sha256="" if reading.label is None else voxels_sha256(reading.label),
        intensity_unit=reading.intensity_unit,
        shape=list(reading.image.shape[1:]),
        spacing_mm=[round(float(s), 6) for s in spacing_mm],
        label_voxels={str(value): count for value, count in voxels.items() if count},
        transforms=list(reading.transforms),
        warnings=list(reading.warnings),
        details=dict(case.details),
    )
