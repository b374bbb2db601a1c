"""What a segmentation network returns: logits, or a list of them, finest first, under deep
supervision.
"""

import torch

Segmentation = torch.Tensor | list[torch.Tensor]


def finest(segmentation: Segmentation) -> torch.Tensor:
    """Return the logits of the input's size, ``[B, classes, *spatial]``."""
    return segmentation[0] if isinstance(segmentation, list | tuple) else segmentation
