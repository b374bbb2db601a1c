"""The normalisation of a stream whose intensities mean something else than the labelled ones.

A stream usually follows the plans. A CT stream beside MR plans, or one whose plans would need
foreground statistics, gets its own window: ``nnUNetv2_ext_configure --normalize
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
                "and plans"
            )

        low_text, high_text = match.groups()
        try:
            low = float(low_text)
            high = float(high_text)
        except ValueError:
            raise InputError(
                f"{text}: {low_text} and {high_text} must be numbers, e.g. window(0,80)"
            ) from None

        are_finite = math.isfinite(low) and math.isfinite(high)
        if not are_finite or low >= high:
            raise InputError(
                f"{text}: the first bound must lie below the second, e.g. window(0,80)"
            )
        return cls(low, high)

    def __str__(self) -> str:
        return f"window({self.low:.10g},{self.high:.10g})"

    @property
    def folder_suffix(self) -> str:
        """The part of a folder's name that distinguishes this window from others."""
        return f"window_{self.low:.10g}_{self.high:.10g}"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Map intensities to [-1, 1], float32."""
        width = self.high - self.low
        single = image.astype(np.float32)
        clipped = single.clip(self.low, self.high)
        above_low = clipped - self.low
        return above_low * (2 / width) - 1

    def inverse(self, normalized: np.ndarray) -> np.ndarray:
        """Map [-1, 1] back to [low, high]; values beyond are extrapolated."""
        half_width = (self.high - self.low) / 2
        above_low = (normalized + 1) * half_width
        return above_low + self.low


def normalize_by(
    window: Window, preprocessor: DefaultPreprocessor, image: np.ndarray
) -> np.ndarray:
    """Let nnU-Net's preprocessor normalise by ``window``, and crop a border at the lower bound.

    nnU-Net crops to where any channel is nonzero. In such a stream zero may be tissue, and the
    background may be anything up to the lower bound.

    Args:
        window: the stream's normalisation.
        preprocessor: changed in place.
        image: ``[channels, *spatial]``.

    Returns:
        The image for :meth:`run_case_npy`: normalised, and shifted so that the lower bound is 0
        until it is cropped. An image that is all background keeps its size.
    """

    def own_normalization(data: np.ndarray, *_: object) -> np.ndarray:
        return data + window.outside

    preprocessor._normalize = own_normalization
    return window(image) - window.outside
