"""Moving averages of a network's weights, for teachers and for evaluation."""

import copy

import torch
from torch import nn


def decay_at(decay: float, iteration: int) -> float:
    """Return the decay of a moving average after ``iteration`` earlier updates.

    The plain mean of the first weights, until ``decay`` is the smaller: a short training is not
    averaged with its random start.

    Reference: Tarvainen & Valpola 2017, "Mean teachers are better role models", as in the authors'
    code.
    """
    return min(decay, 1.0 - 1.0 / (iteration + 1))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Set every parameter to ``decay * average + (1 - decay) * network``.

    Buffers, such as statistics, are copied.

    Args:
        average, network: modules of one architecture.
    """
    for own, other in zip(average.parameters(), network.parameters(), strict=True):
        own.lerp_(other, 1.0 - decay)
    for buffer, source in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(source)


def frozen_copy(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose weights get no gradient."""
    return copy.deepcopy(network).requires_grad_(False).eval()
