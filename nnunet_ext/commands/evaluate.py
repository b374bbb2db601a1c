"""``nnUNetv2_ext_evaluate``: compare folders of predictions with reference labels."""

import argparse
import functools
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from nnunet_ext.evaluation.array_measures import Measures
    from nnunet_ext.evaluation.cases import Case, Comparison
    from nnunet_ext.evaluation.labels import LabelSet
    from nnunet_ext.evaluation.metrics import EmptyPolicy
    from nnunet_ext.evaluation.profiles import Profile

Result = TypeVar("Result")

RESULTS = ("cases.csv", "summary.csv", "tests.csv", "table.csv", "table.tex", "summary.md")
FIGURES = "figures"
# As in nnunet_ext.evaluation.profiles, whose import would make --help slow; a test compares them.
PROFILE_NAMES = ("plain", "infnet", "covid-benchmark", "ncovsegnet", "slice", "smooth1")


@command
def evaluate_entry(argv: list[str] | None = None) -> int:
    """Compare folders of predicted label files with reference labels."""
    args = _parser().parse_args(argv)
    methods = _methods(args.predictions)
    _require_free(args.output, args.overwrite, args.figures)

    # Imported here, so that --help and wrong arguments answer at once.
    from nnunet_ext.evaluation.cases import compare_case, pair_cases, require_no_problems
    from nnunet_ext.evaluation.profiles import chosen_profile
    from nnunet_ext.evaluation.reports import latex_table, markdown_report, wide_table
    from nnunet_ext.evaluation.surface_metrics import SURFACE_METRICS
    from nnunet_ext.evaluation.tables import cases_table, paired_tests_table, summary_table

    profile = chosen_profile(args.profile, tuple(args.metrics), args.tolerance_mm)
    if profile.empty is not None and args.empty is not None:
        raise InputError(f"--empty {args.empty}: profile {profile.name} has its own rule for empty masks; leave it out")
    empty: EmptyPolicy = args.empty or "nan"
    declared = _declared_labels(args.labels, args.reference, methods)
    cases, notes = pair_cases(args.reference, methods, allow_missing=args.chill)
    images = _images(args.images, cases)
    comparisons = _of_all_cases(functools.partial(compare_case, per_slice=profile.per_slice), cases, args.processes)
    require_no_problems(comparisons, declared)
    labels = (declared or _inferred_labels(comparisons)).with_foreground()
    if labels.ignore is not None:
        notes.append(f"Voxels with the reference value {labels.ignore} (ignore label) are left out")
    if set(profile.metrics) & set(SURFACE_METRICS) and any(math.isnan(c.voxel_ml) for c in comparisons):
        notes.append("Files without spacing: their surface distances and tolerance are in pixels, not mm")
    measures, further_notes = _array_measures(profile, labels, methods, cases, args.processes)

    table = cases_table(comparisons, labels, profile, empty, measures)
    summary, tests = summary_table(table, profile), paired_tests_table(table, profile)
    markdown = markdown_report(summary, tests, profile, empty, notes + further_notes)
    print(markdown)
    if args.output:
        frames = (table, summary, tests if len(tests) else None, wide_table(summary))
        texts = [None if frame is None else frame.to_csv(index=False, na_rep="nan") for frame in frames]
        texts += [latex_table(summary, profile), markdown]
        _write(args.output, dict(zip(RESULTS, texts, strict=True)))
    if args.figures:
        _draw(args.output / FIGURES, table, profile, cases, labels, images)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_evaluate",
        description="Metrics of predicted label files as a paper's profile defines them: per case, and as mean with "
        "standard deviation and 95 % bootstrap confidence interval; with several methods also paired tests. Prints "
        "Markdown; -o also writes tables (Markdown, LaTeX, CSV), --figures draws.",
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
    parser.add_argument(
        "--profile", choices=PROFILE_NAMES, default="plain", help="whose way to measure; default plain (textbook)"
    )
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="METRIC", help="these instead of the profile's, e.g. dice hd95 assd"
    )
    parser.add_argument(
        "--tolerance", dest="tolerance_mm", type=_positive_number, metavar="MM", help="of surface_dice, default 3"
    )
    parser.add_argument(
        "--figures", action="store_true", help="also draw box plots, Bland-Altman, score over volume, worst cases"
    )
    parser.add_argument(
        "-i", dest="images", type=Path, metavar="IMAGES", help="folder of CASE_0000.* images behind the worst cases"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace earlier results in OUT")
    parser.add_argument(
        "--empty",
        choices=("nan", "one", "zero"),
        help="value of a metric that is 0/0 because a mask is empty; nan leaves the case out of the mean (default); "
        "only for profiles without a rule of their own",
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
    parser.add_argument("-np", dest="processes", type=positive, default=1, help="number of processes, default 1")
    return parser


def positive(text: str) -> int:
    """A whole number from 1, as an argument."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


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


def _images(folder: Path | None, cases: "Sequence[Case]") -> dict[str, Path]:
    from nnunet_ext.evaluation.gallery import image_files

    return image_files(folder, cases) if folder else {}


def _of_all_cases(function: "Callable[[Case], Result]", cases: "Sequence[Case]", processes: int) -> list[Result]:
    """In the order of the cases, computed in any order."""
    from tqdm import tqdm

    from nnunet_ext.worker_processes import in_worker_processes

    results = in_worker_processes(function, cases, processes)
    order = {id(case): position for position, case in enumerate(cases)}
    done = tqdm(results, total=len(cases), unit="case", disable=not sys.stderr.isatty())
    return [result for _, result in sorted(done, key=lambda pair: order[id(pair[0])])]


def _array_measures(
    profile: "Profile", labels: "LabelSet", methods: dict[str, Path], cases: "Sequence[Case]", processes: int
) -> "tuple[dict[str, Measures], list[str]]":
    """Metrics that need the arrays, by case; after all files proved to be comparable."""
    if not profile.array_metrics:
        return {}, []
    from nnunet_ext.evaluation.array_measures import plan_measurement

    measurement, notes = plan_measurement(profile, labels, methods, cases)
    results = _of_all_cases(measurement, cases, processes)
    if errors := [result for result in results if isinstance(result, InputError)]:
        more = f"; and {len(errors) - 1} more cases" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")
    measures = zip(cases, results, strict=True)
    return {case.name: result for case, result in measures if not isinstance(result, InputError)}, notes


def _draw(
    folder: Path,
    table: "pd.DataFrame",
    profile: "Profile",
    cases: "Sequence[Case]",
    labels: "LabelSet",
    images: dict[str, Path],
) -> None:
    from nnunet_ext.evaluation.comparison_figures import (
        bland_altman_figure,
        box_plots_figure,
        score_over_volume_figure,
    )
    from nnunet_ext.evaluation.gallery import worst_cases_figure

    first = profile.metrics[0]
    box_plots_figure(table, profile.metrics, folder / "box_plots.png")
    bland_altman_figure(table, folder / "bland_altman.png")
    score_over_volume_figure(table, first, folder / f"{first}_over_volume.png")
    label, values = list(labels.values.items())[-1]  # all labels merged, where there are several
    rows = table[table["label"] == label]
    for number, method in enumerate(table["method"].unique(), start=1):
        name = re.sub(r"[^\w.-]+", "_", method)
        path = folder / f"worst_cases_{number}_{name}.png"
        worst_cases_figure(rows, method, first, cases, values, images, path)


def _require_free(output: Path | None, overwrite: bool, figures: bool) -> None:
    if output is None:
        if figures:
            raise InputError("--figures: needs a folder; add -o OUT")
        return
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; -o needs a folder")
    existing = [name for name in (*RESULTS, FIGURES) if (output / name).exists()]
    if existing and not overwrite:
        raise InputError(f"{output}: already holds {', '.join(existing)}; choose another -o or add --overwrite")


def _write(output: Path, texts: dict[str, str | None]) -> None:
    """Each file whole; None removes what an earlier run left."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if text is None:
                (output / name).unlink(missing_ok=True)
                continue
            temporary = output / f".{name}.part"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(output / name)  # no half-written table after a kill
    except OSError as error:
        raise InputError(f"{output}: cannot write results ({error.strerror})") from error
