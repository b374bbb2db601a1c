"""A case's way with a model: its images, nnU-Net's prediction, the results as DICOM objects."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.files.whole_file import TEMPORARY_PREFIX
from nnunet_ext.hospital.each_case import CaseOutcomes, for_each
from nnunet_ext.hospital.images import AS_SCANNED, read_mask, write_images
from nnunet_ext.hospital.results import Outputs, fractions_of, write_results
from nnunet_ext.hospital.survey import Case

if TYPE_CHECKING:
    from nnunet_ext.hospital.prediction import Predictor

UNCOMPRESSED = ".nii"


def write_outputs(
    cases: Iterable[Case],
    predictions: Path,
    ending: str,
    output: Path,
    wanted: Outputs,
    dataset_json: dict[str, Any],
    *,
    keep_names: bool = False,
) -> CaseOutcomes:
    """Write the results of all cases from files of predictions.

    ``finished`` holds their measurements.
    """

    def write(case: Case) -> Any:
        predicted = predictions / f"{case.name}{ending}"
        return _results(case, predicted, output, wanted, dataset_json)

    return for_each(cases, write, "writing results", keep_names=keep_names)


def predict_cases(
    cases: Iterable[Case],
    predictor: Predictor,
    output: Path,
    wanted: Outputs,
    dataset_json: dict[str, Any],
    orientation: str = AS_SCANNED,
    *,
    keep_names: bool = False,
) -> CaseOutcomes:
    """Do all three steps, one case after the other.

    Images and predictions lie in a folder that is removed.
    """

    def predict(case: Case) -> Any:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=output) as temporary:
            folder = Path(temporary)
            written = write_images(case, folder, UNCOMPRESSED, orientation)
            images = [folder / channel["file"] for channel in written.channels]
            predicted = folder / f"predicted-{case.name}"
            if wanted.folds and predictor.folds > 1:
                file, folds = predictor.predict_with_folds(
                    images, predicted, probabilities=wanted.soft
                )
                return _results(case, file, output, wanted, dataset_json, folds)
            file = predictor.predict(images, predicted, probabilities=wanted.soft)
            return _results(case, file, output, wanted, dataset_json)

    return for_each(cases, predict, "predicting", keep_names=keep_names)


def _results(
    case: Case,
    file: Path,
    output: Path,
    wanted: Outputs,
    dataset_json: dict[str, Any],
    folds: Sequence[Path] = (),
) -> Any:
    mask = read_mask(file, case)
    probabilities = None
    if wanted.soft:
        stem = file.name.removesuffix(dataset_json["file_ending"])
        archive = file.with_name(f"{stem}.npz")
        probabilities = fractions_of(archive, dataset_json, wanted.segments, file, case)
    of_folds = [read_mask(fold, case) for fold in folds]
    return write_results(case, mask, output, wanted, probabilities, of_folds)
