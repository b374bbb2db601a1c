"""nnU-Net's own JSON files, read with errors a user can act on: dataset.json, plans, folds."""

from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_json, read_object

MOST_LABELS = 1000  # more are probably values of an image; a network would need too much memory

PLANS_SHAPE = {"dataset_name": str, "plans_name": str, "configurations": dict}
CONFIGURATION_SHAPE = {
    "data_identifier": str,
    "preprocessor_name": str,
    "patch_size": list,
    "spacing": list,
    "normalization_schemes": list,
}


def read_dataset_json(path: Path, advice: str) -> dict[str, Any]:
    """Read a dataset.json.

    If it names its channels under ``modality``, as nnU-Net allows, they are also returned under
    ``channel_names``.

    Raises:
        InputError: unreadable, or channels, labels or the file ending are not as nnU-Net needs
            them.
    """
    content = read_object(path, advice)
    content.setdefault("channel_names", content.get("modality"))
    for key in ("channel_names", "labels"):
        value = content.get(key)
        if not isinstance(value, dict) or not value:
            raise InputError(f"{path}: has no {key!r} as nnU-Net needs it; {advice}")

    for channel in content["channel_names"].values():
        if not isinstance(channel, str):
            raise InputError(f"{path}: has a channel whose name is not text; {advice}")

    _require_labels(content["labels"], path, advice)
    if not _is_file_ending(content.get("file_ending")):
        raise InputError(f"{path}: has no 'file_ending' such as .nii.gz; {advice}")
    return content


def _require_labels(labels: dict[str, Any], path: Path, advice: str) -> None:
    for value in labels.values():
        if not _is_label(value):
            raise InputError(
                f"{path}: label value {value!r} is not an integer from 0, nor a list of them; "
                f"{advice}"
            )

    count = len(labels)
    if count > MOST_LABELS:
        raise InputError(f"{path}: declares {count} labels, more than {MOST_LABELS}; {advice}")


def read_plans(path: Path, advice: str) -> dict[str, Any]:
    """Read plans all of whose configurations nnU-Net can use.

    Raises:
        InputError: they are unreadable, or nnU-Net cannot use them.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = read_object(path, advice, PLANS_SHAPE)
    for key in ("foreground_intensity_properties_per_channel", "transpose_forward"):
        if not plans.get(key):
            raise InputError(f"{path}: has no {key!r}; {advice}")
    if not plans["configurations"]:
        raise InputError(f"{path}: has no configuration; {advice}")

    manager = PlansManager(plans)
    for name in plans["configurations"]:
        try:
            configuration = manager.get_configuration(name).configuration
        except Exception as error:  # nnU-Net checks nothing and may raise anything
            kind_of_error = type(error).__name__
            reason, _, _ = str(error).partition("\n")
            raise InputError(
                f"{path}: nnU-Net cannot use configuration {name!r} ({kind_of_error}: "
                f"{reason[:120]}); {advice}"
            ) from error

        for key, kind in CONFIGURATION_SHAPE.items():
            if not isinstance(configuration.get(key), kind):
                raise InputError(f"{path}: configuration {name!r} has no usable {key!r}; {advice}")
    return plans


def read_folds(path: Path, advice: str) -> list[dict[str, list[str]]]:
    """Read splits_final.json: training and validation cases of each fold.

    Raises:
        InputError: unreadable, or not such a list.
    """
    folds = read_json(path, advice)
    is_list = isinstance(folds, list) and len(folds) > 0
    if not is_list or not all(map(_is_fold, folds)):
        raise InputError(f"{path}: is not a list of folds with train and val; {advice}")
    return folds


def _is_file_ending(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return value.startswith(".") and "/" not in value


def _is_label(value: Any) -> bool:
    if isinstance(value, list) and value:
        return all(map(_is_whole_number, value))
    return _is_whole_number(value)


def _is_whole_number(value: Any) -> bool:
    if isinstance(value, bool):  # to Python a kind of whole number
        return False
    return isinstance(value, int) and value >= 0


def _is_fold(fold: Any) -> bool:
    if not isinstance(fold, dict):
        return False
    train = fold.get("train")
    val = fold.get("val")
    return _is_list_of_names(train) and _is_list_of_names(val)


def _is_list_of_names(names: Any) -> bool:
    if not isinstance(names, list):
        return False
    return all(isinstance(name, str) for name in names)
