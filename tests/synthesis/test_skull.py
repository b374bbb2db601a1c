"""Skull stripping on heads whose brain is known."""

import numpy as np
import pytest

from dataset_conversion.phantoms.brains import ct_slice
from dataset_conversion.phantoms.heads import FIELD_OF_VIEW_MM
from nnunet_ext.synthesis.skull import brain_mask, without_skull
from tests.places import REAL_DATA

REAL_SLICES = REAL_DATA / "ich_physionet"


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def circle(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


def round_head(size: int = 200) -> np.ndarray:
    """Air, scalp of radius 80, skull of 74, brain of 66, at 1 mm, and a head rest below."""
    hu = np.full((size, size), -1000, np.int16)
    for radius, value in ((80, 20), (74, 900), (66, 30)):
        hu[circle(hu.shape, (95, 100), radius)] = value
    hu[182:186, 40:160] = 400
    return hu


@pytest.mark.parametrize("size", [96, 160])
@pytest.mark.parametrize("patient", range(8))
def test_the_brain_of_a_generated_head_is_found(size: int, patient: int) -> None:
    item = ct_slice(7, patient, size)
    pixel_mm = FIELD_OF_VIEW_MM / size
    found = brain_mask(item.image, (pixel_mm, pixel_mm))
    assert dice(found, item.brain) > 0.95
    assert found[item.label > 0].mean() > 0.95  # blood at the skull is part of the brain


def test_scalp_skull_and_head_rest_are_left_out() -> None:
    hu = round_head()
    found = brain_mask(hu, (1, 1))
    assert dice(found, circle(hu.shape, (95, 100), 66)) > 0.96
    assert not found[hu != 30].any()


def test_gaps_of_the_skull_are_closed() -> None:
    hu = round_head()
    hu[15:40, 94:106] = np.where(
        hu[15:40, 94:106] == 900, 25, hu[15:40, 94:106]
    )  # 12 mm without bone
    found = brain_mask(hu, (1, 1))
    assert dice(found, circle(hu.shape, (95, 100), 66)) > 0.95


def test_ventricles_blood_and_calcifications_inside_are_kept() -> None:
    hu = round_head()
    for column, value in ((70, -15), (100, 90), (125, 350)):
        hu[circle(hu.shape, (95, column), 6)] = value
    found = brain_mask(hu, (1, 1))
    for column in (70, 100, 125):
        assert found[circle(hu.shape, (95, column), 6)].all()


def test_lengths_are_in_mm() -> None:
    hu = round_head()
    finer = np.kron(hu, np.ones((2, 2), np.int16))
    coarse, fine = brain_mask(hu, (1, 1)), brain_mask(finer, (0.5, 0.5))
    assert dice(np.kron(coarse, np.ones((2, 2), bool)), fine) > 0.98


@pytest.mark.parametrize("value", [-1000, 0, 30, 900])
def test_nothing_is_found_in_images_of_one_value(value: int) -> None:
    assert not brain_mask(np.full((64, 64), value, np.int16), (2, 2)).any()


def test_a_neck_is_no_brain() -> None:
    """The spinal canal is enclosed by bone, too."""
    hu = np.full((200, 200), -1000, np.int16)
    for radius, value in ((60, 50), (24, 900), (14, 30)):
        hu[circle(hu.shape, (100, 100), radius)] = value
    stripped, has_brain = without_skull(hu, (1, 1), 0)
    assert not has_brain and (stripped == 0).all()


def test_what_is_removed_gets_the_background() -> None:
    hu = round_head()
    stripped, has_brain = without_skull(hu, (1, 1), -20)
    brain = brain_mask(hu, (1, 1))
    assert has_brain and stripped.dtype == hu.dtype
    assert (stripped[~brain] == -20).all() and np.array_equal(stripped[brain], hu[brain])


@pytest.mark.skipif(not REAL_SLICES.is_dir(), reason="no real slices beside this checkout")
def test_haemorrhages_of_real_slices_are_kept() -> None:
    import pydicom

    kept, labelled = 0, 0
    for file in sorted((REAL_SLICES / "images").glob("*.dcm")):
        hu = pydicom.dcmread(file).pixel_array
        mask = pydicom.dcmread(REAL_SLICES / "masks" / file.name).pixel_array > 0
        found = brain_mask(hu, (0.45, 0.45))  # the files state no size
        assert 5_000 < found.sum() * 0.45**2 < 25_000  # mm2, of a slice through the hemispheres
        kept += (found & mask).sum()
        labelled += mask.sum()
    assert kept / labelled > 0.95
