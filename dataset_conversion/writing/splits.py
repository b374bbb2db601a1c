"""``splits_final.json``: folds that keep a patient on one side. nnU-Net copies the file when it
plans.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.reading.download_folder import natural_key
from dataset_conversion.writing.case_writer import Record
from dataset_conversion.writing.result_files import replace_text
from nnunet_ext.errors import InputError
from nnunet_ext.files.patient_tables import read_patients

SPLITS_NAME = "splits_final.json"


def patient_folds(patient_of: Mapping[str, str], count: int) -> list[tuple[list[str], list[str]]]:
    """Folds of about equal size, with all cases of a patient in one.

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
        cases_of[patient_of[case]].append(case)
    if len(cases_of) < count:
        raise InputError(
            f"--split patient:{count}: there are only {len(cases_of)} patients; choose fewer folds"
        )
    folds: list[list[str]] = [[] for _ in range(count)]
    for cases in sorted(cases_of.values(), key=lambda cases: (-len(cases), natural_key(cases[0]))):
        min(folds, key=len).extend(cases)
    return [(_ordered(patient_of.keys() - set(fold)), _ordered(fold)) for fold in folds]


def with_patients(records: Iterable[Record], table: Path | None) -> list[Record]:
    """Records with the patients of a CSV with columns case, patient; a case there is a volume with
    all its slices.

    Raises:
        InputError: no such table.
    """
    if table is None:
        return list(records)
    patient_of = read_patients(table)
    found = []
    for record in records:
        known = record.details.get("patient", record.volume)
        patient = patient_of.get(record.case) or patient_of.get(record.volume) or known
        found.append(replace(record, details={**record.details, "patient": patient}))
    return found


def write_splits(folder: Path, converter: Converter, records: Iterable[Record]) -> str | None:
    """Write the split that the user asked for, over what was converted.

    Returns:
        The new name of an earlier file with another split; None: there was none.

    Raises:
        InputError: it cannot be made of these cases.
    """
    training = [record for record in records if record.part == "Tr"]
    kind, _, count = converter.split.partition(":")
    if kind == "patient":
        unknown = [record.case for record in training if record.details.get("patient") == ""]
        if unknown:
            raise InputError(
                f"{folder}: --split {converter.split}: the download does not say whose "
                f"{unknown[0]} is; give "
                "--patients CSV with columns case,patient"
            )
        patient_of = {
            record.case: record.details.get("patient", record.volume) for record in training
        }
        folds: Sequence[tuple[list[str], list[str]]] = patient_folds(patient_of, int(count))
    else:
        outputs: dict[str, list[str]] = defaultdict(list)
        for record in training:
            outputs[record.volume].append(record.case)
        published = converter.published_folds(converter.split, outputs.keys())
        folds = [
            (_expanded(train, outputs), _expanded(validation, outputs))
            for train, validation in published
        ]
        if not all(train and validation for train, validation in folds):
            raise InputError(
                f"{folder}: --split {converter.split}: a fold would be empty; convert the whole "
                f"download"
            )
    content = [{"train": train, "val": validation} for train, validation in folds]
    text = json.dumps(content, indent=4) + "\n"
    file, earlier = folder / SPLITS_NAME, None
    if file.is_file() and file.read_text(encoding="utf-8", errors="replace") != text:
        names = (f"splits_before_{number}.json" for number in itertools.count(1))
        earlier = next(name for name in names if not (folder / name).exists())
        file.rename(folder / earlier)  # perhaps the user's own
    replace_text(file, text)
    return earlier


def _expanded(volumes: Iterable[str], outputs: Mapping[str, list[str]]) -> list[str]:
    return _ordered(case for volume in volumes for case in outputs.get(volume, ()))


def _ordered(cases: Iterable[str]) -> list[str]:
    return sorted(cases, key=natural_key)
