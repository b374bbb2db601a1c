"""Training diagnostics: non-finite losses, discriminator balance, codebook usage."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from nnunet_ext.errors import InputError


class NonFiniteLoss(InputError):
    """A loss or gradient became NaN or infinite; the message names it, where, and the batch."""


def not_finite(values: Mapping[str, float]) -> list[str]:
    """Return ``name is nan`` for every value that is not finite."""
    wrong = {name: value for name, value in values.items() if not math.isfinite(value)}
    return [f"{name} is {float(value):g}" for name, value in wrong.items()]


def case_names(batch: Mapping) -> str:
    """Return the cases of a batch, those of further streams behind their role."""
    names = [", ".join(map(str, batch.get("keys", ())))]
    for role, part in batch.items():
        if isinstance(part, Mapping):
            names.append(f"{role}: {case_names(part)}")
    return "; ".join(names)


def discriminator_balance(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Return the fraction of a discriminator's judgements that are right.

    A fraction of 0.5 is balance; at 1 the discriminator has won.

    Args:
        real_logits, fake_logits: any shape; above 0 means real.

    Returns:
        Scalar in [0, 1]; the mean of both fractions.
    """
    right = (real_logits > 0).float().mean() + (fake_logits <= 0).float().mean()
    return right.detach() / 2


def codebook_use(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Return how evenly codes are used: perplexity of their frequencies over the codebook's size.

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
    """Return the norm of a loss's gradient over that of another's.

    It tells which of two losses rules the parameters that they share.

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
        per_parameter = [gradient.norm() for gradient in gradients if gradient is not None]
        norms.append(torch.stack(per_parameter).norm())
    return norms[0] / norms[1]
