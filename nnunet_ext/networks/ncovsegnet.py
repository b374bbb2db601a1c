"""nCoVSegNet: wide context and attention-aware fusion on a ResNet-50 with channel attention.

Reference: Liu et al. 2021, "COVID-19 lung infection segmentation with a novel two-stage
cross-domain transfer learning framework", section 3.1 and fig. 1-2. What the paper leaves open
follows the authors' code, see docs/ncovsegnet.md.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

STRIDES = (4, 8, 16, 32)  # of the backbone's stages
COARSEST_STRIDE = STRIDES[-1]
BASE_CHANNELS = 64  # of ResNet-50's first stage, a quarter of what it puts out
# of the branches of GCA, per stage; the coarsest stage already sees far enough
CONTEXT_KERNELS = ((3, 5, 7), (3, 5, 7), (3, 5, 7), (3, 5))

EcaKernel = Literal["3", "adaptive"]


@dataclass(frozen=True)
class Design:
    """Which modules the network has, and what replaces the others.

    Args:
        width: factor on the paper's channels.
        eca_kernel: of the channel attention in the backbone: 3 as in the authors' code, or by the
            rule of ECA-Net, which gives 5, 5, 5 and 7.
        use_eca: otherwise a plain ResNet-50.
        use_gca: otherwise a 1x1 convolution with normalisation and ReLU.
        use_daf: otherwise bilinear upsampling, concatenation and two 3x3 convolutions, as in U-Net.
        use_deep_supervision: otherwise a single output, the finest.
    """

    width: float = 1.0
    eca_kernel: EcaKernel = "3"
    use_eca: bool = True
    use_gca: bool = True
    use_daf: bool = True
    use_deep_supervision: bool = True


class NCoVSegNet(nn.Module):
    """Backbone, a context module per stage, fusions from coarse to fine, an output at every level.

    Args:
        input_channels: of the image.
        logits: learned logits: one per foreground class or region.
        stacks_background: put a logit of 0 for the background before them. The softmax of two
            classes is then the sigmoid, and the background has the largest logit unless the sigmoid
            of some class exceeds 1/2.
        design: the modules.
    """

    def __init__(
        self, input_channels: int, logits: int, stacks_background: bool, design: Design
    ) -> None:
        super().__init__()
        self.stacks_background = stacks_background
        self.backbone = resnet50(input_channels, design)
        context_module = GlobalContext if design.use_gca else PlainContext
        fusion_module = DualAttentionFusion if design.use_daf else PlainFusion

        # GCA 1-4
        channels: list[int] = self.backbone.feature_info.channels()
        widths = [count // 2 for count in channels]
        self.contexts = nn.ModuleList()
        for count, width, kernels in zip(channels, widths, CONTEXT_KERNELS, strict=True):
            context = context_module(count, width, kernels)
            self.contexts.append(context)

        # DAF 1-3
        self.fusions = nn.ModuleList()
        for width in widths[:-1]:
            fusion = fusion_module(width)
            self.fusions.append(fusion)

        # side outputs, the finest first
        supervised = widths if design.use_deep_supervision else widths[:1]
        self.outputs = nn.ModuleList()
        for width in supervised:
            output = nn.Conv2d(width, logits, 1)
            self.outputs.append(output)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Segment images of any size.

        Edges that are not a multiple of 32 are temporarily padded by repeating the last pixels.

        Args:
            x: ``[B, channels, H, W]``.

        Returns:
            Logits ``[B, classes, H, W]``; while training a list of them, all of this size, the
            finest first.
        """
        image = padded(x, COARSEST_STRIDE)
        features = self.backbone(image)

        # GCA: the context of every stage
        contexts = []
        for context, feature in zip(self.contexts, features, strict=True):
            contexts.append(context(feature))

        # DAF: from coarse to fine
        *finer, fused = contexts
        finer.reverse()
        fusions = reversed(self.fusions)
        levels = [fused]
        for fusion, low in zip(fusions, finer, strict=True):
            fused = fusion(fused, low)
            levels.append(fused)
        levels.reverse()

        # side outputs
        heads = self.outputs if self.training else self.outputs[:1]
        size = x.shape[2:]
        segmentation = []
        for head, level, stride in zip(heads, levels, STRIDES, strict=False):
            logits = self._logits(head, level, stride, size)
            segmentation.append(logits)
        return segmentation if self.training else segmentation[0]

    def _logits(
        self, head: nn.Module, level: torch.Tensor, stride: int, size: torch.Size
    ) -> torch.Tensor:
        """Return a level's logits at the size of the image."""
        coarse = head(level)
        padded_size = [stride * edge for edge in coarse.shape[2:]]
        logits = functional.interpolate(coarse, size=padded_size, mode="bilinear")

        height, width = size
        logits = logits[..., :height, :width]
        if not self.stacks_background:
            return logits

        one_class = logits[:, :1]
        background = torch.zeros_like(one_class)
        return torch.cat((background, logits), 1)


