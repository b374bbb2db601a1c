"""What makes a scan unusual for the model, in sentences without any text of the patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_ext.dicom.reading.series import Acquisition
from nnunet_ext.dicom.writing.measurements import Measurement
from nnunet_ext.dicom.writing.source import Source, text_of
from nnunet_ext.hospital.report.model_facts import ModelFacts

UNUSUAL_RATIO = 2.0  # of a spacing to that of the training
THICK_SLICES_MM = 5.0
FEW_SLICES = 10
METAL_HU = 3000.0
METAL_SHARE = 0.001


def quality_warnings(
    source: Source,
    values: np.ndarray,
    unit: str,
    measurements: Sequence[Measurement],
    facts: ModelFacts,
) -> list[str]:
    """Return what a reader should know before trusting the segmentation.

    Args:
        source: the images.
        values: (n, row, column) of their slices.
        unit: of the values.
        measurements: of the mask.
        facts: about the model.
    """
    acquisition = source.acquisition
    found = [f"The scan is unusual: {remark}." for remark in acquisition.remarks]
    found += _about_spacing(acquisition, facts)
    found += _about_values(acquisition, values, unit, measurements, facts)
    if text_of(source.first, "LossyImageCompression") == "01":
        found.append("The scan was compressed with loss before it was read.")
    if not any(item.volume_ml for item in measurements):
        found.append("The model found nothing. That does not show that there is nothing.")
    return found


def _about_spacing(acquisition: Acquisition, facts: ModelFacts) -> list[str]:
    stack = acquisition.stack
    found = []
    if len(acquisition.slices) < FEW_SLICES:
        found.append(f"The scan has only {len(acquisition.slices)} slices.")

    trained_mm = facts.spacing_mm
    if trained_mm is None:
        if stack.step_mm > THICK_SLICES_MM:
            found.append(f"Slices lie {stack.step_mm:.3g} mm apart; small lesions may be missed.")
        return found

    pairs = (
        ("Slices lie", stack.step_mm, trained_mm[2]),
        ("Pixels measure", max(stack.spacing_mm), max(trained_mm[:2])),
    )
    for words, here_mm, usual_mm in pairs:
        ratio = here_mm / usual_mm
        if ratio > UNUSUAL_RATIO or ratio < 1 / UNUSUAL_RATIO:
            apart = " apart" if words == "Slices lie" else ""
            found.append(
                f"{words} {here_mm:.3g} mm{apart}; in the training data it was typically "
                f"{usual_mm:.3g} mm."
            )
    return found


def _about_values(
    acquisition: Acquisition,
    values: np.ndarray,
    unit: str,
    measurements: Sequence[Measurement],
    facts: ModelFacts,
) -> list[str]:
    found = []
    is_ct = acquisition.slices[0].modality == "CT"
    if is_ct and unit != "HU":
        found.append("Values are perhaps not Hounsfield units: none is that of air.")

    share = float((values > METAL_HU).mean())
    if is_ct and share > METAL_SHARE:
        found.append(
            f"{100 * share:.1f} % of the voxels are brighter than {METAL_HU:.0f} HU: metal, or "
            "values that are not Hounsfield units."
        )

    if facts.intensity_range is not None:
        low, high = facts.intensity_range
        for item in measurements:
            if item.lesion == 0 and item.mean is not None and not low <= item.mean <= high:
                found.append(
                    f"{item.segment.label} has a mean of {item.mean:.0f} HU; labelled voxels of "
                    f"the training data lay between {low:.0f} and {high:.0f} HU."
                )
    return found
