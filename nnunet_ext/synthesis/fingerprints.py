"""Perceptual fingerprints: 64 bits that describe what an image looks like at the coarsest scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

REDUCED_SIZE = 32  # N of eq. 8
KEPT_FREQUENCIES = 8  # rows and columns of B', eq. 12
BITS = KEPT_FREQUENCIES**2
# the first bit is the highest
_PLACES = np.left_shift(np.uint64(1), np.arange(BITS - 1, -1, -1, dtype=np.uint64))
_BITS_OF_BYTE = np.array([value.bit_count() for value in range(256)], np.uint8)


def fingerprint(images: npt.ArrayLike) -> Any:
    """Return the fingerprints of images.

    An image is reduced to 32 x 32 pixels and transformed by an orthonormal DCT-II. Of its 8 x 8
    lowest frequencies, the mean brightness included, those above their mean are 1. A positive
    factor changes nothing, but an added constant does: the background must be 0 in all images that
    are compared.

    The paper does not say how it reduces images. Here each pixel is the mean of its part of the
    image, so that a single noisy pixel has little influence; the authors' code interpolates between
    four pixels.

    Args:
        images: ``(*, height, width)``.

    Returns:
        uint64 ``(*)``, row by row from the highest bit; a scalar for a single image.

    Reference: Dong et al. 2022, eq. 8-14
    """
    frequencies = low_frequencies(images)
    return packed(frequencies)


def low_frequencies(images: npt.ArrayLike) -> np.ndarray:
    """Return the lowest frequencies ``(*, 8, 8)`` of images ``(*, height, width)``.

    Their unit is that of the images, times pixels.
    """
    values = np.asarray(images, np.float64)
    height, width = values.shape[-2:]
    reduced_rows = _reduction(height, REDUCED_SIZE)
    reduced_columns = _reduction(width, REDUCED_SIZE)

    cosines = _cosines(REDUCED_SIZE)
    transform = cosines[:KEPT_FREQUENCIES]
    over_rows = transform @ reduced_rows
    over_columns = transform @ reduced_columns
    return over_rows @ values @ over_columns.T


def packed(frequencies: np.ndarray) -> Any:
    """Return 64 bits as uint64 ``(*)``: 1 where a frequency of ``(*, 8, 8)`` exceeds their mean."""
    *images, _, _ = frequencies.shape
    flat = frequencies.reshape(*images, BITS)
    mean = flat.mean(axis=-1, keepdims=True)
    is_above = flat > mean
    places = is_above * _PLACES
    numbers = places.sum(axis=-1, dtype=np.uint64)
    return numbers[()]


def hamming(first: npt.ArrayLike, second: npt.ArrayLike) -> Any:
    """Return the number of bits, 0 to 64, in which fingerprints differ.

    The result is uint8, of the arrays' common shape.

    >>> int(hamming(np.uint64(0b1011), np.uint64(0b0010)))
    2
    """
    one = np.asarray(first, np.uint64)
    other = np.asarray(second, np.uint64)
    different = np.bitwise_xor(one, other)
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(different)
    return bits_by_table(different)


def bits_by_table(numbers: npt.ArrayLike) -> Any:
    """Return the number of ones in each uint64, byte by byte: NumPy 1 has no function for that."""
    values = np.ascontiguousarray(numbers, np.uint64)
    column = values.reshape(*values.shape, 1)
    single_bytes = column.view(np.uint8)
    bits_of_bytes = _BITS_OF_BYTE[single_bytes]
    counts = bits_of_bytes.sum(axis=-1, dtype=np.uint8)
    return counts[()]


def _cosines(size: int) -> np.ndarray:
    """Return the orthonormal DCT-II as a matrix ``(frequency, place)``, A of eq. 9-10."""
    numbers = np.arange(size)
    frequency = numbers[:, None]
    place = numbers[None, :]
    half_pixels = 2 * place + 1
    angle = np.pi * half_pixels * frequency / (2 * size)

    matrix = np.cos(angle)
    matrix *= np.sqrt(2 / size)
    matrix[0] = np.sqrt(1 / size)
    return matrix


def _reduction(size: int, reduced: int) -> np.ndarray:
    """Return the matrix ``(reduced, size)`` that averages a line of pixels over equal parts."""
    edges = np.linspace(0, size, reduced + 1)[:, None]
    part_begin = edges[:-1]
    part_end = edges[1:]

    pixel = np.arange(size)
    begin = np.maximum(part_begin, pixel)
    end = np.minimum(part_end, pixel + 1)
    overlap = np.clip(end - begin, 0, None)
    return overlap * reduced / size
