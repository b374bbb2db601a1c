"""Vector quantisation: the nearest code, the gradient past it, and its losses.

Reference: van den Oord et al. 2017, "Neural Discrete Representation Learning"; eq. 1-2 of Jin et
al. 2022, "An efficient deep neural network framework for COVID-19 lung infection segmentation".
Squared norms are means over all elements, so that a loss depends neither on the size of the map nor
on the number of channels.
"""

import torch
from torch.nn import functional

from nnunet_ext.losses.precision import full_precision


@torch.no_grad()
@full_precision
def nearest_codes(features: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Return the index of the code with the smallest Euclidean distance to each feature (eq. 1).

    Args:
        features: ``[N, D]``.
        codebook: ``[K, D]``.

    Returns:
        ``[N]`` int64 in [0, K); the first of equally near codes.

    >>> nearest_codes(torch.tensor([[0.9, 0.0], [0.0, 3.0]]), torch.eye(2))
    tensor([0, 1])
    """
    squares = codebook.square()
    squared_norms = squares.sum(dim=1)
    products = features @ codebook.T
    distances = squared_norms - 2 * products  # the norm of the feature is the same for every code
    return distances.argmin(dim=1)


@full_precision
def straight_through(features: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the codes; their gradient goes to the features unchanged, and not to the codes.

    Args:
        features: any shape, what was quantised.
        codes: the same shape, their nearest codes.
    """
    step = codes - features
    return features + step.detach()


@full_precision
def codebook_loss(features: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Pull the codes to the features: ‖sg[E(x)] - e‖², the second term of eq. 2.

    Args:
        features: any shape; they get no gradient.
        codes: the same shape.

    Returns:
        Scalar, at least 0: mean over all elements.
    """
    fixed_features = features.detach()  # sg[E(x)]
    return functional.mse_loss(codes, fixed_features)


@full_precision
def commitment_loss(features: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Pull the features to their codes: ‖sg[e] - E(x)‖², the third term of eq. 2 without β.

    Args:
        features: any shape.
        codes: the same shape; they get no gradient.

    Returns:
        Scalar, at least 0: mean over all elements.
    """
    fixed_codes = codes.detach()  # sg[e]
    return functional.mse_loss(features, fixed_codes)
