"""Folds by patient for a raw data set that any program made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.writing.result_files import PROVENANCE_NAME
from dataset_conversion.writing.splits import SPLITS_NAME, patient_folds, replace_splits
from nnunet_ext.errors import InputError
from nnunet_ext.files.patient_tables import read_patients
from nnunet_ext.printable import counted
from nnunet_ext.stock.files import read_dataset_json, read_folds
from nnunet_ext.training.streams.raw_cases import labelled_cases

Folds = list[tuple[list[str], list[str]]]  # training and validation cases of each


@dataclass(frozen=True)
class PatientSplits:
    """Folds of a data set, and whose its cases are."""

    patient_of: Mapping[str, str]
    folds: Folds
    unused: tuple[str, ...]  # cases of the table that the data set does not have

    @property
    def patients(self) -> int:
        """Return how many patients there are."""
        return len(set(self.patient_of.values()))

    def describe(self) -> list[str]:
        """Return a line per fold: cases and patients, none of them named."""
        lines = []
        for number, (training, validation) in enumerate(self.folds):
            held_out = len({self.patient_of[case] for case in validation})
            patients = counted(held_out, "patient")
            lines.append(
                f"fold {number}: {len(training)} cases for training, {len(validation)} of "
                f"{patients} for validation"
            )
        return lines


def splits_by_patient(raw: Path, table: Path | None, count: int) -> PatientSplits:
    """Divide the training cases of a raw data set into folds that keep a patient together.

    Args:
        raw: folder of the data set.
        table: CSV with columns case, patient; None: the conversion.csv of nnUNetv2_ext_convert, in
            which slices of a volume belong together where no patient is named.
        count: of folds.

    Raises:
        InputError: no such data set or table, a case without patient, or fewer patients than folds.
    """
    dataset_json = read_dataset_json(raw / "dataset.json", "give a raw data set of nnU-Net")
    cases = [case.name for case in labelled_cases(raw, dataset_json)]
    patient_of, source = _patients(raw, table)

    unknown = [case for case in cases if not patient_of.get(case)]
    if unknown:
        advice = "cases are called as in labelsTr, without file ending"
        if table is None:
            advice = "say whose they are with --patients CSV (columns case,patient)"
        raise InputError(
            f"{source}: names no patient of {counted(len(unknown), 'case')} of {raw.name}, first "
            f"{unknown[0]}; {advice}"
        )

    of_cases = {case: patient_of[case] for case in cases}
    patients = len(set(of_cases.values()))
    if patients < count:
        raise InputError(
            f"{source}: the cases are of {counted(patients, 'patient')}, too few for {count} "
            "folds; choose fewer with --folds"
        )
    unused = tuple(sorted(patient_of.keys() - of_cases.keys()))
    return PatientSplits(of_cases, patient_folds(of_cases, count), unused)


def _patients(raw: Path, table: Path | None) -> tuple[dict[str, str], Path]:
    """Return the patient of each case, and the file that says so."""
    if table is not None:
        return read_patients(table), table

    conversion = raw / PROVENANCE_NAME
    if not conversion.is_file():
        raise InputError(
            f"{raw}: nothing says whose its cases are; give --patients CSV with columns "
            "case,patient"
        )
    return read_patients(conversion, or_column="volume"), conversion


def write_splits_of(
    raw: Path, preprocessed: Path, splits: PatientSplits, overwrite: bool
) -> dict[Path, str]:
    """Write ``splits_final.json`` where nnU-Net reads it.

    nnU-Net trains with that of the preprocessed data set, and copies that of the raw data set when
    it plans; it refuses to plan where the two differ.

    Args:
        raw: folder of the raw data set.
        preprocessed: that of the preprocessed one; it need not exist.
        splits: to write.
        overwrite: put earlier folds aside.

    Returns:
        The files, each with the new name of an earlier file with other folds, or an empty text.

    Raises:
        InputError: there are other folds, and they are not to be put aside.
    """
    folders = [folder for folder in (raw, preprocessed) if folder.is_dir()]
    files = [folder / SPLITS_NAME for folder in folders]
    if not overwrite:
        for file in files:
            _require_same(file, splits.folds)
    return {file: replace_splits(file, splits.folds) or "" for file in files}


def _require_same(file: Path, folds: Folds) -> None:
    if not file.is_file():
        return
    advice = "--overwrite puts it aside"
    found = [(fold["train"], fold["val"]) for fold in read_folds(file, advice)]
    if found != folds:
        raise InputError(
            f"{file}: holds other folds, with which models may be trained; {advice}, and those "
            "models have then seen cases that new folds hold out"
        )
