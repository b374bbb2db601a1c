"""Weights of a network that was planned otherwise: other kernels, and more or fewer stages.

What fits is taken over as nnU-Net's own fine-tuning does after version 2.8: kernels are averaged
along axes on which ours have one voxel, stages of the encoder that we lack are dropped, those that
the source lacks stay at random. A decoder that does not fit whole stays at random.
"""

from __future__ import annotations

import re

import torch

from nnunet_ext.training.weights.matching_names import Weights

STAGE = re.compile(r"(?:^|\.)encoder\w*\.stages\.(\d+)\.")
DECODER = "decoder."
ENCODER_IN_DECODER = "decoder.encoder."  # further names of the encoder's weights
TRANSPOSED = ".transpconvs."  # whose kernels are the strides


def adapted_kernel(weight: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor | None:
    """Return a convolution's weight ``[outputs, inputs, *kernel]`` with another kernel.

    Along an axis where the wanted kernel has one voxel, it is the mean. The normalisation that
    follows each convolution of nnU-Net's networks cancels the factor between mean and sum. Where
    the wanted kernel is larger and both are odd, the weight lies in the middle of zeros, and so
    computes the same.

    Returns:
        None if there is no such rule: from 5 to 3 voxels, for instance.

    >>> adapted_kernel(torch.tensor([[[[1.0, 2.0, 6.0]]]]), (1, 1))
    tensor([[[[3.]]]])
    >>> adapted_kernel(torch.tensor([[[[5.0]]]]), (1, 3))
    tensor([[[[0., 5., 0.]]]])
    """
    for axis, wanted in enumerate(kernel, start=2):
        given = weight.shape[axis]
        if given == wanted:
            continue
        if wanted == 1:
            weight = weight.mean(axis, keepdim=True)
        elif wanted > given and (wanted - given) % 2 == 0:
            weight = _within_zeros(weight, axis, (wanted - given) // 2)
        else:
            return None
    return weight


def _within_zeros(weight: torch.Tensor, axis: int, margin: int) -> torch.Tensor:
    shape = list(weight.shape)
    shape[axis] = margin
    zeros = weight.new_zeros(shape)
    return torch.cat((zeros, weight, zeros), dim=axis)


def kernel_adaptation(theirs: torch.Tensor, own: torch.Tensor) -> str:
    """Return how a kernel was changed, in words; empty if it was not."""
    given, wanted = (tuple(weight.shape[2:]) for weight in (theirs, own))
    if given == wanted:
        return ""

    averaged = any(new < old for old, new in zip(given, wanted, strict=True))
    how = "averaged to" if averaged else "in the middle of"
    return f"kernel {_product(given)} {how} {_product(wanted)}"


def _product(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def without_surplus_stages(source: Weights, stages: int) -> Weights:
    """Return the source without the encoder stages from this number on."""
    return {name: value for name, value in source.items() if _stage(name) < stages}


def _stage(name: str) -> int:
    match = STAGE.search(name)
    return int(match[1]) if match else 0


def names_of_missing_stages(theirs: int, own: int) -> tuple[str, ...]:
    """Return what the names of weights contain that only our deeper encoder has."""
    return tuple(f".stages.{number}." for number in range(theirs, own))


def without_decoder(source: Weights) -> Weights:
    """Return the source without its decoder; the encoder's weights keep all their names."""
    kept = {}
    for name, value in source.items():
        if not name.startswith(DECODER) or name.startswith(ENCODER_IN_DECODER):
            kept[name] = value
    return kept
