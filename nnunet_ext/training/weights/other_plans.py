"""Weights of a network with other plans: other kernels, and more or fewer stages.

The rules are those of nnU-Net's own fine-tuning after version 2.8. Kernels are averaged along axes
on which ours have one voxel. Encoder stages that our network lacks are dropped; stages that the
source lacks stay random. So does a decoder if not all of it fits.
"""

from __future__ import annotations

import operator
import re

import torch

from nnunet_ext.training.weights.matching_names import Weights

STAGE = re.compile(r"(?:^|\.)encoder\w*\.stages\.(\d+)\.")
DECODER = "decoder."
ENCODER_IN_DECODER = "decoder.encoder."  # further names of the encoder's weights
TRANSPOSED = ".transpconvs."  # whose kernels are the strides


def adapted_kernel(weight: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor | None:
    """Return a convolution's weight ``[outputs, inputs, *kernel]`` with another kernel.

    Along an axis on which the wanted kernel has one voxel, the weights are averaged. The
    normalisation after each convolution of nnU-Net's networks cancels the factor between mean and
    sum. If the wanted kernel is larger and both are odd, the weight is padded with zeros on both
    sides, which gives the same result.

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
    """Pad a weight with zeros on both sides of an axis."""
    shape = list(weight.shape)
    shape[axis] = margin
    zeros = weight.new_zeros(shape)
    padded = (zeros, weight, zeros)
    return torch.cat(padded, dim=axis)


def kernel_adaptation(theirs: torch.Tensor, own: torch.Tensor) -> str:
    """Return how a kernel was changed, in words; empty if it was not."""
    given = tuple(theirs.shape[2:])
    wanted = tuple(own.shape[2:])
    if given == wanted:
        return ""

    is_averaged = any(map(operator.lt, wanted, given))
    how = "averaged to" if is_averaged else "in the middle of"
    given_text = _product(given)
    wanted_text = _product(wanted)
    return f"kernel {given_text} {how} {wanted_text}"


def _product(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def without_surplus_stages(source: Weights, stages: int) -> Weights:
    """Return the source without the encoder stages from this number on."""
    kept = {}
    for name, value in source.items():
        if _stage(name) < stages:
            kept[name] = value
    return kept


def _stage(name: str) -> int:
    """Return the number of the encoder stage of a weight; 0 for other weights."""
    match = STAGE.search(name)
    if match is None:
        return 0
    return int(match[1])


def names_of_missing_stages(theirs: int, own: int) -> tuple[str, ...]:
    """Return the parts of names by which the weights of our additional stages are known."""
    names = []
    for number in range(theirs, own):
        names.append(f".stages.{number}.")
    return tuple(names)


def without_decoder(source: Weights) -> Weights:
    """Return the source without its decoder; the encoder's weights keep all their names."""
    kept = {}
    for name, value in source.items():
        if not name.startswith(DECODER) or name.startswith(ENCODER_IN_DECODER):
            kept[name] = value
    return kept
