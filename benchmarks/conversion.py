"""Conversion beside other tools: time, peak memory, and whether the voxels are right.

Run from the repository's root, with the tools to compare in an environment of their own::

    python -m venv /tmp/others
    /tmp/others/bin/pip install dcm2niix dicom2nifti pylidc "setuptools<80"
    python -m benchmarks.conversion --others /tmp/others/bin [--parts msd dicom exact lidc]
        [--repeats 3]

All inputs are generated; real DICOM series are added where the machine has them. Each run is a
command of its own, the tools take turns, and both have as many processes. Tables go to stdout, as
Markdown; ``--json FILE`` keeps them as data. What is not installed is left out, with a line on
stderr.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from benchmarks import conversion_dicom, conversion_exactness, conversion_lidc, conversion_msd
from benchmarks.process_cost import markdown

PARTS = ("msd", "dicom", "exact", "lidc")
CONVERT = """
import sys
from nnunet_ext.commands.convert import convert_entry
if __name__ == "__main__":
    sys.exit(convert_entry())
"""


def python_with(package: str, others: Path | None) -> str | None:
    """An interpreter that has a package: the other tools' or this one."""
    for python in (*([str(others / "python")] if others else []), sys.executable):
        find = (
            f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
        )
        if subprocess.run([python, "-c", find], check=False).returncode == 0:
            return python
    print(f"{package} is not installed (see --others); left out", file=sys.stderr)
    return None


def program(name: str, others: Path | None) -> str | None:
    """A program of the other tools, or of the path."""
    found = (shutil.which(name, path=str(others)) if others else None) or shutil.which(name)
    if found is None:
        print(f"{name} is not installed (see --others); left out", file=sys.stderr)
    return found


def in_own_process(function: Callable[..., None], *arguments: object) -> None:
    """Generate inputs in a process of their own.

    Linux counts the memory of the parent at the fork as the child's.
    """
    process = get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__module__}.{function.__name__} failed")


def tables(arguments: argparse.Namespace, scratch: Path) -> dict[str, list[dict[str, str]]]:
    """Rows by part."""
    convert = scratch / "convert.py"
    convert.write_text(CONVERT)
    results = {}
    if "msd" in arguments.parts:
        in_own_process(conversion_msd.write_tasks, scratch)
        results["msd"] = conversion_msd.compare(
            scratch, convert, arguments.processes, arguments.repeats
        )
    if {"dicom", "exact"} & set(arguments.parts):
        dcm2niix, dicom2nifti = (
            program("dcm2niix", arguments.others),
            python_with("dicom2nifti", arguments.others),
        )
    if "dicom" in arguments.parts:
        in_own_process(conversion_dicom.write_inputs, scratch, arguments.series)
        results["dicom"] = conversion_dicom.compare(
            scratch, convert, dcm2niix, dicom2nifti, arguments.processes, arguments.repeats
        )
    if "exact" in arguments.parts:
        results["exact"] = conversion_exactness.compare(scratch, convert, dcm2niix, dicom2nifti)
    pylidc = python_with("pylidc", arguments.others) if "lidc" in arguments.parts else None
    if pylidc:
        results["lidc"] = conversion_lidc.compare(
            scratch, pylidc, arguments.scans, arguments.repeats
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--others", type=Path, help="folder of the other tools' programs, such as ENVIRONMENT/bin"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--series", type=int, default=6, help="DICOM series of each kind")
    parser.add_argument("--scans", type=int, default=40, help="scans of LIDC-IDRI")
    parser.add_argument("--json", type=Path, help="file for the tables as data")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = tables(arguments, Path(scratch))
    print(
        f"{arguments.processes} processes (lidc: 1), {arguments.repeats} runs, median (lowest to "
        f"highest)"
    )
    for part, rows in results.items():
        print(f"\n{part}\n\n{markdown(rows)}")
    if arguments.json:
        content = {"processes": arguments.processes, "repeats": arguments.repeats, **results}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
