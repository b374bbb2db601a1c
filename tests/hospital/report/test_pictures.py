"""Slices as pictures: values come back as near as the scale promises, labels exactly."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from nnunet_ext.hospital.report.pictures import ENCODINGS, GreyScale, grey_scale, pictures_of


def pixels_of(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def values_of(codes: np.ndarray, scale: GreyScale) -> np.ndarray:
    points, knots = zip(*scale.knots, strict=True)
    return np.interp(codes, knots, points)


@pytest.mark.parametrize(
    ("low_hu", "high_hu", "step_hu"),
    [(-1024, -150, 874 / 66), (-150, 0, 150 / 30), (0, 100, 100 / 80), (100, 250, 150 / 30)],
)
def test_codes_are_half_a_step_off_at_most(low_hu: int, high_hu: int, step_hu: float) -> None:
    values = np.arange(low_hu, high_hu + 1)
    scale = grey_scale(values.reshape(1, 1, -1), "HU")
    errors = np.abs(values_of(scale.codes(values), scale) - values)
    assert errors.max() <= step_hu / 2 + 1e-9


def test_values_beyond_the_scale_are_its_ends() -> None:
    scale = grey_scale(np.zeros((1, 2, 2)), "HU")
    assert scale.codes(np.array([-3024, 9000])).tolist() == [0, 255]


def test_other_units_span_nearly_all_their_values() -> None:
    values = np.arange(2000.0).reshape(2, 20, 50)
    scale = grey_scale(values, "unknown")
    codes = scale.codes(values)
    assert codes.min() == 0 and codes.max() == 255
    assert scale.windows[0].width == pytest.approx(0.998 * 1999)


def test_small_series_are_kept_without_loss_and_labels_always() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(-1000, 1000, (5, 16, 24)).astype(np.int16)
    mask = generator.integers(0, 700, values.shape).astype(np.uint16)
    mask[2] = 0
    scale = grey_scale(values, "HU")
    pictures = pictures_of(values, mask, scale)
    assert pictures.encoding == ENCODINGS[0]
    assert sorted(pictures.labels) == [0, 1, 3, 4]
    for index, layer in enumerate(values):
        np.testing.assert_array_equal(pixels_of(pictures.grey[index]), scale.codes(layer))
    for index, text in pictures.labels.items():
        colours = pixels_of(text).astype(int)
        np.testing.assert_array_equal(colours[..., 0] + 256 * colours[..., 1], mask[index])


def test_pictures_lose_what_must_be_lost_to_fit() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(0, 60, (24, 64, 64)).astype(np.int16)
    mask = np.zeros(values.shape, np.uint8)
    scale = grey_scale(values, "HU")
    without_loss = sum(map(len, pictures_of(values, mask, scale).grey))
    sizes = []
    for share in (0.8, 0.5, 0.3, 0.15):
        pictures = pictures_of(values, mask, scale, int(share * without_loss))
        assert pictures.encoding.quality > 0
        sizes.append(sum(map(len, pictures.grey)))
        assert sizes[-1] <= 1.05 * share * without_loss
    assert sizes == sorted(sizes, reverse=True)
