"""How much a lesion stands out from its surroundings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, generate_binary_structure

RIM_PIXELS = 3


@dataclass(frozen=True)
class LesionContrast:
    """Mean intensities of a case's lesions and of their rim; NaN where there is none."""

    lesion_pixels: int
    inside: float
    rim: float

    @property
    def difference(self) -> float:
        """Return inside minus rim."""
        return self.inside - self.rim


def lesion_contrast(
    image: np.ndarray, lesion: np.ndarray, excluded: np.ndarray | None = None
) -> LesionContrast:
    """Compare a lesion with the rim of 3 pixels around it, slice by slice.

    Args:
        image: ``[slices, height, width]``, any unit.
        lesion: bool, same shape.
        excluded: bool, same shape; pixels that belong to neither, such as ignored ones and the
            background.

    Returns:
        The means over all pixels of the case.

    >>> image, lesion = np.zeros((1, 9, 9)), np.zeros((1, 9, 9), dtype=bool)
    >>> image[0, 4, 4], lesion[0, 4, 4] = 30, True
    >>> lesion_contrast(image, lesion).difference
    30.0
    """
    cross = generate_binary_structure(2, 1)
    in_plane = cross[None]
    near = binary_dilation(lesion, in_plane, iterations=RIM_PIXELS)
    inside = lesion
    rim = near & ~lesion
    if excluded is not None:
        inside = inside & ~excluded
        rim = rim & ~excluded

    inside_values = image[inside]
    rim_values = image[rim]
    return LesionContrast(
        lesion_pixels=inside_values.size,
        inside=_mean(inside_values),
        rim=_mean(rim_values),
    )


def _mean(values: np.ndarray) -> float:
    if not values.size:
        return math.nan
    return float(values.mean())
