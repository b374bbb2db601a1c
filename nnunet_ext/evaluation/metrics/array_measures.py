"""Metrics that need the arrays of a case: surface distances, and Inf-Net's toolbox on soft maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.counting import Case, Measures
from nnunet_ext.evaluation.cases.label_files import LabelMap
from nnunet_ext.evaluation.cases.labels import LabelSet
from nnunet_ext.evaluation.cases.soft_maps import (
    channels_declared,
    merges_regions,
    read_probabilities,
    require_agreement,
    soft_map_files,
    soft_map_of,
)
from nnunet_ext.evaluation.metrics.infnet import infnet_metrics
from nnunet_ext.evaluation.metrics.surfaces import surface_dice, surface_distances
from nnunet_ext.evaluation.profiles import Profile


@dataclass(frozen=True)
class ArrayMeasurement:
    """What to measure, once for all cases; made by :func:`plan_measurement`, called on each pair in
    the workers.
    """

    profile: Profile
    labels: LabelSet
    soft_files: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    channels: Mapping[str, LabelSet] = field(default_factory=dict)

    def __call__(
        self, case: str, method: str, reference: LabelMap, prediction: LabelMap
    ) -> Measures:
        """Metrics of one method on one case.

        Raises:
            InputError: the case's soft map does not fit.
        """
        measures: Measures = {}
        soft = self._probabilities(method, case, prediction)
        for label, values in self.labels.values.items():
            g = _mask(reference, values)
            if self.profile.soft:
                p = (
                    self._soft(soft, values, method, case)
                    if soft is not None
                    else _mask(prediction, values)
                )
                per_unit = [
                    infnet_metrics(*pair) for pair in zip(*map(as_slices, (p, g)), strict=True)
                ]
            else:
                p = _mask(prediction, values)
                if self.labels.ignore is not None:
                    p &= reference.array != self.labels.ignore
                per_unit = [self._surface(p, g, reference)]
            measures |= {(method, label, unit): metrics for unit, metrics in enumerate(per_unit)}
        return measures

    def _probabilities(
        self, method: str, case: str, prediction: LabelMap
    ) -> npt.NDArray[Any] | None:
        if method not in self.channels:
            return None
        path, channels = self.soft_files[method][case], self.channels[method]
        probabilities = read_probabilities(path, channels, prediction.array.shape)
        require_agreement(probabilities, prediction.array, channels, path)
        return probabilities

    def _soft(
        self, soft: npt.NDArray[Any], values: tuple[int, ...], method: str, case: str
    ) -> npt.NDArray[Any]:
        return soft_map_of(soft, values, self.channels[method], self.soft_files[method][case])

    def _surface(
        self, p: npt.NDArray[np.bool_], g: npt.NDArray[np.bool_], reference: LabelMap
    ) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if "surface_dice" in self.profile.metrics:
            metrics["surface_dice"] = surface_dice(
                p, g, reference.spacing, self.profile.tolerance_mm
            )
        if {"hd95", "assd"} & set(self.profile.metrics):
            metrics |= surface_distances(p, g, reference.spacing)
        return metrics


def plan_measurement(
    profile: Profile, labels: LabelSet, methods: Mapping[str, Path], cases: Sequence[Case]
) -> tuple[ArrayMeasurement, list[str]]:
    """What the workers need to measure a case, and notes for the user.

    Raises:
        InputError: soft maps are incomplete, or nothing says what their channels are; the
            references hold an ignore label, which Inf-Net's toolbox does not know.
    """
    if not profile.soft:
        return ArrayMeasurement(profile, labels), []
    if labels.ignore is not None:
        raise InputError(
            f"profile {profile.name}: knows no ignore label; choose another profile or leave it "
            f"out of -l"
        )
    names = [case.name for case in cases]
    files = {method: soft_map_files(folder, names) for method, folder in methods.items()}
    channels = {
        method: channels_declared(methods[method]) for method, found in files.items() if found
    }
    hard = [method for method, found in files.items() if not found]
    notes = [f"{m}: no soft maps (.npz); its labels count as maps of 0 and 1" for m in hard]
    for label, values in labels.values.items():
        if merged := [
            method for method, declared in channels.items() if merges_regions(values, declared)
        ]:
            notes.append(
                f"{', '.join(merged)}: soft map of {label}: maximum over the regions of the "
                f"network in it"
            )
    return ArrayMeasurement(profile, labels, files, channels), notes


def as_slices(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Slices along the first axis; a picture is one slice."""
    return array[None] if array.ndim == 2 else array


def _mask(labels: LabelMap, values: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    return (
        labels.array == values[0] if len(values) == 1 else np.isin(labels.array, values)
    )  # the former is faster
