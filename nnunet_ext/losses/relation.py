"""Feature relations of the relation-driven method.

Reference: Zhang et al., "Exploiting Shared Knowledge from Non-COVID Lesions for
Annotation-Efficient COVID-19 CT Lung Infection Segmentation", eq. 1-5.
"""

from typing import Literal, get_args

import torch

from nnunet_ext.losses.precision import full_precision

SILENT = 1e-12  # norm of a Gram row below which its channel counts as zero everywhere
Reduction = Literal["row_mean", "sum", "element_mean"]


@full_precision
def relation_matrix(features: torch.Tensor) -> torch.Tensor:
    """Return the channel-wise relation matrix R of a batch of feature maps (eq. 1-2).

    The features are averaged over the batch and flattened to A ``[C, N]``. R is the Gram matrix A
    Aᵀ with every row divided by its L2 norm; it does not depend on the scale of the features. A
    channel that is zero everywhere gives a row of zeros and gets no gradient.

    Args:
        features: ``[B, C, *spatial]``, any floating dtype.

    Returns:
        ``[C, C]`` float32 (float64 for float64 features), values in [-1, 1], rows of unit norm.

    >>> relation_matrix(torch.eye(2).reshape(1, 2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    mean = features.mean(dim=0)
    activations = mean.flatten(start_dim=1)  # A
    gram = activations @ activations.T  # eq. 1
    norm = torch.linalg.vector_norm(gram, dim=1, keepdim=True)

    # clamp alone would send gradients of 1 / 1e-12 to a silent channel
    normalized = gram / norm.clamp_min(SILENT)
    is_active = norm > SILENT
    return torch.where(is_active, normalized, 0.0)  # eq. 2


@full_precision
def relation_consistency(
    a: torch.Tensor, b: torch.Tensor, reduction: Reduction = "row_mean"
) -> torch.Tensor:
    """Return the squared distance ‖R - R'‖² of eq. 4 and 5, without weight and sign.

    Args:
        a: ``[C, C]`` relation matrix.
        b: the other one.
        reduction: ``sum`` is the Frobenius sum as printed; ``row_mean`` (default, as in SRC-MT, on
            which the paper builds) divides it by the number of rows and is at most 4;
            ``element_mean`` divides by C².

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: unknown reduction.
    """
    squared = (a - b).square()
    if reduction == "row_mean":
        return squared.sum() / squared.shape[0]
    if reduction == "sum":
        return squared.sum()
    if reduction == "element_mean":
        return squared.mean()
    reductions = ", ".join(get_args(Reduction))
    raise ValueError(f"reduction must be one of {reductions}, not {reduction!r}")
