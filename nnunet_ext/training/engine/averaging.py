"""Moving averages of a network's weights, for teachers and for evaluation."""

import copy

import torch
from torch import nn


def decay_at(decay: float, iteration: int) -> float:
    """Return the decay of a moving average after ``iteration`` earlier updates.

    At first the average is the plain mean of the weights so far, until ``decay`` is the smaller
    number. A short training is thus not averaged with its random start.

    Reference: Tarvainen & Valpola 2017, "Mean teachers are better role models", as in the authors'
    code.
    """
    decay_of_mean = 1.0 - 1.0 / (iteration + 1)
    return min(decay, decay_of_mean)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Set every parameter to ``decay * average + (1 - decay) * network``.

    Buffers, such as statistics, are copied.

    Args:
        average, network: modules of one architecture.
    """
    weight = 1.0 - decay
    parameters = zip(average.parameters(), network.parameters(), strict=True)
    for own, other in parameters:
        own.lerp_(other, weight)

    buffers = zip(average.buffers(), network.buffers(), strict=True)
    for own_buffer, other_buffer in buffers:
        own_buffer.copy_(other_buffer)


def frozen_copy(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose weights get no gradient."""
    copied = copy.deepcopy(network)
    copied.requires_grad_(False)
    return copied.eval()
