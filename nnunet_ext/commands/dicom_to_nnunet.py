"""``nnUNetv2_ext_dicom_to_nnunet``: series of a hospital's export as input of nnU-Net."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from nnunet_ext.commands.entry import command
from nnunet_ext.hospital import options


@command
def dicom_to_nnunet_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_dicom_to_nnunet``; see its ``--help`` for the exit codes."""
    arguments = _parser().parse_args(argv)
    with options.without_library_remarks():
        return _write(arguments)


def _write(arguments: argparse.Namespace) -> int:
    # Imported here, so that --help and wrong arguments answer at once.
    from nnunet_ext.hospital.each_case import write_inputs
    from nnunet_ext.hospital.images import require_orientation
    from nnunet_ext.hospital.manifest import FILE_NAME, write_manifest
    from nnunet_ext.hospital.summary import exit_code
    from nnunet_ext.keyed_names import note_names

    channels, ending = _input_of_model(arguments)
    selection, found = options.survey_of(arguments, channels)
    print(found.table())
    found.require_cases()
    if arguments.dry_run:
        return 0

    require_orientation(arguments.orientation)
    options.require_output(arguments.o, arguments.i)
    names = options.names_file(arguments.names, arguments.o)
    note_names({case.name: case.identifiers for case in found.cases}, names)

    outcomes = write_inputs(
        found.cases, arguments.o, ending, arguments.orientation, keep_names=arguments.keep_names
    )
    write_manifest(
        arguments.o / FILE_NAME,
        selection.rules,
        ending,
        outcomes.finished,
        found,
        outcomes.failed,
    )
    print(
        f"{len(outcomes.finished)} of {len(found.cases)} cases written; what their names stand for "
        f"is noted in {names}"
    )
    return exit_code(found.cases, outcomes, found.failures)


def _input_of_model(arguments: argparse.Namespace) -> tuple[list[str], str]:
    """Return the channels and the file ending that the model takes; without one those of CT."""
    from nnunet_ext.hospital.model import opened_model

    if not arguments.m and not arguments.d:
        return ["CT"], ".nii.gz"
    with (
        tempfile.TemporaryDirectory() as temporary,
        opened_model(
            arguments.m, arguments.d, arguments.c, arguments.tr, arguments.p, Path(temporary)
        ) as model,
    ):
        return model.channel_names, model.file_ending


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_dicom_to_nnunet",
        description="Choose series of a DICOM export, and write them as input of nnUNetv2_predict "
        "with a manifest that leads back to the slices. Names are keyed hashes; nothing of the "
        "patient is written.",
        epilog="Exit code: 0 all series written, 3 some failed, 1 none.",
    )
    parser.add_argument(
        "-i", type=Path, required=True, metavar="EXPORT", help="folder of DICOM files, of any depth"
    )
    parser.add_argument(
        "-o", type=Path, required=True, metavar="FOLDER", help="where images and manifest.json go"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the table of series and stop")
    options.add_model(parser)
    options.add_series(parser)
    return parser
