"""Slices of one size: ``--resize``, and the way back."""

from __future__ import annotations

import numpy as np


def resized_image(image: np.ndarray, size: int) -> np.ndarray:
    """Resize a slice to ``size`` x ``size``, linearly, smoothed first along axes that shrink.

    Args:
        image: (C, x, y); integers stay integers, rounded.
        size: pixels along both axes.
    """
    from skimage.transform import resize

    shape = (len(image), size, size)
    values = resize(image.astype(np.float64), shape, order=1, mode="edge", anti_aliasing=True)
    if image.dtype.kind in "iu":
        values = np.round(values)
    return values.astype(image.dtype)


def resized_label(label: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a label (x, y) to a shape; each new pixel takes the label at its centre.

    Enlarging both axes and going back to the first shape gives the same label again.
    """
    rows = _nearest(label.shape[0], shape[0])
    columns = _nearest(label.shape[1], shape[1])

    return label[np.ix_(rows, columns)]


def _nearest(old: int, new: int) -> np.ndarray:
    """Return the old pixel that holds the centre of each new one.

    This is floor((i + 1/2) old / new), in whole numbers.
    """
    twice_centres = 2 * np.arange(new) + 1
    return twice_centres * old // (2 * new)
