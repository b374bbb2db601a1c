"""``nnUNetv2_ext_evaluate``: compare folders of predictions with reference labels."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunet_ext.evaluation.cases import Case, Comparison
    from nnunet_ext.evaluation.labels import LabelSet

RESULTS = ("cases.csv", "summary.csv", "summary.md")


@command
def evaluate_entry(argv: list[str] | None = None) -> int:
    """Compare folders of predicted label files with reference labels."""
    args = _parser().parse_args(argv)
    methods = _methods(args.predictions)
    _require_free(args.output, args.overwrite)

    # Imported here, so that --help and wrong arguments answer at once.
    from nnunet_ext.evaluation.cases import pair_cases, require_no_problems
    from nnunet_ext.evaluation.tables import cases_table, summary_markdown, summary_table

    declared = _declared_labels(args.labels, args.reference, methods)
    cases, notes = pair_cases(args.reference, methods, allow_missing=args.chill)
    comparisons = _compare(cases, args.processes)
    require_no_problems(comparisons, declared)
    labels = declared or _inferred_labels(comparisons)
    if labels.ignore is not None:
        notes.append(f"Voxels with the reference value {labels.ignore} (ignore label) are left out")

    table = cases_table(comparisons, labels.with_foreground(), args.empty)
    summary = summary_table(table)
    markdown = summary_markdown(summary, args.empty, notes)
    print(markdown)
    if args.output:
        texts = (table.to_csv(index=False, na_rep="nan"), summary.to_csv(index=False, na_rep="nan"), markdown)
        _write(args.output, dict(zip(RESULTS, texts, strict=True)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_evaluate",
        description="Dice, sensitivity, specificity, precision and MAE of predicted label files: per case, and as "
        "mean with 95 % bootstrap confidence interval. Prints a Markdown table; -o also writes files.",
    )
    parser.add_argument("-r", dest="reference", type=Path, required=True, metavar="REFERENCE", help="reference folder")
    parser.add_argument(
        "-p",
        dest="predictions",
        nargs="+",
        required=True,
        metavar="[NAME=]FOLDER",
        help="folder of predictions, one per method; the method is called like the folder unless NAME= is given",
    )
    parser.add_argument("-o", dest="output", type=Path, metavar="OUT", help=f"folder for {', '.join(RESULTS)}")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier results in OUT")
    parser.add_argument(
        "--empty",
        choices=("nan", "one", "zero"),
        default="nan",
        help="value of a metric that is 0/0 because a mask is empty; nan leaves the case out of the mean (default)",
    )
    parser.add_argument(
        "-l",
        dest="labels",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="labels, e.g. infection=1 or lesion=1,2; default: dataset.json beside the references or predictions, "
        "else all values found",
    )
    parser.add_argument("--chill", action="store_true", help="accept references without prediction (as in nnU-Net)")
    parser.add_argument("-np", dest="processes", type=_positive, default=1, help="number of processes, default 1")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


def _methods(arguments: Sequence[str]) -> dict[str, Path]:
    methods: dict[str, Path] = {}
    for argument in arguments:
        name, separator, folder = argument.partition("=")
        if not separator or Path(argument).is_dir():  # a folder may have "=" in its name
            name, folder = Path(argument).resolve().name, argument
        if not name or not folder:
            raise InputError(f"-p {argument}: write FOLDER or NAME=FOLDER")
        if name in methods:
            raise InputError(f"-p {argument}: a second method called {name!r}; write NAME={folder}")
        methods[name] = Path(folder)
    return methods


def _declared_labels(arguments: Sequence[str], reference: Path, methods: dict[str, Path]) -> "LabelSet | None":
    from nnunet_ext.evaluation.labels import labels_beside, labels_from_arguments

    if arguments:
        return labels_from_arguments(arguments)
    # nnU-Net keeps dataset.json one folder above labelsTr and gt_segmentations, and inside prediction folders.
    return labels_beside([reference, reference.resolve().parent, *methods.values()])


def _inferred_labels(comparisons: "Sequence[Comparison]") -> "LabelSet":
    from nnunet_ext.evaluation.cases import values_found
    from nnunet_ext.evaluation.labels import inferred_labels

    return inferred_labels(values_found(comparisons))


def _compare(cases: "Sequence[Case]", processes: int) -> "list[Comparison]":
    from tqdm import tqdm

    from nnunet_ext.evaluation.cases import compare_case
    from nnunet_ext.worker_processes import in_worker_processes

    results = in_worker_processes(compare_case, cases, processes)
    order = {id(case): position for position, case in enumerate(cases)}
    done = tqdm(results, total=len(cases), unit="case", disable=not sys.stderr.isatty())
    return [comparison for _, comparison in sorted(done, key=lambda pair: order[id(pair[0])])]


def _require_free(output: Path | None, overwrite: bool) -> None:
    if output is None:
        return
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; -o needs a folder")
    existing = [name for name in RESULTS if (output / name).exists()]
    if existing and not overwrite:
        raise InputError(f"{output}: already holds {', '.join(existing)}; choose another -o or add --overwrite")


def _write(output: Path, texts: dict[str, str]) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            temporary = output / f".{name}.part"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(output / name)  # no half-written table after a kill
    except OSError as error:
        raise InputError(f"{output}: cannot write results ({error.strerror})") from error
