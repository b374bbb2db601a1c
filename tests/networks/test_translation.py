"""Translators between modalities: sizes, ranges, layers, and the network that segments through a
translation.
"""

import pytest
import torch
from torch import nn

from nnunet_ext.networks.translation import (
    DenseFusion,
    SegmentationThroughSynthesis,
    TranslationDecoder,
    TranslationEncoder,
    Translator,
    Upsampling,
    with_dark_background,
)


class OneConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, 2, 1)
        self.decoder = nn.Conv2d(2, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


def translator(
    channels: int = 1, width: int = 2, upsampling: Upsampling = "transposed"
) -> Translator:
    torch.manual_seed(0)
    decoder = TranslationDecoder(channels, width, upsampling=upsampling)
    return Translator(TranslationEncoder(channels, width), DenseFusion(4 * width), decoder)


@pytest.mark.parametrize("upsampling", ["transposed", "repeated"])
@pytest.mark.parametrize("size", [(16, 16), (17, 30), (63, 21)])
def test_a_translation_has_the_size_of_the_image(
    size: tuple[int, int], upsampling: Upsampling
) -> None:
    made = translator(channels=2, upsampling=upsampling)
    image = torch.randn(2, 2, *size)
    assert made(image).shape == image.shape
    height, width = (-(-length // 4) for length in size)
    assert made.features(image).shape == (2, 8, height, width)


def test_240_pixels_give_the_papers_map_of_60() -> None:
    with torch.no_grad():
        assert TranslationEncoder(1)(torch.zeros(1, 1, 240, 240)).shape == (1, 256, 60, 60)


def test_the_background_of_z_scores_is_dark_and_that_of_windowed_images_is_not_touched() -> None:
    image = torch.tensor([0.0, -1.0, 1e-6]).view(1, 1, 1, 3)
    torch.testing.assert_close(
        with_dark_background(image).flatten(), torch.tensor([-3.0, -1.0, 1e-6])
    )
    of_source = SegmentationThroughSynthesis(translator(), OneConvolution())
    image = torch.randn(1, 1, 16, 16)
    image[..., :4] = 0
    through_network = of_source(image, with_synthetic=True).synthetic
    assert torch.equal(through_network, of_source.translator(with_dark_background(image)))
    assert not torch.equal(through_network, of_source.translator(image))


def test_repeated_pixels_draw_no_chequered_pattern() -> None:
    """A flat map stays flat away from the border; a transposed convolution repeats its kernel's
    pattern.
    """
    for upsampling, flat in (("repeated", True), ("transposed", False)):
        torch.manual_seed(0)
        (first, *_) = doubled = TranslationDecoder(1, 2, upsampling=upsampling).layers[
            : 2 if flat else 1
        ]
        assert isinstance(first, nn.Upsample) == flat
        inside = doubled(torch.ones(1, 8, 8, 8))[0, 0, 3:-3, 3:-3]
        assert (inside.std().item() < 1e-6) == flat


def test_a_bounded_decoder_stays_within_the_window() -> None:
    features = 1e3 * torch.randn(1, 8, 4, 4)
    for bounded in (True, False):
        decoder = TranslationDecoder(1, 2, bounded)
        nn.init.constant_(decoder.layers[-2].bias, 50.0)  # of the last convolution
        assert (decoder(features).abs().max() <= 1) == bounded


def test_the_fusion_is_one_dense_block() -> None:
    """Five convolutions of 12 channels that read all before them, then one from 256 + 60 = 316
    channels to 256.
    """
    fusion = DenseFusion(256)
    convolutions = [module for module in fusion.modules() if isinstance(module, nn.Conv2d)]
    assert [(one.in_channels, one.out_channels) for one in convolutions] == [
        (256, 12),
        (268, 12),
        (280, 12),
        (292, 12),
        (304, 12),
        (316, 256),
    ]


def test_the_segmentation_is_that_of_the_synthetic_image() -> None:
    made = SegmentationThroughSynthesis(translator(), OneConvolution())
    image = torch.randn(2, 1, 16, 16)
    output = made(image, with_synthetic=True)
    assert torch.equal(output.synthetic, made.translator(image))
    assert torch.equal(output.features, made.translator.features(image))
    assert torch.equal(output.segmentation, made.segmenter(output.synthetic))
    assert torch.equal(made(image), output.segmentation)
    assert made.encoder is made.segmenter.encoder and made.decoder is made.segmenter.decoder
