"""One case: read, prove, shape, write, read back. Runs in a worker process."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dataset_conversion.converter import Converter, LoadedCase, SourceCase
from dataset_conversion.reading.label_values import count_values, integer_labels
from dataset_conversion.reading.pictures import check_written_png, write_png
from dataset_conversion.reading.volumes import (
    all_finite,
    check_written_volume,
    copy_volume,
    right_angled,
    spacing_of,
    voxels_sha256,
    write_volume,
)
from dataset_conversion.shaping.choices import output_channels, output_labels, pieces
from dataset_conversion.writing.label_placing import placed_label
from nnunet_ext.errors import InputError, first_line, naming
from nnunet_ext.files.checksums import sha256_of_file
from nnunet_ext.files.whole_file import TEMPORARY_PREFIX, to_disk
from nnunet_ext.keyed_names import keyed_name, read_key

LONGEST_NAME = 255  # bytes, on most file systems; names of cases are ASCII
SLICE_SUFFIX = "_s0000"  # of a case that is one slice


@dataclass(frozen=True)
class Record:
    """What is known of a written case: a row of conversion.csv.

    ``volume`` is the case it is a slice of, or itself. ``outputs`` and ``source_bytes`` give sizes
    in bytes, by path relative to the data set and to the download, as ``source_mtime_ns`` gives
    times of change. ``image_sha256`` (by channel, with spaces between) and ``label_sha256`` are of
    the voxels. ``label_sha256`` is empty without label, as is ``label_voxels`` (voxels by label
    value); ``spacing_mm`` is empty for pictures.
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

    @property
    def patient(self) -> str | None:
        """The patient; empty where the download does not say, None where a volume is a patient."""
        return self.details.get("patient")


def output_names(converter: Converter, case: SourceCase) -> tuple[list[str], str | None]:
    """Return image files and label file of a case, relative to the data set's folder."""
    ending = converter.file_ending
    images = []
    for channel in range(len(converter.channel_names)):
        images.append(f"images{case.part}/{case.id}_{channel:04d}{ending}")

    label = None
    if case.label_files:
        label = f"labels{case.part}/{case.id}{ending}"

    return images, label


def case_of(name: str) -> str:
    """Return the case that an output file or its temporary file belongs to.

    It may also be a slice of that case.

    >>> case_of("imagesTr/lung_001_s0012_0000.nii.gz"), case_of(".part-77-lung_001.nii.gz")
    ('lung_001', 'lung_001')
    """
    file_name = Path(name).name
    final_name = re.sub(rf"^{re.escape(TEMPORARY_PREFIX)}[0-9a-f]+-", "", file_name)
    stem, _, _ = final_name.partition(".")

    return re.sub(r"(_s\d{4})?(_\d{4})?$", "", stem)


def source_names(converter: Converter, case: SourceCase) -> dict[str, Path]:
    """Return a case's files by the names that conversion.csv gives them.

    These are relative to the download, with forward slashes. Of private data they are those of the
    paths under the user's own key; ``sources_sha256`` tells the files.
    """
    is_private = converter.is_private(case)
    key = read_key() if is_private else b""
    files = {}
    for file in (*case.image_files, *case.label_files):
        relative = Path(os.path.relpath(file, converter.source))
        name = relative.as_posix()
        if is_private:
            name = keyed_name("file", name, key=key)
        files[name] = file

    return files


def is_unchanged(converter: Converter, case: SourceCase, record: Record) -> bool:
    """Whether a case still has the files that it was converted from.

    They are read only where their times differ.
    """
    sources = source_names(converter, case)
    try:
        return _has_sources(sources, record)
    except OSError:  # of a source; its conversion will say what is wrong
        return False


def _has_sources(sources: dict[str, Path], record: Record) -> bool:
    stats = {name: file.stat() for name, file in sources.items()}
    if record.source_bytes != _sizes(stats):
        return False

    for name, stat in stats.items():
        if stat.st_mtime_ns == record.source_mtime_ns[name]:
            continue
        if sha256_of_file(sources[name]) != record.source_sha256[name]:
            return False

    return True


def _sizes(stats: dict[str, os.stat_result]) -> dict[str, int]:
    return {name: stat.st_size for name, stat in stats.items()}


@dataclass(frozen=True)
class _Sources:
    """The files of a case as they were when it was read."""

    stats: dict[str, os.stat_result]
    hashes: dict[str, str]


def convert_case(converter: Converter, case: SourceCase, folder: Path) -> list[Record]:
    """Convert one case into the data set's folder; its files appear complete or not at all.

    Returns:
        One record, or one per slice.

    Raises:
        InputError: the case is unfit; the message names its file. Nothing of it is left behind.
        OSError: the result cannot be written.
    """
    _require_possible_names(converter, case)
    loaded, sources = _load(converter, case)
    names = output_labels(converter).names
    values = sorted(set(names.values()))

    records = []
    for piece, content in pieces(converter, case, loaded):
        image_names, label_name = output_names(converter, piece)
        arrays = dict(zip(image_names, content.image, strict=True))
        voxels = {}
        if label_name is not None and content.label is not None:
            # The label comes first: nnU-Net takes what lies in imagesTr for a case.
            arrays = {label_name: content.label, **arrays}
            voxels = count_values(content.label, values)

        copies = {}
        if _is_array(content.image[0], loaded.as_read):
            first_image = image_names[0]
            copies[first_image] = case.image_files[0]
        _write(folder, arrays, content.affine_mm, copies)

        outputs = {name: (folder / name).stat().st_size for name in arrays}
        record = _record(case.id, piece, content, outputs, sources, voxels)
        records.append(record)

    return records


