"""Batch normalisation with its learnt statistics, in a network that is being trained."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch normalisation use its running statistics within the block, without changing them.

    Gradients pass. Networks with other kinds of normalisation are not affected.
    """
    learning = []
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.training:
            learning.append(module)
            module.eval()

    try:
        yield
    finally:
        for module in learning:
            module.train()
