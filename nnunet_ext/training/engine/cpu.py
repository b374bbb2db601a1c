"""Make a step on the CPU faster without changing its results.

``benchmarks/train_step.py`` measures the gain.
"""

import ctypes
import os

from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc, and its defaults
_TRIM_THRESHOLD, _MMAP_MAX = 128 * 1024, 65536


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc keep freed memory for the next step instead of returning it to the system.

    Training steps allocate the same sizes over and over; other code does not. Undo it
    (``keep=False``) after the training.
    """
    trim_threshold = 2**31 - 1 if keep else _TRIM_THRESHOLD
    mmap_max = 0 if keep else _MMAP_MAX
    try:
        glibc = ctypes.CDLL(None)
        glibc.mallopt(_M_TRIM_THRESHOLD, trim_threshold)
        glibc.mallopt(_M_MMAP_MAX, mmap_max)
        if not keep:
            glibc.malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # another C library


def activate_out_of_place(network: nn.Module) -> None:
    """Let activations return a new tensor.

    After instance normalisation, autograd has to copy the gradient of an in-place activation.
    """
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
