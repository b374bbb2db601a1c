"""Codebooks during a training: their start, their moving averages, the restart of dead codes.

All processes hold the same codes: statistics are averaged over the processes, and positions are
drawn from the batches of all of them with the same generator.
"""

import math

import torch

from nnunet_ext.networks.codebook import Codebook
from nnunet_ext.training.engine import processes


def start_codebook(codebook: Codebook, rows: torch.Tensor, generator: torch.Generator) -> None:
    """Set every code to a feature of the batch.

    Args:
        codebook: changed in place.
        rows: ``[N, D]`` float32 features of this process.
        generator: the same in every process, on the CPU.
    """
    all_codes = torch.ones_like(codebook.use, dtype=torch.bool)
    features = drawn_features(rows, len(codebook), generator)
    codebook.replace(all_codes, features)


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
        codebook: changed in place.
        rows: ``[N, D]`` float32 features of this process; N is the same in all.
        indices: ``[N]``, the codes of the rows.
        decay: of the moving averages.
        restart_below: a code is dead if its average use is below this fraction of an equal share, 1
            / K; 0 restarts none.
        generator: the same in every process, on the CPU.

    Returns:
        Number of restarted codes.

    Reference: dead codes are restarted as in Jukebox (Dhariwal et al. 2020, section 3.1).
    """
    share, sums = codebook.statistics(rows, indices)
    share = processes.mean_over_ranks(share)
    sums = processes.mean_over_ranks(sums)
    codebook.absorb(share, sums, decay)
    if not restart_below:
        return torch.zeros_like(codebook.use[0])

    lowest_use = restart_below / len(codebook)
    is_dead = codebook.use < lowest_use
    features = drawn_features(rows, len(codebook), generator)
    codebook.replace(is_dead, features)
    return is_dead.sum()


def drawn_features(rows: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``[count, D]`` features of all processes at random positions.

    No position is drawn twice, unless there are too few.
    """
    total = len(rows) * processes.world_size()
    needed_rounds = math.ceil(count / total)
    rounds = []
    for _ in range(needed_rounds):
        all_positions = torch.randperm(total, generator=generator)
        rounds.append(all_positions)

    drawn = torch.cat(rounds)[:count]
    positions = drawn.to(rows.device)
    return processes.rows_of_all_ranks(rows, positions)
