"""Batch normalisation with the statistics that it has learnt, in a network that trains."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch normalisation use its running mean and variance, and leave them as they are, within
    the block.

    Gradients pass. Networks with other kinds of normalisation are not affected.
    """
    learning = [
        module for module in network.modules() if isinstance(module, _BatchNorm) and module.training
    ]
    for module in learning:
        module.eval()
    try:
        yield
    finally:
        for module in learning:
            module.train()
