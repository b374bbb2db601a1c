"""What a run did: summary.json, and the exit code."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_ext.dicom.writing.segments import Model
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.hospital.each_case import Done
from nnunet_ext.hospital.survey import Case, Survey

FILE_NAME = "summary.json"
ALL_DONE, NONE_DONE, PARTIAL = 0, 1, 3


def write_summary(
    output: Path, model: Model, cases: Sequence[Case], done: Done, found: Survey
) -> None:
    """Write ``summary.json``: of every case its state, of every series the verdict; keyed names
    only.
    """
    entries: dict[str, dict[str, Any]] = {}
    for case in cases:
        state = (
            "done"
            if case.name in done.finished
            else "failed"
            if case.name in done.failed
            else "done before"
        )
        entries[case.name] = {"study": case.study, "state": state}

    for name, reason in done.failed.items():
        entries.setdefault(name, {"state": "failed"})["reason"] = reason
    content = {
        "model": asdict(model),
        "cases": entries,
        "series": [asdict(row) for row in found.rows],
        "damaged_files": dict(found.damaged),
    }
    write_json(content, output / FILE_NAME)


def exit_code(cases: Collection[Case], done: Done, failures: int) -> int:
    """Return 0 where nothing failed, 1 where no case succeeded, else 3."""
    if cases and not done.finished:
        return NONE_DONE
    return PARTIAL if done.failed or failures else ALL_DONE
