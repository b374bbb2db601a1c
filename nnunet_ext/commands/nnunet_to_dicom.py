"""``nnUNetv2_ext_nnunet_to_dicom``: predictions of nnU-Net as DICOM on the original slices."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.hospital import options


@command
def nnunet_to_dicom_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_nnunet_to_dicom``; see its ``--help`` for the exit codes."""
    arguments = _parser().parse_args(argv)
    with options.without_library_remarks():
        return _write(arguments)


def _write(arguments: argparse.Namespace) -> int:
    # Imported here, so that --help and wrong arguments answer at once.
    from nnunet_ext.hospital.manifest import cases_in, read_manifest
    from nnunet_ext.hospital.results import outputs_of, write_overviews
    from nnunet_ext.hospital.steps import write_outputs
    from nnunet_ext.hospital.summary import exit_code, write_summary
    from nnunet_ext.hospital.survey import Survey, read_export

    manifest = read_manifest(arguments.manifest)
    dataset_json, name, checkpoints = _described(arguments)
    wanted = outputs_of(arguments, dataset_json, name, checkpoints)
    options.require_output(arguments.o, arguments.export)

    export = read_export(arguments.export, manifest.rules, processes=arguments.np)
    cases, missing = cases_in(manifest, export)
    if not cases:
        reason = next(iter(missing.values()), "it holds no case")
        raise InputError(f"{arguments.manifest}: no case can be written: {reason}")

    outcomes = write_outputs(
        cases.values(),
        arguments.i,
        manifest.file_ending,
        arguments.o,
        wanted,
        dataset_json,
        keep_names=arguments.keep_names,
    )
    outcomes.failed |= missing
    write_summary(arguments.o, wanted.model, list(cases.values()), outcomes, Survey())
    write_overviews(cases.values(), arguments.o, wanted)
    print(f"{len(outcomes.finished)} of {len(manifest.cases)} studies written")
    return exit_code(list(cases.values()), outcomes, 0)


def _described(arguments: argparse.Namespace) -> tuple[dict[str, Any], str, list[Path]]:
    """Return the model's dataset.json, its name, and its checkpoints where the model is given."""
    from nnunet_ext.files.json_files import read_object
    from nnunet_ext.hospital.model import opened_model

    if arguments.m is None and arguments.d is None:
        advice = "nnUNetv2_predict writes it; or give -m or -d and -c"
        dataset_json = read_object(arguments.i / "dataset.json", advice)
        plans = read_object(arguments.i / "plans.json", advice)
        return dataset_json, str(plans.get("dataset_name", "nnU-Net")), []

    with (
        tempfile.TemporaryDirectory() as temporary,
        opened_model(
            arguments.m, arguments.d, arguments.c, arguments.tr, arguments.p, Path(temporary)
        ) as model,
    ):
        checkpoints = model.checkpoints(arguments.f, arguments.chk)
        return model.dataset_json, model.name, list(checkpoints.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_nnunet_to_dicom",
        description="Map predictions of images that nnUNetv2_ext_dicom_to_nnunet wrote back onto "
        "the original slices, and write for each study a DICOM SEG, a structured report and "
        "captures with the volumes burnt in.",
        epilog="Exit code: 0 all studies written, 3 some failed, 1 none.",
    )
    parser.add_argument(
        "-i",
        type=Path,
        required=True,
        metavar="PREDICTIONS",
        help="output folder of nnUNetv2_predict",
    )
    parser.add_argument(
        "--export", type=Path, required=True, help="the same folder of DICOM files as before"
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        required=True,
        metavar="FILE",
        help="manifest.json beside the images",
    )
    parser.add_argument(
        "-o", type=Path, required=True, metavar="OUT", help="a folder per study is written here"
    )
    options.add_model(parser)
    parser.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds of the ensemble, default: all that are trained"
    )
    parser.add_argument(
        "-chk", default="checkpoint_final.pth", metavar="NAME", help="default checkpoint_final.pth"
    )
    options.add_scan(parser)
    options.add_outputs(parser)
    return parser
