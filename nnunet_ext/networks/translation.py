"""Translation between two modalities: encoders, decoders, and a module that they share.

2d only. Nothing works in place: several losses differentiate through one graph. A convolution
before a normalisation has no bias, because the normalisation would remove it.

Reference: the AMD-DAS paper, section 4.2.1, and its public code; see docs/amd_das.md.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from nnunet_ext.networks.segmentation import Segmentation

Upsampling = Literal["transposed", "repeated"]
WIDEST = 4  # channels between encoder and decoder, in multiples of the width
BACKGROUND_Z_SCORE = -3.0
GROWTH, DENSE_CONVOLUTIONS = 12, 5


class TranslationEncoder(nn.Sequential):
    """A 7-convolution and two 3-convolutions of stride 2, with instance normalisation and ReLU.

    Args:
        input_channels: of the image.
        width: channels of the first convolution; they double twice.

    Shape: ``[B, input_channels, H, W]`` -> ``[B, 4 width, ceil(H / 4), ceil(W / 4)]``; H and W at
    least 4.
    """

    def __init__(self, input_channels: int, width: int = 64) -> None:
        first = nn.Conv2d(input_channels, width, kernel_size=7, bias=False)
        super().__init__(
            nn.ReflectionPad2d(3),
            *_normalised(first),
            *_halving(width, 2 * width),
            *_halving(2 * width, 4 * width),
        )


class DenseFusion(nn.Module):
    """One dense block of five 3-convolutions of 12 channels, and a 3-convolution.

    The last convolution has as many channels as the input.

    Args:
        channels: of input and output.

    Shape: ``[B, channels, H, W]`` -> the same.

    Reference: Huang et al. 2017, "Densely Connected Convolutional Networks"; numbers from the
    authors' code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dense = nn.ModuleList()
        inputs = channels
        for _ in range(DENSE_CONVOLUTIONS):
            self.dense.append(_three_convolution(inputs, GROWTH))
            inputs += GROWTH
        self.last = _three_convolution(inputs, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for convolution in self.dense:
            grown = convolution(x)
            x = torch.cat((x, grown), dim=1)
        return self.last(x)


class TranslationDecoder(nn.Module):
    """Two layers that double the size, and a 7-convolution to the image.

    Args:
        output_channels: of the image.
        width: channels before the last convolution.
        bounded: end in tanh, for images within [-1, 1]; otherwise without activation, for z-scores.
        upsampling: by transposed 3-convolutions, as in the authors' code; or by repeated pixels and
            a 3-convolution, which avoids checkerboard patterns (Odena et al. 2016, "Deconvolution
            and Checkerboard Artifacts").

    Shape: ``[B, 4 width, h, w]`` -> ``[B, output_channels, 4 h, 4 w]``.
    """

    def __init__(
        self,
        output_channels: int,
        width: int = 64,
        bounded: bool = True,
        upsampling: Upsampling = "transposed",
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_doubling(4 * width, 2 * width, upsampling),
            *_doubling(2 * width, width, upsampling),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, output_channels, kernel_size=7),
            nn.Tanh() if bounded else nn.Identity(),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features)


class Translator(nn.Module):
    """A generator from one domain to the other: encoder, fusion, decoder.

    Args:
        encoder: of the input's domain.
        fusion: may be shared with the other direction.
        decoder: of the output's domain.
    """

    def __init__(self, encoder: nn.Module, fusion: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.fusion = fusion
        self.decoder = decoder

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Translate ``[B, channels, H, W]``; the result has the same size."""
        features = self.features(image)
        return self.decode(features, image)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the fused map ``[B, 4 width, ceil(H / 4), ceil(W / 4)]``, F of the paper."""
        encoded = self.encoder(image)
        return self.fusion(encoded)

    def decode(self, features: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return the translation of the image that has these features, cut to its size."""
        height, width = image.shape[2:]
        translated = self.decoder(features)
        return translated[..., :height, :width]


def with_dark_background(z_scores: torch.Tensor) -> torch.Tensor:
    """Return the images with a value below all tissue where they are exactly 0.

    Where nnU-Net normalises the head only (``use_mask_for_norm``), 0 is the mean of the brain; the
    background around it, and beyond the image's border, is 0 as well. A translator could not tell
    them apart.
    """
    dark = torch.full_like(z_scores, BACKGROUND_Z_SCORE)
    return torch.where(z_scores == 0, dark, z_scores)


class SynthesisOutput(NamedTuple):
    """The output of the training forward pass."""

    segmentation: Segmentation  # of the synthetic image
    synthetic: torch.Tensor  # [B, channels, H, W], the image in the target domain
    features: torch.Tensor  # [B, C, h, w], fused, of the source image


class SegmentationThroughSynthesis(nn.Module):
    """Segments a source image by translating it to the target domain first.

    Its Dice shows how much of the lesions the translation keeps.

    Args:
        translator: from source to target, G_MRI of the paper.
        segmenter: of target images, S_ori of the paper, with an encoder and a decoder as nnU-Net's
            networks.
    """

    def __init__(self, translator: Translator, segmenter: nn.Module) -> None:
        super().__init__()
        self.translator = translator
        self.segmenter = segmenter

    @property
    def encoder(self) -> Any:
        """Return the segmenter's encoder, where nnU-Net and trainers look for it."""
        return self.segmenter.encoder

    @property
    def decoder(self) -> Any:
        """Return the segmenter's decoder, whose deep supervision nnU-Net switches."""
        return self.segmenter.decoder

    def forward(
        self, image: torch.Tensor, with_synthetic: bool = False
    ) -> Segmentation | SynthesisOutput:
        """Segment source images.

        Args:
            image: ``[B, channels, H, W]`` of the source domain, z-scores whose background may be
                0, see :func:`with_dark_background`.
            with_synthetic: return a :class:`SynthesisOutput`.

        Returns:
            Logits ``[B, classes, H, W]``, or a list of them, finest first, when
            ``decoder.deep_supervision``.
        """
        source = with_dark_background(image)
        features = self.translator.features(source)
        synthetic = self.translator.decode(features, source)
        segmentation = self.segmenter(synthetic)
        if not with_synthetic:
            return segmentation
        return SynthesisOutput(segmentation, synthetic, features)


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    norm = nn.InstanceNorm2d(convolution.out_channels)
    return [convolution, norm, nn.ReLU()]


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


def _three_convolution(inputs: int, outputs: int) -> nn.Sequential:
    layers = _normalised(_convolution(inputs, outputs))
    return nn.Sequential(*layers)


def _halving(inputs: int, outputs: int) -> list[nn.Module]:
    return _normalised(_convolution(inputs, outputs, stride=2))


def _doubling(inputs: int, outputs: int, upsampling: Upsampling) -> list[nn.Module]:
    if upsampling == "repeated":
        repeated = nn.Upsample(scale_factor=2)
        return [repeated, *_normalised(_convolution(inputs, outputs))]

    transposed = nn.ConvTranspose2d(
        inputs,
        outputs,
        kernel_size=3,
        stride=2,
        padding=1,
        output_padding=1,
        bias=False,
    )
    return _normalised(transposed)
