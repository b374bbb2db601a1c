"""Fingerprints against independent cosine transforms, ImageHash, and what must not change them."""

import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nnunet_ext.synthesis.fingerprints import (
    bits_by_table,
    fingerprint,
    hamming,
    low_frequencies,
    packed,
)


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, shape)


def fingerprint_by_loops(image: np.ndarray) -> int:
    """Eq. 8-14 of the paper for an image of 32 x 32, term by term."""
    size = 32
    transform = np.empty((size, size))
    for i in range(size):
        scale = np.sqrt(1 / size) if i == 0 else np.sqrt(2 / size)
        for j in range(size):
            transform[i, j] = scale * np.cos((j + 0.5) * np.pi / size * i)
    corner = (transform @ image @ transform.T)[:8, :8]
    bits = "".join("1" if value > corner.mean() else "0" for value in corner.ravel())
    return int(bits, 2)


def test_frequencies_of_a_32_x_32_image_are_scipys() -> None:
    image = random_images(32, 32)
    expected = scipy.fft.dctn(image, norm="ortho")[:8, :8]
    np.testing.assert_allclose(low_frequencies(image), expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_fingerprint_follows_the_paper_term_by_term(seed: int) -> None:
    image = random_images(32, 32, seed=seed)
    result = fingerprint(image)
    assert isinstance(result, np.uint64)
    assert int(result) == fingerprint_by_loops(image)


def test_the_first_coefficient_is_the_highest_bit() -> None:
    """Of a constant image only the mean brightness is above the mean of the 64."""
    assert int(fingerprint(np.ones((32, 32)))) == 1 << 63


def test_larger_images_are_reduced_by_the_means_of_equal_parts() -> None:
    blocks = random_images(32, 32)
    enlarged = np.kron(blocks, np.ones((7, 5)))
    np.testing.assert_allclose(low_frequencies(enlarged), low_frequencies(blocks), atol=1e-9)


def test_parts_of_pixels_count_by_their_share() -> None:
    """48 columns to 32: every second reduced pixel begins in the middle of a column."""
    image = random_images(32, 48)
    twice = np.repeat(image, 2, axis=1)  # 96 columns: three for each of 32
    reduced = twice.reshape(32, 32, 3).mean(axis=2)
    np.testing.assert_allclose(low_frequencies(image), low_frequencies(reduced), atol=1e-9)


def test_many_images_at_once_are_the_same_as_one_by_one() -> None:
    images = random_images(2, 3, 50, 40)
    together = fingerprint(images)
    assert together.shape == (2, 3) and together.dtype == np.uint64
    for place in np.ndindex(2, 3):
        assert together[place] == fingerprint(images[place])


@pytest.mark.parametrize("seed", range(10))
def test_bits_and_their_order_are_those_of_imagehash(seed: int) -> None:
    """ImageHash takes unscaled frequencies and their median; with both, its hash of a 32 x 32 image
    is ours.
    """
    imagehash = pytest.importorskip("imagehash")
    image = random_images(32, 32, seed=seed).astype(np.uint8)

    scale = np.full(32, np.sqrt(2 / 32))
    scale[0] = np.sqrt(1 / 32)
    unscaled = low_frequencies(image) / np.outer(scale, scale)[:8, :8]
    above_median = unscaled > np.median(unscaled)
    ours = packed(above_median.astype(float))

    theirs = imagehash.phash(Image.fromarray(image))
    assert f"{int(ours):016x}" == str(theirs)


@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
def test_a_factor_changes_nothing(factor: float, seed: int) -> None:
    image = random_images(48, 40, seed=seed)
    assert fingerprint(image * factor) == fingerprint(image)


def test_equal_images_have_distance_0_and_different_ones_do_not() -> None:
    first, second = random_images(2, 64, 64)
    assert hamming(fingerprint(first), fingerprint(first)) == 0
    assert hamming(fingerprint(first), fingerprint(second)) > 0


def test_distances_of_known_numbers() -> None:
    numbers = np.array([0, 1, 2**64 - 1, 2**63, 0b1010], np.uint64)
    assert hamming(numbers, np.uint64(0)).tolist() == [0, 1, 64, 1, 2]
    assert hamming(numbers[:, None], numbers[None, :]).shape == (5, 5)


@given(numbers=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_the_table_of_bytes_counts_as_python_does(numbers: list[int]) -> None:
    expected = [number.bit_count() for number in numbers]
    assert bits_by_table(np.array(numbers, np.uint64)).tolist() == expected
    assert hamming(np.array(numbers, np.uint64), np.uint64(0)).tolist() == expected
