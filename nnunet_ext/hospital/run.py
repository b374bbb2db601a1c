"""What a run does with studies: choose series, predict, write results, index and record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.hospital.each_case import CaseOutcomes
from nnunet_ext.hospital.exchange.sending import Sent
from nnunet_ext.hospital.images import AS_SCANNED
from nnunet_ext.hospital.results import Outputs, write_overviews
from nnunet_ext.hospital.run_record import RunRecord
from nnunet_ext.hospital.selection import Selection
from nnunet_ext.hospital.steps import predict_cases
from nnunet_ext.hospital.survey import Case, Survey, read_export, survey
from nnunet_ext.keyed_names import note_names

if TYPE_CHECKING:
    from nnunet_ext.hospital.prediction import Predictor


@dataclass
class Run:
    """A model in memory, and where and how its results are written.

    ``names`` is the private file of what names stand for, ``record_file`` that of ``--json``.
    """

    predictor: Predictor
    wanted: Outputs
    dataset_json: dict[str, Any]
    selection: Selection
    output: Path
    names: Path
    orientation: str = AS_SCANNED
    processes: int = 1
    keep_names: bool = False
    record_file: Path | None = None
    record: RunRecord = field(init=False)

    def __post_init__(self) -> None:
        self.record = RunRecord(self.wanted.model, self.output)

    def survey(self, folder: Path) -> Survey:
        """Choose the series of a folder."""
        export = read_export(folder, self.selection.rules, processes=self.processes)
        return survey(export, self.selection, keep_names=self.keep_names)

    def predict(self, cases: Sequence[Case]) -> CaseOutcomes:
        """Predict cases one after the other, and write their results."""
        note_names({case.name: case.identifiers for case in cases}, self.names)
        return predict_cases(
            cases,
            self.predictor,
            self.output,
            self.wanted,
            self.dataset_json,
            self.orientation,
            keep_names=self.keep_names,
        )

    def finished(self, found: Survey, outcomes: CaseOutcomes, sent: Sent) -> None:
        """Write what pages say of other studies, the index and, if one is wanted, the record."""
        write_overviews(found.cases, self.output, self.wanted)
        if self.record_file is not None:
            self.record.add(found, outcomes, sent)
            self.record.write(self.record_file)
