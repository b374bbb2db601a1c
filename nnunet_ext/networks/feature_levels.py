"""Resolution levels of a network, named by their stride.

The stride of a level is its downsampling along its most reduced axis. Anisotropic 3d plans do not
downsample the slice axis at first: a level with strides (2, 8, 8) is called level 8.
"""

import math
from collections.abc import Sequence

from nnunet_ext.errors import InputError

Strides = Sequence[Sequence[int] | int]


def cumulative_strides(strides: Strides, dimension: int) -> list[tuple[int, ...]]:
    """Return the downsampling of every stage relative to the input, per axis, finest first.

    Args:
        strides: of each stage relative to the one before, as in the plans' ``strides``; one number
            means all axes.
        dimension: number of spatial axes.

    >>> cumulative_strides([[1, 1, 1], [1, 2, 2], 2], dimension=3)
    [(1, 1, 1), (1, 2, 2), (2, 4, 4)]
    """
    current = [1] * dimension
    cumulative = []
    for stride in strides:
        per_axis = [stride] * dimension if isinstance(stride, int) else stride
        for axis in range(dimension):
            current[axis] *= per_axis[axis]
        cumulative.append(tuple(current))
    return cumulative


def level_at_stride(strides: Strides, stride: int) -> int:
    """Return the index of the stage of this ``stride``; the finest where several share it.

    Args:
        strides: of each stage relative to the one before, as in the plans' ``strides``.
        stride: downsampling along the most reduced axis.

    Raises:
        InputError: no stage has this stride.
    """
    dimension = 1
    for step in strides:
        if not isinstance(step, int):
            dimension = max(dimension, len(step))

    levels = cumulative_strides(strides, dimension)
    level_strides = [max(level) for level in levels]
    if stride not in level_strides:
        available = ", ".join(map(str, dict.fromkeys(level_strides)))
        raise InputError(
            f"the network has no level of stride {stride}; its levels have strides {available}"
        )
    return level_strides.index(stride)


def level_size(image_size: Sequence[int], level_stride: Sequence[int]) -> tuple[int, ...]:
    """Return the spatial size of a level of nnU-Net's encoder: strided convolutions round up.

    Args:
        image_size: spatial size of the input.
        level_stride: per axis, from :func:`cumulative_strides`.
    """
    axes = zip(image_size, level_stride, strict=True)
    return tuple(math.ceil(size / stride) for size, stride in axes)
