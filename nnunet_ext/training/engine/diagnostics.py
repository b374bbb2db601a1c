"""Training diagnostics: non-finite losses, discriminator balance, gradient ratios, codebook
usage.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from nnunet_ext.errors import InputError


class NonFiniteLoss(InputError):
    """A loss or gradient became NaN or infinite; the message names it, where, and the batch."""


def not_finite(values: Mapping[str, float]) -> list[str]:
    """``name is nan`` of every value that is no finite number."""
    return [f"{name} is {float(v):g}" for name, v in values.items() if not math.isfinite(v)]


def case_names(batch: Mapping) -> str:
    """The cases of a batch, those of further streams behind their role."""
    own = ", ".join(map(str, batch.get("keys", ())))
    further = [
        f"{role}: {case_names(part)}" for role, part in batch.items() if isinstance(part, Mapping)
    ]
    return "; ".join([own, *further])


def discriminator_balance(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Fraction of a discriminator's judgements that are right: 0.5 is balance, 1 a discriminator
    that has won.

    Args:
        real_logits, fake_logits: any shape; above 0 means real.

    Returns:
        Scalar in [0, 1]; the mean of both fractions.
    """
    right = (real_logits > 0).float().mean() + (fake_logits <= 0).float().mean()
    return right.detach() / 2


def codebook_use(indices: torch.Tensor, size: int) -> torch.Tensor:
    """How evenly the codes of a codebook are used: perplexity of their frequencies over its size.

    Args:
        indices: chosen codes, integers in [0, size), any shape.
        size: number of codes.

    Returns:
        Scalar in [1 / size, 1]; 1 / size is a collapsed codebook, 1 one whose codes are equally
        frequent.
    """
    frequencies = torch.bincount(indices.flatten(), minlength=size).float() / indices.numel()
    return torch.exp(torch.special.entr(frequencies).sum()) / size


def gradient_ratio(
    loss: torch.Tensor, other: torch.Tensor, parameters: Iterable[nn.Parameter]
) -> torch.Tensor:
    """Norm of a loss's gradient over that of another's: which of two losses rules the parameters
    they share.

    Args:
        loss, other: scalars whose graphs stay usable.
        parameters: those that both losses reach.

    Returns:
        Scalar, at least 0; infinite where the other loss has no gradient.
    """
    shared = list(parameters)
    norms = []
    for one in (loss, other):
        gradients = torch.autograd.grad(one, shared, retain_graph=True, allow_unused=True)
        norms.append(
            torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm()
        )
    return norms[0] / norms[1]
