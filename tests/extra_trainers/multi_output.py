"""A trainer in a folder of the user's own: several supervised outputs, without nnU-Net's
decoder.
"""

import json
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer


class FourOutputs(nn.Module):
    """Four heads on one trunk; a list while training, one tensor otherwise."""

    def __init__(self, input_channels: int, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(input_channels, 4, 3, padding=1)
        self.heads = nn.ModuleList(nn.Conv2d(4, classes, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        features = self.trunk(x)
        if not self.training:
            return self.heads[0](features)
        return [head(features) for head in self.heads]


class MultiOutputTrainer(MultiStreamTrainer):
    """Writes which parameters got a gradient in the last step of every epoch.

    Reference: none, a test.
    """

    enable_deep_supervision: bool = False

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        return FourOutputs(num_input_channels, num_output_channels)

    def training_step(self, batch: dict[str, Any]) -> None:
        losses = [self.loss(output, batch["target"]) for output in self.network(batch["data"])]
        self.update("network", segmentation=torch.stack(losses).mean())

        moved = {
            name: bool(p.grad is not None and p.grad.any())
            for name, p in self.network.named_parameters()
        }
        Path(self.output_folder, f"gradients_{self.current_epoch}.json").write_text(
            json.dumps(moved)
        )
