"""Codebooks over a training: their start, their moving averages, the restart of dead codes.

Every process ends with the same codes: statistics are averaged over the processes, and positions
are drawn from the batches of all of them with one generator.
"""

import math

import torch

from nnunet_ext.networks.codebook import Codebook
from nnunet_ext.training.engine import processes


def start_codebook(codebook: Codebook, rows: torch.Tensor, generator: torch.Generator) -> None:
    """Set every code to a feature of the batch.

    Args:
        codebook: to be set.
        rows: ``[N, D]`` float32 features of this process.
        generator: the same in every process, on the CPU.
    """
    everything = torch.ones_like(codebook.use, dtype=torch.bool)
    codebook.replace(everything, drawn_features(rows, len(codebook), generator))


def maintain_codebook(
    codebook: Codebook,
    rows: torch.Tensor,
    indices: torch.Tensor,
    decay: float,
    restart_below: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Move the averages after a step, then set dead codes to features of the batch.

    Args:
        codebook: whose codes gave ``indices``.
        rows: ``[N, D]`` float32 features of this process, N alike in all.
        indices: ``[N]`` their codes.
        decay: of the moving averages.
        restart_below: a code is dead whose average use is less than this part of an equal share, 1
            / K; 0 keeps all.
        generator: the same in every process, on the CPU.

    Returns:
        Number of codes that were restarted.

    Reference: dead codes are restarted as in Jukebox (Dhariwal et al. 2020, section 3.1).
    """
    share, sums = codebook.statistics(rows, indices)
    codebook.absorb(processes.mean_over_ranks(share), processes.mean_over_ranks(sums), decay)
    if not restart_below:
        return torch.zeros_like(codebook.use[0])

    dead = codebook.use < restart_below / len(codebook)
    codebook.replace(dead, drawn_features(rows, len(codebook), generator))
    return dead.sum()


def drawn_features(rows: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``[count, D]`` features of all processes at random positions.

    No position is drawn twice, unless there are too few.
    """
    total = len(rows) * processes.world_size()
    needed = math.ceil(count / total)
    rounds = [torch.randperm(total, generator=generator) for _ in range(needed)]
    positions = torch.cat(rounds)[:count].to(rows.device)
    return processes.rows_of_all_ranks(rows, positions)
