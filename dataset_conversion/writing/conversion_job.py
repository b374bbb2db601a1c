"""What a conversion is to do: the cases of a data set, and which of them this run converts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_conversion.converter import Converter, SourceCase
from dataset_conversion.writing.journal import (
    journal_name,
)
from dataset_conversion.writing.result_files import (
    version,
)


@dataclass(frozen=True)
class Workers:
    """Who converts: ``processes`` here or a Dask cluster, and which part of the cases."""

    processes: int = 1
    dask: str | None = None
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Job:
    """What is to do: all cases of the data set, of which this run converts its own."""

    converter: Converter
    folder: Path
    cases: list[SourceCase]
    workers: Workers
    overwrite: bool
    forbid_overlap: bool

    @property
    def own(self) -> list[SourceCase]:
        """The cases that this run converts."""
        first = self.workers.part
        return self.cases[first :: self.workers.parts]

    @property
    def journal(self) -> Path:
        """The journal of this run."""
        name = journal_name(self.workers.part, self.workers.parts)
        return self.folder / name

    @property
    def header(self) -> dict[str, Any]:
        """The first line of the journal."""
        return {
            "converter": self.converter.name,
            "collection": self.converter.collection,
            "settings": self.converter.settings,
            "version": version(),
        }
