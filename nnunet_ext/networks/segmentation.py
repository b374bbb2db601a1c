"""What a segmentation network returns: logits, under deep supervision a list, finest first."""

import torch

Segmentation = torch.Tensor | list[torch.Tensor]


def finest(segmentation: Segmentation) -> torch.Tensor:
    """Return the logits of the input's size, ``[B, classes, *spatial]``."""
    if isinstance(segmentation, list | tuple):
        return segmentation[0]
    return segmentation
