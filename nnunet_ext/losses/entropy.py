"""Entropy of predictions, which MinEnt minimises and AdvEnt's critic judges.

Reference: Vu et al. 2019, "ADVENT: Adversarial Entropy Minimization for Domain Adaptation in
Semantic Segmentation", eq. 2-4.
"""

import math

import torch

from nnunet_ext.losses.precision import full_precision


@full_precision
def self_information_map(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the weighted self-information -p log p / log C of every class.

    A probability of 0 gives 0 and a finite gradient: softmax underflows to 0 where logits lie 104
    apart.

    Args:
        probabilities: ``[B, C, *spatial]`` softmax, C at least 2.

    Returns:
        ``[B, C, *spatial]`` in [0, 1 / (e log C)]; its sum over the classes is :func:`entropy_map`.

    Raises:
        ValueError: fewer than two classes.
    """
    classes = probabilities.shape[1]
    if classes < 2:
        raise ValueError(f"entropy needs at least 2 classes, not {classes}")

    smallest = torch.finfo(probabilities.dtype).tiny
    positive = probabilities.clamp_min(smallest)
    information = -positive.log()
    largest_entropy = math.log(classes)
    return probabilities * information / largest_entropy


@full_precision
def entropy_map(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the Shannon entropy of every pixel as a share of its maximum, log C.

    Args:
        probabilities: ``[B, C, *spatial]`` softmax, C at least 2.

    Returns:
        ``[B, *spatial]`` in [0, 1]; 1 where all classes are equally likely.

    >>> entropy_map(torch.tensor([[0.5, 0.5]]))
    tensor([1.])
    """
    return self_information_map(probabilities).sum(dim=1)


@full_precision
def entropy_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean normalised entropy of the predictions, MinEnt's L_ent.

    Args:
        logits: ``[B, C, *spatial]``, C at least 2.

    Returns:
        Scalar in [0, 1].
    """
    probabilities = logits.softmax(dim=1)
    entropy = entropy_map(probabilities)
    return entropy.mean()
