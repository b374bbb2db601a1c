"""What several processes need to train as one: device, weights, averages.

Networks are called directly, not through DistributedDataParallel: its reducer fails with networks
that alternate. Gradients are averaged where the optimizer steps. Every rank must run the same step,
on batches of the same size.
"""

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed, nn


def world_size() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if is_distributed() else 1


def processes_on_this_machine() -> int:
    """Return how many of the processes that train together run here, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def is_distributed() -> bool:
    """Return whether this is a process of a group."""
    return distributed.is_available() and distributed.is_initialized()


def process_device() -> torch.device:
    """Return the GPU that the command has chosen; the CPU for a group without NCCL.

    nnU-Net's trainer takes the global rank for the GPU's number, which is wrong on several nodes.
    """
    if "nccl" not in distributed.get_backend():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def share_weights(module: nn.Module) -> None:
    """Give every rank the first rank's parameters and buffers."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            distributed.broadcast(tensor, src=0)


def mean_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor of the same shape over all ranks; without gradient."""
    if not is_distributed():
        return tensor

    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total / world_size()


def rows_of_all_ranks(rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return rows of the concatenation of every rank's ``[N, D]``; without gradient.

    Args:
        rows: this rank's; N is the same in all.
        positions: ``[M]`` in [0, N x ranks), the same in every rank.

    Returns:
        ``[M, D]``, the same in every rank.
    """
    rows = rows.detach()
    if not is_distributed():
        return rows[positions]

    is_own = positions // len(rows) == distributed.get_rank()
    own = torch.where(is_own[:, None], rows[positions % len(rows)], 0.0)
    distributed.all_reduce(own)
    return own


def share_of_mean(count: int | torch.Tensor) -> float | torch.Tensor:
    """Return the factor that turns the mean of this rank's items into its part of the mean of all.

    Ranks have unequal numbers of items where some are left out, such as pixels that are not
    confident.

    Args:
        count: number of own items.

    Returns:
        Own number over the ranks' mean number; 1 in a single process, 0 where no rank has any.
    """
    if not is_distributed():
        return 1.0

    own = torch.as_tensor(count, dtype=torch.float32)
    return own / mean_over_ranks(own).clamp_min(torch.finfo(own.dtype).tiny)


def union_over_ranks(own: dict[str, Any]) -> dict[str, Any]:
    """Return every rank's entries, together."""
    parts = [own]
    if is_distributed():
        parts = [{}] * world_size()
        distributed.all_gather_object(parts, own)

    union: dict[str, Any] = {}
    for part in parts:
        union |= part
    return union


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all ranks, in one message."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not is_distributed() or not gradients:
        return

    message = torch.cat([gradient.flatten() for gradient in gradients])
    sizes = [gradient.numel() for gradient in gradients]
    means = mean_over_ranks(message).split(sizes)
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def global_batch_mean(features: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``[B, ...]`` over the batches of all ranks.

    It is ``[1, ...]`` in float32, with gradient.
    """
    local = features.float().mean(dim=0, keepdim=True)
    return _MeanOverRanks.apply(local) if is_distributed() else local


class _MeanOverRanks(torch.autograd.Function):
    """The mean over all ranks, with gradient.

    Its gradient is the same mean, given that the parameters' gradients are averaged afterwards.
    """

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        return mean_over_ranks(local)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return mean_over_ranks(gradients[0])
