"""What lies in an export: studies, the series chosen of each, and a table of all series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.headers import Slice
from nnunet_ext.dicom.reading.rules import Rules
from nnunet_ext.dicom.reading.series import Acquisition, Rejected, acquisitions_of, series_of
from nnunet_ext.dicom.writing.source import NEEDED_UIDS, without_uid
from nnunet_ext.errors import InputError
from nnunet_ext.hospital.privacy import reason_of, series_name, shown_reason, study_name
from nnunet_ext.hospital.selection import Selection, choose
from nnunet_ext.keyed_names import keyed_name
from nnunet_ext.printable import counted

HEADER: tuple[str, ...] = ("study", "series", "modality", "slices", "step", "verdict")


@dataclass(frozen=True)
class Case:
    """A study with the series for each channel of the model.

    ``name`` is a keyed hash, as are all names. ``series_numbers`` are those that the study has
    already.
    """

    name: str
    study: str
    channels: tuple[Acquisition, ...]
    series_numbers: frozenset[int] = frozenset()

    @property
    def reference(self) -> Acquisition:
        """Return the series of the first channel, on whose slices results lie."""
        return self.channels[0]

    @property
    def identifiers(self) -> dict[str, str]:
        """Return what the name stands for; only for the private file of names."""
        first = self.reference.slices[0]
        series_uids = [channel.slices[0].series_uid for channel in self.channels]
        return {
            "patient_id": first.patient_id,
            "study_uid": first.study_uid,
            "series_uids": " ".join(series_uids),
        }


@dataclass(frozen=True)
class Row:
    """One series in the table; ``failure`` tells that a scan was lost rather than left out."""

    study: str
    series: str
    modality: str
    slices: int
    step_mm: float | None
    verdict: str
    failure: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """Return what the table shows, in the order of :data:`HEADER`."""
        step = ""
        if self.step_mm is not None:
            step = f"{self.step_mm:.3g} mm"
        return (
            self.study,
            self.series,
            self.modality,
            str(self.slices),
            step,
            self.verdict,
        )


@dataclass
class Survey:
    """Cases to predict, all series, and files that could not be read, counted by the reason."""

    cases: list[Case] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    damaged: Counter[str] = field(default_factory=Counter)
    others: int = 0

    @property
    def failures(self) -> int:
        """Return how many series and files are lost."""
        lost_series = [row for row in self.rows if row.failure]
        return len(lost_series) + self.damaged.total()

    def require_cases(self) -> None:
        """Refuse an export of which nothing would be predicted.

        Raises:
            InputError: no study has series that meet the rules, or those are defective.
        """
        if self.cases:
            return

        defects = dict.fromkeys(row.verdict for row in self.rows if row.failure)
        if defects:
            raise InputError(
                f"no study has series that can be used ({'; '.join(defects)}); see the table above"
            )
        raise InputError(
            "no study has series that meet the rules; see the table above, and --rules"
        )

    def table(self) -> str:
        """Return the series as text, one a line, without any text of a header."""
        lines = [HEADER]
        for row in self.rows:
            lines.append(row.cells)

        columns = []
        for cells in zip(*lines, strict=True):
            width = max(map(len, cells))
            columns.append([cell.ljust(width) for cell in cells])

        texts = []
        for cells in zip(*columns, strict=True):
            text = "  ".join(cells)
            texts.append(text.rstrip())
        for reason, count in sorted(self.damaged.items()):
            texts.append(f"{counted(count, 'file')} left out: {reason}")
        return "\n".join(texts)


@dataclass
class Export:
    """What was read of an export: series that are scans, all others, and unreadable files."""

    acquisitions: list[Acquisition] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    others: int = 0
    series_numbers: dict[tuple[str, str], set[int]] = field(
        default_factory=lambda: defaultdict(set)
    )


def read_export(export: Path, rules: Rules, *, processes: int = 1) -> Export:
    """Read the headers of an export; whatever is wrong with one series affects that series only.

    Args:
        export: a folder of any depth.
        rules: what is a scan at all.
        processes: that read headers.

    Raises:
        InputError: no such folder.
    """
    content = scan(export, processes=processes)
    found = Export(damaged=content.damaged, others=content.others)
    for item in content.slices:
        if item.series_number is not None:
            found.series_numbers[item.patient_id, item.study_uid].add(item.series_number)

    for members in series_of(content.slices):
        accepted, rejected = _acquisitions(members, rules)
        found.rejected += rejected
        for acquisition in accepted:
            missing = _missing_uid(acquisition)
            if missing:
                reason = without_uid(missing)
                found.rejected.append(Rejected(acquisition.slices, reason, defect=True))
            else:
                found.acquisitions.append(acquisition)
    return found


def _missing_uid(acquisition: Acquisition) -> str:
    """Return the UID that a slice lacks although results must refer to it; empty: none."""
    for name, attribute in NEEDED_UIDS.items():
        if not all(getattr(item, attribute) for item in acquisition.slices):
            return name
    return ""


def survey(export: Export, selection: Selection, *, keep_names: bool = False) -> Survey:
    """Choose series for the model.

    Args:
        export: from :func:`read_export` with the selection's rules.
        selection: rules of each channel.
        keep_names: show paths and texts of headers in reasons.

    Raises:
        InputError: the key of names cannot be used.
    """
    found = Survey(others=export.others)
    for file, message in export.damaged.items():
        reason = message if keep_names else shown_reason(message, file)
        found.damaged[reason] += 1

    studies: dict[tuple[str, str], list[Acquisition]] = defaultdict(list)
    for acquisition in export.acquisitions:
        first = acquisition.slices[0]
        studies[first.patient_id, first.study_uid].append(acquisition)

    for key, acquisitions in studies.items():
        taken = export.series_numbers.get(key, ())
        study = study_name(*key)
        _add_study(found, study, acquisitions, selection, frozenset(taken))
    for item in export.rejected:
        row = _rejected_row(item, selection.rules, keep_names)
        found.rows.append(row)

    found.rows.sort(key=lambda row: row.study)
    return found


def case_name(channels: Sequence[Acquisition]) -> str:
    """Return the keyed name of a case.

    It stands for patient, study, and the series and acquisition of every channel.
    """
    series = []
    for channel in channels:
        series_uid = channel.slices[0].series_uid
        series.append(f"{series_uid} {channel.index}")
    first = channels[0].slices[0]
    return keyed_name("case", first.patient_id, first.study_uid, *series)


def _acquisitions(members: list[Slice], rules: Rules) -> tuple[list[Acquisition], list[Rejected]]:
    """Return the acquisitions of one series; whatever goes wrong rejects that series only."""
    try:
        return acquisitions_of(members, rules)
    except Exception as error:
        return [], [Rejected(tuple(members), shown_reason(error), defect=True)]


def _add_study(
    found: Survey,
    study: str,
    acquisitions: list[Acquisition],
    selection: Selection,
    taken: frozenset[int],
) -> None:
    """Add a study's case and the rows of its scans.

    Args:
        found: receives them.
        study: its keyed name.
        acquisitions: of the study.
        selection: rules of each channel.
        taken: numbers that series of the study have.
    """
    choice = choose(acquisitions, selection)
    if choice.acquisitions:
        name = case_name(choice.acquisitions)
        found.cases.append(Case(name, study, choice.acquisitions, taken))

    verdicts = dict(choice.reasons)
    for channel, acquisition in zip(selection.channels, choice.acquisitions, strict=False):
        words = [f"taken as {channel.name}", *acquisition.remarks]
        verdicts[id(acquisition)] = "; ".join(words)

    for acquisition in acquisitions:
        row = Row(
            study,
            series_name(acquisition),
            acquisition.slices[0].modality,
            len(acquisition.slices),
            acquisition.stack.step_mm,
            verdicts.get(id(acquisition), ""),
        )
        found.rows.append(row)


def _rejected_row(item: Rejected, rules: Rules, keep_names: bool) -> Row:
    first = item.slices[0]
    study = study_name(first.patient_id, first.study_uid)
    series = keyed_name("series", first.patient_id, first.study_uid, first.series_uid, "rejected")
    modality = "other"
    if first.modality in rules.modalities:
        modality = first.modality
    reason = item.reason if keep_names else reason_of(item, rules)
    return Row(
        study,
        series,
        modality,
        slices=len(item.slices),
        step_mm=None,
        verdict=f"left out: {reason}",
        failure=item.defect,
    )
