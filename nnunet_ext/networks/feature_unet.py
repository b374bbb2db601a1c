"""nnU-Net's planned U-Net, which can also return its features in training.

Its state dictionary has the keys of the stock network, so checkpoints and ``-pretrained_weights``
work in both directions. Without a request for features it computes what the stock network computes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from nnunet_ext.networks.feature_levels import level_at_stride
from nnunet_ext.networks.planned_unet import decode, planned_unet
from nnunet_ext.networks.segmentation import Segmentation


class FeatureOutput(NamedTuple):
    """The output of the training forward pass."""

    segmentation: Segmentation | None  # as in inference; None for an image that was only encoded
    features: list[torch.Tensor]  # the encoder's maps [B, C, *spatial], finest first
    decoder_map: torch.Tensor | None  # [B, C, *spatial], what the finest head reads


class FeatureUNet(nn.Module):
    """A U-Net in two parts, f and c of the papers, with one ``forward`` for inference and training.

    Args:
        encoder: returns its list of maps, finest first, and has nnU-Net's ``strides`` and
            ``output_channels``.
        decoder: nnU-Net's decoder, made for this encoder.
    """

    encoder: Any
    decoder: Any

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @classmethod
    def from_plans(
        cls,
        configuration: ConfigurationManager,
        input_channels: int,
        output_channels: int,
        deep_supervision: bool,
    ) -> FeatureUNet:
        """Build the plans' U-Net (plain or residual encoder), with nnU-Net's random numbers.

        Raises:
            InputError: the plans' architecture is not a U-Net of nnU-Net's encoder and decoder.
        """
        unet = planned_unet(
            configuration,
            input_channels,
            output_channels,
            deep_supervision,
        )
        return cls(unet.encoder, unet.decoder)

    def forward(
        self, x: torch.Tensor, with_features: bool = False, segment: bool = True
    ) -> Segmentation | FeatureOutput:
        """Segment ``x``; on request, also return the maps on the way.

        Args:
            x: ``[B, channels, *spatial]``.
            with_features: return a :class:`FeatureOutput`.
            segment: False skips the decoder where only the encoder's maps are needed, as for target
                images; only together with ``with_features``.

        Returns:
            Logits ``[B, classes, *spatial]``, or a list of them, finest first, when
            ``decoder.deep_supervision``; a :class:`FeatureOutput` with ``with_features``.
        """
        features = self.encoder(x)
        if not with_features:
            return self.decoder(features)
        if not segment:
            return FeatureOutput(None, features, None)

        segmentation, decoder_map = self.decode(features)
        return FeatureOutput(segmentation, features, decoder_map)

    def decode(self, features: list[torch.Tensor]) -> tuple[Segmentation, torch.Tensor]:
        """Return the logits, and the map that the finest head reads."""
        return decode(self.decoder, features)

    def level(self, stride: int) -> int:
        """Return the index in ``features`` of the level with this stride, see ``level_at_stride``.

        Raises:
            InputError: the plans have no such level.
        """
        return level_at_stride(self.encoder.strides, stride)
