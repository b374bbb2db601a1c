"""What a run did: summary.json, and the exit code."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_ext.dicom.writing.segments import Model
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.hospital.each_case import CaseOutcomes
from nnunet_ext.hospital.survey import Case, Survey

FILE_NAME = "summary.json"
ALL_DONE, NONE_DONE, PARTIAL = 0, 1, 3


def write_summary(
    output: Path, model: Model, cases: Sequence[Case], outcomes: CaseOutcomes, found: Survey
) -> None:
    """Write ``summary.json``: the state of every case, the verdict on every series.

    It holds keyed names only.
    """
    entries: dict[str, dict[str, Any]] = {}
    for case in cases:
        state = "done before"
        if case.name in outcomes.finished:
            state = "done"
        elif case.name in outcomes.failed:
            state = "failed"
        entries[case.name] = {"study": case.study, "state": state}

    for name, reason in outcomes.failed.items():
        entries.setdefault(name, {"state": "failed"})["reason"] = reason

    content = {
        "model": asdict(model),
        "cases": entries,
        "series": [asdict(row) for row in found.rows],
        "damaged_files": dict(found.damaged),
    }
    write_json(content, output / FILE_NAME)


def exit_code(cases: Collection[Case], outcomes: CaseOutcomes, failures: int) -> int:
    """Return 0 where nothing failed, 1 where no case succeeded, else 3."""
    if cases and not outcomes.finished:
        return NONE_DONE
    return PARTIAL if outcomes.failed or failures else ALL_DONE
