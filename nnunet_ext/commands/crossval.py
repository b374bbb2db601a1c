"""``nnUNetv2_ext_crossval``: train all folds of several trainers or plans, then compare them."""

import argparse
import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.commands.entry import command
from nnunet_ext.commands.evaluate import evaluate, measuring_options, required_profiles
from nnunet_ext.errors import InputError
from nnunet_ext.files import locked_program
from nnunet_ext.files.json_files import read_object
from nnunet_ext.files.locked_program import BUSY
from nnunet_ext.files.locks import held
from nnunet_ext.stock.commands import command_environment, program
from nnunet_ext.stock.files import read_dataset_json, read_folds, read_plans
from nnunet_ext.stock.folders import dataset_name, environment_folder
from nnunet_ext.stock.training import TRAINING_LOCK, Model, Training

NNUNET_FOLDS = 5  # that nnU-Net makes where it finds none
MEND_FOLDS = "mend it, or delete it and let nnU-Net make five folds"
_LOCK = ".crossval.lock"  # of a comparison


@dataclass(frozen=True)
class Fold(Training):
    """One training of a model."""

    soft_maps: bool

    @property
    def lock(self) -> Path:
        """Held by the process that trains the fold."""
        return self.folder / TRAINING_LOCK

    @property
    def finished(self) -> bool:
        """Trained and validated, with soft maps where they are wanted."""
        return self.trained and self._validated

    @property
    def _validated(self) -> bool:
        try:
            summary = read_object(
                self.folder / "validation" / "summary.json", "", {"metric_per_case": list}
            )
            count = len(summary["metric_per_case"])
        except InputError:  # none, or cut short by a kill
            return False
        # A validation that was repeated for its soft maps and killed left some of them, and the
        # summary of the first.
        maps = [
            path for path in (self.folder / "validation").glob("*.npz") if zipfile.is_zipfile(path)
        ]
        return not self.soft_maps or len(maps) >= count

    def arguments(self, device: str) -> list[str]:
        """The stock command that finishes the fold from where it is."""
        arguments = super().arguments(device)
        return [*arguments, "--npz"] if self.soft_maps else arguments


@command
def crossval_entry(argv: list[str] | None = None) -> int:
    """Run or collect all folds of a list of models with stock commands, and write their
    comparison.
    """
    args = _parser().parse_args(argv)
    if args.output is None and not args.jobs:
        raise InputError(
            "-o: say where the comparison goes, or print the missing trainings with --jobs"
        )
    results = environment_folder("nnUNet_results")
    _require_measurable(args)
    models = _models(dataset_name(args.dataset), args.trainers, args.plans, args.configuration)
    folds = list(_folds(models, args.folds, results, soft_maps="infnet" in args.profile))
    _require_planned(models, args.folds)
    _require_trainers(args.trainers)
    _require_single_stages(models)
    _require_same_settings(models, folds)
    missing = [fold for fold in folds if not fold.finished]
    print(f"{len(folds) - len(missing)} of {len(folds)} folds are finished", file=sys.stderr)
    if args.jobs:
        print(
            "one training per line; when all have ended, run the same with -o OUT for --jobs",
            file=sys.stderr,
        )
        for fold in missing:
            print(shlex.join(fold.arguments(args.device)))
        return 0
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"-o {args.output}: no folder can be made there ({error.strerror}); choose another"
        ) from error
    if problems := _train_all(missing, args.device):
        raise InputError(
            f"{len(problems)} of {len(folds)} folds failed: {'; '.join(problems)}; run the same "
            f"again"
        )
    with held(args.output / _LOCK):  # of another run that writes the same
        _compare(models, args, results)
    return 0


