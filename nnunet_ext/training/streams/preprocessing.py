"""Preprocess a stream's raw cases with the labelled data set's plans, by nnU-Net's preprocessor.

After an interruption only the missing cases are preprocessed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from tqdm import tqdm

from nnunet_ext.errors import InputError, first_line
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.declared_size import require_intact, shape_in_header
from nnunet_ext.files.json_files import read_object
from nnunet_ext.stock.files import read_dataset_json
from nnunet_ext.stock.readers import reader_class
from nnunet_ext.training.streams.location import (
    CASE_FILES,
    LESION_LABELS,
    MANIFEST,
    Stream,
    preprocessing_fingerprint,
)
from nnunet_ext.training.streams.normalization import Window, normalize_by
from nnunet_ext.training.streams.raw_cases import RawCase, raw_cases
from nnunet_ext.worker_processes import in_worker_processes

UNKNOWN_SPACING = 999.0  # nnU-Net's slice spacing of PNG and the like, which have no spacing in mm
SHOWN_ERRORS = 5


@dataclass(frozen=True)
class CaseSettings:
    """Everything that a worker process needs besides the case."""

    folder: str
    dataset_json: dict
    lesion_values: list[int] | None  # None: every value above 0
    plans: dict
    configuration: str
    window: Window | None = None  # None: normalised as the plans say


def lesion_values(stream: Stream, dataset_json: dict) -> list[int] | None:
    """Return the label values that count as lesion; None for every value above 0.

    Raises:
        InputError: a named label does not exist.
    """
    if not stream.lesions:
        return None

    known = dict(dataset_json["labels"])
    known.pop("background", None)
    unknown = [name for name in stream.lesions if name not in known]
    if unknown:
        missing = ", ".join(unknown)
        existing = ", ".join(known)
        raise InputError(f"{stream.dataset} has no label {missing}; it has {existing}")

    values: set[int] = set()
    for name in stream.lesions:
        value = known[name]
        values_of_label = value if isinstance(value, list) else [value]
        values.update(map(int, values_of_label))
    return sorted(values)


def preprocess_stream(
    stream: Stream, raw_folder: Path, plans: PlansManager, configuration_name: str, processes: int
) -> str:
    """Preprocess the missing cases; finished ones stay unless plans or source files changed.

    Returns:
        One line for the user.

    Raises:
        InputError: cases that cannot be read; the message names the first of them. The others are
            done and kept.
    """
    configuration = plans.get_configuration(configuration_name)
    dataset_json = read_dataset_json(raw_folder / "dataset.json", "convert the data set again")
    cases = raw_cases(stream.role, raw_folder, dataset_json)
    values = lesion_values(stream, dataset_json)
    fingerprint = preprocessing_fingerprint(plans, configuration, stream.window)
    record = _record(fingerprint, values, cases)
    _begin(stream.folder, record)

    title = f"{stream.role} {stream.dataset} {stream.folder.name}"
    todo = [case for case in cases if not stream.is_done(case.name)]
    if not todo and stream.manifest() == record:
        return f"{title}: {len(cases)} cases, done before"

    settings = CaseSettings(
        folder=str(stream.folder),
        dataset_json=dataset_json,
        lesion_values=values,
        plans=plans.plans,
        configuration=configuration_name,
        window=stream.window,
    )
    errors = _preprocess_all(todo, settings, processes, title)
    if errors:
        raise _failed_cases(errors, len(cases))

    write_json(record, stream.folder / MANIFEST)
    return f"{title}: {len(cases)} cases, {len(todo)} new"


def _failed_cases(errors: list[str], count: int) -> InputError:
    """Return the error that names some of the cases that failed."""
    in_order = sorted(errors)
    shown = in_order[:SHOWN_ERRORS]
    hidden = len(errors) - len(shown)
    if hidden:
        shown.append(f"and {hidden} more")
    reasons = "; ".join(shown)
    return InputError(f"{len(errors)} of {count} cases failed, the others are done: {reasons}")


def _record(fingerprint: dict, values: list[int] | None, cases: Sequence[RawCase]) -> dict:
    """Return everything that decides the result, in the form in which it is read from a file."""
    sources = {}
    names = []
    for case in cases:
        names.append(case.name)
        for file in case.files:
            sources[file] = _stamp(file)

    record = {
        "plans": fingerprint,
        "lesion_values": values,
        "sources": sources,
        "cases": names,
    }
    text = json.dumps(record)
    return json.loads(text)


def _preprocess_all(
    cases: Sequence[RawCase], settings: CaseSettings, processes: int, title: str
) -> list[str]:
    """Preprocess the cases; return one line per failed case."""
    outcomes = in_worker_processes(partial(_attempt, settings), cases, processes)
    errors = []
    for _, error in tqdm(outcomes, desc=title, total=len(cases), unit="case"):
        if error is not None:
            errors.append(error)
    return errors


def _begin(folder: Path, record: dict) -> None:
    """Make the folder; delete the results of an earlier run for other plans or other files.

    Raises:
        InputError: the folder holds something else.
    """
    begun = folder / "begun.json"
    if begun.is_file() and read_object(begun, f"delete {folder} and run again") == record:
        return

    if begun.is_file():
        shutil.rmtree(folder)
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder}: holds files that no preprocessing of a stream wrote; move them elsewhere"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, begun)


def _attempt(settings: CaseSettings, case: RawCase) -> str | None:
    """Preprocess one case; return the error in one line, None if there is none."""
    try:
        preprocess_case(case, settings)
    except InputError as error:
        text = str(error)
        names_a_file = text.startswith((settings.folder, *case.files))
        return text if names_a_file else f"{case.images[0]}: {text}"
    except Exception as error:  # readers raise exceptions of many kinds
        return f"{case.images[0]}: {first_line(error)}"
    return None


def preprocess_case(case: RawCase, settings: CaseSettings) -> None:
    """Read, normalise and resample one case, and write all of nnU-Net's preprocessed files or none.

    Labels become lesion (1) or background (0). An unlabelled case gets nnU-Net's nonzero mask (0
    inside, -1 outside; all 0 where the stream has its own window) and no foreground locations.

    Raises:
        InputError: the case cannot be used with these plans.
    """
    plans = PlansManager(settings.plans)
    configuration = plans.get_configuration(settings.configuration)
    data, label, properties = _read_case(case, settings)
    is_one_slice = data.shape[1] == 1
    is_3d = len(configuration.spacing) == 3
    is_axial = plans.transpose_forward[0] == 0
    if is_one_slice and (is_3d or not is_axial):
        raise InputError(
            "is a single slice, which fits only 2d plans of axial slices; configure those with -c "
            "2d"
        )

    file_spacing = list(properties["spacing"])
    properties["spacing"] = _usable_spacing(file_spacing, plans, configuration)
    preprocessor: DefaultPreprocessor = configuration.preprocessor_class(verbose=False)
    if settings.window is not None:
        data = normalize_by(settings.window, preprocessor, data)
    data, label, properties = preprocessor.run_case_npy(
        data,
        label,
        properties,
        plans,
        configuration,
        {"labels": LESION_LABELS},
    )
    properties.setdefault("class_locations", {})  # nnU-Net's loader reads it for every case

    data = data.astype(np.float32, copy=False)
    label = label.astype(np.int16, copy=False)
    path = Path(settings.folder) / case.name
    try:
        _save(data, label, properties, path, configuration)
    except (OSError, RuntimeError) as error:  # RuntimeError: blosc2, which leaves out the reason
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{settings.folder}: cannot write case {case.name} ({reason}); is the disk full?"
        ) from error


def _read_case(
    case: RawCase, settings: CaseSettings
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Return the image, the label (1 is lesion) if there is one, and nnU-Net's properties.

    Raises:
        InputError: other channels than the data set declares, or a label on another grid.
    """
    for file in case.files:
        require_intact(Path(file))
        with suppress(RuntimeError):  # of a format that another reader knows
            shape_in_header(Path(file))

    reader_type = reader_class(settings.dataset_json, case.images[0])
    reader = reader_type()
    data, properties = reader.read_images(case.images)
    channels = len(settings.dataset_json["channel_names"])
    if len(data) != channels:
        raise InputError(
            f"has {len(data)} channels, dataset.json names {channels}; convert it again"
        )
    if case.label is None:
        return data, None, properties

    label, _ = reader.read_seg(case.label)
    shape = data.shape[1:]
    label_shape = label.shape[1:]
    if label_shape != shape:
        raise InputError(f"has shape {shape}, label {case.label} {label_shape}; convert it again")
    if settings.lesion_values is None:
        is_lesion = label > 0
    else:
        is_lesion = np.isin(label, settings.lesion_values)
    return data, is_lesion.astype(np.int8), properties


