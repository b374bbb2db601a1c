"""Preprocess a stream's raw cases with the labelled data set's plans, by nnU-Net's preprocessor.

What is done stays done: after an interruption only the missing cases are preprocessed.
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
    """What a worker process needs beside the case."""

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

    known = {name: value for name, value in dataset_json["labels"].items() if name != "background"}
    unknown = [name for name in stream.lesions if name not in known]
    if unknown:
        raise InputError(
            f"{stream.dataset} has no label {', '.join(unknown)}; it has {', '.join(known)}"
        )

    values: set[int] = set()
    for name in stream.lesions:
        value = known[name]
        values |= set(map(int, value)) if isinstance(value, list) else {int(value)}
    return sorted(values)


def preprocess_stream(
    stream: Stream, raw_folder: Path, plans: PlansManager, configuration_name: str, processes: int
) -> str:
    """Preprocess what is missing; finished cases stay unless plans or source files changed.

    Returns:
        One line for the user.

    Raises:
        InputError: cases that cannot be read, the first of them named; the others are done and
            kept.
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
        str(stream.folder), dataset_json, values, plans.plans, configuration_name, stream.window
    )
    errors = _preprocess_all(todo, settings, processes, title)
    if errors:
        shown = "; ".join(sorted(errors)[:SHOWN_ERRORS])
        more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise InputError(
            f"{len(errors)} of {len(cases)} cases failed, the others are done: {shown}{more}"
        )
    write_json(record, stream.folder / MANIFEST)
    return f"{title}: {len(cases)} cases, {len(todo)} new"


def _record(fingerprint: dict, values: list[int] | None, cases: Sequence[RawCase]) -> dict:
    """Return what decides the result, as it reads back from a file."""
    sources = {}
    for case in cases:
        for file in case.files:
            sources[file] = _stamp(file)
    record = {
        "plans": fingerprint,
        "lesion_values": values,
        "sources": sources,
        "cases": [case.name for case in cases],
    }
    return json.loads(json.dumps(record))


def _preprocess_all(
    cases: Sequence[RawCase], settings: CaseSettings, processes: int, title: str
) -> list[str]:
    """Preprocess the cases; returns what went wrong, one line per failed case."""
    outcomes = in_worker_processes(partial(_attempt, settings), cases, processes)
    errors = []
    for _, error in tqdm(outcomes, desc=title, total=len(cases), unit="case"):
        if error is not None:
            errors.append(error)
    return errors


def _begin(folder: Path, record: dict) -> None:
    """Make the folder; drop what an earlier run left there for other plans or other files.

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
    """Preprocess one case; returns what went wrong, in one line."""
    try:
        preprocess_case(case, settings)
    except InputError as error:
        text = str(error)
        names_a_file = text.startswith((settings.folder, *case.files))
        return text if names_a_file else f"{case.images[0]}: {text}"
    except Exception as error:  # every reader raises exceptions of its own
        return f"{case.images[0]}: {first_line(error)}"
    return None


def preprocess_case(case: RawCase, settings: CaseSettings) -> None:
    """Read, normalise and resample one case, and write all of nnU-Net's preprocessed files or none.

    Labels become lesion (1) or background (0). An unlabelled case gets nnU-Net's nonzero mask (0
    inside, -1 outside; all 0 where the stream has a window of its own) and no foreground locations.

    Raises:
        InputError: the case cannot be used with these plans.
    """
    plans = PlansManager(settings.plans)
    configuration = plans.get_configuration(settings.configuration)
    data, label, properties = _read_case(case, settings)
    is_one_slice = data.shape[1] == 1
    if is_one_slice and (len(configuration.spacing) == 3 or plans.transpose_forward[0] != 0):
        raise InputError(
            "is a single slice, which fits only 2d plans of axial slices; configure those with -c "
            "2d"
        )

    properties["spacing"] = _usable_spacing(list(properties["spacing"]), plans, configuration)
    preprocessor: DefaultPreprocessor = configuration.preprocessor_class(verbose=False)
    if settings.window is not None:
        data = normalize_by(settings.window, preprocessor, data)
    data, label, properties = preprocessor.run_case_npy(
        data, label, properties, plans, configuration, {"labels": LESION_LABELS}
    )
    properties.setdefault("class_locations", {})  # nnU-Net's loader reads it for every case

    data = data.astype(np.float32, copy=False)
    label = label.astype(np.int16, copy=False)
    try:
        _save(data, label, properties, Path(settings.folder) / case.name, configuration)
    except (OSError, RuntimeError) as error:  # the second from blosc2, which leaves out the reason
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

    reader = reader_class(settings.dataset_json, case.images[0])()
    data, properties = reader.read_images(case.images)
    channels = len(settings.dataset_json["channel_names"])
    if len(data) != channels:
        raise InputError(
            f"has {len(data)} channels, dataset.json names {channels}; convert it again"
        )
    if case.label is None:
        return data, None, properties

    label = reader.read_seg(case.label)[0]
    if label.shape[1:] != data.shape[1:]:
        raise InputError(
            f"has shape {data.shape[1:]}, label {case.label} {label.shape[1:]}; convert it again"
        )
    if settings.lesion_values is None:
        is_lesion = label > 0
    else:
        is_lesion = np.isin(label, settings.lesion_values)
    return data, is_lesion.astype(np.int8), properties


def _usable_spacing(
    spacing: list[float], plans: PlansManager, configuration: ConfigurationManager
) -> list[float]:
    """Return the spacing, or that of the plans in the plane where one is not known in mm (PNG).

    Pixels are then taken as they are: no resampling in the plane.
    """
    labelled = plans.plans["original_median_spacing_after_transp"]
    if UNKNOWN_SPACING in (spacing[0], labelled[0]):
        for axis, target in zip(plans.transpose_forward[1:], configuration.spacing, strict=True):
            spacing[axis] = target
    return spacing


def _save(
    data: np.ndarray,
    label: np.ndarray,
    properties: dict,
    path: Path,
    configuration: ConfigurationManager,
) -> None:
    """Write every file of the case, ``path`` plus its ending.

    They are written into a folder of their own first, then moved.
    """
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
    """Return size and modification time, which tell a changed source file."""
    status = Path(file).stat()
    return [status.st_size, status.st_mtime_ns]