def _require_measurable(args: argparse.Namespace) -> None:
    """What the evaluation would refuse hours later.

    Raises:
        InputError: an option of it is wrong.
    """
    from nnunet_ext.evaluation.cases.labels import labels_from_arguments

    required_profiles(args)
    if args.labels:
        labels_from_arguments(args.labels)
    if args.images and not args.images.is_dir():
        raise InputError(f"-i {args.images}: no such folder")
    if args.patients and not args.patients.is_file():
        raise InputError(f"--patients {args.patients}: no such file")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_crossval",
        parents=[measuring_options()],
        description="Trains all folds of several trainers (and plans) with nnUNetv2_train, one "
        "after the other, "
        "collects their validation predictions and compares them with nnUNetv2_ext_evaluate. "
        "Finished folds are "
        "skipped and interrupted ones continued: run the same command again.",
    )
    parser.add_argument(
        "-d",
        dest="dataset",
        required=True,
        metavar="DATASET",
        help="number or name of the data set",
    )
    parser.add_argument(
        "-c",
        dest="configuration",
        required=True,
        metavar="CONFIGURATION",
        help="2d, 3d_fullres, ...",
    )
    parser.add_argument(
        "-tr",
        dest="trainers",
        nargs="+",
        required=True,
        metavar="TRAINER",
        help="trainers to compare",
    )
    parser.add_argument(
        "-p",
        dest="plans",
        nargs="+",
        default=["nnUNetPlans"],
        metavar="PLANS",
        help="each with each trainer",
    )
    parser.add_argument(
        "-f",
        dest="folds",
        nargs="+",
        default=list("01234"),
        metavar="FOLD",
        help="folds, default 0 1 2 3 4",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, metavar="OUT", help="folder for predictions and comparison"
    )
    parser.add_argument(
        "--jobs", action="store_true", help="print the commands of unfinished folds, run nothing"
    )
    parser.add_argument(
        "-device", default="cuda", choices=("cuda", "cpu", "mps"), help="default cuda"
    )
    return parser


def _models(
    dataset: str, trainers: Sequence[str], plans: Sequence[str], configuration: str
) -> list[Model]:
    for name in (*trainers, *plans, configuration):
        if "__" in name or Path(name).name != name:
            raise InputError(f"{name}: no name of a trainer, plans or configuration")
    models = [
        Model(dataset, trainer, identifier, configuration)
        for trainer in trainers
        for identifier in plans
    ]
    if len(set(models)) < len(models):
        raise InputError("-tr, -p: a trainer or plans are named twice")
    return models


def _require_planned(models: Sequence[Model], folds: Sequence[str]) -> None:
    folder = environment_folder("nnUNet_preprocessed") / models[0].dataset
    for model in models:
        path = folder / f"{model.plans}.json"
        configurations = _configurations(path)
        if configurations is None:
            known = [file.stem for file in sorted(folder.glob("*.json")) if _configurations(file)]
            others = (
                f"there are {', '.join(known)}"
                if known
                else "run nnUNetv2_plan_and_preprocess first"
            )
            raise InputError(f"{path}: no readable plans; {others}")
        if model.configuration not in configurations:
            raise InputError(
                f"{path}: no configuration {model.configuration}; it has "
                f"{', '.join(configurations)}"
            )
    splits = folder / "splits_final.json"
    if not splits.is_file():
        _require_five_cases(folder, splits)
    count = len(read_folds(splits, MEND_FOLDS)) if splits.is_file() else NNUNET_FOLDS
    if wrong := [fold for fold in folds if int(fold) >= count]:
        raise InputError(f"-f {wrong[0]}: no such fold; {splits} has 0 to {count - 1}")


def _require_five_cases(folder: Path, splits: Path) -> None:
    """nnU-Net divides the cases among five folds, which fewer cases do not fill."""
    cases = sorted(
        path.name.partition(".")[0] for path in (folder / "gt_segmentations").glob("[!.]*")
    )
    if not 1 < len(cases) < NNUNET_FOLDS:
        return
    one_left_out = [
        {"train": [case for case in cases if case != out], "val": [out]} for out in cases
    ]
    raise InputError(
        f"{folder.name}: has {len(cases)} training cases, and nnU-Net makes {NNUNET_FOLDS} folds. "
        f"Convert with --split "
        f"patient:{len(cases)}, or write {splits} with one fold per case: "
        f"{json.dumps(one_left_out)}; then add "
        f"-f {' '.join(map(str, range(len(cases))))}"
    )


def _configurations(plans: Path) -> list[str] | None:
    try:
        return list(read_object(plans, "", {"configurations": dict})["configurations"])
    except InputError:
        return None


def _require_trainers(names: Sequence[str]) -> None:
    """Look them up as nnUNetv2_train will."""
    for name in names:
        trainer = _trainer_class(name)
        if not getattr(trainer, "segments_labelled_data", True):
            raise InputError(
                f"-tr {name}: is a first stage, which predicts no target labels to compare; leave "
                f"it out"
            )


