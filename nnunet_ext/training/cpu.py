"""What makes a step on the CPU faster without changing what it computes (measured: benchmarks/train_step.py)."""

import ctypes

from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of giving it back and faulting it in again."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_MMAP_MAX, 0)


def activate_out_of_place(network: nn.Module) -> None:
    """Let activations return a new tensor: autograd copies the gradient of an in-place one after instance norm."""
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
