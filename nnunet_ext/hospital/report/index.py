"""``index.html``: a line for each study of an output folder that has a page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nnunet_ext.hospital.report.names import INDEX, PAGE
from nnunet_ext.hospital.report.page import write_html
from nnunet_ext.hospital.report.written import read_results


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
        line = _line(page)
        if line is not None:
            lines.append(line)

    lines.sort(key=lambda line: line.written, reverse=True)
    segments = list(dict.fromkeys(name for line in lines for name in line.volumes_ml))
    content = {"lines": lines, "names": segments, "segments": ()}
    write_html(output / INDEX, "index.html.jinja", "", content)


def _line(page: Path) -> Line | None:
    """Return what the index says of a study; None where its results cannot be read."""
    results = read_results(page.parent)
    try:
        seconds = page.stat().st_mtime
    except OSError:  # another run is replacing it
        return None
    if results is None:
        return None

    written = datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    name = page.parent.name
    return Line(name, written, results.volumes_ml, results.lesions, results.warnings)
