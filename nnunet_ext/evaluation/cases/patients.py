"""Assign cases to patients, and count the voxels of a patient's cases together."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.counting import Case, Comparison, ValuePairs
from nnunet_ext.evaluation.profiles import Profile
from nnunet_ext.files.patient_tables import read_patients


def patients_of(cases: Sequence[Case], table: Path | None, conversion: Path) -> dict[str, str]:
    """Return the patient of each case, as far as it is known.

    In conversion.csv a case without patient belongs to its volume, if it is a slice of one.

    Args:
        cases: to assign.
        table: CSV with columns case, patient; None: conversion.csv, if there is one.
        conversion: conversion.csv of the references.

    Raises:
        InputError: the table cannot be read, or the user's names no patient for a case.
    """
    if table is None and not conversion.is_file():
        return {}
    patient_of = read_patients(table or conversion, or_column="volume")
    found = {}
    unknown = []
    for case in cases:
        patient = patient_of.get(case.name)
        if patient:
            found[case.name] = patient
        else:
            unknown.append(case.name)

    if table and unknown:
        raise InputError(
            f"{table}: names no patient of {unknown[0]} (and of {len(unknown) - 1} more); fix it"
        )
    return found


def pooled(
    comparisons: Sequence[Comparison], profile: Profile, patient_of: dict[str, str]
) -> tuple[list[Comparison], Profile]:
    """Return one comparison per patient, and the profile with a remark about the pooling.

    A case counts as a patient if nothing names its patient.

    Raises:
        InputError: surface metrics of patients with several cases: cases have no common grid.
    """
    by_patient = _by_patient(comparisons, patient_of)
    remarks = []
    if len(by_patient) < len(comparisons):
        if profile.array_metrics:
            raise InputError(
                f"profile {profile.name}: {' '.join(profile.array_metrics)} of a patient need one "
                f"volume; leave them out"
            )
        are_pictures = all(comparison.is_picture for comparison in comparisons)
        kind = "single slices" if are_pictures else "cases"
        remarks.append(
            f"{len(comparisons)} {kind} of {len(by_patient)} patients, a patient's voxels counted "
            f"together"
        )
    alone = [c for c in comparisons if c.is_picture and c.case.name not in patient_of]
    if alone:
        remarks.append(f"{len(alone)} single slices count as patients")

    profile = replace(profile, remark="; ".join(remarks))
    if len(by_patient) == len(comparisons):
        return list(comparisons), profile
    return [_merged(patient, of) for patient, of in by_patient.items()], profile


def _by_patient(
    comparisons: Sequence[Comparison], patient_of: dict[str, str]
) -> dict[str, list[Comparison]]:
    named = set(patient_of.values())
    by_patient: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        name = comparison.case.name
        own = f"case {name}" if name in named else name  # another case's patient may be called so
        by_patient[patient_of.get(name, own)].append(comparison)
    return by_patient


def _merged(patient: str, comparisons: list[Comparison]) -> Comparison:
    first = comparisons[0]
    volumes = {comparison.voxel_ml for comparison in comparisons}
    pairs: dict[str, list[ValuePairs]] = {method: [] for method in first.pairs}
    for comparison in comparisons:
        for method, units in pairs.items():
            units += comparison.pairs[method]
    return Comparison(
        replace(first.case, name=patient),
        pairs,
        voxel_ml=first.voxel_ml if len(volumes) == 1 else float("nan"),
        is_picture=first.is_picture,
        has_spacing=first.has_spacing,
        files=[comparison.case for comparison in comparisons],
    )
