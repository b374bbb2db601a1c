"""What the page says of lesions, against boxes that were drawn by hand."""

from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.phantoms.dicom_series import write_series
from nnunet_ext.dicom.writing.segments import segments_of
from nnunet_ext.hospital.report.findings import (
    findings_of,
    found_lung_volume_ml,
    lung_volume_ml,
    with_folds,
)
from nnunet_ext.hospital.report.model_facts import ModelFacts
from nnunet_ext.hospital.report.quality import quality_warnings
from tests.dicom.writing.geometries import acquisition_below
from tests.hospital.conftest import stacked
from tests.hospital.report.studies import (
    LABELS,
    LUNG_HU,
    STEP_MM,
    TISSUE_HU,
    labels,
    write_study,
)

LESION_VOXELS = 3 * 6 * 5
LUNG_VOXELS = 10 * 32 * 36  # with both lesions


def test_lesions_have_their_place_certainty_and_share_of_the_lungs(tmp_path: Path) -> None:
    mask = labels()
    fractions = np.stack([np.full(mask.shape, 0.9), np.zeros(mask.shape)])
    fractions[1, 3:6] = 0.8
    fractions[1, 3:6, 12:18, 10] = 0.3
    fractions[1, 8] = 0.6
    study = write_study(tmp_path / "scan", fractions=fractions)
    acquisition = study.source.acquisition

    lung_ml = lung_volume_ml(mask, acquisition, study.segments)
    assert lung_ml == pytest.approx(LUNG_VOXELS * STEP_MM / 1000)
    found = findings_of(study.measurements, mask, acquisition, fractions, lung_ml)
    lung, lesions, large, small = found
    assert lung.percent_of_lung is None and lung.certainty == pytest.approx(0.9)
    assert lesions.slices == (3, 8) and lesions.box == (10, 12, 33, 30)
    assert large.slices == (3, 5) and large.box == (10, 12, 14, 17)
    assert small.slices == (8, 8) and small.box == (33, 30, 33, 30)
    assert large.certainty == pytest.approx((4 * 0.8 + 0.3) / 5)
    assert large.is_uncertain and small.is_uncertain and small.certainty == pytest.approx(0.6)
    assert large.percent_of_lung == pytest.approx(100 * LESION_VOXELS / LUNG_VOXELS)


@pytest.mark.parametrize("orientation", ["axial", "coronal"])
def test_lungs_are_found_by_their_air(tmp_path: Path, orientation: str) -> None:
    mask = np.zeros((24, 48, 48), np.uint8)
    mask[2:22, 14:34, 6:20] = 1
    mask[2:22, 14:34, 28:42] = 1
    mask[10:12, 20:24, 10:14] = 2
    values = np.full(mask.shape, TISSUE_HU)
    values[:, :4] = values[:, -4:] = values[..., :2] = values[..., -2:] = -1000
    values[mask == 1] = LUNG_HU
    spacing_mm = (4.0, 4.0)
    plane: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    positions_mm = stacked(24, 4.0)
    if orientation == "coronal":
        mask, values = mask.swapaxes(0, 1), values.swapaxes(0, 1)
        plane = (1, 0, 0, 0, 0, -1)
        positions_mm = np.array([(0.0, 4.0 * index, 0.0) for index in range(48)])
    write_series(tmp_path, values, positions_mm, orientation=plane, spacing_mm=spacing_mm)
    acquisition = acquisition_below(tmp_path)

    segments = segments_of({"background": 0, "other": 1, "lesion": 2})
    found_ml = found_lung_volume_ml(values, mask, acquisition, segments)
    box_ml = 2 * 20 * 20 * 14 * 4.0**3 / 1000
    assert found_ml == pytest.approx(box_ml, rel=0.02)
    only_tissue = np.full(mask.shape, TISSUE_HU)
    assert found_lung_volume_ml(only_tissue, mask, acquisition, segments) is None


def test_folds_differ_in_the_box_of_a_lesion_alone(tmp_path: Path) -> None:
    mask = labels()
    study = write_study(tmp_path / "scan")
    acquisition = study.source.acquisition
    half, more = mask.copy(), mask.copy()
    half[3:6, 12:15, 10:15] = 1
    half[8, 30, 33] = 1
    more[2:9, 10:20, 8:17] = 2
    found = findings_of(study.measurements, mask, acquisition)
    lung, lesions, large, small = with_folds(found, mask, [mask, half, more], acquisition)
    assert lung.spread is None and lesions.spread is None

    voxel_ml = STEP_MM / 1000
    assert large.spread is not None and small.spread is not None
    assert large.spread.least_ml == pytest.approx(LESION_VOXELS / 2 * voxel_ml)
    assert large.spread.largest_ml == pytest.approx(LESION_VOXELS * voxel_ml)
    assert large.spread.dice == pytest.approx((1 + 2 * (2 * 0.5 / 1.5)) / 3)
    assert small.spread.least_ml == 0 and small.spread.dice == pytest.approx(1 / 3)
    assert with_folds(found, mask, [mask], acquisition) == found


def test_nothing_found_has_no_place_and_a_warning(tmp_path: Path) -> None:
    empty = np.zeros_like(labels())
    study = write_study(tmp_path / "scan", mask=empty)
    acquisition = study.source.acquisition
    assert lung_volume_ml(empty, acquisition, study.segments) is None
    for item in findings_of(study.measurements, empty, acquisition):
        assert item.slices is None and item.box is None and item.certainty is None
    warnings = quality_warnings(study.source, study.values, "HU", study.measurements, ModelFacts())
    assert warnings == ["The model found nothing. That does not show that there is nothing."]


def test_a_usual_scan_has_no_warning(tmp_path: Path) -> None:
    study = write_study(tmp_path / "scan")
    facts = ModelFacts(spacing_mm=(1.0, 1.0, 2.0), intensity_range=(-900, 300))
    assert quality_warnings(study.source, study.values, "HU", study.measurements, facts) == []


def test_what_is_unusual_is_named(tmp_path: Path) -> None:
    study = write_study(tmp_path / "scan")
    values = study.values.copy()
    values[0, 0, :30] = 3071
    facts = ModelFacts(spacing_mm=(0.4, 0.4, 5.0), intensity_range=(-200, 300))
    warnings = quality_warnings(study.source, values, "unknown", study.measurements, facts)
    expected = (
        "Slices lie 2 mm apart; in the training data it was typically 5 mm",
        "Pixels measure 1 mm; in the training data it was typically 0.4 mm",
        "Values are perhaps not Hounsfield units",
        "0.1 % of the voxels are brighter than 3000 HU",
        "lung has a mean of -850 HU; labelled voxels of the training data lay between -200 and 300",
    )
    assert len(warnings) == len(expected)
    for warning, beginning in zip(warnings, expected, strict=True):
        assert warning.startswith(beginning)


def test_labels_of_the_studies_are_the_models() -> None:
    assert sorted(LABELS.values()) == np.unique(labels()).tolist()
