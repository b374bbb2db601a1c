"""``splits_final.json``, which nnU-Net copies when it plans: folds that keep a patient together."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.reading.download_folder import natural_key
from dataset_conversion.shaping.option_values import PatientSplit, split_choice
from dataset_conversion.writing.case_writer import Record
from dataset_conversion.writing.result_files import replace_text
from nnunet_ext.errors import InputError
from nnunet_ext.files.patient_tables import read_patients

SPLITS_NAME = "splits_final.json"


def patient_folds(patient_of: Mapping[str, str], count: int) -> list[tuple[list[str], list[str]]]:
    """Return folds of about equal size, with all cases of a patient in one.

    Args:
        patient_of: case to patient.
        count: of folds.

    Returns:
        Training and validation cases of each fold.

    Raises:
        InputError: fewer patients than folds.

    >>> patient_folds({"a1": "a", "a2": "a", "b": "b"}, 2)
    [(['b'], ['a1', 'a2']), (['a1', 'a2'], ['b'])]
    """
    cases_of: dict[str, list[str]] = defaultdict(list)
    for case in sorted(patient_of, key=natural_key):
        patient = patient_of[case]
        cases_of[patient].append(case)

    if len(cases_of) < count:
        raise InputError(
            f"--split patient:{count}: there are only {len(cases_of)} patients; choose fewer folds"
        )
    largest_first = sorted(
        cases_of.values(),
        key=lambda cases: (-len(cases), natural_key(cases[0])),
    )
    held_out: list[list[str]] = [[] for _ in range(count)]
    for cases in largest_first:
        smallest_fold = min(held_out, key=len)
        smallest_fold.extend(cases)

    folds = []
    for validation in held_out:
        training = patient_of.keys() - set(validation)
        folds.append((_ordered(training), _ordered(validation)))

    return folds


def with_patients(records: Iterable[Record], table: Path | None) -> list[Record]:
    """Return the records with the patients that a CSV gives.

    Args:
        records: of cases.
        table: with columns case, patient; a case there is a volume with all its slices. None: the
            records stay as they are.

    Raises:
        InputError: there is no such table, or it gives a case to two patients.
    """
    if table is None:
        return list(records)

    patient_of = read_patients(table)
    result = []
    for record in records:
        patient = patient_of.get(record.case) or patient_of.get(record.volume)
        if not patient:
            patient = record.volume if record.patient is None else record.patient
        result.append(replace(record, details={**record.details, "patient": patient}))

    return result


def write_splits(folder: Path, converter: Converter, records: Iterable[Record]) -> str | None:
    """Write the split that the user asked for, over what was converted.

    Returns:
        The new name of an earlier file with another split; None: there was none.

    Raises:
        InputError: it cannot be made of these cases.
    """
    training = [record for record in records if record.part == "Tr"]
    choice = split_choice(converter)
    if isinstance(choice, PatientSplit):
        patient_of = _patients_of(folder, converter, training)
        folds = patient_folds(patient_of, choice.folds)
    else:
        folds = _published_folds(folder, converter, training)

    return replace_splits(folder / SPLITS_NAME, folds)


def replace_splits(file: Path, folds: Iterable[tuple[list[str], list[str]]]) -> str | None:
    """Write folds as nnU-Net reads them.

    Args:
        file: ``splits_final.json``.
        folds: training and validation cases of each.

    Returns:
        The new name of an earlier file with other folds; None: there was none.
    """
    content = []
    for train, validation in folds:
        content.append({"train": train, "val": validation})
    text = json.dumps(content, indent=4) + "\n"
    earlier = None
    if file.is_file() and file.read_text(encoding="utf-8", errors="replace") != text:
        earlier = _free_name(file.parent)
        file.rename(file.parent / earlier)  # perhaps the user's own
    replace_text(file, text)

    return earlier


def _free_name(folder: Path) -> str:
    """Return a name for an earlier split that is not taken."""
    for number in itertools.count(1):
        name = f"splits_before_{number}.json"
        if not (folder / name).exists():
            break

    return name


def _patients_of(folder: Path, converter: Converter, training: list[Record]) -> dict[str, str]:
    """Return the patient of each case; where the data set gives none, a volume is a patient.

    Raises:
        InputError: the data set holds several cases of a patient, and does not say which.
    """
    patient_of = {}
    for record in training:
        if record.patient == "":
            raise InputError(
                f"{folder}: --split {converter.split}: the download does not say whose "
                f"{record.case} is; give --patients CSV with columns case,patient"
            )

        patient_of[record.case] = record.volume if record.patient is None else record.patient

    return patient_of


def _published_folds(
    folder: Path, converter: Converter, training: list[Record]
) -> list[tuple[list[str], list[str]]]:
    """Return the folds that the data set knows, over what was converted.

    Raises:
        InputError: a fold would be empty.
    """
    outputs: dict[str, list[str]] = defaultdict(list)
    for record in training:
        outputs[record.volume].append(record.case)

    folds = []
    for published in converter.published_folds(converter.split, outputs.keys()):
        train, validation = (_expanded(volumes, outputs) for volumes in published)
        if not train or not validation:
            raise InputError(
                f"{folder}: --split {converter.split}: a fold would be empty; convert the whole "
                f"download"
            )

        folds.append((train, validation))

    return folds


def _expanded(volumes: Iterable[str], outputs: Mapping[str, list[str]]) -> list[str]:
    """Return the cases that were made of these volumes."""
    cases: list[str] = []
    for volume in volumes:
        cases += outputs.get(volume, ())

    return _ordered(cases)


def _ordered(cases: Iterable[str]) -> list[str]:
    return sorted(cases, key=natural_key)
