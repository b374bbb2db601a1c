"""The output of a segmentation network: logits, or a list of them under deep supervision."""

import torch

Segmentation = torch.Tensor | list[torch.Tensor]


def finest(segmentation: Segmentation) -> torch.Tensor:
    """Return the logits of the input's size, ``[B, classes, *spatial]``."""
    if isinstance(segmentation, list | tuple):
        return segmentation[0]
    return segmentation
