"""CSV files that assign cases to patients."""

import csv
from pathlib import Path

from nnunet_ext.errors import InputError


def read_patients(path: Path, *, or_column: str = "") -> dict[str, str]:
    """Return the patient of each case, from the columns ``case`` and ``patient``.

    Args:
        path: of the file.
        or_column: column to use if ``patient`` is empty or missing, such as ``volume``.

    Raises:
        InputError: the file is not such a table, or assigns a case to several patients.
    """
    patients: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream):
                case = row["case"]
                patient = row.get("patient") if or_column else row["patient"]
                patient = patient or row.get(or_column) or ""
                if patients.setdefault(case, patient) != patient:
                    raise InputError(f"{path}: assigns {case} to several patients; fix it")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(
            f"{path}: is not a table with columns case,patient ({error}); fix it"
        ) from error
    return patients