def _require_single_stages(models: Sequence[Model]) -> None:
    """Refuse a cascade's second stage where the trainer will."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    for model in models:
        trainer = _trainer_class(model.trainer)
        if hasattr(trainer, "require_single_stage"):
            file = environment_folder("nnUNet_preprocessed") / model.dataset / f"{model.plans}.json"
            plans = read_plans(file, "run nnUNetv2_plan_and_preprocess again")
            trainer.require_single_stage(PlansManager(plans), model.configuration)


def _trainer_class(name: str) -> type:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunet_ext.own_trainers import known_trainers

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells where it looks
            found: type = recursive_find_trainer_class_by_name(name)
    except (RuntimeError, AssertionError, TypeError) as error:
        own = ", ".join(sorted(known_trainers()))
        raise InputError(
            f"-tr {name}: no such trainer; there are {own}, nnUNetTrainer and its variants"
        ) from error
    return found


def _require_same_settings(models: Sequence[Model], folds: Sequence[Fold]) -> None:
    """Compare the settings of trained folds with those of the plans, and with each other.

    Raises:
        InputError: one was trained otherwise; says in what.
    """
    for model in models:
        trained = [fold for fold in folds if fold.model == model and fold.trained]
        if trained:
            _require_same_settings_of(model, trained)


def _require_same_settings_of(model: Model, trained: Sequence[Fold]) -> None:
    from nnunet_ext.training.engine.checkpoints import differences
    from nnunet_ext.training.fold_identity import compared, identity_now, saved_identity

    again = "run nnUNetv2_plan_and_preprocess again"
    folder = environment_folder("nnUNet_preprocessed") / model.dataset
    plans = read_plans(folder / f"{model.plans}.json", again)
    labels = read_dataset_json(folder / "dataset.json", again)["labels"]
    trainer = _trainer_class(model.trainer)
    first = compared(saved_identity(trained[0].checkpoint), trainer)

    for fold in trained:
        identity = compared(saved_identity(fold.checkpoint), trainer)
        now = compared(identity_now(trainer, identity, plans, model.configuration, labels), trainer)
        if found := differences(identity, now):
            raise InputError(
                f"{fold.folder}: was trained with other settings than the plans hold: "
                f"{'; '.join(found)}. Set this "
                "back, delete the fold, or compare under plans of another name "
                "(nnUNetv2_ext_configure -o NAME)"
            )
        if found := differences(first, identity):
            raise InputError(
                f"{fold.folder}: was trained with other settings than fold {trained[0].number}: "
                f"{'; '.join(found)}; "
                "delete the fold that is wrong, and run the same again"
            )


def _folds(
    models: Sequence[Model], numbers: Sequence[str], results: Path, soft_maps: bool
) -> Iterator[Fold]:
    if wrong := [number for number in numbers if not re.fullmatch("0|[1-9][0-9]*", number)]:
        raise InputError(
            f"-f {wrong[0]}: no number of a fold; 'all' has no held-out cases to compare"
        )
    if len(set(numbers)) < len(numbers):
        raise InputError("-f: a fold is named twice")
    for model in models:
        for number in numbers:
            yield Fold(model, number, model.folder(results) / f"fold_{number}", soft_maps)


def _train_all(folds: Sequence[Fold], device: str) -> list[str]:
    """Train each fold, also after others failed; those that another run is training last. What went
    wrong is told.
    """
    outcomes = {}
    for number, fold in enumerate(folds, start=1):
        outcomes[fold] = _train(fold, device, f"[{number}/{len(folds)}]")
    for fold in [fold for fold, outcome in outcomes.items() if outcome == BUSY]:
        while outcomes[fold] == BUSY:
            print(f"{fold.folder}: waiting for the other run", flush=True)
            with held(fold.lock):
                pass
            outcomes[fold] = _train(fold, device, "[waited]")
    failed = {fold: outcome for fold, outcome in outcomes.items() if not fold.finished}
    reasons = {0: "no complete validation folder after the training, see its training log"}
    return [
        f"{fold.folder} ({reasons.get(code, f'ended with code {code}')})"
        for fold, code in failed.items()
    ]


def _train(fold: Fold, device: str, progress: str) -> int:
    """Exit code of the training, `BUSY` where another run is at it; 0 also if another run has
    finished it.
    """
    if fold.finished:
        return 0
    fold.folder.mkdir(parents=True, exist_ok=True)
    arguments = fold.arguments(device)
    print(f"{progress} {shlex.join(arguments)}", flush=True)
    locked = [sys.executable, "-m", locked_program.__name__, str(fold.lock)]
    code = subprocess.run(
        [*locked, *program(arguments)], check=False, env=command_environment()
    ).returncode
    if code == BUSY:
        print(f"{fold.folder}: another run is training it", flush=True)
    elif code:
        print(f"{fold.folder}: failed with code {code}", file=sys.stderr, flush=True)
    return code


def _compare(models: Sequence[Model], args: argparse.Namespace, results: Path) -> None:
    """Merge each model's validation predictions with the stock command, then evaluate all of
    them.
    """
    named = {
        _name(model, args): args.output / "predictions" / _name(model, args) for model in models
    }
    for model, folder in zip(models, named.values(), strict=True):
        _merge(model, args, results, folder)
    preprocessed = environment_folder("nnUNet_preprocessed") / models[0].dataset
    _require_all_held_out(preprocessed, args.folds, named.values())
    reference = preprocessed / "gt_segmentations"
    conversion = environment_folder("nnUNet_raw") / models[0].dataset / "conversion.csv"
    measured = {
        "reference": reference,
        "predictions": [f"{name}={folder}" for name, folder in named.items()],
    }
    written = {"output": args.output / "comparison", "overwrite": True, "chill": True}
    evaluate(argparse.Namespace(**{**vars(args), **measured, **written}), conversion)


def _require_all_held_out(
    preprocessed: Path, folds: Sequence[str], predictions: Iterable[Path]
) -> None:
    """Every case that a fold holds out is predicted: the evaluation takes a lost one for one of
    another fold.
    """
    splits = read_folds(preprocessed / "splits_final.json", MEND_FOLDS)
    ending = read_dataset_json(
        preprocessed / "dataset.json", "run nnUNetv2_plan_and_preprocess again"
    )["file_ending"]
    held_out = sorted(f"{case}{ending}" for number in folds for case in splits[int(number)]["val"])
    for folder in predictions:
        if lost := [name for name in held_out if not (folder / name).is_file()]:
            raise InputError(
                f"{folder}: lacks {lost[0]} (and {len(lost) - 1} more); validate its fold again "
                f"with --val"
            )


def _merge(model: Model, args: argparse.Namespace, results: Path, folder: Path) -> None:
    """Copy the folds' predictions to one folder, which replaces that of an earlier run."""
    if folder.exists() and not (folder / "summary.json").is_file():
        raise InputError(
            f"{folder}: exists, but holds no merged predictions; move it away or choose another -o"
        )
    unfinished, replaced = (
        folder.with_name(f".{folder.name}.{what}") for what in ("unfinished", "replaced")
    )
    shutil.rmtree(
        unfinished, ignore_errors=True
    )  # of a killed run; the stock command refuses a folder that exists
    shutil.rmtree(replaced, ignore_errors=True)
    merge = ["nnUNetv2_accumulate_crossval_results", model.dataset, "-c", model.configuration]
    merge += ["-tr", model.trainer, "-p", model.plans, "-f", *args.folds, "-o", str(unfinished)]
    if code := subprocess.run(program(merge), check=False, env=command_environment()).returncode:
        raise InputError(
            f"{shlex.join(merge)}: ended with code {code}; mend what it says and run the same again"
        )
    if "infnet" in args.profile:
        _link_soft_maps(model.folder(results), args.folds, unfinished)
    if folder.exists():
        folder.rename(replaced)
    unfinished.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _name(model: Model, args: argparse.Namespace) -> str:
    return model.trainer if len(args.plans) == 1 else f"{model.trainer} {model.plans}"


def _link_soft_maps(model: Path, folds: Sequence[str], folder: Path) -> None:
    """The stock command copies labels only; a link saves gigabytes."""
    for number in folds:
        for path in (model / f"fold_{number}" / "validation").glob("*.npz"):
            (folder / path.name).symlink_to(path.resolve())
