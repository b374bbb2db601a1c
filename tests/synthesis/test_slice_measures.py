"""The rough segmentation of lesions in images without labels."""

import numpy as np
import pytest

from dataset_conversion.phantoms.brains import BACKGROUND_HU, ct_slice
from dataset_conversion.phantoms.heads import FIELD_OF_VIEW_MM
from nnunet_ext.synthesis.skull import without_skull
from nnunet_ext.synthesis.slice_measures import LesionBand, above_background

BLOOD = LesionBand(50, 100)


def test_small_images_are_taken_as_they_are() -> None:
    image = np.array([[49, 50, 75], [100, 101, 0]])
    assert BLOOD(image).tolist() == [[False, True, True], [True, False, False]]


def test_noise_and_thin_rims_do_not_count_in_large_images() -> None:
    image = np.full((240, 240), 30.0)
    image[100:102, 20:220] = 90  # a line of 2 pixels
    image[::12, ::12] = 95  # single pixels
    image[150:180, 100:130] = 75
    found = BLOOD(image)
    assert (
        not found[:147].any() and not found[:, :97].any()
    )  # smoothing moves the square's edge by a pixel or two
    assert not found[183:].any() and not found[:, 133:].any()
    assert found[150:180, 100:130].mean() > 0.9


@pytest.mark.parametrize("patient", range(6))
def test_sizes_of_generated_haemorrhages_are_nearly_right(patient: int) -> None:
    """At 240 x 240, where the skull leaves a bright rim of one or two pixels."""
    item = ct_slice(11, patient, 240)
    pixel_mm = FIELD_OF_VIEW_MM / 240
    stripped, _ = without_skull(item.image, (pixel_mm, pixel_mm), BACKGROUND_HU)
    error = abs(int(BLOOD(stripped).sum()) - int(item.label.sum()))
    assert error < 0.25 * item.label.sum()


def test_backgrounds_are_0() -> None:
    image = np.array([[-3.0, 1.0], [5.0, 2.0]])
    assert above_background(image, None).tolist() == [[0, 4], [8, 5]]
    assert above_background(image, (0.0, 4.0)).tolist() == [[0, 0.25], [1, 0.5]]
