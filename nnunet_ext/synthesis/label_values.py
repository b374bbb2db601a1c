"""Which pixels of a label file are lesion, and which nnU-Net ignores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def ignored_mask(label: np.ndarray, labels: Mapping[str, Any]) -> np.ndarray:
    """Return where a label image has the ignore label, bool; nowhere if there is none.

    Args:
        label: values of a label file.
        labels: as in dataset.json, value by name.
    """
    value = labels.get("ignore", [])
    return np.isin(label, value)


def lesion_mask(label: np.ndarray, labels: Mapping[str, Any]) -> np.ndarray:
    """Return where any lesion is labelled, bool; ignored pixels are none.

    >>> lesion_mask(np.array([0, 1, 2, 3]), {"background": 0, "a": 1, "b": 2, "ignore": 3})
    array([False,  True,  True, False])
    """
    return (label > 0) & ~ignored_mask(label, labels)
