"""Whether nnU-Net alone predicts with weights of another trainer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.training.weights.transfer import build_network

STOCK_TRAINER = "nnUNetTrainer"
STOCK_PACKAGE = "nnunetv2."
STOCK_NETWORKS = "dynamic_network_architectures."  # which nnU-Net requires itself
# Two ways to compute the same logits differ by rounding; other networks differ by far more.
RELATIVE_TOLERANCE = 1e-4

Weights = Mapping[str, torch.Tensor]


def why_more_than_nnunet(
    trainer: type,
    plans: PlansManager,
    configuration: str,
    dataset_json: dict[str, Any],
    weights: Mapping[Path, Weights],
) -> str:
    """Return why an environment with only nnU-Net cannot predict; empty if it can.

    It can if nnU-Net's own trainer builds a network from the plans that takes the weights and gives
    the same logits for the same image.

    Args:
        trainer: of the model.
        plans: of the model.
        configuration: name of it in the plans.
        dataset_json: of the model.
        weights: the network's weights by the checkpoint that holds them.

    Raises:
        InputError: weights that do not fit the trainer's own network, or are not finite.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    manager = plans.get_configuration(configuration)
    own = build_network(trainer, plans, configuration, dataset_json)
    _require_fit(own, weights)
    if not manager.network_arch_class_name.startswith(STOCK_NETWORKS):
        return f"the plans' network is {manager.network_arch_class_name}"
    if is_nnunets(trainer):
        return ""

    stock = build_network(nnUNetTrainer, plans, configuration, dataset_json)
    if shapes(own) != shapes(stock):
        return "its network has other layers than nnU-Net's"
    channels = determine_num_input_channels(plans, manager, dataset_json)
    images = _noise(manager, channels)
    if not _agree(own, stock, images, weights.values()):
        return "its network computes something other than nnU-Net's"
    return ""


def is_nnunets(trainer: type) -> bool:
    """Return whether a trainer is part of nnU-Net."""
    return trainer.__module__.startswith(STOCK_PACKAGE)


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of each weight of a network by name."""
    return {name: value.shape for name, value in network.state_dict().items()}


def _require_fit(network: nn.Module, weights: Mapping[Path, Weights]) -> None:
    expected = shapes(network)
    for file, of_file in weights.items():
        found = {name: value.shape for name, value in of_file.items()}
        if found != expected:
            differing = sorted(expected.items() ^ found.items())
            raise InputError(
                f"{file}: its weights do not fit the network that its trainer builds from its "
                f"plans, first {differing[0][0]}; give the checkpoint and plans of one training"
            )
        for name, value in of_file.items():
            if not torch.isfinite(value).all():
                raise InputError(
                    f"{file}: {name} is not finite, the training diverged; share another model"
                )


def _noise(configuration: ConfigurationManager, channels: int) -> torch.Tensor:
    """Return a small image of noise, ``[1, channels, *spatial]``, that the planned network takes.

    Its lowest level has two voxels along each axis.
    """
    strides = configuration.network_arch_init_kwargs["strides"]
    sizes = [2 * math.prod(of_axis) for of_axis in zip(*strides, strict=True)]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, *sizes, generator=generator)


@torch.inference_mode()
def _agree(
    own: nn.Module, stock: nn.Module, images: torch.Tensor, weights: Iterable[Weights]
) -> bool:
    """Return whether two networks give equal logits with each of the weights."""
    for of_fold in weights:
        own.load_state_dict(of_fold)
        stock.load_state_dict(of_fold)
        expected = own.eval()(images)
        found = stock.eval()(images)
        if not isinstance(expected, torch.Tensor) or expected.shape != found.shape:
            return False

        tolerance = RELATIVE_TOLERANCE * float(expected.abs().max())
        if not torch.allclose(expected, found, rtol=0, atol=tolerance):
            return False
    return True
