"""The losses of critics, and of their opponents, who use the opposite label.

Every loss is a mean over batch and map positions, so its size does not depend on the map. For a
paper that sums instead, multiply by the number of positions.
"""

from typing import Literal, get_args

import torch
from torch.nn import functional

from nnunet_ext.losses.precision import full_precision

Kind = Literal["bce", "lsgan"]
Domain = Literal["source", "target"]
DOMAINS: tuple[Domain, ...] = ("source", "target")
OTHER_DOMAIN: dict[Domain, Domain] = {"source": "target", "target": "source"}
# (domain, real)
FOUR_WAY_CLASSES = (("source", True), ("source", False), ("target", True), ("target", False))


@full_precision
def real_fake(logits: torch.Tensor, real: bool, kind: Kind = "bce") -> torch.Tensor:
    """Return the distance of a critic's answer from "real" (1) or "fake" (0).

    Args:
        logits: any shape, unbounded.
        real: the label; a generator passes True for its own images.
        kind: ``bce`` is binary cross entropy on logits; ``lsgan`` the squared difference of the
            logit and the label.

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: unknown kind.

    Reference: Goodfellow et al. 2014; Mao et al. 2017, "Least Squares Generative Adversarial
    Networks", eq. 9 (a = 0, b = c = 1, without the factor 1/2).
    """
    label = torch.full_like(logits, float(real))
    if kind == "bce":
        return functional.binary_cross_entropy_with_logits(logits, label)
    if kind == "lsgan":
        return functional.mse_loss(logits, label)
    kinds = ", ".join(get_args(Kind))
    raise ValueError(f"kind must be one of {kinds}, not {kind!r}")


@full_precision
def source_target(logits: torch.Tensor, source: bool) -> torch.Tensor:
    """Return the binary cross entropy of a domain critic.

    Its logit is positive for "source" (1) and negative for "target" (0).

    Args:
        logits: any shape, unbounded.
        source: the label; a network that wants its target features to look like the source passes
            True for them.

    Returns:
        Scalar, at least 0; log 2 for a critic that cannot tell.
    """
    return real_fake(logits, real=source)


@full_precision
def four_way(logits: torch.Tensor, domain: Domain, real: bool) -> torch.Tensor:
    """Return the cross entropy of the patch critic that tells the domain, and real from fake.

    The classes are, in this order, source-real, source-fake, target-real, target-fake. The critic
    and the generator (always "real") keep the image's own domain; the feature extractor passes the
    other domain and "real".

    Args:
        logits: ``[B, 4, *spatial]``.
        domain: the label's first half.
        real: the label's second half.

    Returns:
        Scalar, at least 0; log 4 for a critic that cannot tell.

    Raises:
        ValueError: other than four classes, or an unknown domain.

    Reference: Chen et al., "Unsupervised domain adaptation based COVID-19 CT infection segmentation
    network", eq. 4-6, the terms Y log D(.) as a mean over patches.
    """
    expected = len(FOUR_WAY_CLASSES)
    classes = logits.shape[1]
    if classes != expected:
        raise ValueError(f"the critic must have {expected} classes, not {classes}")
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, not {domain!r}")

    label = FOUR_WAY_CLASSES.index((domain, real))
    log_probabilities = logits.log_softmax(dim=1)
    log_likelihood = log_probabilities[:, label]  # Y log D(.)
    return -log_likelihood.mean()
