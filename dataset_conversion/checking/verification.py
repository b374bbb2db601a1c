"""Check of a raw data set, whoever made it: what nnU-Net's own check asks, and what it overlooks.

nnunetv2 2.8 only warns of labels whose affine differs (so a flipped mask passes), never reports
empty labels, and compares no case with another (so HU and grey values may stand in one data set).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.reading.download_folder import natural_key
from dataset_conversion.reading.label_values import distinct_values
from dataset_conversion.reading.mirroring import in_words, mirrored_axes, wrong_side
from dataset_conversion.reading.nifti_cases import intensity_unit
from dataset_conversion.reading.raw_files import RawFile, read_raw_file
from dataset_conversion.reading.volumes import right_angled, spacing_of, voxels_sha256
from dataset_conversion.writing.journal import journals, read_records
from dataset_conversion.writing.splits import SPLITS_NAME
from nnunet_ext.errors import InputError
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
    """Of a data set: ``problems`` must be mended; ``findings`` should be known."""

    cases: int
    problems: list[str]
    findings: list[str]


def verify(folder: Path, processes: int = 1) -> Verification:
    """Read every file of a raw data set and report what is wrong with it.

    Raises:
        InputError: no dataset.json, or one that nnU-Net cannot use.
    """
    description = _description(folder)
    cases, problems = _cases(folder, description)
    labels, regions = _label_values(folder, description)
    results: list[CaseCheck] = []
    named = {name: value for name, value in description["labels"].items() if isinstance(value, int)}
    work = partial(_outcome, labels=labels, named=named, channels=len(description["channel_names"]))
    for _, checked in in_worker_processes(work, cases, processes):
        results.append(checked)
    results.sort(key=lambda checked: natural_key(checked.case))
    problems += [line for checked in results for line in checked.problems]
    problems += _counts(folder, description, cases)
    problems += _split_problems(folder, {case.id for case in cases if case.part == "Tr"})
    if not regions and sorted(labels) != list(range(len(labels))):
        problems.append(
            f"{folder / 'dataset.json'}: labels {sorted(labels)} have gaps; number them 0, 1, 2, "
            f"..."
        )
    problems += _mixed_units(folder, description, results)
    return Verification(len(cases), problems, _findings(folder, results))


def _description(folder: Path) -> dict[str, Any]:
    file = folder / "dataset.json"
    if not file.is_file():
        mend = (
            "run its conversion again to finish it"
            if journals(folder)
            else "no data set as nnU-Net wants it"
        )
        raise InputError(f"{folder}: has no dataset.json; {mend}")
    content = read_dataset_json(file, "mend it, or convert the data set again")
    if not isinstance(content.get("numTraining"), int):
        raise InputError(
            f"{file}: has no 'numTraining' as nnU-Net needs it; convert the data set again"
        )
    if content.get("dataset"):
        raise InputError(
            f"{file}: lists its files itself, which this check does not follow; move them into "
            f"imagesTr"
        )
    return content


def _cases(folder: Path, description: dict[str, Any]) -> tuple[list[CaseFiles], list[str]]:
    """Cases by their file names, and lines for files that belong to none."""
    ending, problems = description["file_ending"], []
    cases = []
    for part in ("Tr", "Ts", "Un"):
        images: dict[str, list[Path]] = defaultdict(list)
        for file in sorted((folder / f"images{part}").glob("[!.]*")):
            stem = file.name.removesuffix(ending)
            if not file.name.endswith(ending) or stem[-5:-4] != "_" or not stem[-4:].isdigit():
                problems.append(f"{file}: is not called CASE_0000{ending}; rename or remove it")
                continue
            images[stem[:-5]].append(file)
        labels = {
            file.name.removesuffix(ending): file
            for file in (folder / f"labels{part}").glob(f"[!.]*{ending}")
        }
        for case in sorted(images, key=natural_key):
            cases.append(CaseFiles(case, part, tuple(images[case]), labels.get(case)))
            if part == "Tr" and case not in labels:
                problems.append(
                    f"{images[case][0]}: has no label in labelsTr; remove the image or convert it "
                    f"again"
                )
        for case in sorted(labels.keys() - images.keys()):
            problems.append(
                f"{labels[case]}: has no image in images{part}; remove it or convert it again"
            )
    return cases, problems


def _label_values(folder: Path, description: dict[str, Any]) -> tuple[set[int], bool]:
    """Allowed values, and whether labels are regions of several values."""
    values: set[int] = set()
    regions = False
    for value in description["labels"].values():
        several = value if isinstance(value, list) else [value]
        regions |= isinstance(value, list)
        values.update(several)
    return values, regions


def _outcome(case: CaseFiles, labels: set[int], named: dict[str, int], channels: int) -> CaseCheck:
    checked = CaseCheck(case.id)
    try:
        _check_case(case, labels, named, channels, checked)
    except InputError as error:
        checked.problems.append(str(error))
    except MemoryError:
        checked.problems.append(
            f"{case.images[0]}: does not fit into memory; run again with a smaller -np"
        )
    return checked


def _check_case(
    case: CaseFiles, labels: set[int], named: dict[str, int], channels: int, checked: CaseCheck
) -> None:
    first: RawFile | None = None
    hashes: list[str] = []
    for image in case.images:
        raw = read_raw_file(image)
        values, affine_mm = raw.channels[0], raw.affine_mm
        hashes += map(voxels_sha256, raw.channels)
        if first is None:
            first, checked.shape = raw, values.shape
            if affine_mm is not None:
                checked.spacing_mm = tuple(
                    round(float(size), 4) for size in spacing_of(affine_mm)[: values.ndim]
                )
                _checked(image, right_angled, affine_mm, (*values.shape, 1, 1)[:3])
        _check_grid(image, raw, case.images[0], first, checked)
        if values.dtype.kind == "f" and not all(
            np.isfinite(values[..., k]).all() for k in range(values.shape[-1])
        ):
            checked.problems.append(f"{image}: holds NaN or infinite values; convert it again")
        else:
            checked.units += map(intensity_unit, raw.channels)
    numbers = [image.name.removeprefix(f"{case.id}_")[:4] for image in case.images]
    if len(hashes) != channels or numbers != [f"{index:04d}" for index in range(len(numbers))]:
        checked.problems.append(
            f"{case.images[0]}: has {len(hashes)} channels, dataset.json names {channels}"
        )
    checked.image_sha256 = " ".join(hashes)
    if case.label is not None and first is not None:
        raw = read_raw_file(case.label)
        values = raw.channels[0]
        _check_grid(case.label, raw, case.images[0], first, checked)
        checked.label_sha256 = voxels_sha256(values)
        found = distinct_values(values)
        foreign = found[~np.isin(found, sorted(labels))]
        if foreign.size:
            shown = ", ".join(f"{value:.9g}" for value in foreign[:5])
            checked.problems.append(
                f"{case.label}: holds {shown}, which dataset.json does not declare; convert it "
                f"again"
            )
        checked.empty = bool((found == 0).all())
        checked.full = not (found == 0).any()
        if first.affine_mm is not None and values.ndim == 3 and not checked.problems:
            _check_sides(case.label, first.channels[0], values, named, first.affine_mm, checked)


def _check_sides(
    file: Path,
    image: np.ndarray,
    label: np.ndarray,
    named: dict[str, int],
    affine_mm: np.ndarray,
    checked: CaseCheck,
) -> None:
    """What headers cannot show: a label mirrored on its image, or both mirrored in the body."""
    checked.side = wrong_side(image, checked.units[0], label, named, affine_mm)
    if checked.units[0] == "HU" and (axes := mirrored_axes(image, label, named, affine_mm)):
        checked.problems.append(
            f"{file}: is mirrored {in_words(axes, affine_mm)}, although its header says what the "
            f"image's says: flipped "
            "back it fits the image clearly better; convert the case again"
        )


def _checked(file: Path, function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _check_grid(file: Path, raw: RawFile, image: Path, first: RawFile, checked: CaseCheck) -> None:
    """Shapes must agree, and affines, also in the signs and order of axes that nnU-Net only warns
    about.
    """
    if raw.shape != first.shape:
        checked.problems.append(
            f"{file}: has shape {raw.shape}, but {image.name} {first.shape}; convert the case again"
        )
    elif not raw.lies_as(first):
        checked.problems.append(
            f"{file}: lies elsewhere in space than {image.name} (flipped, shifted or of another "
            f"voxel size); nnU-Net "
            "would train on it as it is; convert the case again"
        )


def _counts(folder: Path, description: dict[str, Any], cases: list[CaseFiles]) -> list[str]:
    training = sum(case.part == "Tr" for case in cases)
    if description["numTraining"] == training:
        return []
    return [
        f"{folder / 'dataset.json'}: says numTraining {description['numTraining']}, but there are "
        f"{training} cases"
    ]


def _split_problems(folder: Path, training: set[str]) -> list[str]:
    """Cases of a split that do not exist, lie on both sides, or share a patient with the other
    side.
    """
    file = folder / SPLITS_NAME
    if not file.is_file():
        return []
    try:
        folds = [
            (set(fold["train"]), set(fold["val"]))
            for fold in read_folds(file, "convert with --split again")
        ]
    except InputError as error:
        return [str(error)]
    records = [record for own in read_records(folder).values() for record in own]
    patient_of = {record.case: record.details.get("patient") or record.volume for record in records}
    problems = []
    for index, (train, validation) in enumerate(folds):
        if unknown := sorted((train | validation) - training):
            problems.append(f"{file}: fold {index} names {unknown[0]}, which is no training case")
        if both := sorted(train & validation):
            problems.append(f"{file}: fold {index} trains and validates on {both[0]}")
        shared = {patient_of[case] for case in train if case in patient_of} & {
            patient_of[case] for case in validation if case in patient_of
        }
        if shared:
            problems.append(
                f"{file}: fold {index} has {len(shared)} patients on both sides; use --split "
                f"patient:K"
            )
    return problems


def _mixed_units(folder: Path, description: dict[str, Any], results: list[CaseCheck]) -> list[str]:
    """Channels whose intensity unit is not the same in every case."""
    problems = []
    for channel, name in enumerate(description["channel_names"].values()):
        cases = {
            checked.case: checked.units[channel]
            for checked in results
            if len(checked.units) > channel
        }
        units = Counter(cases.values())
        is_ct = str(name).casefold() == "ct"
        if is_ct and len(units) > 1:
            rare = units.most_common()[-1][0]
            example = next(case for case, unit in cases.items() if unit == rare)
            shown = ", ".join(
                f"{count} cases look like {unit}" for unit, count in units.most_common()
            )
            problems.append(
                f"{folder}: channel {name} mixes units: {shown}, e.g. {example}; convert them to "
                f"one unit"
            )
        elif is_ct and units and "HU" not in units:
            problems.append(
                f"{folder}: channel {name} holds no Hounsfield units ({next(iter(units))}); call "
                f"it otherwise"
            )
    return problems


def _findings(folder: Path, results: list[CaseCheck]) -> list[str]:
    findings = []
    if empty := [checked.case for checked in results if checked.empty]:
        findings.append(f"{len(empty)} labels without foreground: {', '.join(empty[:5])}")
    if full := [checked.case for checked in results if checked.full]:
        findings.append(f"{len(full)} labels without background (inverted?): {', '.join(full[:5])}")
    findings += [f"{checked.case}: {checked.side}" for checked in results if checked.side]
    first_with: dict[str, str] = {}
    for checked in results:
        first = first_with.setdefault(checked.image_sha256, checked.case)
        if checked.image_sha256 and first != checked.case:
            findings.append(
                f"{checked.case} has the image of {first}; keep both on one side of any split"
            )
    if changed := _changed(folder, results):
        findings.append(
            f"{len(changed)} files are no longer as converted: {', '.join(changed[:5])}"
        )
    if spacings := {checked.spacing_mm for checked in results if checked.spacing_mm}:
        low, high = np.min(list(spacings), axis=0), np.max(list(spacings), axis=0)
        sizes = ["x".join(f"{value:g}" for value in ends) for ends in (low, high)]
        findings.append(
            f"voxel sizes {sizes[0]} mm"
            if len(spacings) == 1
            else f"voxel sizes from {' to '.join(sizes)} mm"
        )
    return findings


def _changed(folder: Path, results: list[CaseCheck]) -> list[str]:
    """Images and labels with other voxels than the conversion wrote, and those that are gone."""
    found = {
        checked.case: checked for checked in results if checked.image_sha256
    }  # else unread, which is a problem
    changed = []
    for record in (record for own in read_records(folder).values() for record in own):
        if not (checked := found.get(record.case)):
            changed += [name for name in record.outputs if not (folder / name).is_file()]
            continue
        same = {
            "images": checked.image_sha256 == record.image_sha256,
            "labels": checked.label_sha256 == record.label_sha256,
        }
        changed += [name for name in record.outputs if not same[name[:6]]]
    return changed