def _load(converter: Converter, case: SourceCase) -> tuple[LoadedCase, _Sources]:
    """Read a case and prove it.

    Raises:
        InputError: it is unfit, or cannot be read; the message names a file.
    """
    sources = source_names(converter, case)
    try:
        stats = {name: file.stat() for name, file in sources.items()}  # before they are read
        with naming(*case.label_files, *case.image_files):
            loaded = _proven(converter, case, converter.read_case(case))
        hashes = {name: sha256_of_file(file) for name, file in sources.items()}
    except OSError as error:  # nothing is written yet, so it is a source that cannot be read
        file = error.filename or case.image_files[0]
        reason = error.strerror or first_line(error)
        raise InputError(
            f"{file}: cannot be read ({reason}); copy it again, or check the disk it lies on"
        ) from error

    return loaded, _Sources(stats, hashes)


def _require_possible_names(converter: Converter, case: SourceCase) -> None:
    """Refuse a case whose files would have names that file systems do not take."""
    images, label = output_names(converter, case)
    names = [*images, label or ""]
    longest = max(len(Path(name).name) for name in names)
    longest += len(SLICE_SUFFIX) + len(_temporary_prefix())
    if longest > LONGEST_NAME:
        raise InputError(
            f"{case.image_files[0]}: its name is too long for files named after it; rename it "
            f"shorter"
        )


def _temporary_prefix() -> str:
    """Return the start of a name that no other writer has or guesses.

    A worker may outlive a killed run, and no link may be followed.
    """
    token = secrets.token_hex(8)
    return f"{TEMPORARY_PREFIX}{token}-"


def _proven(converter: Converter, case: SourceCase, loaded: LoadedCase) -> LoadedCase:
    """Return the case on one grid, with values that can be stored.

    Raises:
        InputError: it breaks what was declared.
    """
    image, affine_mm = loaded.image, loaded.affine_mm
    image_file = case.image_files[0]
    _require_fit_image(converter, image_file, image)
    if (loaded.label is None) != (not case.label_files):
        raise TypeError(
            f"{converter.name}: read_case gives a label exactly where the case has label files"
        )

    label, transforms, warnings = loaded.label, loaded.transforms, loaded.warnings
    if label is not None:
        whole = integer_labels(label, sorted(converter.labels.values()))
        placed = placed_label(converter, loaded, whole)
        label = placed.voxels
        transforms += placed.transforms
        warnings += placed.warnings

    if affine_mm is not None and image.ndim == 4:
        with naming(image_file):
            affine_mm = right_angled(affine_mm, image.shape[1:])

    return replace(
        loaded,
        label=label,
        affine_mm=affine_mm,
        label_affine_mm=None,
        transforms=transforms,
        warnings=warnings,
    )


def _require_fit_image(converter: Converter, file: Path, image: np.ndarray) -> None:
    if len(image) != len(output_channels(converter)):
        raise InputError(
            f"{file}: has {len(image)} channels, expected {', '.join(converter.channel_names)}"
        )
    if 0 in image.shape:
        raise InputError(f"{file}: holds no voxels (shape {image.shape[1:]})")
    if not all_finite(image):
        raise InputError(
            f"{file}: image holds NaN or infinite values, and nnU-Net takes none; remove the case"
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
    temporaries = {name: (folder / name).with_name(prefix + Path(name).name) for name in arrays}
    places = {temporary.parent for temporary in temporaries.values()}

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
        for place in places:
            to_disk(place)  # before the journal says that the case is done
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _record(
    volume: str,
    case: SourceCase,
    content: LoadedCase,
    outputs: dict[str, int],
    sources: _Sources,
    voxels: dict[int, int],
) -> Record:
    spacing_mm: list[float] = []
    if content.affine_mm is not None:
        axes = content.image.ndim - 1
        spacing_mm = spacing_of(content.affine_mm)[:axes].tolist()

    return Record(
        case=case.id,
        volume=volume,
        part=case.part,
        outputs=outputs,
        source_bytes=_sizes(sources.stats),
        source_mtime_ns={name: stat.st_mtime_ns for name, stat in sources.stats.items()},
        source_sha256=sources.hashes,
        image_sha256=" ".join(map(voxels_sha256, content.image)),
        label_sha256="" if content.label is None else voxels_sha256(content.label),
        intensity_unit=content.intensity_unit,
        shape=list(content.image.shape[1:]),
        spacing_mm=[round(size, 6) for size in spacing_mm],
        label_voxels={str(value): count for value, count in voxels.items() if count},
        transforms=list(content.transforms),
        warnings=list(content.warnings),
        details=dict(case.details),
    )
