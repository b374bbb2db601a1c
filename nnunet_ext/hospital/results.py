"""A case's results in one folder that is whole or absent.

They are segmentation, report, captures and further files.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.dicom.reading.geometry import grid_of
from nnunet_ext.dicom.reading.volume import grid_on_slices, read_slices
from nnunet_ext.dicom.writing.contours import write_contours
from nnunet_ext.dicom.writing.measurements import Measurement, measure
from nnunet_ext.dicom.writing.secondary_capture import write_captures
from nnunet_ext.dicom.writing.segmentation import SegmentationKind, write_segmentation
from nnunet_ext.dicom.writing.segments import Model, Segment, segments_of
from nnunet_ext.dicom.writing.source import Source, new_series_numbers, read_source
from nnunet_ext.dicom.writing.structured_report import write_report
from nnunet_ext.errors import InputError
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.whole_file import TEMPORARY_PREFIX
from nnunet_ext.hospital.deidentification import deidentified
from nnunet_ext.hospital.images import on_reference, read_grid, write_volume
from nnunet_ext.hospital.lung_masks import lung_mask_of
from nnunet_ext.hospital.model import digest_of
from nnunet_ext.hospital.privacy import shown_reason
from nnunet_ext.hospital.report.course import write_courses
from nnunet_ext.hospital.report.findings import is_lung
from nnunet_ext.hospital.report.index import write_index
from nnunet_ext.hospital.report.model_facts import facts_of
from nnunet_ext.hospital.report.names import FACTS, MEASUREMENTS, PAGE
from nnunet_ext.hospital.report.page import PageOptions, Study, write_page
from nnunet_ext.hospital.survey import Case

SEGMENTATION, REPORT, CAPTURES = "segmentation.dcm", "report.dcm", "captures"
CONTOURS, NIFTI = "contours.dcm", "segmentation.nii.gz"
SERIES_PER_CASE = 4


@dataclass(frozen=True)
class Outputs:
    """What is written of a case.

    ``kind`` is that of the DICOM SEG; ``segments`` describe the model's labels. ``page`` is what
    the HTML page shows, if one is written. ``soft`` asks for the model's probabilities, ``folds``
    for what each fold says on its own.
    """

    segments: tuple[Segment, ...]
    model: Model
    kind: SegmentationKind = "binary"
    contours: bool = False
    nifti: bool = False
    deidentify: bool = False
    page: PageOptions | None = None
    soft: bool = False
    folds: bool = False


def outputs_of(
    arguments: argparse.Namespace,
    dataset_json: dict[str, Any],
    model_name: str,
    checkpoints: Sequence[Path],
) -> Outputs:
    """Return what :func:`nnunet_ext.hospital.options.add_outputs` asks for.

    Args:
        arguments: of the command.
        dataset_json: of the model.
        model_name: as the results name it.
        checkpoints: of the model; their digest is its serial number.

    Raises:
        InputError: the labels or the file of segments are wrong.
    """
    labels = dataset_json.get("labels")
    if not isinstance(labels, dict):
        raise InputError(
            "dataset.json of the model has no labels; give -m with the folder of the model"
        )

    serial = digest_of(checkpoints) if checkpoints else "unknown"
    segments = segments_of(labels, arguments.segments)
    return Outputs(
        segments=segments,
        model=Model(model_name, version("nnunetv2-ext"), serial=serial),
        kind=arguments.seg_type,
        contours=arguments.rtstruct,
        nifti=arguments.nifti,
        deidentify=arguments.deidentify,
        page=_page_options(arguments, checkpoints, segments),
        soft=arguments.certainty or arguments.seg_type == "fractional",
        folds=arguments.certainty,
    )


def write_overviews(cases: Iterable[Case], output: Path, wanted: Outputs) -> None:
    """Show on each page the other studies of its patient, and write the index, if pages are wanted.

    Raises:
        OSError: a file cannot be written.
    """
    if wanted.page is None:
        return
    dates = wanted.page.patient and not wanted.deidentify
    write_courses(cases, output, wanted.segments, wanted.model.serial, dates=dates)
    write_index(output)


def _page_options(
    arguments: argparse.Namespace, checkpoints: Sequence[Path], segments: Sequence[Segment]
) -> PageOptions | None:
    for_page = (arguments.html, arguments.html_patient, arguments.lungs, arguments.certainty)
    if not any((*for_page, arguments.lung_mask)):
        return None
    _require_one_source_of_lungs(arguments, segments)
    folder = checkpoints[0].parent.parent if checkpoints else None
    facts = facts_of(folder)
    return PageOptions(arguments.html_patient, arguments.lungs, facts, arguments.lung_mask)


def _require_one_source_of_lungs(
    arguments: argparse.Namespace, segments: Sequence[Segment]
) -> None:
    masks = arguments.lung_mask
    if masks is None:
        return
    if arguments.lungs:
        raise InputError("--lung-mask and --lungs exclude each other; leave one out")
    if any(map(is_lung, segments)):
        raise InputError("--lung-mask: the model labels lungs itself; leave it out")
    if not masks.is_dir():
        raise InputError(f"--lung-mask {masks}: no such folder")


def write_results(
    case: Case,
    mask: np.ndarray,
    output: Path,
    wanted: Outputs,
    probabilities: np.ndarray | None = None,
    folds: Sequence[np.ndarray] = (),
) -> list[Measurement]:
    """Write ``output/NAME`` with a case's results.

    Args:
        case: whose first series the results belong to.
        mask: (x, y, z) label values on the grid of that series.
        output: existing folder.
        wanted: what to write.
        probabilities: (segment, x, y, z), for a fractional segmentation.
        folds: (x, y, z) label values of each fold, for the page.

    Raises:
        InputError: the headers contradict each other, a slice cannot be read, or a file cannot be
            written.
    """
    unfinished = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=output))
    try:
        measurements = _write_all(case, mask, unfinished, wanted, probabilities, folds)
        unfinished.chmod(0o755)
        final = output / case.name
        if final.exists():
            shutil.rmtree(final)
        unfinished.replace(final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)

    return measurements


def _write_all(
    case: Case,
    mask: np.ndarray,
    folder: Path,
    wanted: Outputs,
    probabilities: np.ndarray | None,
    folds: Sequence[np.ndarray],
) -> list[Measurement]:
    """Write every file of a case into an empty folder, and return its measurements."""
    acquisition = case.reference
    source = _source_of(case, wanted.deidentify)
    on_slices = grid_on_slices(mask, acquisition)
    fractions = _fractions_on_slices(probabilities, case)
    values, unit = read_slices(acquisition)

    segments, model = wanted.segments, wanted.model
    numbers = new_series_numbers(case.series_numbers, SERIES_PER_CASE)
    segmentation = write_segmentation(
        folder / SEGMENTATION,
        on_slices,
        source,
        segments,
        model,
        series_number=numbers[0],
        kind=wanted.kind,
        probabilities=fractions,
    )

    values_hu = values if unit == "HU" else None
    measurements = measure(on_slices, acquisition, segments, values_hu)
    file = folder / REPORT
    write_report(file, measurements, source, segmentation, model, series_number=numbers[1])

    write_captures(
        folder / CAPTURES,
        on_slices,
        values,
        source,
        segments,
        measurements,
        model,
        series_number=numbers[2],
    )

    if wanted.contours:
        file = folder / CONTOURS
        write_contours(file, on_slices, source, segments, model, series_number=numbers[3])
    if wanted.nifti:
        write_volume(mask, grid_of(acquisition.stack), folder / NIFTI)
    write_json([_as_json(item) for item in measurements], folder / MEASUREMENTS)

    if wanted.page is not None:
        study = Study(
            case.name, source, on_slices, values, unit, segments, measurements, model, fractions
        )
        of_folds = [grid_on_slices(fold, acquisition) for fold in folds]
        _write_page(folder, replace(study, folds=of_folds), wanted.page, case)
    return measurements


def _write_page(folder: Path, study: Study, options: PageOptions, case: Case) -> None:
    """Write the page of a study, and what programs may want to know of it.

    A lung mask that cannot be used is a warning on the page, so that no prediction is lost for it.
    """
    if options.lung_masks is not None:
        try:
            lungs = grid_on_slices(lung_mask_of(options.lung_masks, case), case.reference)
            study = replace(study, lungs=lungs)
        except InputError as error:
            reason = shown_reason(error)
            study = replace(study, lung_trouble=f"--lung-mask: {reason}")

    facts = write_page(folder / PAGE, study, options)
    write_json(facts, folder / FACTS)


def _fractions_on_slices(probabilities: np.ndarray | None, case: Case) -> np.ndarray | None:
    """Return probabilities (segment, n, row, column) on the slices; None where there are none."""
    if probabilities is None:
        return None
    of_segments = [grid_on_slices(segment, case.reference) for segment in probabilities]
    return np.stack(of_segments)


def _source_of(case: Case, deidentify: bool) -> Source:
    source = read_source(case.reference)
    if deidentify:
        return deidentified(source)
    return source


def _as_json(item: Measurement) -> dict[str, Any]:
    return {
        "segment": item.segment.label,
        "lesion": item.lesion,
        "volume_ml": round(item.volume_ml, 4),
        "mean_hu": None if item.mean is None else round(item.mean, 2),
        "diameter_mm": round(item.diameter_mm, 2),
    }


def fractions_of(
    file: Path,
    dataset_json: dict[str, Any],
    segments: Sequence[Segment],
    prediction: Path,
    case: Case,
) -> np.ndarray:
    """Read nnU-Net's probabilities of a case as (segment, x, y, z) in the order of ``segments``.

    nnU-Net writes a channel per label, background first, or per region.

    Args:
        file: ``.npz`` beside the prediction.
        dataset_json: of the model, whose labels name the channels.
        segments: of the same labels.
        prediction: the labels that belong to them, whose grid they have.
        case: on whose first series they are wanted.

    Raises:
        InputError: not readable, or of other labels.
    """
    try:
        with np.load(file) as content:
            probabilities = content["probabilities"]
    except Exception as error:  # a torn file may raise anything
        raise InputError(
            f"{file}: holds no probabilities; predict with --save_probabilities"
        ) from error

    channels = _channels_of(dataset_json["labels"])
    if len(probabilities) != len(channels):
        raise InputError(
            f"{file}: holds {len(probabilities)} channels, the labels {len(channels)}; predict "
            "again"
        )

    grid = read_grid(prediction)
    reference = grid_of(case.reference.stack)
    result = []
    for segment in segments:
        channel = channels.index(segment.values)
        voxels = probabilities[channel].transpose(2, 1, 0)
        if voxels.shape != tuple(grid.shape):
            raise InputError(f"{file}: has another shape than {prediction.name}; predict again")
        result.append(on_reference(voxels, grid, reference, file))
    return np.stack(result)


def _channels_of(labels: dict[str, Any]) -> list[tuple[int, ...]]:
    """Return the label values of each channel in nnU-Net's order."""
    channels = []
    for name, value in labels.items():
        values = tuple(value) if isinstance(value, list | tuple) else (int(value),)
        if name != "ignore":
            channels.append(values)

    most_values = max(map(len, channels), default=1)
    if most_values == 1:
        return sorted(channels)
    # regions, without a channel for the background
    return [values for values in channels if set(values) != {0}]
