"""Train in several processes as if in one: device, weights, averages.

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
    if not is_distributed():
        return 1
    return distributed.get_world_size()


def processes_on_this_machine() -> int:
    """Return how many of the processes that train together run here, according to torchrun."""
    number = os.environ.get("LOCAL_WORLD_SIZE", world_size())
    return int(number)


def is_distributed() -> bool:
    """Return whether this is a process of a group."""
    return distributed.is_available() and distributed.is_initialized()


def process_device() -> torch.device:
    """Return the GPU that the command has chosen; the CPU for a group without NCCL.

    nnU-Net's trainer takes the global rank for the GPU's number, which is wrong on several nodes.
    """
    backend = distributed.get_backend()
    if "nccl" not in backend:
        return torch.device("cpu")
    index = torch.cuda.current_device()
    return torch.device("cuda", index)


def share_weights(module: nn.Module) -> None:
    """Give every rank the first rank's parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    with torch.no_grad():
        for tensor in tensors:
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

    count = len(rows)
    rank_of_position = positions // count
    is_own = rank_of_position == distributed.get_rank()
    candidates = rows[positions % count]

    # each rank gives its own rows and zeros, so their sum is the answer
    chosen = torch.where(is_own[:, None], candidates, 0.0)
    distributed.all_reduce(chosen)
    return chosen


def share_of_mean(count: int | torch.Tensor) -> float | torch.Tensor:
    """Return the factor that turns the mean of this rank's items into its part of the mean of all.

    Ranks have different numbers of items where some are left out, such as pixels that are not
    confident.

    Args:
        count: number of own items.

    Returns:
        Own number over the ranks' mean number; 1 in a single process, 0 where no rank has any.
    """
    if not is_distributed():
        return 1.0

    own = torch.as_tensor(count, dtype=torch.float32)
    mean = mean_over_ranks(own)
    smallest = torch.finfo(mean.dtype).tiny
    return own / mean.clamp_min(smallest)


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

    flat = [gradient.flatten() for gradient in gradients]
    sizes = list(map(len, flat))
    message = torch.cat(flat)
    mean_of_message = mean_over_ranks(message)
    means = mean_of_message.split(sizes)
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def global_batch_mean(features: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``[B, ...]`` over the batches of all ranks.

    It is ``[1, ...]`` in float32, with gradient.
    """
    single = features.float()
    local = single.mean(dim=0, keepdim=True)
    if not is_distributed():
        return local
    return _MeanOverRanks.apply(local)


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
