"""Probability maps that nnU-Net's ``--save_probabilities`` writes beside the predicted labels."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.labels import LabelSet, labels_beside


def soft_map_files(folder: Path, cases: list[str]) -> dict[str, Path]:
    """The ``.npz`` file of each case, or nothing where the folder holds none for any of them.

    Raises:
        InputError: only some cases have one.
    """
    found = {case: folder / f"{case}.npz" for case in cases if (folder / f"{case}.npz").is_file()}
    if found and len(found) < len(cases):
        missing = next(case for case in cases if case not in found)
        raise InputError(
            f"{folder}: {len(found)} of {len(cases)} cases have a soft map, {missing}.npz is missing; "
            "predict all of them with --save_probabilities, or move the .npz files away"
        )
    return found


def channels_declared(folder: Path) -> LabelSet:
    """The labels, hence channels, of the model that wrote a folder of predictions.

    Raises:
        InputError: neither the folder nor the model folder above a fold's ``validation`` holds a dataset.json.
    """
    labels = labels_beside([folder])
    if labels is None and folder.name == "validation":
        labels = labels_beside([folder.resolve().parent.parent])
    if labels is None:
        raise InputError(
            f"{folder}: soft maps, but no dataset.json says which channel is which; copy plans.json and dataset.json "
            "of the trained model into it"
        )
    return labels


def read_soft_map(path: Path, values: tuple[int, ...], channels: LabelSet, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Probability of one label or region, float32 in [0, 1], in the shape of the label file.

    A network with softmax has one channel per label value, background first: a region is the sum of its labels. One
    with regions has a sigmoid channel per region, in the order of dataset.json.

    Raises:
        InputError: the file is unreadable, its channels or shape do not fit, or the network has no such region.
    """
    probabilities = _probabilities(path)
    regions = list(channels.values.values())
    with_regions = any(len(region) > 1 for region in regions)
    expected = len(regions) if with_regions else len(channels.known)
    if probabilities.ndim < 2 or len(probabilities) != expected:
        raise InputError(
            f"{path}: {len(probabilities)} channels, dataset.json declares {expected}; wrong dataset.json?"
        )
    if with_regions and sorted(values) not in [sorted(region) for region in regions]:
        raise InputError(f"{path}: no channel for the values {list(values)}; the network has the regions {regions}")
    chosen = [[sorted(r) for r in regions].index(sorted(values))] if with_regions else list(values)
    if max(chosen) >= len(probabilities):
        raise InputError(f"{path}: no channel for the value {max(chosen)} among its {len(probabilities)}")
    soft = probabilities[chosen].sum(axis=0, dtype=np.float32)
    if soft.ndim == len(shape) + 1 and soft.shape[0] == 1:  # nnU-Net gives a picture a third axis
        soft = soft[0]
    if soft.shape != shape:
        raise InputError(f"{path}: shape {soft.shape}, the label file beside it {shape}; predict both in one run")
    if not (soft.min() >= -1e-3 and soft.max() <= 1 + 1e-3):
        raise InputError(f"{path}: values outside [0, 1]; soft maps hold probabilities")
    return np.clip(soft, 0, 1)


def _probabilities(path: Path) -> npt.NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["probabilities"] if "probabilities" in file.files else file["softmax"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: no readable array 'probabilities'; predict again with --save_probabilities"
        ) from error
