"""Adapt the weights of a checkpoint to the shapes of a network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nnunet_ext.training.weights.matching_names import further_encoders
from nnunet_ext.training.weights.other_plans import (
    TRANSPOSED,
    adapted_kernel,
    kernel_adaptation,
)

# nnU-Net's name of the decoder's first upsampling, (bottleneck, outputs, *kernel). In a network
# with further encoders it reads the bottlenecks of all, that of `encoder` last.
FIRST_UPSAMPLING = "decoder.transpconvs.0.weight"


class Fitted(NamedTuple):
    """A weight in the shape that the network needs."""

    value: torch.Tensor
    adaptation: str = ""  # what was changed; empty: copied


def adapted_to_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Adapt a convolution's weight ``[outputs, inputs, *kernel]`` to other input channels.

    For one channel the inputs are summed. For several channels they are repeated in turn and scaled
    by given / wanted channels.

    >>> adapted_to_channels(torch.tensor([[1.0, 2.0, 3.0]]), 1)
    tensor([[6.]])
    >>> adapted_to_channels(torch.tensor([[6.0]]), 3)
    tensor([[2., 2., 2.]])
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)

    given = weight.shape[1]
    scale = given / channels
    in_turn = [channel % given for channel in range(channels)]
    repeated = weight[:, in_turn]
    return repeated * scale


def image_convolutions(network: nn.Module) -> set[int]:
    """Return the identities of the weights that read the image: the first one of each encoder.

    In a network without an encoder it is the first convolution.
    """
    encoders = []
    for name in (*further_encoders(network), "encoder"):
        if hasattr(network, name):
            encoders.append(getattr(network, name))

    weights = set()
    for part in encoders or [network]:
        for module in part.modules():
            if isinstance(module, _ConvNd):
                weights.add(id(module.weight))
                break
    return weights


def fitted(
    name: str, theirs: torch.Tensor, own: torch.Tensor, reads_image: bool, adapt: bool = False
) -> Fitted | None:
    """Return the source's tensor in the shape of ours; None if it does not fit.

    Args:
        name: of our tensor.
        theirs: the source's.
        own: ours.
        reads_image: it is the weight of a convolution that reads the image.
        adapt: kernels of convolutions may differ, see :func:`adapted_kernel`.
    """
    if theirs.shape == own.shape:
        return Fitted(theirs)
    if theirs.ndim != own.ndim:
        return None

    is_convolution = own.ndim > 2 and TRANSPOSED not in name
    if adapt and is_convolution and theirs.shape[2:] != own.shape[2:]:
        return _with_other_kernel(name, theirs, own, reads_image)
    if reads_image:
        return _image_convolution(theirs, own)
    if name == FIRST_UPSAMPLING and theirs.shape[1:] == own.shape[1:]:
        return _first_upsampling(theirs, len(own))
    return None


def _with_other_kernel(
    name: str, theirs: torch.Tensor, own: torch.Tensor, reads_image: bool
) -> Fitted | None:
    """Return their weight with our kernel, and then in our shape."""
    weight = adapted_kernel(theirs, tuple(own.shape[2:]))
    if weight is None:
        return None
    result = fitted(name, weight, own, reads_image)
    if result is None:
        return None
    changes = [kernel_adaptation(theirs, own), result.adaptation]
    return Fitted(result.value, "; ".join(filter(None, changes)))


def _image_convolution(theirs: torch.Tensor, own: torch.Tensor) -> Fitted | None:
    """Return their weight for our number of input channels; outputs and kernel must be equal."""
    their_outputs, given, *their_kernel = theirs.shape
    own_outputs, wanted, *own_kernel = own.shape
    if their_outputs != own_outputs or their_kernel != own_kernel:
        return None

    adapted = adapted_to_channels(theirs, wanted)
    how = "summed to" if wanted == 1 else "repeated and rescaled to"
    adaptation = f"{given} input channels {how} {wanted}"
    return Fitted(adapted, adaptation)


def _first_upsampling(theirs: torch.Tensor, wanted: int) -> Fitted | None:
    """Return their weight for one encoder more or less; the half that reads ``encoder`` is kept."""
    given = len(theirs)
    if wanted == 2 * given:
        other_half = torch.zeros_like(theirs)
        both = torch.cat((other_half, theirs))
        return Fitted(both, "the half of encoder copied, that of the other encoder zero")
    if given == 2 * wanted:
        half = theirs[wanted:]
        return Fitted(half, "the half of encoder copied, that of the other one dropped")
    return None
