"""Preprocess a stream's raw cases with the labelled data set's plans, resumably, by nnU-Net's own preprocessor."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import (
    create_paths_fn,
    get_filenames_of_train_images_and_targets,
    get_identifiers_from_splitted_dataset_folder,
)
from tqdm import tqdm

from nnunet_ext.errors import InputError
from nnunet_ext.training.streams import LESION_LABELS, MANIFEST, Stream, preprocessing_fingerprint

UNKNOWN_SPACING = 999.0  # nnU-Net's slice spacing of PNG and the like, which have no spacing in mm
SUFFIXES = (".b2nd", "_seg.b2nd", ".pkl")


@dataclass(frozen=True)
class RawCase:
    """Files of one case; an unlabelled case has no label file."""

    name: str
    images: list[str]
    label: str | None


def raw_cases(role: str, raw_folder: Path, dataset_json: dict) -> list[RawCase]:
    """The cases of a raw data set that a role uses: imagesTr with labelsTr, or imagesUn for unlabelled ones.

    Raises:
        InputError: the folder is missing or empty, or a label file is missing.
    """
    labelled = role != "unlabeled"
    if labelled and "ignore" in dataset_json["labels"]:
        raise InputError(f"{raw_folder}: has an ignore label, which cannot be merged to lesion; convert without it")
    if labelled and "dataset" in dataset_json:  # nnU-Net's list of files that lie elsewhere
        listed = get_filenames_of_train_images_and_targets(str(raw_folder), dataset_json)
        cases = [RawCase(str(name), entry["images"], entry["label"]) for name, entry in listed.items()]
    else:
        cases = _cases_in_folder(raw_folder, dataset_json["file_ending"], labelled)
    for case in cases:
        if case.label is not None and not Path(case.label).is_file():
            raise InputError(f"{case.label}: label of case {case.name} is missing; the {role} stream needs labels")
    if not cases:
        raise InputError(f"{raw_folder}: no images for the {role} stream; convert the data set again")
    return cases


def _cases_in_folder(raw_folder: Path, ending: str, labelled: bool) -> list[RawCase]:
    folder = raw_folder / ("imagesTr" if labelled else "imagesUn")
    if not folder.is_dir():
        what = "labelled images live in imagesTr" if labelled else "unlabelled images live in imagesUn"
        mend = "convert the data set with labels" if labelled else "convert the data set with --unlabeled"
        raise InputError(f"{folder}: no such folder; {what}, {mend}")
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(ending))
    return [
        RawCase(
            str(name),
            create_paths_fn(str(folder), files, ending, name),
            str(raw_folder / "labelsTr" / f"{name}{ending}") if labelled else None,
        )
        for name in get_identifiers_from_splitted_dataset_folder(str(folder), ending)
    ]


def preprocess_stream(
    stream: Stream, raw_folder: Path, plans: PlansManager, configuration_name: str, processes: int
) -> str:
    """Preprocess what is missing; finished cases stay unless plans or source files changed.

    Returns:
        One line for the user.

    Raises:
        InputError: cases that cannot be read, all of them named; the others are done and kept.
    """
    configuration = plans.get_configuration(configuration_name)
    title = f"{stream.role} {stream.dataset} {configuration.data_identifier}"
    if not raw_folder.is_dir() and stream.manifest() is not None:
        return f"{title}: {len(stream.cases(plans, configuration))} cases, done before (raw data are gone)"
    dataset_json = load_json(str(raw_folder / "dataset.json"))
    cases = raw_cases(stream.role, raw_folder, dataset_json)
    record = {
        "plans": preprocessing_fingerprint(plans, configuration),
        "sources": {file: _stamp(file) for case in cases for file in [*case.images, *filter(None, [case.label])]},
        "cases": [case.name for case in cases],
    }
    record = json.loads(json.dumps(record))  # as it reads back
    if stream.manifest() == record:
        return f"{title}: {len(stream.cases(plans, configuration))} cases, done before"
    _begin(stream.folder, record)
    todo = [case for case in cases if not (stream.folder / f"{case.name}.pkl").is_file()]
    settings = _CaseSettings(str(stream.folder), dataset_json, plans.plans, configuration_name)
    errors = []
    for case, error in tqdm(_outcomes(todo, settings, processes), desc=title, total=len(todo), unit="case"):
        if error is not None:
            errors.append(f"{case.images[0]}: {str(error).splitlines()[0]}")
    if errors:
        raise InputError(
            f"{len(errors)} of {len(cases)} cases failed, the others are done: " + "; ".join(sorted(errors))
        )
    _write_json(record, stream.folder / MANIFEST)
    return f"{title}: {len(cases)} cases, {len(todo)} new"


def _begin(folder: Path, record: dict) -> None:
    """Make the folder; drop what an earlier run left there for other plans or other files."""
    begun = folder / "begun.json"
    if begun.is_file() and load_json(str(begun)) == record:
        (folder / MANIFEST).unlink(missing_ok=True)
        return
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    _write_json(record, begun)


def _outcomes(
    cases: list[RawCase], settings: _CaseSettings, processes: int
) -> Iterator[tuple[RawCase, BaseException | None]]:
    """Preprocess the cases, in worker processes if there are several; yields each case with its error or None."""
    if processes == 1 or len(cases) < 2:
        for case in cases:
            try:
                preprocess_case(case, settings)
            except Exception as error:  # every reader raises its own; the case is named and the others go on
                yield case, error
            else:
                yield case, None
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(preprocess_case, case, settings): case for case in cases}
        for future in as_completed(futures):
            yield futures[future], future.exception()


@dataclass(frozen=True)
class _CaseSettings:
    """What a worker process needs beside the case."""

    folder: str
    dataset_json: dict
    plans: dict
    configuration: str


def preprocess_case(case: RawCase, settings: _CaseSettings) -> None:
    """Read, normalise and resample one case and write nnU-Net's preprocessed files; all of them or none.

    Labels become lesion (1) or background (0). An unlabelled case gets nnU-Net's nonzero mask (0 inside, -1 outside)
    and no foreground locations.

    Raises:
        InputError: the case cannot be used with these plans.
    """
    plans = PlansManager(settings.plans)
    configuration = plans.get_configuration(settings.configuration)
    reader = determine_reader_writer_from_dataset_json(settings.dataset_json, case.images[0], verbose=False)()
    data, properties = reader.read_images(case.images)
    label = None if case.label is None else (reader.read_seg(case.label)[0] > 0).astype(np.int8)
    if label is not None and label.shape[1:] != data.shape[1:]:
        raise InputError(
            f"image has shape {data.shape[1:]}, label {case.label} has {label.shape[1:]}; convert it again"
        )
    properties["spacing"] = _usable_spacing(list(properties["spacing"]), plans, configuration)
    preprocessor: DefaultPreprocessor = configuration.preprocessor_class(verbose=False)
    data, label, properties = preprocessor.run_case_npy(
        data, label, properties, plans, configuration, {"labels": LESION_LABELS}
    )
    properties.setdefault("class_locations", {})  # nnU-Net's loader reads it for every case
    _save(
        data.astype(np.float32, copy=False),
        label.astype(np.int16, copy=False),
        properties,
        case.name,
        settings,
        configuration,
    )


def _usable_spacing(spacing: list[float], plans: PlansManager, configuration: ConfigurationManager) -> list[float]:
    """Where either data set has no spacing in mm (PNG), pixels are taken as they are: no resampling in the plane."""
    labelled = plans.plans["original_median_spacing_after_transp"]
    if UNKNOWN_SPACING not in (spacing[0], labelled[0]):
        return spacing
    if len(configuration.spacing) == 3:
        raise InputError("2D images cannot feed a 3d configuration; configure the 2d one with -c 2d")
    for axis, target in zip(plans.transpose_forward[1:], configuration.spacing, strict=True):
        spacing[axis] = target
    return spacing


def _save(
    data: np.ndarray,
    label: np.ndarray,
    properties: dict,
    name: str,
    settings: _CaseSettings,
    configuration: ConfigurationManager,
) -> None:
    """Write into a folder of its own, then move; the .pkl goes last and marks the case as done."""
    unfinished = Path(settings.folder) / "unfinished" / name
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (blocks, chunks), (blocks_label, chunks_label) = (
        comp_blosc2_params(array.shape, tuple(configuration.patch_size), array.itemsize) for array in (data, label)
    )
    nnUNetDatasetBlosc2.save_case(
        data, label, properties, str(unfinished / name), chunks, blocks, chunks_label, blocks_label
    )
    for suffix in SUFFIXES:
        (unfinished / f"{name}{suffix}").replace(Path(settings.folder) / f"{name}{suffix}")
    unfinished.rmdir()


def _stamp(file: str) -> list[int]:
    """Size and modification time: what tells a changed source file."""
    status = Path(file).stat()
    return [status.st_size, status.st_mtime_ns]


def _write_json(content: dict, path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=2))
    unfinished.replace(path)
