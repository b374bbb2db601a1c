"""``index.html``: a line for each study of an output folder that has a page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_json, read_object
from nnunet_ext.hospital.report.names import ADVICE, FACTS, INDEX, MEASUREMENTS, PAGE
from nnunet_ext.hospital.report.page import write_html


@dataclass(frozen=True)
class Line:
    """A study of the index; ``volumes_ml`` holds the volume of each segment by its name."""

    name: str
    written: str
    volumes_ml: dict[str, float]
    lesions: int
    warnings: int


def write_index(output: Path) -> None:
    """Write the index of all studies whose page lies in a folder, the latest first.

    Raises:
        OSError: the file cannot be written.
    """
    lines = []
    for page in output.glob(f"*/{PAGE}"):
        try:
            lines.append(_line(page))
        except (InputError, OSError, KeyError, TypeError, ValueError):
            continue  # a study that another run is replacing, or that was damaged

    lines.sort(key=lambda line: line.written, reverse=True)
    segments = list(dict.fromkeys(name for line in lines for name in line.volumes_ml))
    content = {"lines": lines, "names": segments, "segments": ()}
    write_html(output / INDEX, "index.html.jinja", "", content)


def _line(page: Path) -> Line:
    """Return what the index says of a study."""
    facts = read_object(page.with_name(FACTS), ADVICE)
    measurements: list[dict[str, Any]] = read_json(page.with_name(MEASUREMENTS), ADVICE)

    volumes_ml = {}
    for item in measurements:
        if not item["lesion"]:
            volumes_ml[str(item["segment"])] = float(item["volume_ml"])

    written = datetime.fromtimestamp(page.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    lesions = sum(bool(item["lesion"]) for item in measurements)
    return Line(page.parent.name, written, volumes_ml, lesions, len(facts["warnings"]))
