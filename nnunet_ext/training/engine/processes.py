"""What several processes need to train as one: their device, equal weights, averaged gradients and
features.

Networks are called directly, not through DistributedDataParallel: its reducer fails with networks
that alternate. Gradients are averaged where the optimizer steps. Every rank must run the same step,
on batches of the same size.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed, nn


def world_size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if is_distributed() else 1


def is_distributed() -> bool:
    """True inside a process group."""
    return distributed.is_available() and distributed.is_initialized()


def process_device() -> torch.device:
    """The GPU that the command has chosen for this process; a group without NCCL trains on the CPU.

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
    """Mean of a tensor of the same shape over all ranks; without gradient."""
    if not is_distributed():
        return tensor
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total / world_size()


def rows_of_all_ranks(rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows at some positions of the concatenation of every rank's ``[N, D]``, N alike in all;
    without gradient.

    Args:
        rows: this rank's.
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
    """Return what a mean over this rank's own items weighs, so that the ranks' mean is that of all
    items.

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
    """Every rank's entries, together."""
    parts = [own]
    if is_distributed():
        parts = [{} for _ in range(world_size())]
        distributed.all_gather_object(parts, own)
    return {key: value for part in parts for key, value in part.items()}


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all ranks, in one message."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not is_distributed() or not gradients:
        return
    means = mean_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(gradients, means.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def global_batch_mean(features: torch.Tensor) -> torch.Tensor:
    """Mean of ``[B, ...]`` over the batches of all ranks, in float32: ``[1, ...]``, with
    gradient.
    """
    local = features.float().mean(dim=0, keepdim=True)
    return _MeanOverRanks.apply(local) if is_distributed() else local


class _MeanOverRanks(torch.autograd.Function):
    """Its gradient is the same mean, given that the parameters' gradients are averaged
    afterwards.
    """

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        return mean_over_ranks(local)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return mean_over_ranks(gradients[0])
