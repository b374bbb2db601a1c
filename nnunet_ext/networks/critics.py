"""Critics: fully convolutional networks that judge every patch and return logits.

Nothing works in place: the opponents differentiate through a critic more than once, between its
updates.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_conv_op_to_dim,
    get_matching_batchnorm,
    get_matching_instancenorm,
)
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrizations import spectral_norm

from nnunet_ext.networks.blocks import ConvOp, ResidualBlock, initialize_normal

Normalization = Literal["instance", "batch", "spectral"]

NEGATIVE_SLOPE = 0.2
WIDEST = 8  # multiples of the first layer's width
HALVABLE = 4  # shorter axes are not halved: a normalisation needs more than one position


class ImagePatchCritic(nn.Module):
    """The discriminator d of image-space adaptation: four logits per patch of 8 pixels a side.

    A 4-convolution of stride 2, then three groups of three residual blocks with a max pooling
    between the groups. The paper's two 4-convolutions with nine residual blocks cannot turn 512
    pixels into its 64 x 64 map; LSD-seg, which it follows, pools twice. An axis shorter than 4 is
    not pooled, so that small images also work.

    Args:
        conv_op: convolution of the plans, 2d or 3d.
        input_channels: of the image.
        width: channels of the residual blocks; LSD-seg has 128.
        classes: logits per patch.

    Shape: ``[B, input_channels, *spatial]`` -> ``[B, classes, *(spatial // 8)]``; each axis at
    least 4.

    Reference: Chen et al., "Unsupervised domain adaptation based COVID-19 CT infection segmentation
    network", 3.2; Sankaranarayanan et al. 2018, "Learning from Synthetic Data".
    """

    def __init__(
        self, conv_op: ConvOp, input_channels: int, width: int = 128, classes: int = 4
    ) -> None:
        super().__init__()
        activation = nn.LeakyReLU(NEGATIVE_SLOPE)
        norm_op = get_matching_instancenorm(conv_op)
        is_3d = convert_conv_op_to_dim(conv_op) == 3
        self.pool = functional.max_pool3d if is_3d else functional.max_pool2d

        first = conv_op(
            input_channels,
            width,
            kernel_size=4,
            stride=2,
            padding=1,
            bias=False,
        )
        self.stem = nn.Sequential(first, norm_op(width), activation)

        self.groups = nn.ModuleList()
        for _ in range(3):
            group = self._group(conv_op, width, activation)
            self.groups.append(group)

        self.head = conv_op(
            width,
            classes,
            kernel_size=3,
            stride=1,
            padding=1,
        )

    @staticmethod
    def _group(conv_op: ConvOp, width: int, activation: nn.Module) -> nn.Sequential:
        group = nn.Sequential()
        for _ in range(3):
            block = ResidualBlock(conv_op, width, activation)
            group.append(block)
        return group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *others = self.groups
        x = self.stem(x)
        x = first(x)
        for group in others:
            x = self._halve(x)
            x = group(x)
        return self.head(x)

    def _halve(self, x: torch.Tensor) -> torch.Tensor:
        spatial = x.shape[2:]
        kernel = halving_stride(spatial)
        return self.pool(x, kernel_size=kernel)


class PatchCritic(nn.Module):
    """A critic whose depth follows the size of the map that it judges: features, entropy, an image.

    Convolutions of kernel 4 and stride 2, LeakyReLU 0.2, no normalisation: AdvEnt's discriminator,
    with its widths 64, 128, 256, 512 and 1 on a large map. On a small map there are fewer of them,
    and an axis shorter than 4 is no longer halved (kernel 3, stride 1), so that a 4 x 4 bottleneck
    still gives a 2 x 2 map of logits.

    Args:
        conv_op: convolution of the plans, 2d or 3d.
        input_channels: of the judged map.
        map_size: spatial size of the judged map; other sizes work as long as they are not smaller.
        width: channels of the first layer; they double with every layer, up to 8 times.
        classes: logits per patch.
        layers: convolutions on a large map; each doubles the pixels of a patch.

    Shape: ``[B, input_channels, *spatial]`` -> ``[B, classes, *patches]``, at most 2^layers pixels
    a patch.

    Reference: Vu et al. 2019, "ADVENT", section 4.1; Radford et al. 2016 (DCGAN).
    """

    def __init__(
        self,
        conv_op: ConvOp,
        input_channels: int,
        map_size: Sequence[int],
        width: int = 64,
        classes: int = 1,
        layers: int = 5,
    ) -> None:
        super().__init__()
        *strides, last_stride = halving_strides(map_size, most=layers)
        self.layers = nn.Sequential()
        channels = input_channels
        wider = width
        for stride in strides:
            convolution = _convolution(conv_op, channels, wider, stride)
            activation = nn.LeakyReLU(NEGATIVE_SLOPE)
            self.layers.append(convolution)
            self.layers.append(activation)
            channels = wider
            wider = 2 * wider

        last = _convolution(conv_op, channels, classes, last_stride)
        self.layers.append(last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class TranslationCritic(nn.Module):
    """CycleGAN's critic of translated images, which judges patches of 70 x 70 pixels.

    Its convolutions have kernel 4: ``layers`` of stride 2, then two of stride 1. The last one
    returns a logit per patch. A small image gets fewer layers: a layer of stride 2 is left out
    where fewer than 4 positions would remain.

    Args:
        conv_op: convolution of the plans, 2d or 3d.
        input_channels: of the image.
        image_size: spatial size of the image, at least 4 along each axis.
        width: channels of the first layer; they double with every layer, up to 8 times.
        layers: largest number of layers of stride 2.
        normalization: instance or batch normalisation after every layer but the first and the last;
            or, instead, spectral normalisation of the weights of all layers.

    Shape: ``[B, input_channels, *spatial]`` -> ``[B, 1, *patches]``; 240 x 240 pixels give 28 x 28
    patches.

    Raises:
        ValueError: unknown normalisation.

    Reference: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial
    Networks", section 3.2.2; Miyato et al. 2018, "Spectral Normalization for Generative Adversarial
    Networks".
    """

    def __init__(
        self,
        conv_op: ConvOp,
        input_channels: int,
        image_size: Sequence[int],
        width: int = 64,
        layers: int = 3,
        normalization: Normalization = "instance",
    ) -> None:
        super().__init__()
        norm_op = _normalization_op(conv_op, normalization)
        shortest_axis = min(image_size)
        strided = min(layers, _possible_halvings(shortest_axis))
        strides = [2] * strided + [1]

        self.layers = nn.Sequential()
        channels = input_channels
        for index, stride in enumerate(strides):
            wider = width * min(WIDEST, 2**index)
            norm = norm_op(wider) if norm_op and index > 0 else None
            has_bias = norm is None
            convolution = _four_convolution(conv_op, channels, wider, stride, has_bias)
            self.layers.append(convolution)
            if norm is not None:
                self.layers.append(norm)
            self.layers.append(nn.LeakyReLU(NEGATIVE_SLOPE))
            channels = wider

        last = _four_convolution(conv_op, channels, 1, 1)
        self.layers.append(last)

        self.layers.apply(initialize_normal)
        if normalization == "spectral":
            _normalize_spectrally(self.layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _possible_halvings(size: int) -> int:
    """Return how often a length can be halved with at least 4 positions left.

    >>> [_possible_halvings(size) for size in (8, 15, 16, 240)]
    [1, 1, 2, 5]
    """
    quarters = size // HALVABLE
    return max(0, quarters.bit_length() - 1)


def _four_convolution(
    conv_op: ConvOp, inputs: int, outputs: int, stride: int, bias: bool = True
) -> nn.Module:
    return conv_op(
        inputs,
        outputs,
        kernel_size=4,
        stride=stride,
        padding=1,
        bias=bias,
    )


def _normalization_op(conv_op: ConvOp, kind: Normalization) -> Callable[[int], nn.Module] | None:
    """Return the class of the normalisation after a convolution; None for ``spectral``."""
    if kind == "instance":
        return get_matching_instancenorm(conv_op)
    if kind == "batch":
        return get_matching_batchnorm(conv_op)
    if kind == "spectral":
        return None
    kinds = ", ".join(get_args(Normalization))
    raise ValueError(f"normalization must be one of {kinds}, not {kind!r}")


def _normalize_spectrally(layers: nn.Sequential) -> None:
    """Divide every convolution's weight by its spectral norm; call it after initialisation."""
    for layer in layers:
        if isinstance(layer, _ConvNd):
            spectral_norm(layer)


def halving_strides(
    map_size: Sequence[int], least: int = 2, most: int = 5
) -> list[tuple[int, ...]]:
    """Return the strides of layers that halve a map as long as an axis has 4 positions or more.

    Args:
        map_size: spatial size.
        least: smallest number of layers.
        most: largest number of layers.

    Returns:
        One stride per layer and axis, 1 or 2.

    >>> halving_strides([4, 16])
    [(2, 2), (1, 2), (1, 2)]
    """
    sizes = list(map_size)
    strides: list[tuple[int, ...]] = []
    while len(strides) < most:
        is_deep_enough = len(strides) >= least
        if is_deep_enough and max(sizes) < HALVABLE:
            break
        stride = halving_stride(sizes)
        strides.append(stride)
        for axis, step in enumerate(stride):
            sizes[axis] //= step
    return strides


def halving_stride(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return 2 for every axis of 4 positions or more, 1 for the others.

    >>> halving_stride([3, 4])
    (1, 2)
    """
    return tuple(2 if size >= HALVABLE else 1 for size in sizes)


def _convolution(conv_op: ConvOp, inputs: int, outputs: int, stride: tuple[int, ...]) -> nn.Module:
    """Build a convolution that divides each axis by its stride, rounding down."""
    kernel = tuple(4 if step == 2 else 3 for step in stride)
    return conv_op(
        inputs,
        outputs,
        kernel_size=kernel,
        stride=stride,
        padding=1,
    )
