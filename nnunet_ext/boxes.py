"""The part of an array where something is."""

from typing import Any

import numpy as np
import numpy.typing as npt


def bounding_box(mask: npt.NDArray[Any]) -> tuple[slice, ...]:
    """Return the smallest box that holds all of a mask, a slice per axis; empty for an empty mask.

    >>> bounding_box(np.array([[0, 0, 0], [0, 1, 1]]))
    (slice(1, 2, None), slice(1, 3, None))
    """
    box = []
    axes = set(range(mask.ndim))
    for axis in range(mask.ndim):
        others = tuple(axes - {axis})
        filled = np.flatnonzero(mask.any(axis=others))
        if not len(filled):
            return (slice(0, 0),) * mask.ndim

        first = int(filled[0])
        last = int(filled[-1])
        box.append(slice(first, last + 1))
    return tuple(box)
