"""Two encoders, one decoder: the network of the relation-driven method.

Reference: Zhang et al., "Exploiting Shared Knowledge from Non-COVID Lesions ...", fig. 2, tables
I-II.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nnunet_ext.networks.planned_unet import planned_unet


class RelationFeatures(NamedTuple):
    """Bottleneck features ``[B, C, *spatial]`` of one training step, named encoder_on_stream."""

    general_on_labelled: torch.Tensor  # F_G(X^c)
    target_on_labelled: torch.Tensor  # F_T(X^c)
    general_on_general: torch.Tensor  # F_G(X^n)
    general_on_unlabeled: torch.Tensor | None
    target_on_unlabeled: torch.Tensor | None


class DualEncoderOutput(NamedTuple):
    """The output of the training forward pass: segmentation logits, and the features to relate."""

    segmentation: torch.Tensor | list[torch.Tensor]
    features: RelationFeatures
    general_segmentation: torch.Tensor | list[torch.Tensor] | None = None


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
        segment_general: bool = False,
    ) -> torch.Tensor | list[torch.Tensor] | DualEncoderOutput:
        """Segment ``x``; with a general stream, also return the features to compare.

        Args:
            x: ``[B, channels, *spatial]``, the labelled stream or the image to segment.
            general: the general stream (other lesions), same channels and spatial size.
            unlabeled: the unlabelled stream, same channels and spatial size; only together with
                ``general``.
            segment_general: segment the general stream, too.

        Returns:
            Logits ``[B, classes, *spatial]``, or a list of them, finest first, when
            ``decoder.deep_supervision``; a :class:`DualEncoderOutput` when ``general`` is given.
        """
        streams = [stream for stream in (x, general, unlabeled) if stream is not None]
        general_x, *general_others = self._encode_general(streams)
        segmentation, target_x = self._segment(x, general_x)
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
        general_segmentation = None
        if segment_general:
            general_segmentation, _ = self._segment(general, general_others[0])
        return DualEncoderOutput(segmentation, features, general_segmentation)

    def _segment(
        self, x: torch.Tensor, general_x: torch.Tensor
    ) -> tuple[torch.Tensor | list[torch.Tensor], torch.Tensor]:
        """Return the decoder's logits of ``x``, and its bottleneck in the target encoder."""
        *skips, target_x = self.encoder(x)
        bottleneck = torch.cat((general_x.detach(), target_x), dim=1)
        return self.decoder([*skips, bottleneck]), target_x

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
