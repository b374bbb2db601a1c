"""Batch normalisation with the statistics that it has learnt, in a network that trains."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch normalisation use its running statistics within the block.

    Its mean and variance stay as they are.

    Gradients pass. Networks with other kinds of normalisation are not affected.
    """
    normalizations = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    learning = [module for module in normalizations if module.training]
    for module in learning:
        module.eval()
    try:
        yield
    finally:
        for module in learning:
            module.train()
