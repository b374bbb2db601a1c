"""``nnUNetv2_ext_evaluate``: compare folders of predictions with reference labels."""

import argparse
import functools
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.files.locks import held
from nnunet_ext.files.whole_file import TEMPORARY_PREFIX, whole_file

if TYPE_CHECKING:
    from nnunet_ext.evaluation.cases.counting import Case, Comparison
    from nnunet_ext.evaluation.cases.labels import LabelSet
    from nnunet_ext.evaluation.metrics.array_measures import ArrayMeasurement
    from nnunet_ext.evaluation.metrics.overlap import EmptyPolicy
    from nnunet_ext.evaluation.profiles import Profile

Result = TypeVar("Result")

RESULTS = ("cases.csv", "summary.csv", "tests.csv", "table.csv", "table.tex", "summary.md")
MARKER = RESULTS[-1]  # written last: where it is missing, a run was stopped
FIGURES = "figures"
LOCK = ".evaluate.lock"
# As in nnunet_ext.evaluation.profiles, whose import would make --help slow; a test compares them.
PROFILE_NAMES = ("plain", "infnet", "covid-benchmark", "ncovsegnet", "slice", "hits", "smooth1")


@command
def evaluate_entry(argv: list[str] | None = None) -> int:
    """Compare folders of predicted label files with reference labels."""
    evaluate(_parser().parse_args(argv))
    return 0


def evaluate(args: argparse.Namespace, conversion: Path | None = None) -> None:
    """Evaluate as the arguments of the command say.

    Args:
        args: of the command.
        conversion: conversion.csv of the references, where it does not lie beside their folder.

    Raises:
        InputError: an argument or a file is wrong; nothing was written.
    """
    methods = _methods(args.predictions)
    _require_free(args.output, args.overwrite, args.figures)
    profiles = required_profiles(args)

    # Imported here, so that --help and wrong arguments answer at once.
    from nnunet_ext.evaluation.cases.counting import pair_cases
    from nnunet_ext.evaluation.cases.patients import patients_of, pooled
    from nnunet_ext.evaluation.metrics.surfaces import SURFACE_METRICS

    conversion = conversion or args.reference.resolve().parent / "conversion.csv"
    declared = _declared_labels(args.labels, args.reference, methods)
    cases, notes = pair_cases(args.reference, methods, allow_missing=args.chill)
    images = _images(args.images, cases)
    patients = (
        patients_of(cases, args.patients, conversion)
        if any(p.per_patient for p in profiles)
        else {}
    )
    comparisons, labels, further = _compared(profiles, declared, methods, cases, args.processes)
    if labels.ignore is not None:
        notes.append(f"Voxels with the reference value {labels.ignore} (ignore label) are left out")

    evaluations = []
    for profile in profiles:
        own_notes = notes + further[profile.name]
        if set(profile.metrics) & set(SURFACE_METRICS) and not all(
            c.has_spacing for c in comparisons
        ):
            own_notes.append(
                "Files without spacing: their surface distances and tolerance are in pixels, not mm"
            )
        units = comparisons
        if profile.per_patient:
            units, profile = pooled(comparisons, profile, patients)
        evaluations.append(_Evaluation(profile, units, labels, args.empty or "nan", own_notes))
    if args.output:
        _write_in_turn(args, evaluations, images if args.figures else None)
    print("\n".join(evaluation.texts["summary.md"] or "" for evaluation in evaluations))


def required_profiles(args: argparse.Namespace) -> "list[Profile]":
    """The profiles, where the :func:`measuring_options` go together.

    Raises:
        InputError: they do not.
    """
    from nnunet_ext.evaluation.profiles import chosen_profiles

    if args.images and not args.figures:
        raise InputError(
            "-i: images are drawn behind the worst cases; add --figures, or leave -i out"
        )
    profiles = chosen_profiles(args.profile, args.metrics, args.tolerance_mm)
    if args.empty is not None and all(profile.empty is not None for profile in profiles):
        names = ", ".join(profile.name for profile in profiles)
        raise InputError(
            f"--empty {args.empty}: profile {names} has its own rule for empty masks; leave it out"
        )
    if args.patients and not any(profile.per_patient for profile in profiles):
        raise InputError("--patients: for a profile on patients only (ncovsegnet); leave it out")
    return profiles


