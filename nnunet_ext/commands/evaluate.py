"""``nnUNetv2_ext_evaluate``: compare folders of predictions with reference labels."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.argument_types import positive, positive_number
from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.report.names import RESULTS

if TYPE_CHECKING:
    from nnunet_ext.evaluation.evaluation import Options

# As in nnunet_ext.evaluation, whose import would make --help slow; a test compares them.
PROFILE_NAMES = (
    "plain",
    "infnet",
    "covid-benchmark",
    "ncovsegnet",
    "slice",
    "hits",
    "lesions",
    "calibration",
    "smooth1",
)


@command
def evaluate_entry(argv: list[str] | None = None) -> int:
    """Compare folders of predicted label files with reference labels."""
    args = _parser().parse_args(argv)
    methods = _methods(args.predictions)

    # Imported here, so that --help and wrong arguments answer at once.
    from nnunet_ext.evaluation.evaluation import evaluate

    report = evaluate(
        args.reference,
        methods,
        options_of(args),
        output=args.output,
        overwrite=args.overwrite,
        allow_missing=args.chill,
    )
    print(report)
    return 0


def options_of(args: argparse.Namespace) -> "Options":
    """Return what the :func:`measuring_options` say."""
    from nnunet_ext.evaluation.evaluation import Options

    return Options(
        profiles=args.profile,
        metrics=args.metrics,
        tolerance_mm=args.tolerance_mm,
        empty=args.empty,
        labels=args.labels,
        patients=args.patients,
        figures=args.figures,
        images=args.images,
        processes=args.processes,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_evaluate",
        parents=[measuring_options()],
        description="Measure predicted label files as a paper's profile defines it: per case, and "
        "as mean with standard deviation and 95 % bootstrap confidence interval; with several "
        "methods also paired tests. Prints Markdown; -o also writes tables (Markdown, LaTeX, CSV), "
        "--figures draws.",
    )
    parser.add_argument(
        "-r",
        dest="reference",
        type=Path,
        required=True,
        metavar="REFERENCE",
        help="reference folder",
    )
    parser.add_argument(
        "-p",
        dest="predictions",
        nargs="+",
        required=True,
        metavar="[NAME=]FOLDER",
        help="folder of predictions, one per method; the method is named after the folder unless "
        "NAME= is given",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, metavar="OUT", help=f"folder for {', '.join(RESULTS)}"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace all earlier results in OUT, figures too"
    )
    parser.add_argument(
        "--chill", action="store_true", help="accept references without prediction (as in nnU-Net)"
    )
    return parser


def measuring_options() -> argparse.ArgumentParser:
    """Return what is measured and drawn, and how: for every command that evaluates."""
    parser = argparse.ArgumentParser(add_help=False)
    _add_profile_options(parser)
    _add_figure_options(parser)
    _add_label_options(parser)
    parser.add_argument(
        "-np",
        dest="processes",
        type=positive,
        default=1,
        help="processes of the evaluation, default 1",
    )
    return parser


def _add_profile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        nargs="+",
        choices=PROFILE_NAMES,
        default=["plain"],
        help="whose way to measure; default plain (textbook). Several: tables of each, in a "
        "folder of its name",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="METRIC",
        help="these instead of the profile's, e.g. dice hd95 assd; of several profiles each takes "
        "what it can measure",
    )
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="CSV",
        help="columns case,patient: assigns cases to patients, for a profile on patients; default: "
        "conversion.csv beside the reference folder",
    )
    parser.add_argument(
        "--tolerance",
        dest="tolerance_mm",
        type=positive_number,
        metavar="MM",
        help="of surface_dice, default 3",
    )


def _add_figure_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--figures",
        action="store_true",
        help="also draw box plots, Bland-Altman, score over volume, worst cases",
    )
    parser.add_argument(
        "-i",
        dest="images",
        type=Path,
        metavar="IMAGES",
        help="folder of CASE_0000.* images behind the worst cases",
    )


def _add_label_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--empty",
        choices=("nan", "one", "zero"),
        help="value of a metric that is 0/0 because a mask is empty; nan leaves the case out of "
        "the mean (default); only for profiles without a rule of their own",
    )
    parser.add_argument(
        "-l",
        dest="labels",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="labels, e.g. infection=1 or lesion=1,2; default: dataset.json beside the references "
        "or predictions, else all values found",
    )


def _methods(arguments: Sequence[str]) -> dict[str, Path]:
    methods: dict[str, Path] = {}
    for argument in arguments:
        name, separator, folder = argument.partition("=")
        if not separator or Path(argument).is_dir():  # a folder may have "=" in its name
            name = Path(argument).resolve().name
            folder = argument
        if not name or not folder:
            raise InputError(f"-p {argument}: write FOLDER or NAME=FOLDER")
        if name in methods:
            raise InputError(f"-p {argument}: a second method called {name!r}; write NAME={folder}")
        methods[name] = Path(folder)
    return methods
