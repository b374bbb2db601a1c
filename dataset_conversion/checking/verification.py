"""Check a raw data set, whoever made it: what nnU-Net's own check asks, and what it overlooks.

nnunetv2 2.8 only warns of labels whose affine differs (so a flipped mask passes), never reports
empty labels, and compares no case with another (so HU and grey values may stand in one data set).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from dataset_conversion.reading.download_folder import natural_key
from dataset_conversion.reading.label_values import distinct_values
from dataset_conversion.reading.mirroring import in_words, mirrored_axes, wrong_side
from dataset_conversion.reading.nifti_cases import intensity_unit
from dataset_conversion.reading.raw_files import RawFile, read_raw_file
from dataset_conversion.reading.volumes import (
    all_finite,
    right_angled,
    spacing_of,
    voxels_sha256,
)
from dataset_conversion.writing.case_writer import Record
from dataset_conversion.writing.journal import journals, read_records
from dataset_conversion.writing.splits import SPLITS_NAME
from nnunet_ext.errors import InputError, naming
from nnunet_ext.stock.files import read_dataset_json, read_folds
from nnunet_ext.worker_processes import in_worker_processes


@dataclass(frozen=True)
class CaseFiles:
    """Files of one case: images in channel order, and its label where there is one."""

    id: str
    part: str
    images: tuple[Path, ...]
    label: Path | None


@dataclass
class CaseCheck:
    """What the files of a case hold; ``problems`` are lines that name the file."""

    case: str
    problems: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    empty: bool = False
    full: bool = False
    image_sha256: str = ""
    label_sha256: str = ""
    side: str = ""


@dataclass
class Verification:
    """What is wrong with a data set: ``problems`` must be fixed, ``findings`` should be known."""

    cases: int
    problems: list[str]
    findings: list[str]


@dataclass(frozen=True)
class _Description:
    """What dataset.json says.

    ``values`` are the allowed label values; ``named`` are the labels of one value each;
    ``has_regions`` where a label stands for several values.
    """

    file: Path
    ending: str
    training_cases: int
    channels: tuple[str, ...]
    values: frozenset[int]
    named: dict[str, int]
    has_regions: bool


def verify(folder: Path, processes: int = 1) -> Verification:
    """Read every file of a raw data set and report what is wrong with it.

    Raises:
        InputError: no dataset.json, or one that nnU-Net cannot use.
    """
    description = _read_description(folder)
    cases, problems = _cases(folder, description.ending)
    work = partial(_outcome, description=description)
    checks = []
    for _, check in in_worker_processes(work, cases, processes):
        checks.append(check)
    checks.sort(key=lambda check: natural_key(check.case))

    for check in checks:
        problems += check.problems
    training = {case.id for case in cases if case.part == "Tr"}
    problems += _description_problems(description, len(training))
    problems += _split_problems(folder, training)
    problems += _mixed_units(folder, description, checks)
    findings = _findings(folder, checks)

    return Verification(len(cases), problems, findings)


def _read_description(folder: Path) -> _Description:
    file = folder / "dataset.json"
    if not file.is_file():
        hint = "not a data set as nnU-Net wants it"
        if journals(folder):
            hint = "run its conversion again to finish it"
        raise InputError(f"{folder}: has no dataset.json; {hint}")

    content = read_dataset_json(file, "fix it, or convert the data set again")
    if not isinstance(content.get("numTraining"), int):
        raise InputError(
            f"{file}: has no 'numTraining' as nnU-Net needs it; convert the data set again"
        )
    if content.get("dataset"):
        raise InputError(
            f"{file}: lists its files itself, which this check does not follow; move them into "
            f"imagesTr"
        )

    values: set[int] = set()
    named = {}
    for name, value in content["labels"].items():
        values.update(value if isinstance(value, list) else [value])
        if isinstance(value, int):
            named[name] = value

    return _Description(
        file,
        content["file_ending"],
        content["numTraining"],
        tuple(map(str, content["channel_names"].values())),
        frozenset(values),
        named,
        any(isinstance(value, list) for value in content["labels"].values()),
    )


def _cases(folder: Path, ending: str) -> tuple[list[CaseFiles], list[str]]:
    """Return the cases by their file names, and lines for files that belong to none."""
    cases: list[CaseFiles] = []
    problems: list[str] = []
    for part in ("Tr", "Ts", "Un"):
        images, misnamed = _images_of(folder / f"images{part}", ending)
        problems += misnamed
        labels = _labels_of(folder / f"labels{part}", ending)

        for case in sorted(images, key=natural_key):
            files = tuple(images[case])
            cases.append(CaseFiles(case, part, files, labels.get(case)))
            if part == "Tr" and case not in labels:
                problems.append(
                    f"{files[0]}: has no label in labelsTr; remove the image or convert it again"
                )
        for case in sorted(labels.keys() - images.keys()):
            problems.append(
                f"{labels[case]}: has no image in images{part}; remove it or convert it again"
            )

    return cases, problems


def _labels_of(folder: Path, ending: str) -> dict[str, Path]:
    """Return the label of each case."""
    labels = {}
    for file in folder.glob(f"[!.]*{ending}"):
        case = file.name.removesuffix(ending)
        labels[case] = file

    return labels


def _images_of(folder: Path, ending: str) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the images of each case, and lines for files with other names."""
    images: dict[str, list[Path]] = defaultdict(list)
    problems = []
    name = re.compile(rf"(.*)_\d{{4}}{re.escape(ending)}", re.DOTALL)
    for file in sorted(folder.glob("[!.]*")):
        match = name.fullmatch(file.name)
        if match is None:
            problems.append(f"{file}: is not called CASE_0000{ending}; rename or remove it")
            continue

        case = match[1]
        images[case].append(file)

    return images, problems


