"""What would make a comparison fail or mislead, found before the first training."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnunet_ext.crossval.folds import Fold
from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object
from nnunet_ext.own_trainers import find_trainer
from nnunet_ext.stock.files import read_dataset_json, read_folds, read_plans
from nnunet_ext.stock.training import Model

NNUNET_FOLDS = 5  # that nnU-Net makes where it finds none
FIX_FOLDS = "fix it, or delete it and let nnU-Net make five folds"
PLAN_AGAIN = "run nnUNetv2_plan_and_preprocess again"


def require_planned(models: Sequence[Model], folds: Sequence[str], preprocessed: Path) -> None:
    """Check that all plans, configurations and folds exist.

    Args:
        models: to compare.
        folds: their numbers.
        preprocessed: folder of the data set.

    Raises:
        InputError: one does not exist; names those that do.
    """
    for model in models:
        _require_configuration(preprocessed / f"{model.plans}.json", model.configuration)

    splits = preprocessed / "splits_final.json"
    count = NNUNET_FOLDS
    if splits.is_file():
        count = len(read_folds(splits, FIX_FOLDS))
    else:
        _require_five_cases(preprocessed, splits)

    last = count - 1
    for fold in folds:
        if int(fold) > last:
            raise InputError(f"-f {fold}: no such fold; {splits} has 0 to {last}")


def _require_configuration(plans: Path, configuration: str) -> None:
    configurations = _configurations(plans)
    if configurations is None:
        files = sorted(plans.parent.glob("*.json"))
        known = [file.stem for file in files if _configurations(file)]
        others = "run nnUNetv2_plan_and_preprocess first"
        if known:
            others = f"there are {', '.join(known)}"
        raise InputError(f"{plans}: no readable plans; {others}")

    if configuration not in configurations:
        raise InputError(
            f"{plans}: no configuration {configuration}; it has {', '.join(configurations)}"
        )


def _configurations(plans: Path) -> list[str] | None:
    """Return the names of the configurations; None if the file does not hold plans."""
    try:
        content = read_object(plans, "", {"configurations": dict})
    except InputError:
        return None
    return list(content["configurations"])


def _require_five_cases(folder: Path, splits: Path) -> None:
    """Refuse fewer cases than nnU-Net has folds, among which it divides them."""
    files = (folder / "gt_segmentations").glob("[!.]*")
    cases = sorted(path.name.partition(".")[0] for path in files)
    if not 1 < len(cases) < NNUNET_FOLDS:
        return

    one_left_out = []
    for held_out in cases:
        others = [case for case in cases if case != held_out]
        one_left_out.append({"train": others, "val": [held_out]})
    numbers = " ".join(map(str, range(len(cases))))
    raise InputError(
        f"{folder.name}: has {len(cases)} training cases, and nnU-Net makes {NNUNET_FOLDS} folds. "
        f"Convert with --split patient:{len(cases)}, or write {splits} with one fold per case: "
        f"{json.dumps(one_left_out)}; then add -f {numbers}"
    )


def require_comparable(trainers: Sequence[str]) -> None:
    """Check that the trainers exist and are judged on the labelled data set.

    Raises:
        InputError: one does not exist, or is a first stage.
    """
    for name in trainers:
        trainer = find_trainer(name)
        if not getattr(trainer, "segments_labelled_data", True):
            raise InputError(
                f"-tr {name}: is a first stage, which predicts no target labels to compare; leave "
                "it out"
            )


def require_trainable_configurations(models: Sequence[Model], preprocessed: Path) -> None:
    """Refuse a configuration that a trainer will refuse.

    Raises:
        InputError: there is one.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    for model in models:
        trainer = find_trainer(model.trainer)
        if hasattr(trainer, "require_trainable"):
            plans = read_plans(preprocessed / f"{model.plans}.json", PLAN_AGAIN)
            trainer.require_trainable(PlansManager(plans), model.configuration)


def require_same_settings(
    models: Sequence[Model], folds: Sequence[Fold], preprocessed: Path
) -> None:
    """Compare the settings of trained folds with those of the plans, and with each other.

    Raises:
        InputError: one was trained with other settings; says which.
    """
    for model in models:
        trained = [fold for fold in folds if fold.model == model and fold.trained]
        if trained:
            _require_same_settings_of(model, trained, preprocessed)


def _require_same_settings_of(model: Model, trained: Sequence[Fold], preprocessed: Path) -> None:
    from nnunet_ext.training.engine.checkpoints import differences
    from nnunet_ext.training.fold_identity import compared, identity_now, saved_identity

    plans = read_plans(preprocessed / f"{model.plans}.json", PLAN_AGAIN)
    labels = read_dataset_json(preprocessed / "dataset.json", PLAN_AGAIN)["labels"]
    trainer = find_trainer(model.trainer)
    first = compared(saved_identity(trained[0].checkpoint), trainer)

    for fold in trained:
        identity = compared(saved_identity(fold.checkpoint), trainer)
        now = compared(identity_now(trainer, identity, plans, model.configuration, labels), trainer)
        changed = differences(identity, now)
        if changed:
            raise InputError(
                f"{fold.folder}: was trained with other settings than the plans hold: "
                f"{'; '.join(changed)}. Set this back, delete the fold, or compare under plans of "
                "another name (nnUNetv2_ext_configure -o NAME)"
            )

        unlike_first = differences(first, identity)
        if unlike_first:
            raise InputError(
                f"{fold.folder}: was trained with other settings than fold {trained[0].number}: "
                f"{'; '.join(unlike_first)}; delete the fold that is wrong, and run the same again"
            )


def require_all_held_out(
    folds: Sequence[str], predictions: Iterable[Path], preprocessed: Path
) -> None:
    """Check that every case that a fold holds out is predicted.

    The evaluation would otherwise take a lost case for one of another fold.

    Raises:
        InputError: a prediction is missing.
    """
    splits = read_folds(preprocessed / "splits_final.json", FIX_FOLDS)
    ending = read_dataset_json(preprocessed / "dataset.json", PLAN_AGAIN)["file_ending"]
    held_out = []
    for number in folds:
        fold = splits[int(number)]
        held_out += [f"{case}{ending}" for case in fold["val"]]
    held_out.sort()

    for folder in predictions:
        lost = [name for name in held_out if not (folder / name).is_file()]
        if lost:
            raise InputError(
                f"{folder}: lacks {lost[0]} (and {len(lost) - 1} more); validate its fold again "
                "with --val"
            )
