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
    found = []
    for name, value in values.items():
        if not math.isfinite(value):
            found.append(f"{name} is {float(value):g}")
    return found


def case_names(batch: Mapping) -> str:
    """Return the cases of a batch as text; further streams are listed after their role."""
    keys = map(str, batch.get("keys", ()))
    names = [", ".join(keys)]
    for role, part in batch.items():
        if isinstance(part, Mapping):
            names_of_stream = case_names(part)
            names.append(f"{role}: {names_of_stream}")
    return "; ".join(names)


def discriminator_balance(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Return the fraction of a discriminator's judgements that are right.

    At 0.5 both sides are in balance; at 1 the discriminator has won.

    Args:
        real_logits, fake_logits: any shape; above 0 means real.

    Returns:
        Scalar in [0, 1]; the mean of both fractions.
    """
    right_on_real = (real_logits > 0).float()
    right_on_fake = (fake_logits <= 0).float()
    sum_of_fractions = right_on_real.mean() + right_on_fake.mean()
    return sum_of_fractions.detach() / 2


def codebook_use(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Return how evenly codes are used: perplexity of their frequencies over the codebook's size.

    Args:
        indices: chosen codes, integers in [0, size), any shape.
        size: number of codes.

    Returns:
        Scalar in [1 / size, 1]: 1 / size for a collapsed codebook, 1 where all codes are equally
        frequent.
    """
    counts = torch.bincount(indices.flatten(), minlength=size)
    frequencies = counts.float() / indices.numel()
    entropy = torch.special.entr(frequencies).sum()
    perplexity = torch.exp(entropy)
    return perplexity / size


def gradient_ratio(
    loss: torch.Tensor, other: torch.Tensor, parameters: Iterable[nn.Parameter]
) -> torch.Tensor:
    """Return the norm of a loss's gradient divided by that of another loss.

    It shows which of two losses dominates the parameters that they share.

    Args:
        loss, other: scalars whose graphs stay usable.
        parameters: those that both losses depend on.

    Returns:
        Scalar, at least 0; infinite where the other loss has no gradient.
    """
    shared = list(parameters)
    norms = []
    for one in (loss, other):
        gradients = torch.autograd.grad(
            one,
            shared,
            retain_graph=True,
            allow_unused=True,
        )
        norms_of_parameters = []
        for gradient in gradients:
            if gradient is not None:
                norms_of_parameters.append(gradient.norm())
        joined = torch.stack(norms_of_parameters)
        norms.append(joined.norm())

    own_norm, other_norm = norms
    return own_norm / other_norm
