"""How much a lesion stands out from what surrounds it."""

from __future__ import annotations

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
        excluded: bool, same shape; what belongs to neither, such as ignored pixels and the
            background.

    Returns:
        The means over all pixels of the case.

    >>> image, lesion = np.zeros((1, 9, 9)), np.zeros((1, 9, 9), dtype=bool)
    >>> image[0, 4, 4], lesion[0, 4, 4] = 30, True
    >>> lesion_contrast(image, lesion).difference
    30.0
    """
    in_plane = generate_binary_structure(2, 1)[None]
    near = binary_dilation(lesion, in_plane, iterations=RIM_PIXELS)
    inside = lesion
    rim = near & ~lesion
    if excluded is not None:
        inside = inside & ~excluded
        rim = rim & ~excluded

    lesion_pixels = int(inside.sum())
    return LesionContrast(lesion_pixels, _mean(image[inside]), _mean(image[rim]))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
