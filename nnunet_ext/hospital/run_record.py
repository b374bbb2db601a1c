"""``--json FILE``: what a run read, with what, what it wrote and sent, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nnunet_ext.dicom.writing.segments import Model
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.checksums import sha256_of_file
from nnunet_ext.files.json_files import read_object
from nnunet_ext.hospital.each_case import CaseOutcomes
from nnunet_ext.hospital.exchange.sending import Sent
from nnunet_ext.hospital.report.names import FACTS
from nnunet_ext.hospital.survey import Survey

VERSION = 1
PACKAGES = ("nnunetv2-ext", "nnunetv2", "torch", "numpy", "pydicom", "highdicom", "pynetdicom")


@dataclass
class RunRecord:
    """Everything that a program may want to know of a run; keyed names only.

    A watch adds to it study after study.
    """

    model: Model
    output: Path
    started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    series: list[dict[str, Any]] = field(default_factory=list)
    damaged_files: dict[str, int] = field(default_factory=dict)
    sent: list[dict[str, str]] = field(default_factory=list)
    _clock: float = field(default_factory=time.monotonic)

    def add(self, found: Survey, outcomes: CaseOutcomes, sent: Sent) -> None:
        """Add what was found, predicted and sent."""
        for case in found.cases:
            entry: dict[str, Any] = {"study": case.study, "state": "done before"}
            if case.name in outcomes.finished:
                entry["state"] = "done"
            if case.name in outcomes.failed:
                entry |= {"state": "failed", "reason": outcomes.failed[case.name]}
            if case.name in outcomes.seconds:
                entry["seconds"] = round(outcomes.seconds[case.name], 2)
            folder = self.output / case.name
            if folder.is_dir():
                entry |= _contents_of(folder)
            self.cases[case.name] = entry

        self.series += [asdict(row) for row in found.rows]
        for reason, count in found.damaged.items():
            self.damaged_files[reason] = self.damaged_files.get(reason, 0) + count
        self.sent += sent.answers

    def write(self, file: Path) -> None:
        """Write the record whole."""
        content = {
            "version": VERSION,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 2),
            "versions": _versions(PACKAGES),
            "model": asdict(self.model),
            "cases": self.cases,
            "series": self.series,
            "damaged_files": self.damaged_files,
            "sent": self.sent,
        }
        write_json(content, file)


def _contents_of(folder: Path) -> dict[str, Any]:
    """Return size and digest of each file of a study, and the warnings of its page."""
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            files[name] = {"bytes": file.stat().st_size, "sha256": sha256_of_file(file)}

    result: dict[str, Any] = {"files": files}
    facts = folder / FACTS
    if facts.is_file():
        result["warnings"] = read_object(facts, "predict the study again")["warnings"]
    return result


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed packages."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
