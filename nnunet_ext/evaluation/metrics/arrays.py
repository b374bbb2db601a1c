"""Check the arrays that metrics are computed from."""

from typing import Any

import numpy as np
import numpy.typing as npt


def mask_pair(
    prediction: npt.ArrayLike, reference: npt.ArrayLike
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return both as boolean masks.

    Raises:
        ValueError: the shapes differ, or a mask holds values other than 0 and 1.
    """
    p = _mask(prediction, "prediction")
    g = _mask(reference, "reference")
    require_same_shape(p, g)
    return p, g


def soft_map(values: npt.ArrayLike, name: str = "prediction") -> npt.NDArray[np.float64]:
    """Return a map of numbers in [0, 1].

    Raises:
        ValueError: no elements, or a value outside [0, 1] or NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{name} has no elements")

    lowest = array.min()
    highest = array.max()
    is_within = lowest >= 0.0 and highest <= 1.0  # False for NaN, too
    if not is_within:
        raise ValueError(f"{name} holds values outside [0, 1]: {lowest} to {highest}")
    return array


def require_same_shape(prediction: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
    """Raise ValueError if the shapes differ."""
    if prediction.shape != reference.shape:
        raise ValueError(
            f"shapes differ: prediction {prediction.shape}, reference {reference.shape}"
        )


def _mask(values: npt.ArrayLike, name: str) -> npt.NDArray[np.bool_]:
    array = np.asarray(values)
    if array.dtype == bool:
        return array

    mask = array.astype(bool)
    if not np.array_equal(array, mask):
        raise ValueError(f"{name} is not a mask: it holds values other than 0 and 1")
    return mask
