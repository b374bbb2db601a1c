"""A codebook of vector quantisation: its codes and how often they are used."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from nnunet_ext.losses.quantization import nearest_codes

SMALLEST_USE = 1e-12  # share below which a moving average says nothing about its code


class Quantized(NamedTuple):
    """A map and its codes."""

    features: torch.Tensor  # [B, D, *spatial], what was quantised
    codes: torch.Tensor  # [B, D, *spatial], the nearest codes, with gradient to a learnt codebook
    indices: torch.Tensor  # [B, *spatial], their numbers


class Codebook(nn.Module):
    """Codes that are learnt by gradient, or that follow the features by a moving average.

    The forward pass changes nothing. The training calls :meth:`absorb` after it, so features are
    quantised with the codes as they were before the batch.

    Args:
        size: number of codes, K.
        channels: of each code, D.
        learnt: by gradient; otherwise the codes are buffers.

    Reference: van den Oord et al. 2017, "Neural Discrete Representation Learning", appendix A.1.
    """

    codes: torch.Tensor
    use: torch.Tensor  # [K], moving average of each code's share of all positions
    # [K, D], moving average of the sum of each code's features over the number of positions
    sums: torch.Tensor

    def __init__(self, size: int, channels: int, learnt: bool = True) -> None:
        super().__init__()
        self.learnt = learnt
        codes = torch.randn(size, channels)
        self.register_buffer("use", torch.full((size,), 1 / size))
        if learnt:
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
            self.register_buffer("sums", codes / size)

    def __len__(self) -> int:
        return len(self.codes)

    def forward(self, features: torch.Tensor) -> Quantized:
        """Return ``features`` ``[B, D, *spatial]`` with their nearest codes."""
        rows = rows_by_image([features])
        indices = nearest_codes(rows, self.codes)
        batch_size, _, *spatial = features.shape
        indices = indices.reshape(batch_size, *spatial)

        codes = functional.embedding(indices, self.codes)
        codes = codes.movedim(-1, 1)
        return Quantized(features, codes, indices)

    @torch.no_grad()
    def statistics(
        self, rows: torch.Tensor, indices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each code's share of the positions, and the sum of its features divided by N.

        Args:
            rows: ``[N, D]`` float32 features.
            indices: ``[N]``, their codes.

        Returns:
            ``[K]`` and ``[K, D]``.
        """
        positions = len(rows)
        one_each = torch.ones_like(rows[:, 0])
        counts = torch.zeros_like(self.use)
        counts.index_add_(0, indices, one_each)

        sums = torch.zeros_like(self.codes)
        sums.index_add_(0, indices, rows)
        return counts / positions, sums / positions

    @torch.no_grad()
    def absorb(self, share: torch.Tensor, sums: torch.Tensor, decay: float) -> None:
        """Move the averages, and codes that are not learnt, towards those of a batch."""
        weight = 1 - decay
        self.use.lerp_(share, weight)
        if self.learnt:
            return

        self.sums.lerp_(sums, weight)
        use = self.use[:, None]
        means = self.sums / use.clamp_min(SMALLEST_USE)
        is_used = use > SMALLEST_USE
        codes = torch.where(is_used, means, self.codes)
        self.codes.copy_(codes)

    @torch.no_grad()
    def replace(self, chosen: torch.Tensor, codes: torch.Tensor) -> None:
        """Replace some codes; each then counts as used as often as the average code.

        Args:
            chosen: ``[K]`` boolean.
            codes: ``[K, D]``, of which the chosen ones are taken.
        """
        average_use = 1 / len(self)
        rows = chosen[:, None]
        replaced = torch.where(rows, codes, self.codes)
        self.codes.copy_(replaced)
        self.use.masked_fill_(chosen, average_use)
        if self.learnt:
            return

        sums = torch.where(rows, codes * average_use, self.sums)
        self.sums.copy_(sums)


def rows_by_image(maps: list[torch.Tensor]) -> torch.Tensor:
    """Return the vectors of several maps ``[B, D, *spatial]`` as ``[N, D]``, image by image.

    The rows of several processes, one after the other, are thus those of their common batch.
    """
    by_image = []
    for one_map in maps:
        channels_last = one_map.movedim(1, -1)
        by_image.append(channels_last.flatten(1, -2))

    joined = torch.cat(by_image, dim=1)
    return joined.flatten(0, 1)