def _outcome(case: CaseFiles, description: _Description) -> CaseCheck:
    check = CaseCheck(case.id)
    try:
        _check_case(case, description, check)
    except InputError as error:
        check.problems.append(str(error))
    except MemoryError:
        check.problems.append(
            f"{case.images[0]}: does not fit into memory; run again with a smaller -np"
        )

    return check


def _check_case(case: CaseFiles, description: _Description, check: CaseCheck) -> None:
    channels = len(description.channels)
    first = _check_images(case, channels, check)
    if case.label is not None:
        image = case.images[0]
        _check_label(case.label, image, first, description, check)


def _check_images(case: CaseFiles, channels: int, check: CaseCheck) -> RawFile:
    """Check the images of a case, and return the first."""
    first_file = case.images[0]
    first: RawFile | None = None
    hashes: list[str] = []
    for image in case.images:
        raw = read_raw_file(image)
        hashes += map(voxels_sha256, raw.channels)
        if first is None:
            first = raw
            _check_geometry(image, raw, check)
        _check_grid(image, raw, first_file, first, check)
        if all_finite(raw.channels[0]):
            check.units += map(intensity_unit, raw.channels)
        else:
            check.problems.append(f"{image}: holds NaN or infinite values; convert it again")

    if len(hashes) != channels or not _are_numbered(case):
        check.problems.append(
            f"{first_file}: has {len(hashes)} channels, dataset.json names {channels}"
        )
    check.image_sha256 = " ".join(hashes)
    assert first is not None

    return first


def _are_numbered(case: CaseFiles) -> bool:
    """Whether the images of a case are numbered 0000, 0001, ..."""
    for index, image in enumerate(case.images):
        name = image.name.removeprefix(f"{case.id}_")
        if name[:4] != f"{index:04d}":
            return False

    return True


def _check_geometry(file: Path, raw: RawFile, check: CaseCheck) -> None:
    """Note shape and voxel size, and refuse axes that are not at right angles."""
    check.shape = raw.shape
    if raw.affine_mm is None:
        return

    axes = len(raw.shape)
    sizes_mm = spacing_of(raw.affine_mm).round(4)
    check.spacing_mm = tuple(sizes_mm[:axes].tolist())
    spatial_shape = (*raw.shape, 1, 1)[:3]
    with naming(file):
        right_angled(raw.affine_mm, spatial_shape)


