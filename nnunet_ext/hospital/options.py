"""Arguments that the commands of the hospital path share."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.errors import InputError
from nnunet_ext.files.folders import make_folder
from nnunet_ext.hospital.images import AS_SCANNED
from nnunet_ext.keyed_names import key_file

if TYPE_CHECKING:
    from nnunet_ext.hospital.selection import Selection
    from nnunet_ext.hospital.survey import Survey

# as in nnunet_ext.hospital.selection and nnunet_ext.dicom.writing, whose import would slow --help
BUILT_IN_RULES = ("any", "chest", "head")
SEGMENTATION_KINDS = ("binary", "labelmap", "fractional")
NAMES_FILE = "cases.jsonl"


@contextmanager
def without_library_remarks() -> Iterator[None]:
    """Silence libraries whose remarks quote values of headers."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom", "pynetdicom")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add what names a model: ``-m``, or ``-d -c -tr -p``."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m",
        type=Path,
        metavar="MODEL",
        help="folder of a trained model, or a zip that nnU-Net exported",
    )
    group.add_argument(
        "-d", metavar="ID", help="data set of a model in nnUNet_results, id or name; or -m"
    )
    group.add_argument("-c", metavar="CONFIG", help="its configuration, such as 3d_fullres")
    group.add_argument(
        "-tr", default="nnUNetTrainer", metavar="TRAINER", help="its trainer, default nnUNetTrainer"
    )
    group.add_argument(
        "-p", default="nnUNetPlans", metavar="PLANS", help="its plans, default nnUNetPlans"
    )


def add_series(parser: argparse.ArgumentParser) -> None:
    """Add what chooses series and what may be shown of them."""
    parser.add_argument(
        "--rules",
        metavar="RULES",
        help=f"which series are taken: a JSON file, or one of {', '.join(BUILT_IN_RULES)}; default "
        "any",
    )
    parser.add_argument(
        "--orientation",
        default=AS_SCANNED,
        metavar="CODE",
        help="turn the axes of images as the model was trained, e.g. RAS or LPS; default: slices "
        "as they were scanned",
    )
    add_privacy(parser)


def add_privacy(parser: argparse.ArgumentParser) -> None:
    """Add where names of cases are noted, and how an export is read."""
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="note here what case names stand for, mode 0600, outside the output; default "
        f"{NAMES_FILE} beside the key of names",
    )
    add_scan(parser)


def add_scan(parser: argparse.ArgumentParser) -> None:
    """Add how an export is read, and whether names of files may be shown."""
    parser.add_argument(
        "--keep-names",
        action="store_true",
        help="show names of files and texts of headers in messages; off",
    )
    parser.add_argument(
        "-np", type=int, default=2, metavar="N", help="processes that read headers, default 2"
    )


def survey_of(arguments: argparse.Namespace, channels: Sequence[str]) -> tuple[Selection, Survey]:
    """Return the rules and what they choose of the export.

    Args:
        arguments: of the command line, with those of :func:`add_series` and ``-i``.
        channels: names of the model's channels.

    Raises:
        InputError: impossible rules, or no such export.
    """
    from nnunet_ext.hospital.selection import read_selection
    from nnunet_ext.hospital.survey import read_export, survey

    selection = read_selection(arguments.rules, channels)
    export = read_export(arguments.i, selection.rules, processes=arguments.np)
    return selection, survey(export, selection, keep_names=arguments.keep_names)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add what is written of a case."""
    group = parser.add_argument_group("results")
    group.add_argument(
        "--seg-type",
        choices=SEGMENTATION_KINDS,
        default="binary",
        help="kind of the DICOM SEG, default binary",
    )
    group.add_argument(
        "--segments",
        type=Path,
        metavar="FILE",
        help="JSON with codes, names and colours of the model's labels",
    )
    group.add_argument("--rtstruct", action="store_true", help="also write contours.dcm (RTSTRUCT)")
    group.add_argument("--nifti", action="store_true", help="also write segmentation.nii.gz")
    group.add_argument(
        "--html", action="store_true", help="also write a page per study, report.html, and an index"
    )
    group.add_argument(
        "--html-patient",
        action="store_true",
        help="show name, number and dates of the patient in report.html; off",
    )
    group.add_argument(
        "--lungs",
        action="store_true",
        help="show in report.html volumes in per cent of the lungs, which are found by their air "
        "unless the model labels them; chest CT only",
    )
    group.add_argument(
        "--lung-mask",
        type=Path,
        metavar="FOLDER",
        help="the same with given lungs: an image per study on the grid of its series, called as "
        "the case, the study or the series; voxels other than 0 are lung",
    )
    group.add_argument(
        "--certainty",
        action="store_true",
        help="show in report.html how certain the model is of each lesion, and how its folds "
        "differ; takes time and memory",
    )
    group.add_argument(
        "--deidentify",
        action="store_true",
        help="write results without the patient: PS3.15 basic profile, UIDs and patient replaced "
        "by keyed ones",
    )


def names_file(chosen: Path | None, *outputs: Path) -> Path:
    """Return the file in which names are noted.

    Raises:
        InputError: it lies in an output.
    """
    file = chosen or key_file().parent / NAMES_FILE
    for output in outputs:
        if file.resolve().is_relative_to(output.resolve()):
            raise InputError(
                f"{file}: lies in the output; what case names stand for must stay outside, choose "
                "--names"
            )
    return file


def require_output(output: Path, export: Path) -> None:
    """Make the output folder.

    Raises:
        InputError: it lies in the export, or cannot be made.
    """
    if export.is_dir() and output.resolve().is_relative_to(export.resolve()):
        raise InputError(
            "-o lies in the export; choose a folder outside, so that results are not read as input"
        )

    make_folder(output, "choose another -o")
