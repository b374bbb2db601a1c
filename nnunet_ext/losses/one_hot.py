"""Labels as one map per class."""

import torch
from torch.nn import functional


def one_hot_maps(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return a map per class that is 1 where a pixel has the class, and 0 elsewhere.

    Args:
        labels: ``[B, *spatial]`` integers in [0, classes).
        classes: number of maps.

    Returns:
        ``[B, classes, *spatial]`` int64.

    >>> one_hot_maps(torch.tensor([[0, 1, 1]]), 2)
    tensor([[[1, 0, 0],
             [0, 1, 1]]])
    """
    channels_last = functional.one_hot(labels.long(), classes)
    return channels_last.movedim(-1, 1)
