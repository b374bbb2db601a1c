"""Metrics that need the arrays of a case: its masks, or soft maps with Inf-Net's toolbox."""

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
from nnunet_ext.evaluation.metrics.calibration import bin_counts
from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.metrics.infnet import stretched
from nnunet_ext.evaluation.metrics.metric import MaskPair, ProbabilityPair, SoftMapPair
from nnunet_ext.evaluation.profiles import Profile


@dataclass(frozen=True)
class ArrayMeasurement:
    """What to measure, once for all cases.

    It is made by :func:`plan_measurement` and called on each case in the workers.
    """

    profile: Profile
    labels: LabelSet
    soft_files: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    channels: Mapping[str, LabelSet] = field(default_factory=dict)

    def __call__(
        self, case: str, method: str, reference: LabelMap, prediction: LabelMap
    ) -> Measures:
        """Return the metrics of one method on one case.

        Raises:
            InputError: the case's soft map does not fit.
        """
        measures: Measures = {}
        soft = self._probabilities(method, case, prediction)
        for label, values in self.labels.values.items():
            truth = _mask(reference, values)
            predicted = _mask(prediction, values)
            soft_map = predicted
            if soft is not None:
                path = self.soft_files[method][case]
                soft_map = soft_map_of(soft, values, self.channels[method], path)

            if self.profile.measures_probabilities:
                per_unit = [self._from_probabilities(soft_map, truth)]
            elif self.profile.soft:
                per_unit = self._from_slices(soft_map, truth)
            else:
                per_unit = [self._from_masks(predicted, truth, reference)]

            for unit, metrics in enumerate(per_unit):
                measures[method, label, unit] = metrics
        return measures

    def _probabilities(
        self, method: str, case: str, prediction: LabelMap
    ) -> npt.NDArray[Any] | None:
        if method not in self.channels:
            return None
        path = self.soft_files[method][case]
        channels = self.channels[method]
        probabilities = read_probabilities(path, channels, prediction.array.shape)
        require_agreement(probabilities, prediction.array, channels, path)
        return probabilities

    def _from_slices(
        self, soft_map: npt.NDArray[Any], truth: npt.NDArray[np.bool_]
    ) -> list[dict[str, float]]:
        per_slice = []
        for map_slice, truth_slice in zip(as_slices(soft_map), as_slices(truth), strict=True):
            pair = stretched(map_slice, truth_slice)
            per_slice.append(self._values(pair))
        return per_slice

    def _from_probabilities(
        self, probabilities: npt.NDArray[Any], truth: npt.NDArray[np.bool_]
    ) -> dict[str, float]:
        pair = ProbabilityPair(probabilities.astype(np.float32), truth)
        counts = bin_counts(pair)  # for the reliability diagram
        return counts | self._values(pair)

    def _from_masks(
        self, predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], reference: LabelMap
    ) -> dict[str, float]:
        if self.labels.ignore is not None:
            predicted &= reference.array != self.labels.ignore
        pair = MaskPair(
            predicted,
            truth,
            reference.spacing,
            self.profile.tolerance_mm,
            has_spacing=reference.geometry is not None,
        )
        return self._values(pair)

    def _values(self, arrays: MaskPair | SoftMapPair | ProbabilityPair) -> dict[str, float]:
        """Return those of the profile's metrics that are computed from such arrays."""
        values = {}
        for name in self.profile.array_metrics:
            value = METRICS[name].of_arrays(arrays)
            if value is not None:
                values[name] = value
        return values


def plan_measurement(
    profile: Profile, labels: LabelSet, methods: Mapping[str, Path], cases: Sequence[Case]
) -> tuple[ArrayMeasurement, list[str]]:
    """Return what the workers need to measure a case, and notes for the user.

    Raises:
        InputError: soft maps are incomplete, or nothing says what their channels are; the
            references hold an ignore label, which measures of soft maps do not know.
    """
    if not profile.soft:
        return ArrayMeasurement(profile, labels), []
    if labels.ignore is not None:
        raise InputError(
            f"profile {profile.name}: knows no ignore label; choose another profile or leave it "
            f"out of -l"
        )

    names = [case.name for case in cases]
    files: dict[str, dict[str, Path]] = {}
    channels: dict[str, LabelSet] = {}
    notes: list[str] = []
    for method, folder in methods.items():
        files[method] = soft_map_files(folder, names)
        if files[method]:
            channels[method] = channels_declared(folder)
        else:
            notes.append(f"{method}: no soft maps (.npz); its labels count as maps of 0 and 1")

    for label, values in labels.values.items():
        merged = [name for name, declared in channels.items() if merges_regions(values, declared)]
        if merged:
            notes.append(
                f"{', '.join(merged)}: the soft map of {label} is the maximum over the network's "
                f"regions in it"
            )
    return ArrayMeasurement(profile, labels, files, channels), notes


def as_slices(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the slices along the first axis; a picture is one slice."""
    if array.ndim == 2:
        return array[None]
    return array


def _mask(labels: LabelMap, values: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if len(values) == 1:  # faster
        return labels.array == values[0]
    return np.isin(labels.array, values)
