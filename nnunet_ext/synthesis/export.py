"""Write a labelled data set of synthetic images: source cases in the target domain.

Each case keeps its label.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_ext.errors import InputError
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.csv_cells import plain_cell
from nnunet_ext.files.json_files import read_json
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.stock.files import read_dataset_json, read_folds
from nnunet_ext.synthesis.contrast import LesionContrast, lesion_contrast
from nnunet_ext.synthesis.label_values import ignored_mask, lesion_mask
from nnunet_ext.training.streams.raw_cases import RawCase, labelled_cases

if TYPE_CHECKING:
    from nnunet_ext.synthesis.model import SynthesisModel

ENDING = ".nii.gz"
ADVICE = "convert the source data set again"
RECORD = "synthesis.json"
KEPT_KEYS = ("labels", "regions_class_order", "licence", "license", "reference")
PROVENANCE, CONTRASTS = "provenance.csv", "lesion_contrast.csv"


@dataclass(frozen=True)
class ExportJob:
    """What to write, and where.

    Args:
        source: raw folder of the labelled source data set.
        folder: raw folder of the new data set.
        cases: names of the source's cases to translate.
        origin: model, subset and settings; plain JSON, recorded beside the data.
    """

    source: Path
    folder: Path
    cases: tuple[str, ...]
    origin: Mapping[str, Any] = field(default_factory=dict)


def source_cases(source: Path) -> list[RawCase]:
    """Return the labelled cases of a raw data set.

    Raises:
        InputError: not such a data set.
    """
    file = source / "dataset.json"
    dataset_json = read_dataset_json(file, ADVICE)
    return labelled_cases(source, dataset_json)


def export(model: SynthesisModel, job: ExportJob) -> dict[str, LesionContrast]:
    """Translate and write every case that is not there yet; :func:`finish` ends the export.

    Returns:
        The contrast of each case's lesions in the new images.

    Raises:
        InputError: the folder holds something else, or a case cannot be read.
    """
    begin(job)
    dataset_json = read_dataset_json(job.source / "dataset.json", ADVICE)
    chosen = set(job.cases)
    all_cases = source_cases(job.source)
    cases = [case for case in all_cases if case.name in chosen]

    for case in tqdm(cases, desc=job.folder.name, unit="case"):
        files = written_files(job.folder, case)
        is_complete = all(map(Path.is_file, files))
        if not is_complete:
            _write_case(model, case, job.folder)

    contrasts = {}
    for case in cases:
        contrast = measured_contrast(
            job.folder,
            case,
            dataset_json,
            model.window.low,
        )
        contrasts[case.name] = contrast

    _write_tables(job, cases, contrasts)
    _write_splits(job)
    return contrasts


def finish(job: ExportJob) -> None:
    """Write ``dataset.json``, after which the export is not continued; everything else is there."""
    source = read_dataset_json(job.source / "dataset.json", ADVICE)
    description = new_dataset_json(source, job)
    write_json(description, job.folder / "dataset.json")


def begin(job: ExportJob) -> None:
    """Make the new folder, or check that it belongs to an unfinished run of the same export.

    Raises:
        InputError: it holds something else, or is finished.
    """
    record = {
        **job.origin,
        "source": job.source.name,
        "cases": list(job.cases),
    }
    path = job.folder / RECORD
    is_same_job = path.is_file() and read_json(path, "remove the folder") == record
    is_finished = (job.folder / "dataset.json").exists()
    if is_same_job and not is_finished:
        return

    if job.folder.exists():
        raise InputError(
            f"{job.folder}: exists already; choose another number with -o, or remove it"
        )
    for name in ("imagesTr", "labelsTr"):
        folder = job.folder / name
        folder.mkdir(parents=True)
    write_json(record, path)


def written_files(folder: Path, case: RawCase) -> list[Path]:
    """Return the files of a case in the new data set: its channels, then its label."""
    images = folder / "imagesTr"
    labels = folder / "labelsTr"

    files = []
    for channel, _ in enumerate(case.images):
        name = f"{case.name}_{channel:04d}{ENDING}"
        files.append(images / name)

    label_name = f"{case.name}{ENDING}"
    files.append(labels / label_name)
    return files


def _write_case(model: SynthesisModel, case: RawCase, folder: Path) -> None:
    """Write image and label with the geometry of the source's files.

    Raises:
        InputError: they cannot be read, or do not lie on one grid.
    """
    *images, label = written_files(folder, case)
    source_file = case.images[0]
    try:
        reference = sitk.ReadImage(source_file)
        values = model.synthesize(case.images)
    except RuntimeError as error:
        raise InputError(f"{source_file}: cannot be read; convert the data set again") from error

    own_shape = reference.GetSize()[::-1]
    for path, channel in zip(images, values, strict=True):
        pixels = channel[0] if len(own_shape) == 2 else channel
        if pixels.shape != own_shape:
            raise InputError(
                f"{source_file}: has shape {own_shape}, its translation {pixels.shape}"
            )
        whole_numbers = np.rint(pixels).astype(np.int16)
        _write(whole_numbers, reference, path)
    _copy_label(case, reference, label)


def _write(pixels: np.ndarray, reference: sitk.Image, path: Path) -> None:
    image = sitk.GetImageFromArray(pixels)
    image.CopyInformation(reference)
    with whole_file(path) as unfinished:
        sitk.WriteImage(image, str(unfinished))


def _copy_label(case: RawCase, reference: sitk.Image, path: Path) -> None:
    """Copy the file, or write its voxels where the source has another format."""
    assert case.label is not None
    if case.label.endswith(ENDING):
        with whole_file(path) as unfinished:
            shutil.copyfile(case.label, unfinished)
        return

    label = sitk.ReadImage(case.label)
    pixels = sitk.GetArrayFromImage(label)
    if pixels.shape != reference.GetSize()[::-1]:
        raise InputError(
            f"{case.label}: has another shape than {case.images[0]}; convert the data set again"
        )

    _write(pixels, reference, path)


def measured_contrast(
    folder: Path, case: RawCase, dataset_json: Mapping[str, Any], background: float
) -> LesionContrast:
    """Return a written case's lesion contrast in its first channel.

    Background and ignored pixels do not count.
    """
    image_file, *_, label_file = written_files(folder, case)
    image = read_slice_stack(image_file)
    label = read_slice_stack(label_file)

    labels = dataset_json["labels"]
    is_ignored = ignored_mask(label, labels)
    is_lesion = lesion_mask(label, labels)
    is_empty = (image <= background) & ~is_lesion
    excluded = is_ignored | is_empty
    return lesion_contrast(image, is_lesion, excluded)


def read_slice_stack(path: Path | str) -> np.ndarray:
    """Return ``[slices, height, width]`` of an image file, also of a single slice."""
    image = sitk.ReadImage(str(path))
    pixels = sitk.GetArrayFromImage(image)
    if pixels.ndim == 2:
        return pixels[None]
    return pixels


def _write_tables(
    job: ExportJob, cases: Sequence[RawCase], contrasts: Mapping[str, LesionContrast]
) -> None:
    """Write where each case comes from, and how its lesions stand out."""
    origins: list[list[object]] = []
    for case in cases:
        image = Path(case.images[0]).name
        row = [case.name, image, job.source.name, *job.origin.values()]
        origins.append(row)

    header = ["case", "source_image", "source_dataset", *job.origin]
    _write_csv(job.folder / PROVENANCE, header, origins)

    measured: list[list[object]] = []
    for name, contrast in contrasts.items():
        row = [
            name,
            contrast.lesion_pixels,
            f"{contrast.inside:.2f}",
            f"{contrast.rim:.2f}",
            f"{contrast.difference:.2f}",
        ]
        measured.append(row)

    header = ["case", "lesion_pixels", "inside", "rim", "inside_minus_rim"]
    _write_csv(job.folder / CONTRASTS, header, measured)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with (
        whole_file(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(header)
        for row in rows:
            texts = map(str, row)
            cells = map(plain_cell, texts)
            writer.writerow(cells)


def new_dataset_json(source: Mapping[str, Any], job: ExportJob) -> dict[str, Any]:
    """Return the new data set's description: CT, with the source's labels and licence."""
    content: dict[str, Any] = {"channel_names": dict.fromkeys(source["channel_names"], "CT")}
    for name in KEPT_KEYS:
        if name in source:
            content[name] = source[name]

    content |= {
        "numTraining": len(job.cases),
        "file_ending": ENDING,
        "name": job.folder.name,
        "description": f"synthetic images from {job.source.name}, with its labels; see {RECORD}",
    }
    return content


def _write_splits(job: ExportJob) -> None:
    """Keep the source's folds, reduced to the exported cases, unless one of them becomes empty."""
    name = "splits_final.json"
    source_file = job.source / name
    if not source_file.is_file():
        return

    chosen = set(job.cases)
    folds = []
    for fold in read_folds(source_file, ADVICE):
        train = [case for case in fold["train"] if case in chosen]
        val = [case for case in fold["val"] if case in chosen]
        if not train or not val:
            return
        folds.append({"train": train, "val": val})
    write_json(folds, job.folder / name)
