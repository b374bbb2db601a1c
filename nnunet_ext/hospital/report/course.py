"""Other studies of the patient on the page of each: volumes over time, and the study before.

Which studies belong together is found from their headers each time, and nothing of it is written.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from nnunet_ext.dicom.writing.segments import Segment
from nnunet_ext.dicom.writing.source import header_texts
from nnunet_ext.errors import InputError
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.hospital.report.names import PAGE, PICTURE
from nnunet_ext.hospital.report.page import rendered
from nnunet_ext.hospital.report.written import read_results
from nnunet_ext.hospital.survey import Case

START, END = "<!-- other studies -->", "<!-- end of other studies -->"
READ = ("PatientBirthDate", "StudyDate")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340.0, 150.0, 12.0, 70.0, 22.0, 26.0  # of a chart


@dataclass(frozen=True)
class Visit:
    """A study of a patient; ``volumes_ml`` holds the volume of each segment by its label."""

    name: str
    day: date | None
    volumes_ml: dict[str, float]


@dataclass(frozen=True)
class Point:
    """A volume in a chart, at ``x`` and ``y`` of its picture."""

    x: float
    y: float
    volume_ml: float
    when: str


def write_courses(
    cases: Iterable[Case],
    output: Path,
    segments: Sequence[Segment],
    serial: str,
    *,
    dates: bool = False,
) -> None:
    """Show on each page the other studies of the same patient, and of the same model.

    Studies are of one patient where number and birth date are equal and the number is not empty. A
    page that cannot be read stays as it is.

    Args:
        cases: of an export, also those that were predicted before.
        output: with a folder for each case that has results.
        segments: of the model.
        serial: digest of the model; results of others are left out.
        dates: show the dates of studies; otherwise days before the newest study.

    Raises:
        OSError: a page cannot be written.
    """
    patients: dict[tuple[str, str], list[Visit]] = defaultdict(list)
    for case in cases:
        patient, visit = _visit(case, output / case.name, serial)
        if visit is not None:
            # without a number, nothing tells whose study it is
            patients[patient if patient[0] else (case.name, "")].append(visit)

    for visits in patients.values():
        visits.sort(key=lambda visit: (visit.day or date.min, visit.name), reverse=True)
        for index in range(len(visits)):
            _write(visits, index, output, segments, dates=dates)


def _visit(case: Case, folder: Path, serial: str) -> tuple[tuple[str, str], Visit | None]:
    """Return whose study a case is, and what is known of it; None without results of the model."""
    results = read_results(folder)
    if results is None or results.model != serial:
        return ("", ""), None

    first = case.reference.slices[0]
    try:
        birth_date, study_date = header_texts(first.path, READ)
    except (InputError, OSError, ValueError):
        return ("", ""), None
    visit = Visit(case.name, _day(study_date), results.volumes_ml)
    return (first.patient_id.strip(), birth_date), visit


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _write(
    visits: Sequence[Visit],
    index: int,
    output: Path,
    segments: Sequence[Segment],
    *,
    dates: bool,
) -> None:
    """Replace what the page of a visit says of the others, which are sorted, newest first."""
    page = output / visits[index].name / PAGE
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    before, start, rest = text.partition(START)
    earlier, end, after = rest.partition(END)
    if not end:
        return

    section = ""
    if len(visits) > 1:
        section = rendered(
            "course.html.jinja", _content(visits, index, output, segments, dates=dates)
        )
    section = f"\n{section}"
    if section == earlier:  # pages are large, and most patients have one study
        return
    with whole_file(page) as unfinished:
        pieces = (before, start, section, end, after)
        unfinished.write_text("".join(pieces), encoding="utf-8")


def _content(
    visits: Sequence[Visit],
    index: int,
    output: Path,
    segments: Sequence[Segment],
    *,
    dates: bool,
) -> dict[str, Any]:
    """Return what the template shows."""
    newest = visits[0].day
    whens = [_when(visit.day, newest, dates=dates) for visit in visits]
    rows = []
    for number, visit in enumerate(visits):
        earlier = visits[number + 1] if number + 1 < len(visits) else None
        changes = [_change(visit, earlier, segment.label) for segment in segments]
        rows.append({"visit": visit, "when": whens[number], "changes": changes})

    charts = []
    for segment in segments:
        points = _points(visits, whens, segment.label)
        if len(points) > 1:
            charts.append({"segment": segment, "points": points})

    shown = [(visits[index], "This study", whens[index])]
    if index + 1 < len(visits):
        shown.append((visits[index + 1], "The study before", whens[index + 1]))
    pictures = []
    for visit, heading, when in shown:
        picture = _picture(output / visit.name / PICTURE)
        if picture:
            pictures.append({"heading": heading, "when": when, "data": picture})

    return {
        "this": visits[index].name,
        "rows": rows,
        "segments": segments,
        "charts": charts,
        "pictures": pictures if len(pictures) > 1 else [],
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "floor": HEIGHT - BOTTOM,
    }


def _when(day: date | None, newest: date | None, *, dates: bool) -> str:
    """Return the date, or how long before the newest study it was.

    >>> _when(date(2020, 1, 1), date(2020, 4, 2), dates=False)
    '−92 days'
    """
    if day is None or newest is None:
        return "no date"
    if dates:
        return day.isoformat()
    days = (newest - day).days
    if not days:
        return "newest"
    return f"−{days} day" if days == 1 else f"−{days} days"


def _change(visit: Visit, earlier: Visit | None, label: str) -> str:
    """Return the change of a volume since the study before, in per cent."""
    if earlier is None or visit.day is None or earlier.day is None:
        return ""
    now_ml = visit.volumes_ml.get(label)
    before_ml = earlier.volumes_ml.get(label)
    if now_ml is None or not before_ml:
        return ""
    return f"{100 * (now_ml / before_ml - 1):+.0f} %".replace("-", "−")


def _points(visits: Sequence[Visit], whens: Sequence[str], label: str) -> list[Point]:
    """Return the volumes of a segment in a chart, the oldest first; empty without two days."""
    dated = []
    for visit, when in zip(visits, whens, strict=True):
        if visit.day is not None and label in visit.volumes_ml:
            dated.append((visit.day.toordinal(), visit.volumes_ml[label], when))
    dated.reverse()
    if len({day for day, _, _ in dated}) < 2:
        return []

    first, last = dated[0][0], dated[-1][0]
    most_ml = max(volume_ml for _, volume_ml, _ in dated) or 1.0
    result = []
    for day, volume_ml, when in dated:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (day - first) / (last - first)
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * volume_ml / most_ml
        result.append(Point(round(x, 1), round(y, 1), volume_ml, when))
    return result


def _picture(file: Path) -> str:
    """Return a picture as the text of a page; empty where it is absent."""
    try:
        return base64.b64encode(file.read_bytes()).decode("ascii")
    except OSError:
        return ""