def _check_label(
    file: Path, image: Path, first: RawFile, description: _Description, check: CaseCheck
) -> None:
    raw = read_raw_file(file)
    label = raw.channels[0]
    _check_grid(file, raw, image, first, check)
    check.label_sha256 = voxels_sha256(label)

    values = distinct_values(label)
    declared = sorted(description.values)
    foreign = values[~np.isin(values, declared)]
    if foreign.size:
        shown = ", ".join(f"{value:.9g}" for value in foreign[:5])
        check.problems.append(
            f"{file}: holds {shown}, which dataset.json does not declare; convert it again"
        )
    is_background = values == 0
    check.empty = bool(is_background.all())
    check.full = not is_background.any()

    is_volume = first.affine_mm is not None and label.ndim == 3
    if is_volume and not check.problems:
        _check_sides(file, first, label, description.named, check)


def _check_sides(
    file: Path,
    image: RawFile,
    label: np.ndarray,
    named: dict[str, int],
    check: CaseCheck,
) -> None:
    """Check what headers cannot show: a label mirrored on its image, or both in the body."""
    voxels, affine_mm = image.channels[0], image.affine_mm
    assert affine_mm is not None
    unit = check.units[0]
    check.side = wrong_side(voxels, unit, label, named, affine_mm)
    if unit != "HU":
        return

    axes = mirrored_axes(voxels, label, named, affine_mm)
    if axes:
        check.problems.append(
            f"{file}: is mirrored {in_words(axes, affine_mm)}, although its header says what the "
            f"image's says: flipped back it fits the image clearly better; convert the case again"
        )


def _check_grid(file: Path, raw: RawFile, image: Path, first: RawFile, check: CaseCheck) -> None:
    """Check that shapes agree, and affines also in the signs and order of axes.

    nnU-Net only warns of the latter.
    """
    if raw.shape != first.shape:
        check.problems.append(
            f"{file}: has shape {raw.shape}, but {image.name} {first.shape}; convert the case again"
        )
    elif not raw.lies_as(first):
        check.problems.append(
            f"{file}: lies elsewhere in space than {image.name} (flipped, shifted or of another "
            f"voxel size); nnU-Net would train on it as it is; convert the case again"
        )


def _description_problems(description: _Description, training: int) -> list[str]:
    problems = []
    file = description.file
    stated = description.training_cases
    if stated != training:
        problems.append(f"{file}: says numTraining {stated}, but there are {training} cases")

    values = sorted(description.values)
    without_gaps = list(range(len(values)))
    if values != without_gaps and not description.has_regions:
        problems.append(f"{file}: labels {values} have gaps; number them 0, 1, 2, ...")

    return problems


def _records(folder: Path) -> Iterator[Record]:
    by_case = read_records(folder)
    for records in by_case.values():
        yield from records


def _split_problems(folder: Path, training: set[str]) -> list[str]:
    """Report cases of a split that do not exist or lie on both sides, and patients on both."""
    file = folder / SPLITS_NAME
    if not file.is_file():
        return []

    try:
        folds = read_folds(file, "convert with --split again")
    except InputError as error:
        return [str(error)]

    patient_of = {record.case: record.patient or record.volume for record in _records(folder)}
    problems = []
    for index, fold in enumerate(folds):
        train, validation = set(fold["train"]), set(fold["val"])
        where = f"{file}: fold {index}"
        unknown = (train | validation) - training
        if unknown:
            problems.append(f"{where} names {min(unknown)}, which is not a training case")

        both = train & validation
        if both:
            problems.append(f"{where} trains and validates on {min(both)}")

        shared = _patients(train, patient_of) & _patients(validation, patient_of)
        if shared:
            problems.append(
                f"{where} has {len(shared)} patients on both sides; use --split patient:K"
            )

    return problems


