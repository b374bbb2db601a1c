"""The normalisation of a stream whose intensities differ in meaning from the labelled ones.

A stream usually follows the plans. A CT stream beside MR plans, or one whose plans would need
foreground statistics, gets a window of its own: ``nnUNetv2_ext_configure --normalize
"target_domain=window(0,80)"``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

NUMBER = r"\s*([-+.\deE]+)\s*"
WINDOW = re.compile(rf"window\({NUMBER},{NUMBER}\)")


@dataclass(frozen=True)
class Window:
    """Intensities clipped to [low, high] and mapped linearly to [-1, 1].

    >>> Window.parse("window(0,80)")(np.array([-1000.0, 0, 40, 80, 3000]))
    array([-1., -1.,  0.,  1.,  1.], dtype=float32)
    """

    low: float  # in the images' unit: Hounsfield units of CT
    high: float

    outside: ClassVar[float] = -1.0  # of voxels beyond the image's border

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read ``window(LOW,HIGH)``.

        Raises:
            InputError: another kind of normalisation, or impossible bounds.
        """
        match = WINDOW.fullmatch(text.strip())
        if match is None:
            raise InputError(
                f"unknown normalization {text}; valid are window(LOW,HIGH), e.g. window(0,80), "
                f"and plans"
            )

        try:
            low, high = float(match[1]), float(match[2])
        except ValueError:
            raise InputError(
                f"{text}: {match[1]} and {match[2]} must be numbers, e.g. window(0,80)"
            ) from None

        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(
                f"{text}: the first bound must lie below the second, e.g. window(0,80)"
            )
        return cls(low, high)

    def __str__(self) -> str:
        return f"window({self.low:.10g},{self.high:.10g})"

    @property
    def folder_suffix(self) -> str:
        """What tells a folder of this window from those of others."""
        return f"window_{self.low:.10g}_{self.high:.10g}"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Map intensities to [-1, 1], float32."""
        clipped = image.astype(np.float32).clip(self.low, self.high)
        return (clipped - self.low) * (2 / (self.high - self.low)) - 1

    def inverse(self, normalized: np.ndarray) -> np.ndarray:
        """Map [-1, 1] back to [low, high]; values beyond are extrapolated."""
        return (normalized + 1) * ((self.high - self.low) / 2) + self.low


def normalize_by(
    window: Window, preprocessor: DefaultPreprocessor, image: np.ndarray
) -> np.ndarray:
    """Let nnU-Net's preprocessor use ``window``.

    It also crops what lies at the lower bound all around the image.

    nnU-Net crops to where any channel is nonzero. In images of such a stream zero may be tissue,
    and their background may be anything up to the lower bound.

    Args:
        window: the stream's normalisation.
        preprocessor: changed in place.
        image: ``[channels, *spatial]``.

    Returns:
        The image for :meth:`run_case_npy`: normalised, and moved so that the lower bound is 0 until
        it is cropped. An image that is nothing but background keeps its size.
    """

    def own_normalization(data: np.ndarray, *_: object) -> np.ndarray:
        return data + window.outside

    preprocessor._normalize = own_normalization
    return window(image) - window.outside
