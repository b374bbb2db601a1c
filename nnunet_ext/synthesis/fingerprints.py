"""Perceptual fingerprints of images: 64 bits that say how an image looks at the coarsest scale."""

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
    factor changes nothing; an added constant does, so the background is to be 0 in all images that
    are compared.

    The paper does not say how it reduces images. Each pixel here is the mean of its share of the
    image, so that a single noisy pixel counts for little; the authors' code interpolates between
    four pixels.

    Args:
        images: ``(*, height, width)``.

    Returns:
        uint64 ``(*)``, row by row from the highest bit; a scalar for a single image.

    Reference: Dong et al. 2022, eq. 8-14
    """
    return packed(low_frequencies(images))


def low_frequencies(images: npt.ArrayLike) -> np.ndarray:
    """Return the lowest frequencies ``(*, 8, 8)`` of images ``(*, height, width)``.

    They are in the images' unit times pixels.
    """
    values = np.asarray(images, np.float64)
    height, width = values.shape[-2:]

    transform = _cosines(REDUCED_SIZE)[:KEPT_FREQUENCIES]
    over_rows = transform @ _reduction(height, REDUCED_SIZE)
    over_columns = transform @ _reduction(width, REDUCED_SIZE)
    return over_rows @ values @ over_columns.T


def packed(frequencies: np.ndarray) -> Any:
    """Return 64 bits as uint64 ``(*)``.

    A bit is 1 where a frequency of ``(*, 8, 8)`` is above the mean of the 64.
    """
    flat = frequencies.reshape(*frequencies.shape[:-2], BITS)
    above = flat > flat.mean(axis=-1, keepdims=True)
    numbers = (above * _PLACES).sum(axis=-1, dtype=np.uint64)
    return numbers[()]


def hamming(first: npt.ArrayLike, second: npt.ArrayLike) -> Any:
    """Return the number of bits, 0 to 64, in which fingerprints differ.

    It is uint8, of the arrays' common shape.

    >>> int(hamming(np.uint64(0b1011), np.uint64(0b0010)))
    2
    """
    different = np.bitwise_xor(np.asarray(first, np.uint64), np.asarray(second, np.uint64))
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(different)
    return bits_by_table(different)


def bits_by_table(numbers: npt.ArrayLike) -> Any:
    """Return the number of ones in each uint64, byte by byte.

    NumPy 1 cannot count them.
    """
    values = np.ascontiguousarray(numbers, np.uint64)
    single_bytes = values.reshape(*values.shape, 1).view(np.uint8)
    counts = _BITS_OF_BYTE[single_bytes].sum(axis=-1, dtype=np.uint8)
    return counts[()]


def _cosines(size: int) -> np.ndarray:
    """Return the orthonormal DCT-II as a matrix ``(frequency, place)``, A of eq. 9-10."""
    frequency = np.arange(size)[:, None]
    place = np.arange(size)[None, :]
    angle = np.pi * (2 * place + 1) * frequency / (2 * size)
    matrix = np.cos(angle)
    matrix *= np.sqrt(2 / size)
    matrix[0] = np.sqrt(1 / size)
    return matrix


def _reduction(size: int, reduced: int) -> np.ndarray:
    """Return the matrix ``(reduced, size)`` that averages a line of pixels over equal parts."""
    edges = np.linspace(0, size, reduced + 1)
    pixel = np.arange(size)
    begin = np.maximum(edges[:-1, None], pixel)
    end = np.minimum(edges[1:, None], pixel + 1)
    overlap = np.clip(end - begin, 0, None)
    return overlap * reduced / size
