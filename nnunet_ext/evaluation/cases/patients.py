"""Whose the cases are, and the voxels of a patient's cases counted together."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.counting import Case, Comparison
from nnunet_ext.evaluation.profiles import Profile


def patients_of(cases: Sequence[Case], table: Path | None, conversion: Path) -> dict[str, str]:
    """Patient by case, as far as known: from a CSV with columns case, patient, else from
    conversion.csv.

    In conversion.csv a case without patient belongs to its volume, if it is a slice of one.

    Raises:
        InputError: the table cannot be read, or the user's names no patient for a case.
    """
    path = table or conversion
    if table is None and not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            listed = [
                (row["case"], row.get("patient") or row.get("volume") or "")
                for row in csv.DictReader(stream)
            ]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(
            f"{path}: is no table with columns case,patient ({error}); mend it"
        ) from error
    rows = dict(listed)
    if twice := next((case for case, patient in listed if rows[case] != patient), None):
        raise InputError(f"{path}: names several patients of {twice}; mend it")
    found = {case.name: rows[case.name] for case in cases if rows.get(case.name)}
    if table and (unknown := [case.name for case in cases if case.name not in found]):
        raise InputError(
            f"{table}: names no patient of {unknown[0]} (and of {len(unknown) - 1} more); mend it"
        )
    return found


def pooled(
    comparisons: Sequence[Comparison], profile: Profile, patient_of: dict[str, str]
) -> tuple[list[Comparison], Profile]:
    """One comparison per patient, and the profile with a remark about what was pooled or could not
    be.

    A case whose patient nothing names counts as one.

    Raises:
        InputError: surface metrics of patients with several cases: cases have no common grid.
    """
    named = set(patient_of.values())
    by_patient: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        name = comparison.case.name
        by_patient[patient_of.get(name, f"case {name}" if name in named else name)].append(
            comparison
        )
    kind = "single slices" if all(c.is_picture for c in comparisons) else "cases"
    lonely = [c for c in comparisons if c.is_picture and c.case.name not in patient_of]
    remarks = [f"{len(lonely)} single slices count as patients"] if lonely else []
    if len(by_patient) == len(comparisons):
        return list(comparisons), replace(profile, remark="; ".join(remarks))
    if profile.array_metrics:
        raise InputError(
            f"profile {profile.name}: {' '.join(profile.array_metrics)} of a patient need one "
            f"volume; leave them out"
        )
    remarks.insert(
        0,
        f"{len(comparisons)} {kind} of {len(by_patient)} patients, a patient's voxels counted "
        f"together",
    )
    return [_merged(patient, of) for patient, of in by_patient.items()], replace(
        profile, remark="; ".join(remarks)
    )


def _merged(patient: str, comparisons: list[Comparison]) -> Comparison:
    first, methods = comparisons[0], comparisons[0].pairs
    volumes = {comparison.voxel_ml for comparison in comparisons}
    return Comparison(
        replace(first.case, name=patient),
        {method: [pairs for c in comparisons for pairs in c.pairs[method]] for method in methods},
        voxel_ml=first.voxel_ml if len(volumes) == 1 else float("nan"),
        is_picture=first.is_picture,
        has_spacing=first.has_spacing,
        files=[comparison.case for comparison in comparisons],
    )