def padded(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and column until both edges are multiples of ``multiple``.

    Images are ``[B, C, H, W]``.
    """
    height, width = images.shape[2:]
    below = -height % multiple
    right = -width % multiple
    if below == right == 0:
        return images

    padding = (0, right, 0, below)
    return functional.pad(images, padding, mode="replicate")


def resnet50(input_channels: int, design: Design) -> Any:
    """Build timm's ResNet-50 with random weights; it returns the maps of strides 4, 8, 16 and 32.

    With ``use_eca`` each block scales the channels of its last normalised map, before the residual
    sum. Every residual branch is active from the start, as in torchvision's ResNet, so that all
    weights learn from the first step.

    Reference: Wang et al. 2020, "ECA-Net".
    """
    from timm import create_model
    from timm.layers import EcaModule

    def attention(channels: int, **options: Any) -> nn.Module:
        """Build the gate; timm sets the kernel by ECA-Net's rule where it knows the channels."""
        known_channels = channels if design.eca_kernel == "adaptive" else None
        return EcaModule(known_channels, **options)

    first = round(BASE_CHANNELS * design.width)
    block_options = {"attn_layer": attention} if design.use_eca else {}
    return create_model(
        "resnet50",
        pretrained=False,
        features_only=True,
        out_indices=(1, 2, 3, 4),
        in_chans=input_channels,
        channels=(first, 2 * first, 4 * first, 8 * first),
        zero_init_last=False,
        block_args=block_options,
    )


def normalised(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int],
    dilation: int = 1,
    relu: bool = False,
) -> nn.Sequential:
    """Build a convolution that keeps the map's size, with batch normalisation, a ReLU if asked."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    rows = dilation * (height // 2)
    columns = dilation * (width // 2)
    convolution = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size=(height, width),
        padding=(rows, columns),
        dilation=dilation,
        bias=False,
    )

    layers = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))
    if relu:
        layers.append(nn.ReLU())
    return layers


class GlobalContext(nn.Module):
    """GCA, eq. 1: a 1x1 branch and branches of growing kernels and dilation, with a shortcut.

    The branches have no activation, as in the authors' code; the paper shows none either.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernels: one branch each.
    """

    def __init__(self, in_channels: int, out_channels: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        pointwise = normalised(in_channels, out_channels, 1)
        self.branches = nn.ModuleList([pointwise])
        for kernel in kernels:
            branch = self._branch(in_channels, out_channels, kernel)
            self.branches.append(branch)

        concatenated = len(self.branches) * out_channels
        self.merge = normalised(concatenated, out_channels, 3)
        self.shortcut = normalised(in_channels, out_channels, 1)

    @staticmethod
    def _branch(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
        return nn.Sequential(
            normalised(in_channels, out_channels, 1),
            normalised(out_channels, out_channels, (1, kernel)),
            normalised(out_channels, out_channels, (kernel, 1)),
            normalised(out_channels, out_channels, 3, dilation=kernel),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [branch(x) for branch in self.branches]
        concatenated = torch.cat(branches, 1)
        merged = self.merge(concatenated)
        shortcut = self.shortcut(x)
        return functional.relu(merged + shortcut)  # eq. 1


class PlainContext(nn.Sequential):
    """The replacement of GCA: a 1x1 convolution with normalisation and ReLU.

    ``kernels`` is accepted for signature compatibility.
    """

    def __init__(self, in_channels: int, out_channels: int, kernels: tuple[int, ...]) -> None:
        super().__init__(normalised(in_channels, out_channels, 1, relu=True))


class DualAttentionFusion(nn.Module):
    """DAF, eq. 2-4: the coarser level plus the finer one, weighted by the coarser one's attention.

    The channel attention sees one value per channel. It therefore uses group normalisation (one
    group) instead of the batch normalisation of the authors' code, which refuses a batch of one.

    Args:
        channels: of the finer level and the result; the coarser level has twice as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        coarser = 2 * channels
        self.channel_attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(coarser, channels, 1, bias=False),
            nn.GroupNorm(1, channels),
            nn.Sigmoid(),
        )
        self.spatial_attention = nn.ConvTranspose2d(coarser, coarser, 4, stride=2, padding=1)
        self.upsampling = nn.Sequential(
            nn.ConvTranspose2d(coarser, channels, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.detail = normalised(channels, channels, 3)

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        channel = self.channel_attention(high)  # eq. 3

        doubled = self.spatial_attention(high)
        largest = doubled.amax(1, keepdim=True)
        spatial = largest.sigmoid()  # eq. 4

        upsampled = self.upsampling(high)
        attention = spatial * channel
        detail = self.detail(low)
        return functional.relu(upsampled + attention * detail)  # eq. 2


class PlainFusion(nn.Module):
    """The replacement of DAF: upsampling, concatenation and two convolutions, as in U-Net.

    Args:
        channels: of the finer level and the result; the coarser level has twice as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            normalised(3 * channels, channels, 3, relu=True),
            normalised(channels, channels, 3, relu=True),
        )

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        size = low.shape[2:]
        upsampled = functional.interpolate(high, size=size, mode="bilinear")
        joined = torch.cat((upsampled, low), 1)
        return self.convolutions(joined)
