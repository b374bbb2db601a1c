"""``nnUNetv2_ext_crossval``: train all folds of several trainers or plans, then compare them."""

import argparse
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.commands.entry import command
from nnunet_ext.commands.evaluate import measuring_options, options_of
from nnunet_ext.crossval import checks
from nnunet_ext.crossval.folds import Fold, folds_of, models_of
from nnunet_ext.crossval.merging import merge_folds
from nnunet_ext.crossval.training import train_all
from nnunet_ext.errors import InputError
from nnunet_ext.files.folders import make_folder
from nnunet_ext.files.locks import held
from nnunet_ext.stock.folders import dataset_name, environment_folder
from nnunet_ext.stock.training import Model

_LOCK = ".crossval.lock"  # of a comparison


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_crossval",
        parents=[measuring_options()],
        description="Train all folds of several trainers (and plans) with nnUNetv2_train, one "
        "after the other, collect their validation predictions and compare them with "
        "nnUNetv2_ext_evaluate. Finished folds are skipped and interrupted ones continued: run "
        "the same command again.",
    )
    add = parser.add_argument
    add("-d", dest="dataset", required=True, metavar="DATASET", help="data set, number or name")
    add(
        "-c",
        dest="configuration",
        required=True,
        metavar="CONFIGURATION",
        help="2d, 3d_fullres, ...",
    )
    add(
        "-tr",
        dest="trainers",
        nargs="+",
        required=True,
        metavar="TRAINER",
        help="trainers to compare",
    )
    add(
        "-p",
        dest="plans",
        nargs="+",
        default=["nnUNetPlans"],
        metavar="PLANS",
        help="trainers and plans are combined; default nnUNetPlans",
    )
    add(
        "-f",
        dest="folds",
        nargs="+",
        default=list("01234"),
        metavar="FOLD",
        help="folds, default 0 1 2 3 4",
    )
    add("-o", dest="output", type=Path, metavar="OUT", help="folder for predictions and comparison")
    add("--jobs", action="store_true", help="print the commands of unfinished folds, run nothing")
    add("-device", default="cuda", choices=("cuda", "cpu", "mps"), help="default cuda")
    return parser


@command
def crossval_entry(argv: list[str] | None = None) -> int:
    """Run or collect all folds of several models with stock commands, and compare them."""
    args = _parser().parse_args(argv)
    if args.output is None and not args.jobs:
        raise InputError(
            "-o: say where the comparison goes, or print the missing trainings with --jobs"
        )
    results = environment_folder("nnUNet_results")
    _require_measurable(args)
    models = models_of(dataset_name(args.dataset), args.trainers, args.plans, args.configuration)
    folds = folds_of(models, args.folds, results, _needs_soft_maps(args))
    _require_trainable(args, models, folds)

    missing = [fold for fold in folds if not fold.finished]
    print(f"{len(folds) - len(missing)} of {len(folds)} folds are finished", file=sys.stderr)
    if args.jobs:
        _print_jobs(missing, args.device)
        return 0

    make_folder(args.output, "choose another -o")
    problems = train_all(missing, args.device, functools.partial(print, flush=True))
    if problems:
        raise InputError(
            f"{len(problems)} of {len(folds)} folds failed: {'; '.join(problems)}; run the same "
            "again"
        )
    with held(args.output / _LOCK):  # of another run that writes the same
        _compare(models, args, results)
    return 0


def _needs_soft_maps(args: argparse.Namespace) -> bool:
    return "infnet" in args.profile


def _require_measurable(args: argparse.Namespace) -> None:
    """Refuse now what the evaluation would refuse hours later.

    Raises:
        InputError: one of its options is wrong.
    """
    from nnunet_ext.evaluation.cases.labels import labels_from_arguments

    options_of(args).chosen_profiles()
    if args.labels:
        labels_from_arguments(args.labels)
    if args.images and not args.images.is_dir():
        raise InputError(f"-i {args.images}: no such folder")
    if args.patients and not args.patients.is_file():
        raise InputError(f"--patients {args.patients}: no such file")


def _require_trainable(
    args: argparse.Namespace, models: Sequence[Model], folds: Sequence[Fold]
) -> None:
    """Refuse what would fail or mislead after the first training.

    Raises:
        InputError: plans, a trainer or the settings of a trained fold do not fit.
    """
    preprocessed = environment_folder("nnUNet_preprocessed") / models[0].dataset
    checks.require_planned(models, args.folds, preprocessed)
    checks.require_comparable(args.trainers)
    checks.require_trainable_configurations(models, preprocessed)
    checks.require_same_settings(models, folds, preprocessed)


def _print_jobs(folds: Sequence[Fold], device: str) -> None:
    print(
        "one training per line; when all have ended, run the same with -o OUT for --jobs",
        file=sys.stderr,
    )
    for fold in folds:
        print(shlex.join(fold.arguments(device)))


def _compare(models: Sequence[Model], args: argparse.Namespace, results: Path) -> None:
    """Merge each model's validation predictions, then evaluate all of them."""
    from nnunet_ext.evaluation.evaluation import evaluate

    predictions = {}
    for model in models:
        name = model.trainer if len(args.plans) == 1 else f"{model.trainer} {model.plans}"
        predictions[name] = args.output / "predictions" / name
        merge_folds(model, args.folds, results, predictions[name], _needs_soft_maps(args))

    dataset = models[0].dataset
    preprocessed = environment_folder("nnUNet_preprocessed") / dataset
    checks.require_all_held_out(args.folds, predictions.values(), preprocessed)
    report = evaluate(
        preprocessed / "gt_segmentations",
        predictions,
        options_of(args),
        output=args.output / "comparison",
        overwrite=True,
        allow_missing=True,
        conversion=environment_folder("nnUNet_raw") / dataset / "conversion.csv",
    )
    print(report)
