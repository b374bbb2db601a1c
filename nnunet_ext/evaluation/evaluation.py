"""An evaluation from folders to tables: pair the cases, compare each once, measure, write."""

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.array_measures import ArrayMeasurement, plan_measurement
from nnunet_ext.evaluation.cases.counting import (
    Case,
    Comparison,
    compare_case,
    pair_cases,
    require_no_problems,
    values_found,
)
from nnunet_ext.evaluation.cases.labels import (
    LabelSet,
    inferred_labels,
    labels_beside,
    labels_from_arguments,
)
from nnunet_ext.evaluation.cases.patients import patients_of, pooled
from nnunet_ext.evaluation.metrics.metric import EmptyPolicy
from nnunet_ext.evaluation.metrics.surfaces import SURFACE_METRICS
from nnunet_ext.evaluation.profiles import Profile, chosen_profiles
from nnunet_ext.evaluation.report.files import Results, require_free, write_in_turn
from nnunet_ext.evaluation.report.gallery import image_files
from nnunet_ext.worker_processes import in_worker_processes


@dataclass(frozen=True)
class Options:
    """What is measured and drawn, and how.

    Args:
        profiles: names of the ways to measure.
        metrics: these in place of the profiles' own.
        tolerance_mm: of metrics that use one; None leaves the profiles' own.
        empty: what 0/0 counts, for profiles without a rule of their own; None stands for NaN.
        labels: ``NAME=VALUE``; none: those of dataset.json, else all values found.
        patients: CSV with columns case, patient.
        figures: whether figures are drawn.
        images: folder of the images behind the worst cases.
        processes: that compare cases.
    """

    profiles: Sequence[str] = ("plain",)
    metrics: Sequence[str] = ()
    tolerance_mm: float | None = None
    empty: EmptyPolicy | None = None
    labels: Sequence[str] = ()
    patients: Path | None = None
    figures: bool = False
    images: Path | None = None
    processes: int = 1

    def chosen_profiles(self) -> list[Profile]:
        """Return the profiles.

        Raises:
            InputError: the options contradict each other.
        """
        if self.images and not self.figures:
            raise InputError(
                "-i: images are drawn behind the worst cases; add --figures, or leave -i out"
            )

        profiles = chosen_profiles(self.profiles, self.metrics, self.tolerance_mm)
        names = [profile.name for profile in profiles]
        undecided = [profile for profile in profiles if profile.empty is None]
        if self.empty is not None and not undecided:
            raise InputError(
                f"--empty {self.empty}: profile {', '.join(names)} has its own rule for empty "
                f"masks; leave it out"
            )
        if self.patients and not _on_patients(profiles):
            raise InputError(
                "--patients: for a profile on patients only (ncovsegnet); leave it out"
            )
        return profiles


@dataclass(frozen=True)
class _Compared:
    """All cases with what the profiles need, the labels, and notes by profile."""

    comparisons: list[Comparison]
    labels: LabelSet
    notes: Mapping[str, list[str]] = field(default_factory=dict)


def evaluate(
    reference: Path,
    methods: Mapping[str, Path],
    options: Options,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    allow_missing: bool = False,
    conversion: Path | None = None,
) -> str:
    """Compare folders of predictions with reference labels and return the Markdown reports.

    Args:
        reference: folder of label files.
        methods: folder of predicted label files by method name.
        options: what is measured and drawn.
        output: folder for tables and figures; None writes nothing.
        overwrite: replace all earlier results in it.
        allow_missing: accept references that no method has predicted.
        conversion: conversion.csv of the references, where it does not lie beside their folder.

    Raises:
        InputError: an option or a file is wrong; nothing was written.
    """
    require_free(output, overwrite, options.figures)
    profiles = options.chosen_profiles()
    declared = _declared_labels(options.labels, reference, methods)
    cases, notes = pair_cases(reference, methods, allow_missing=allow_missing)
    images: dict[str, Path] = {}
    if options.images:
        images = image_files(options.images, cases)
    patients: dict[str, str] = {}
    if _on_patients(profiles):
        conversion = conversion or reference.resolve().parent / "conversion.csv"
        patients = patients_of(cases, options.patients, conversion)

    compared = _compare(profiles, declared, methods, cases, options.processes)
    if compared.labels.ignore is not None:
        notes.append(
            f"Voxels with the reference value {compared.labels.ignore} (ignore label) are left out"
        )

    empty = options.empty or "nan"
    results = []
    for profile in profiles:
        own_notes = [*notes, *compared.notes[profile.name]]
        results.append(_measured(profile, compared, patients, empty, own_notes))

    if output:
        drawn = images if options.figures else None
        write_in_turn(output, overwrite, results, drawn)
    reports = [result.report for result in results]
    return "\n".join(reports)


def _on_patients(profiles: Sequence[Profile]) -> bool:
    return any(profile.per_patient for profile in profiles)


def _measured(
    profile: Profile,
    compared: _Compared,
    patients: dict[str, str],
    empty: EmptyPolicy,
    notes: list[str],
) -> Results:
    units = compared.comparisons
    on_surfaces = any(name in SURFACE_METRICS for name in profile.metrics)
    without_spacing = [comparison for comparison in units if not comparison.has_spacing]
    if on_surfaces and without_spacing:
        notes.append(
            "Files without spacing: their surface distances and tolerance are in pixels, not mm"
        )
    if profile.per_patient:
        units, profile = pooled(units, profile, patients)
    return Results(profile, units, compared.labels, empty, notes)


def _declared_labels(
    arguments: Sequence[str], reference: Path, methods: Mapping[str, Path]
) -> LabelSet | None:
    if arguments:
        return labels_from_arguments(arguments)
    # nnU-Net keeps dataset.json one folder above labelsTr and gt_segmentations, and inside
    # prediction folders.
    above = reference.resolve().parent
    return labels_beside([reference, above, *methods.values()])


def _compare(
    profiles: Sequence[Profile],
    declared: LabelSet | None,
    methods: Mapping[str, Path],
    cases: Sequence[Case],
    processes: int,
) -> _Compared:
    """Compare all cases.

    Each file is read once, unless the labels must be found in the files before anything else can be
    measured.
    """
    per_slice = any(profile.per_slice for profile in profiles)

    def compared(measurements: Sequence[ArrayMeasurement]) -> list[Comparison]:
        compare = functools.partial(compare_case, per_slice=per_slice, measurements=measurements)
        comparisons = _of_all_cases(compare, cases, processes)
        require_no_problems(comparisons, declared)
        return comparisons

    comparisons = None
    labels = declared
    if labels is None:
        comparisons = compared(())
        labels = inferred_labels(values_found(comparisons))
    labels = labels.with_foreground()

    measurements = []
    notes: dict[str, list[str]] = {profile.name: [] for profile in profiles}
    for profile in profiles:
        if profile.array_metrics:
            measurement, notes[profile.name] = plan_measurement(profile, labels, methods, cases)
            measurements.append(measurement)
    if comparisons is None or measurements:
        comparisons = compared(measurements)
    return _Compared(comparisons, labels, notes)


def _of_all_cases(
    compare: functools.partial[Comparison], cases: Sequence[Case], processes: int
) -> list[Comparison]:
    """Return the results in the order of the cases, computed in any order."""
    from tqdm import tqdm

    results = in_worker_processes(compare, cases, processes)
    is_watched = sys.stderr.isatty()
    by_case = {}
    for case, result in tqdm(results, total=len(cases), unit="case", disable=not is_watched):
        by_case[id(case)] = result
    return [by_case[id(case)] for case in cases]