class _Evaluation:
    """The tables of one profile."""

    def __init__(
        self,
        profile: "Profile",
        comparisons: "Sequence[Comparison]",
        labels: "LabelSet",
        empty: "EmptyPolicy",
        notes: Sequence[str],
    ) -> None:
        from nnunet_ext.evaluation.report.tables import (
            cases_table,
            paired_tests_table,
            summary_table,
        )
        from nnunet_ext.evaluation.report.texts import latex_table, markdown_report, wide_table
        from nnunet_ext.files.csv_cells import plain_table

        self.profile, self.labels = profile, labels
        self.files = {comparison.case.name: comparison.files for comparison in comparisons}
        self.cases = cases_table(comparisons, labels, profile, empty)
        summary, tests = summary_table(self.cases, profile), paired_tests_table(self.cases, profile)
        frames = (self.cases, summary, tests if len(tests) else None, wide_table(summary))
        texts = [
            None if frame is None else plain_table(frame).to_csv(index=False, na_rep="nan")
            for frame in frames
        ]
        texts += [
            latex_table(summary, profile),
            markdown_report(summary, tests, profile, empty, notes),
        ]
        self.texts = dict(zip(RESULTS, texts, strict=True))

    def draw(self, folder: Path, images: dict[str, Path]) -> None:
        """Figures of all methods, and of each one's worst cases."""
        from nnunet_ext.evaluation.report.comparison_figures import (
            bland_altman_figure,
            box_plots_figure,
            score_over_volume_figure,
        )
        from nnunet_ext.evaluation.report.gallery import worst_cases_figure

        first = self.profile.metrics[0]
        title = (
            f"profile {self.profile.title}, {len(self.files)} "
            f"{'patients' if self.profile.per_patient else 'cases'}"
        )
        box_plots_figure(self.cases, self.profile.metrics, folder / "box_plots.png", title)
        bland_altman_figure(self.cases, folder / "bland_altman.png", title)
        score_over_volume_figure(self.cases, first, folder / f"{first}_over_volume.png", title)
        union = self.labels.known - {0}
        label, values = next((name, v) for name, v in self.labels.values.items() if set(v) == union)
        rows = self.cases[self.cases["label"] == label]
        for number, method in enumerate(rows["method"].unique(), start=1):
            name = re.sub(r"[^\w.-]+", "_", method)
            path = folder / f"worst_cases_{number}_{name}.png"
            worst_cases_figure(
                rows,
                method,
                first,
                self.files,
                values,
                images,
                path,
                f"{title}, worst {first} of {label}",
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_evaluate",
        parents=[measuring_options()],
        description="Metrics of predicted label files as a paper's profile defines them: per "
        "case, and as mean with "
        "standard deviation and 95 % bootstrap confidence interval; with several methods also "
        "paired tests. Prints "
        "Markdown; -o also writes tables (Markdown, LaTeX, CSV), --figures draws.",
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
        help="folder of predictions, one per method; the method is called like the folder unless "
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
    """What is measured and drawn, and how: for every command that evaluates."""
    parser = argparse.ArgumentParser(add_help=False)
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
        help="columns case,patient: whose the cases are, for a profile on patients; default: "
        "conversion.csv beside "
        "the reference folder",
    )
    parser.add_argument(
        "--tolerance",
        dest="tolerance_mm",
        type=_positive_number,
        metavar="MM",
        help="of surface_dice, default 3",
    )
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
    parser.add_argument(
        "--empty",
        choices=("nan", "one", "zero"),
        help="value of a metric that is 0/0 because a mask is empty; nan leaves the case out of "
        "the mean (default); "
        "only for profiles without a rule of their own",
    )
    parser.add_argument(
        "-l",
        dest="labels",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="labels, e.g. infection=1 or lesion=1,2; default: dataset.json beside the references "
        "or predictions, "
        "else all values found",
    )
    parser.add_argument(
        "-np",
        dest="processes",
        type=positive,
        default=1,
        help="processes of the evaluation, default 1",
    )
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


def _declared_labels(
    arguments: Sequence[str], reference: Path, methods: dict[str, Path]
) -> "LabelSet | None":
    from nnunet_ext.evaluation.cases.labels import labels_beside, labels_from_arguments

    if arguments:
        return labels_from_arguments(arguments)
    # nnU-Net keeps dataset.json one folder above labelsTr and gt_segmentations, and inside
    # prediction folders.
    return labels_beside([reference, reference.resolve().parent, *methods.values()])


def _inferred_labels(comparisons: "Sequence[Comparison]") -> "LabelSet":
    from nnunet_ext.evaluation.cases.counting import values_found
    from nnunet_ext.evaluation.cases.labels import inferred_labels

    return inferred_labels(values_found(comparisons))


def _images(folder: Path | None, cases: "Sequence[Case]") -> dict[str, Path]:
    from nnunet_ext.evaluation.report.gallery import image_files

    return image_files(folder, cases) if folder else {}


def _of_all_cases(
    function: "Callable[[Case], Result]", cases: "Sequence[Case]", processes: int
) -> list[Result]:
    """In the order of the cases, computed in any order."""
    from tqdm import tqdm

    from nnunet_ext.worker_processes import in_worker_processes

    results = in_worker_processes(function, cases, processes)
    order = {id(case): position for position, case in enumerate(cases)}
    done = tqdm(results, total=len(cases), unit="case", disable=not sys.stderr.isatty())
    return [result for _, result in sorted(done, key=lambda pair: order[id(pair[0])])]