def _patients(cases: set[str], patient_of: dict[str, str]) -> set[str]:
    patients = set()
    for case in cases & patient_of.keys():
        patients.add(patient_of[case])

    return patients


def _mixed_units(folder: Path, description: _Description, checks: list[CaseCheck]) -> list[str]:
    """Report CT channels whose intensity unit is not the same in every case, or not HU."""
    problems = []
    for channel, name in enumerate(description.channels):
        if name.casefold() != "ct":
            continue

        cases_with = _cases_by_unit(checks, channel)
        counts = Counter({unit: len(cases) for unit, cases in cases_with.items()})
        units = counts.most_common()
        if len(units) > 1:
            rare, _ = units[-1]
            example = cases_with[rare][0]
            shown = ", ".join(f"{count} cases look like {unit}" for unit, count in units)
            problems.append(
                f"{folder}: channel {name} mixes units: {shown}, e.g. {example}; convert them to "
                f"one unit"
            )
        elif units and "HU" not in cases_with:
            unit, _ = units[0]
            problems.append(
                f"{folder}: channel {name} holds no Hounsfield units ({unit}); rename the channel"
            )

    return problems


def _cases_by_unit(checks: list[CaseCheck], channel: int) -> dict[str, list[str]]:
    """Return the cases whose channel has each of the units, of those that were read."""
    cases_with: dict[str, list[str]] = defaultdict(list)
    for check in checks:
        if len(check.units) > channel:
            unit = check.units[channel]
            cases_with[unit].append(check.case)

    return cases_with


def _findings(folder: Path, checks: list[CaseCheck]) -> list[str]:
    findings = []
    empty = [check.case for check in checks if check.empty]
    if empty:
        findings.append(f"{len(empty)} labels without foreground: {', '.join(empty[:5])}")
    full = [check.case for check in checks if check.full]
    if full:
        findings.append(f"{len(full)} labels without background (inverted?): {', '.join(full[:5])}")
    for check in checks:
        if check.side:
            findings.append(f"{check.case}: {check.side}")

    findings += _duplicates(checks)
    changed = _changed(folder, checks)
    if changed:
        findings.append(
            f"{len(changed)} files are no longer as converted: {', '.join(changed[:5])}"
        )
    findings += _voxel_sizes(checks)

    return findings


def _duplicates(checks: list[CaseCheck]) -> list[str]:
    lines = []
    first_with: dict[str, str] = {}
    for check in checks:
        first = first_with.setdefault(check.image_sha256, check.case)
        if check.image_sha256 and first != check.case:
            lines.append(
                f"{check.case} has the image of {first}; keep both on one side of any split"
            )

    return lines


def _voxel_sizes(checks: list[CaseCheck]) -> list[str]:
    sizes_mm = [check.spacing_mm for check in checks if check.spacing_mm]
    if not sizes_mm:
        return []

    smallest = _product(np.min(sizes_mm, axis=0))
    largest = _product(np.max(sizes_mm, axis=0))
    if smallest == largest:
        return [f"voxel sizes {smallest} mm"]

    return [f"voxel sizes from {smallest} to {largest} mm"]


def _product(sizes_mm: Iterable[float]) -> str:
    return "x".join(f"{size:g}" for size in sizes_mm)


def _changed(folder: Path, checks: list[CaseCheck]) -> list[str]:
    """Return images and labels with other voxels than were written, and those that are gone."""
    # An image without hash was not read, which is a problem already.
    check_of = {check.case: check for check in checks if check.image_sha256}
    changed = []
    for record in _records(folder):
        check = check_of.get(record.case)
        if check is None:
            changed += [name for name in record.outputs if not (folder / name).is_file()]
            continue

        same_image = check.image_sha256 == record.image_sha256
        same_label = check.label_sha256 == record.label_sha256
        for name in record.outputs:
            if not (same_image if name.startswith("images") else same_label):
                changed.append(name)

    return changed
