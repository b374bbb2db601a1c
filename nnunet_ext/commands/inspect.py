"""``nnUNetv2_ext_inspect``: show what lies in a folder before it is converted."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ext.commands.entry import command


@command
def inspect_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_inspect``; 0, also where something is unusual."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_inspect",
        description="Identify the public data set in a folder, and show what its files hold: "
        "counts, shapes, voxel sizes, orientations, intensity units, label values, DICOM series, "
        "and anything unusual. No patient is named and nothing is written.",
    )
    parser.add_argument("folder", type=Path, help="of a download")
    parser.add_argument(
        "-n",
        type=int,
        default=8,
        metavar="N",
        help="read the voxels of N files per folder, of N slices per kind of DICOM, default 8",
    )
    parser.add_argument("--all", action="store_true", help="read the voxels of all files")
    arguments = parser.parse_args(argv)
    from dataset_conversion.checking.inspection import advice, inspect, table

    inspection = inspect(arguments.folder, None if arguments.all else max(arguments.n, 1))
    lines = [*advice(inspection, arguments.folder), *inspection.dicom]
    for group in inspection.groups:
        lines += table(group)
    print("\n".join(lines))
    if inspection.others:
        others = [f"{count} {what}" for what, count in inspection.others.most_common(6)]
        print(f"ignored: {', '.join(others)}")
    return 0