def _compared(
    profiles: "Sequence[Profile]",
    declared: "LabelSet | None",
    methods: dict[str, Path],
    cases: "Sequence[Case]",
    processes: int,
) -> "tuple[list[Comparison], LabelSet, dict[str, list[str]]]":
    """All cases with what the profiles need, the labels, and notes by profile.

    Each file is read once, unless the labels must be found in the files before anything else can be
    measured.
    """
    from nnunet_ext.evaluation.cases.counting import compare_case, require_no_problems
    from nnunet_ext.evaluation.metrics.array_measures import plan_measurement

    def compared(measurements: "Sequence[ArrayMeasurement]") -> "list[Comparison]":
        comparisons = _of_all_cases(
            functools.partial(compare_case, per_slice=per_slice, measurements=measurements),
            cases,
            processes,
        )
        require_no_problems(comparisons, declared)
        return comparisons

    per_slice = any(profile.per_slice for profile in profiles)
    comparisons = None if declared else compared(())
    labels = (declared or _inferred_labels(comparisons or ())).with_foreground()
    plans = {
        p.name: plan_measurement(p, labels, methods, cases) for p in profiles if p.array_metrics
    }
    if comparisons is None or plans:
        comparisons = compared([measurement for measurement, _ in plans.values()])
    return (
        comparisons,
        labels,
        {p.name: plans[p.name][1] if p.name in plans else [] for p in profiles},
    )


def _require_free(output: Path | None, overwrite: bool, figures: bool) -> None:
    if output is None:
        if figures:
            raise InputError("--figures: needs a folder; add -o OUT")
        return
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; -o needs a folder")
    existing = [
        str(Path(folder.name if folder != output else "") / name)
        for folder in _result_folders(output)
        for name in (*RESULTS, FIGURES)
        if (folder / name).exists()
    ]
    if existing and not overwrite:
        raise InputError(
            f"{output}: already holds {', '.join(existing)}; choose another -o or add --overwrite"
        )


def _result_folders(output: Path) -> list[Path]:
    """Where results can stand: one profile's in the folder itself, several profiles' in a folder of
    each.
    """
    return [output, *(output / name for name in PROFILE_NAMES)]


def _write_in_turn(
    args: argparse.Namespace, evaluations: Sequence[_Evaluation], images: dict[str, Path] | None
) -> None:
    """Write the results; of two runs with the same -o the second waits, and then decides again."""
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        with held(args.output / LOCK, keep_file=False):
            _require_free(args.output, args.overwrite, args.figures)
            _write_all(args.output, evaluations, images)
    except OSError as error:
        raise InputError(
            f"{args.output}: cannot write results ({error.strerror or error})"
        ) from error


def _write_all(
    output: Path, evaluations: Sequence[_Evaluation], images: dict[str, Path] | None
) -> None:
    """Replace all earlier results, also those of other profiles, as a set: summary.md comes last.

    Args:
        output: folder of the results.
        evaluations: of the profiles.
        images: drawn behind the worst cases; None: no figures at all.
    """
    folders = [output] if len(evaluations) == 1 else [output / e.profile.name for e in evaluations]
    drawn: list[Path] = []
    try:
        for evaluation, folder in zip(evaluations, folders, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            drawn.append(
                Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, suffix=f"-{FIGURES}", dir=folder))
            )
            if images is not None:
                evaluation.draw(drawn[-1], images)
        for folder in _result_folders(output):
            (folder / MARKER).unlink(missing_ok=True)  # from here on the earlier set is not whole
        for folder in _result_folders(output):
            if (folder / FIGURES).exists():
                shutil.rmtree(folder / FIGURES)
            if folder.is_dir() and folder not in folders:
                _write(folder, dict.fromkeys(RESULTS))
                if folder != output and not any(folder.iterdir()):
                    folder.rmdir()
        for evaluation, folder, figures in zip(evaluations, folders, drawn, strict=True):
            if images is not None:
                figures.chmod(folder.stat().st_mode & 0o777)
                figures.replace(folder / FIGURES)
            _write(folder, evaluation.texts)
    finally:
        for folder in drawn:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Delete what a run left behind that was killed; of a link only itself."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        elif leftover.name.endswith((*RESULTS, FIGURES)):
            leftover.unlink(missing_ok=True)


def _write(output: Path, texts: dict[str, str | None]) -> None:
    """Each file whole; None removes what an earlier run left."""
    output.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if text is None:
            (output / name).unlink(missing_ok=True)
            continue
        with whole_file(output / name) as unfinished:  # no half-written table after a kill
            unfinished.write_text(text, encoding="utf-8")
