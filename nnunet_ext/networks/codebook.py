"""A codebook of vector quantisation: its codes, and how often they are used."""

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

    The forward pass changes nothing. Whoever trains calls :meth:`absorb` after it: features are
    quantised with the codes of before.

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
        indices = nearest_codes(rows, self.codes).reshape(len(features), *features.shape[2:])
        codes = functional.embedding(indices, self.codes).movedim(-1, 1)
        return Quantized(features, codes, indices)

    @torch.no_grad()
    def statistics(
        self, rows: torch.Tensor, indices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each code's share of the positions, and the sum of its features over N.

        Args:
            rows: ``[N, D]`` float32 features.
            indices: ``[N]`` their codes.

        Returns:
            ``[K]`` and ``[K, D]``.
        """
        share = torch.zeros_like(self.use)
        share.index_add_(0, indices, torch.ones_like(rows[:, 0]))
        sums = torch.zeros_like(self.codes)
        sums.index_add_(0, indices, rows)
        return share / len(rows), sums / len(rows)

    @torch.no_grad()
    def absorb(self, share: torch.Tensor, sums: torch.Tensor, decay: float) -> None:
        """Move the averages and the codes that are not learnt towards a batch."""
        self.use.lerp_(share, 1 - decay)
        if self.learnt:
            return

        self.sums.lerp_(sums, 1 - decay)
        means = self.sums / self.use.clamp_min(SMALLEST_USE)[:, None]
        is_used = self.use[:, None] > SMALLEST_USE
        self.codes.copy_(torch.where(is_used, means, self.codes))

    @torch.no_grad()
    def replace(self, chosen: torch.Tensor, codes: torch.Tensor) -> None:
        """Replace some codes; they count as averagely used from now on.

        Args:
            chosen: ``[K]`` boolean.
            codes: ``[K, D]``, of which the chosen ones are taken.
        """
        usual = 1 / len(self)
        rows = chosen[:, None]
        self.codes.copy_(torch.where(rows, codes, self.codes))
        self.use.masked_fill_(chosen, usual)
        if not self.learnt:
            self.sums.copy_(torch.where(rows, codes * usual, self.sums))


def rows_by_image(maps: list[torch.Tensor]) -> torch.Tensor:
    """Return the vectors of several maps ``[B, D, *spatial]`` as ``[N, D]``.

    Those of each image are together.

    The batches of several processes, one behind the other, thus give the rows of their common
    batch.
    """
    by_image = [one.movedim(1, -1).flatten(1, -2) for one in maps]
    return torch.cat(by_image, dim=1).flatten(0, 1)
