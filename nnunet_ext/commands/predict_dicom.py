"""``nnUNetv2_ext_predict_dicom``: a hospital's export in, DICOM SEG, report and captures out."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.hospital import options
from nnunet_ext.hospital.exchange import options as exchange

if TYPE_CHECKING:
    from nnunet_ext.hospital.exchange.destinations import Destination
    from nnunet_ext.hospital.model import ModelFolder
    from nnunet_ext.hospital.run import Run
    from nnunet_ext.hospital.selection import Selection


@command
def predict_dicom_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_predict_dicom``; see its ``--help`` for the exit codes."""
    arguments = _parser().parse_args(argv)

    # Imported here, so that --help and wrong arguments answer at once.
    from nnunet_ext.hospital.model import opened_model

    with (
        options.without_library_remarks(),
        tempfile.TemporaryDirectory() as temporary,
        opened_model(
            arguments.m, arguments.d, arguments.c, arguments.tr, arguments.p, Path(temporary)
        ) as model,
    ):
        return _predict(arguments, model)


def _predict(arguments: argparse.Namespace, model: ModelFolder) -> int:
    destinations = exchange.destinations_of(arguments)
    if arguments.watch:
        return _watch(arguments, model, destinations)

    selection, found = options.survey_of(arguments, model.channel_names)
    print(found.table())
    found.require_cases()
    if arguments.dry_run:
        return 0

    from nnunet_ext.hospital.summary import exit_code, write_summary

    run = _prepared(arguments, model, selection)
    cases = found.cases
    if arguments.continue_prediction:
        cases = [case for case in cases if not (arguments.o / case.name).is_dir()]
    outcomes = run.predict(cases)
    write_summary(arguments.o, run.wanted.model, found.cases, outcomes, found)

    sent = exchange.send_all(arguments.o, found, destinations)
    run.finished(found, outcomes, sent)
    print(
        f"{len(outcomes.finished)} of {len(cases)} studies predicted; what their names stand for "
        f"is noted in {run.names}"
    )
    failures = found.failures + sent.refused + sent.waiting
    return exit_code(cases, outcomes, failures)


def _watch(
    arguments: argparse.Namespace, model: ModelFolder, destinations: list[Destination]
) -> int:
    """Answer studies as they arrive, until interrupted."""
    from nnunet_ext.hospital.exchange.watching import Watch
    from nnunet_ext.hospital.selection import read_selection

    if arguments.dry_run or arguments.continue_prediction:
        raise InputError("--watch: leave --dry-run and --continue_prediction out")
    if not arguments.i.is_dir():
        raise InputError(f"{arguments.i}: no such folder to watch; make it, or choose another -i")

    run = _prepared(arguments, model, read_selection(arguments.rules, model.channel_names))
    print(f"watching {arguments.i}; interrupt to stop", flush=True)
    Watch(arguments.i, arguments.o, run, destinations, arguments.quiet).run()
    return 0


def _prepared(arguments: argparse.Namespace, model: ModelFolder, selection: Selection) -> Run:
    """Return the model in memory, and what is written of each case."""
    from nnunet_ext.hospital.images import require_orientation
    from nnunet_ext.hospital.prediction import Predictor
    from nnunet_ext.hospital.results import outputs_of
    from nnunet_ext.hospital.run import Run

    require_orientation(arguments.orientation)
    options.require_output(arguments.o, arguments.i)
    names = options.names_file(arguments.names, arguments.o)
    checkpoints = model.checkpoints(arguments.f, arguments.chk)
    wanted = outputs_of(arguments, model.dataset_json, model.name, list(checkpoints.values()))
    predictor = Predictor(
        model,
        list(checkpoints),
        arguments.chk,
        arguments.device,
        step_size=arguments.step_size,
        mirroring=not arguments.disable_tta,
        verbose=arguments.verbose,
    )
    return Run(
        predictor,
        wanted,
        model.dataset_json,
        selection,
        arguments.o,
        names,
        arguments.orientation,
        arguments.np,
        arguments.keep_names,
        arguments.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_predict_dicom",
        description="Choose series of a DICOM export, predict them with any nnU-Net model, and "
        "write for each study a DICOM SEG, a structured report and captures with the volumes burnt "
        "in, on the original slices.",
        epilog="Exit code: 0 all studies predicted, 3 some series or studies failed, 1 none was "
        "predicted.",
    )
    parser.add_argument(
        "-i", type=Path, required=True, metavar="EXPORT", help="folder of DICOM files, of any depth"
    )
    parser.add_argument(
        "-o", type=Path, required=True, metavar="OUT", help="a folder per study is written here"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the table of series and stop")
    options.add_model(parser)
    parser.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds of the ensemble, default: all that are trained"
    )
    parser.add_argument(
        "-chk", default="checkpoint_final.pth", metavar="NAME", help="default checkpoint_final.pth"
    )
    parser.add_argument(
        "-device", default="cuda", choices=("cuda", "cpu", "mps"), help="default cuda"
    )
    parser.add_argument(
        "-step_size", type=float, default=0.5, help="of the sliding window, default 0.5"
    )
    parser.add_argument(
        "--disable_tta",
        action="store_true",
        help="do not predict mirrored images: faster, less exact",
    )
    parser.add_argument(
        "--continue_prediction", action="store_true", help="leave out studies that have results"
    )
    parser.add_argument("--verbose", action="store_true", help="show what nnU-Net prints")
    options.add_series(parser)
    options.add_outputs(parser)
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write what was read, with which versions and model, what was written and sent, and "
        "how long it took",
    )
    exchange.add_destinations(parser)
    exchange.add_watch(parser)
    return parser
