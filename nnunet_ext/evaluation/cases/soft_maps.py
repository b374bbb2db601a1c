"""Probability maps that nnU-Net's ``--save_probabilities`` writes beside the predicted labels."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.labels import LabelSet, labels_beside

_ROUNDING = 1e-3  # of float16
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
_AGREEMENT = 0.9


def soft_map_files(folder: Path, cases: list[str]) -> dict[str, Path]:
    """Return the ``.npz`` file of each case; none if the folder holds none for any of them.

    Raises:
        InputError: only some cases have one.
    """
    files = {case: folder / f"{case}.npz" for case in cases}
    for file in files.values():
        if file.is_symlink() and not file.exists():
            raise InputError(
                f"{file}: is a link to {file.readlink()}, which is gone; merge the predictions "
                f"again"
            )
    found = {case: file for case, file in files.items() if file.is_file()}
    missing = [case for case in cases if case not in found]
    if found and missing:
        raise InputError(
            f"{folder}: {len(found)} of {len(cases)} cases have a soft map, {missing[0]}.npz is "
            f"missing; predict all of them with --save_probabilities, or move the .npz files away"
        )
    return found


def channels_declared(folder: Path) -> LabelSet:
    """Return the labels, hence channels, of the model that wrote a folder of predictions.

    Raises:
        InputError: neither the folder nor the model folder above a fold's ``validation`` holds a
            dataset.json.
    """
    labels = labels_beside([folder])
    if labels is None and folder.name == "validation":
        labels = labels_beside([folder.resolve().parent.parent])
    if labels is None:
        raise InputError(
            f"{folder}: soft maps, but no dataset.json says which channel is which; copy "
            f"plans.json and dataset.json of the trained model into it"
        )
    return labels


def read_probabilities(path: Path, channels: LabelSet, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return all channels of one case in [0, 1], shape (channels, *shape of the label file).

    Raises:
        InputError: the file is unreadable, its channels are not those of dataset.json, or its shape
            does not fit.
    """
    probabilities = _array(path)
    expected = len(channels.values) if _has_regions(channels) else len(channels.known)
    found = len(probabilities) if probabilities.ndim > 1 else 0
    if found != expected:
        raise InputError(
            f"{path}: {found} channels, dataset.json declares {expected}; wrong dataset.json?"
        )
    # nnU-Net gives a picture a third axis.
    if probabilities.ndim == len(shape) + 2 and probabilities.shape[1] == 1:
        probabilities = probabilities[:, 0]
    if probabilities.shape[1:] != shape:
        raise InputError(
            f"{path}: shape {probabilities.shape[1:]}, its label file {shape}; predict both in "
            f"one run"
        )
    lowest = probabilities.min()
    highest = probabilities.max()
    is_within = lowest >= -_ROUNDING and highest <= 1 + _ROUNDING  # False for NaN, too
    if not is_within:
        raise InputError(f"{path}: values outside [0, 1]; soft maps hold probabilities")
    return probabilities


def require_agreement(
    probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], channels: LabelSet, path: Path
) -> None:
    """Refuse soft maps of another run than the predicted labels beside them, or with axes flipped.

    Only predicted foreground is compared, since postprocessing removes components; a tenth may
    differ by rounding.

    Raises:
        InputError: they disagree; names ``path``.
    """
    foreground = labels > 0
    chosen = probabilities[:, foreground]
    if _has_regions(channels):
        agrees = chosen.max(axis=0, initial=0.0) >= 0.5 - _ROUNDING
    else:
        agrees = chosen.argmax(axis=0) == labels[foreground]
    if agrees.size and agrees.mean() < _AGREEMENT:
        raise InputError(
            f"{path}: does not match the predicted labels beside it; predict both in one run"
        )


def soft_map_of(
    probabilities: npt.NDArray[Any], values: tuple[int, ...], channels: LabelSet, path: Path
) -> npt.NDArray[Any]:
    """Return the probability of one label or region, float32 in [0, 1].

    A network with softmax has one channel per label value, background first: a region is the sum of
    its labels. One with regions has a sigmoid channel per region, in the order of dataset.json; a
    union of regions, such as all labels merged, is the maximum of their channels, since sigmoids
    need not add up to a probability.

    Raises:
        InputError: the network has no such label, region or union of regions; names ``path``.
    """
    if not _has_regions(channels):
        if max(values) >= len(probabilities):
            raise InputError(
                f"{path}: no channel for the value {max(values)} among its {len(probabilities)}"
            )
        return probabilities[list(values)].sum(axis=0, dtype=np.float32).clip(0, 1)

    wanted = set(values)
    regions = [set(region) for region in channels.values.values()]
    if wanted in regions:
        chosen = [regions.index(wanted)]
    else:
        chosen = [i for i, region in enumerate(regions) if region <= wanted]

    covered: set[int] = set()
    for i in chosen:
        covered |= regions[i]
    if wanted - covered:
        shown = ", ".join(str(sorted(region)) for region in regions)
        raise InputError(
            f"{path}: no channel for the values {list(values)}; the network has the regions {shown}"
        )
    return probabilities[chosen].max(axis=0).astype(np.float32).clip(0, 1)


def merges_regions(values: tuple[int, ...], channels: LabelSet) -> bool:
    """Whether `soft_map_of` takes a maximum over several channels."""
    if not _has_regions(channels):
        return False
    regions = [set(region) for region in channels.values.values()]
    return set(values) not in regions


def _has_regions(channels: LabelSet) -> bool:
    """Decide as nnU-Net does: a label of several values makes all of them regions."""
    most_values = max(map(len, channels.values.values()), default=0)
    return most_values > 1


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            array = file["probabilities"]
            if array.dtype.kind not in "fui":
                raise ValueError(array.dtype)
            return array
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: no readable array 'probabilities'; predict again with --save_probabilities"
        ) from error
