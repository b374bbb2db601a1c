"""Two encoders, one decoder: the network of the relation-driven method.

Reference: Zhang et al., "Exploiting Shared Knowledge from Non-COVID Lesions ...", fig. 2, tables
I-II.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nnunet_ext.networks.planned_unet import decode, planned_unet


class RelationFeatures(NamedTuple):
    """Bottleneck features ``[B, C, *spatial]`` of one training step, named encoder_on_stream."""

    general_on_labelled: torch.Tensor  # F_G(X^c)
    target_on_labelled: torch.Tensor  # F_T(X^c)
    general_on_general: torch.Tensor  # F_G(X^n)
    general_on_unlabeled: torch.Tensor | None
    target_on_unlabeled: torch.Tensor | None


class DualEncoderOutput(NamedTuple):
    """The output of the training forward pass."""

    segmentation: torch.Tensor | list[torch.Tensor]  # logits of the labelled stream
    features: RelationFeatures
    general_map: torch.Tensor | None  # [B, C, *spatial], the decoder's, of the general stream


class DualEncoderUNet(nn.Module):
    """General and target encoder of equal shape, whose bottlenecks feed one decoder.

    The skips come from the target encoder only. The general features enter the decoder detached:
    Algorithm 1 updates the general encoder by its relation loss alone.

    Args:
        encoder_general: θ_G, returns its list of skips, bottleneck last.
        encoder: θ_T, same shape.
        decoder: θ_D, nnU-Net's decoder whose first upsampling takes twice the bottleneck's
            channels.
    """

    further_encoders: ClassVar[tuple[str, ...]] = ("encoder_general",)
    decoder: Any

    def __init__(self, encoder_general: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder_general = encoder_general
        self.encoder = encoder
        self.decoder = decoder

        # Batch statistics would mix the streams: such encoders see one stream at a time.
        modules = encoder_general.modules()
        self.batch_statistics = any(isinstance(module, _BatchNorm) for module in modules)

    @classmethod
    def from_plans(
        cls,
        configuration: ConfigurationManager,
        input_channels: int,
        output_channels: int,
        deep_supervision: bool,
    ) -> DualEncoderUNet:
        """Build the plans' U-Net (plain or residual encoder) with a second encoder.

        Raises:
            InputError: the plans' architecture is not a U-Net of nnU-Net's encoder and decoder.
        """
        unet = planned_unet(configuration, input_channels, output_channels, deep_supervision)
        upsampling = unet.decoder.transpconvs[0]
        wider = type(upsampling)(
            2 * upsampling.in_channels,
            upsampling.out_channels,
            upsampling.kernel_size,
            upsampling.stride,
            bias=upsampling.bias is not None,
        )
        unet.decoder.transpconvs[0] = wider.apply(unet.initialize)
        other = planned_unet(configuration, input_channels, output_channels, deep_supervision)
        return cls(other.encoder, unet.encoder, unet.decoder)

    def forward(
        self,
        x: torch.Tensor,
        general: torch.Tensor | None = None,
        unlabeled: torch.Tensor | None = None,
        map_general: bool = False,
    ) -> torch.Tensor | list[torch.Tensor] | DualEncoderOutput:
        """Segment ``x``; with a general stream, also return the features to compare.

        Args:
            x: ``[B, channels, *spatial]``, the labelled stream or the image to segment.
            general: the general stream (other lesions), same channels and spatial size.
            unlabeled: the unlabelled stream, same channels and spatial size; only together with
                ``general``.
            map_general: also decode the general stream.

        Returns:
            Logits ``[B, classes, *spatial]``, or a list of them, finest first, when
            ``decoder.deep_supervision``; a :class:`DualEncoderOutput` when ``general`` is given.
        """
        streams = [stream for stream in (x, general, unlabeled) if stream is not None]
        general_x, *general_others = self._encode_general(streams)
        features_of_x, target_x = self._encode_target(x, general_x)
        segmentation = self.decoder(features_of_x)
        if general is None:
            return segmentation

        general_on_unlabeled = target_on_unlabeled = None
        if unlabeled is not None:
            general_on_unlabeled = general_others[1]
            target_on_unlabeled = self.encoder(unlabeled)[-1]  # its skips are not needed
        features = RelationFeatures(
            general_on_labelled=general_x,
            target_on_labelled=target_x,
            general_on_general=general_others[0],
            general_on_unlabeled=general_on_unlabeled,
            target_on_unlabeled=target_on_unlabeled,
        )
        general_map = None
        if map_general:
            features_of_general, _ = self._encode_target(general, general_others[0])
            _, general_map = decode(self.decoder, features_of_general)
        return DualEncoderOutput(segmentation, features, general_map)

    def _encode_target(
        self, x: torch.Tensor, general_x: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return what the decoder reads, and the bottleneck of ``x`` in the target encoder."""
        *skips, target_x = self.encoder(x)
        both = torch.cat((general_x.detach(), target_x), dim=1)
        return [*skips, both], target_x

    def _encode_general(self, streams: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the general encoder's bottleneck of each stream, in one pass where possible."""
        if self.batch_statistics:
            bottlenecks = []
            for stream in streams:
                maps = self.encoder_general(stream)
                bottlenecks.append(maps[-1])
            return bottlenecks

        sizes = [len(stream) for stream in streams]
        together = torch.cat(streams)
        bottleneck = self.encoder_general(together)[-1]
        return list(bottleneck.split(sizes))