def _usable_spacing(
    spacing: list[float], plans: PlansManager, configuration: ConfigurationManager
) -> list[float]:
    """Return the spacing; if the file or the plans have none in mm (PNG), the plans' in the plane.

    The pixels are then taken as they are, without resampling in the plane.
    """
    labelled = plans.plans["original_median_spacing_after_transp"]
    if UNKNOWN_SPACING not in (spacing[0], labelled[0]):
        return spacing

    in_plane_axes = plans.transpose_forward[1:]
    for axis, planned in zip(in_plane_axes, configuration.spacing, strict=True):
        spacing[axis] = planned
    return spacing


def _save(
    data: np.ndarray,
    label: np.ndarray,
    properties: dict,
    path: Path,
    configuration: ConfigurationManager,
) -> None:
    """Write every file of the case, ``path`` plus its ending, by way of another folder."""
    unfinished = path.parent / "unfinished" / path.name
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)

    patch_size = tuple(configuration.patch_size)
    blocks, chunks = comp_blosc2_params(data.shape, patch_size, data.itemsize)
    blocks_label, chunks_label = comp_blosc2_params(label.shape, patch_size, label.itemsize)
    nnUNetDatasetBlosc2.save_case(
        data,
        label,
        properties,
        str(unfinished / path.name),
        chunks,
        blocks,
        chunks_label,
        blocks_label,
    )
    for ending in CASE_FILES:
        file = f"{path.name}{ending}"
        (unfinished / file).replace(path.parent / file)
    unfinished.rmdir()


def _stamp(file: str) -> list[int]:
    """Return size and modification time, which show whether a source file has changed."""
    status = Path(file).stat()
    return [status.st_size, status.st_mtime_ns]
