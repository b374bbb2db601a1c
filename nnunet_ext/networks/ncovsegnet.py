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

EcaKernel = Literal["3", "adaptive"]


@dataclass(frozen=True)
class Design:
    """Which modules the network has; without one, its replacement stands in its place.

    Args:
        width: share of the paper's channels.
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
    """Backbone, a context module per stage, fusions from coarse to fine, and side outputs.

    There is one output at each of the four levels.

    Args:
        input_channels: of the image.
        logits: learned logits: one per foreground class or region.
        stacks_background: put a logit of 0 for the background before them. Then softmax of two
            classes is the sigmoid, and the largest logit is the class of one against the rest that
            is likelier than not.
        design: the modules.
    """

    def __init__(
        self, input_channels: int, logits: int, stacks_background: bool, design: Design
    ) -> None:
        super().__init__()
        self.stacks_background = stacks_background
        self.backbone = resnet50(input_channels, design)
        channels: list[int] = self.backbone.feature_info.channels()
        context = GlobalContext if design.use_gca else PlainContext
        fusion = DualAttentionFusion if design.use_daf else PlainFusion

        kernels = [(3, 5, 7)] * 3 + [(3, 5)]  # the coarsest stage sees far enough
        self.contexts = nn.ModuleList(
            context(count, count // 2, k) for count, k in zip(channels, kernels, strict=True)
        )
        contexts = [count // 2 for count in channels]
        self.fusions = nn.ModuleList(fusion(low) for low in contexts[:-1])
        supervised = contexts if design.use_deep_supervision else contexts[:1]
        self.outputs = nn.ModuleList(nn.Conv2d(count, logits, 1) for count in supervised)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Segment images of any size.

        Those that are not a multiple of 32 are temporarily continued by their last pixels.

        Args:
            x: ``[B, channels, H, W]``.

        Returns:
            Logits ``[B, classes, H, W]``; while training a list of them, all of this size, the
            finest first.
        """
        features = self.backbone(padded(x, COARSEST_STRIDE))
        pairs = zip(self.contexts, features, strict=True)
        *finer, coarsest = [context(feature) for context, feature in pairs]

        fused = [coarsest]
        for fusion, low in zip(reversed(self.fusions), reversed(finer), strict=True):
            fused.append(fusion(fused[-1], low))
        fused.reverse()

        heads = self.outputs if self.training else self.outputs[:1]
        logits = []
        for head, level, stride in zip(heads, fused, STRIDES, strict=False):
            logits.append(self._logits(head, level, stride, x.shape[2:]))
        return logits if self.training else logits[0]

    def _logits(
        self, head: nn.Module, level: torch.Tensor, stride: int, size: torch.Size
    ) -> torch.Tensor:
        coarse = head(level)
        padded_size = [stride * edge for edge in coarse.shape[2:]]
        logits = functional.interpolate(coarse, size=padded_size, mode="bilinear")
        logits = logits[..., : size[0], : size[1]]
        if not self.stacks_background:
            return logits

        background = torch.zeros_like(logits[:, :1])
        return torch.cat((background, logits), 1)


def padded(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and column until both edges are multiples of ``multiple``.

    Images are ``[B, C, H, W]``.
    """
    below, right = (-edge % multiple for edge in images.shape[2:])
    if below == right == 0:
        return images
    return functional.pad(images, (0, right, 0, below), mode="replicate")


def resnet50(input_channels: int, design: Design) -> Any:
    """Build timm's ResNet-50, at random, that returns its features at strides 4, 8, 16 and 32.

    With ``use_eca`` each block scales the channels of its last normalised map, before the residual
    sum. Every block starts with its branch active, as torchvision's ResNet does, so that all
    weights learn from the first step.

    Reference: Wang et al. 2020, "ECA-Net".
    """
    from timm import create_model
    from timm.layers import EcaModule

    def attention(channels: int, **options: Any) -> nn.Module:
        """Build the gate; timm sets the kernel by ECA-Net's rule where it knows the channels."""
        return EcaModule(channels if design.eca_kernel == "adaptive" else None, **options)

    first = round(BASE_CHANNELS * design.width)
    return create_model(
        "resnet50",
        pretrained=False,
        features_only=True,
        out_indices=(1, 2, 3, 4),
        in_chans=input_channels,
        channels=(first, 2 * first, 4 * first, 8 * first),
        zero_init_last=False,
        block_args={"attn_layer": attention} if design.use_eca else {},
    )


def normalised(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int],
    dilation: int = 1,
    relu: bool = False,
) -> nn.Sequential:
    """Convolution that keeps the map's size, with batch normalisation and perhaps a ReLU."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (dilation * (height // 2), dilation * (width // 2))
    convolution = nn.Conv2d(
        in_channels, out_channels, (height, width), padding=padding, dilation=dilation, bias=False
    )
    activation = [nn.ReLU()] if relu else []
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), *activation)


class GlobalContext(nn.Module):
    """GCA, eq. 1: a 1x1 branch and branches of growing kernels and dilation, with a shortcut.

    The branches have no activation, as in the authors' code; the paper shows none either.

    Args:
        in_channels: of the map that comes in.
        out_channels: of the map that leaves.
        kernels: one branch each.
    """

    def __init__(self, in_channels: int, out_channels: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([normalised(in_channels, out_channels, 1)])
        self.branches.extend(self._branch(in_channels, out_channels, kernel) for kernel in kernels)
        self.merge = normalised(len(self.branches) * out_channels, out_channels, 3)
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
        merged = self.merge(torch.cat(branches, 1))
        return functional.relu(merged + self.shortcut(x))


class PlainContext(nn.Sequential):
    """What stands in place of GCA: a 1x1 convolution with normalisation and ReLU.

    ``kernels`` is accepted for signature compatibility.
    """

    def __init__(self, in_channels: int, out_channels: int, kernels: tuple[int, ...]) -> None:
        super().__init__(normalised(in_channels, out_channels, 1, relu=True))


class DualAttentionFusion(nn.Module):
    """DAF, eq. 2-4: the coarser level plus the finer one, weighted by the coarser one's attention.

    The channel attention sees one value per channel, so group normalisation (one group) stands
    where the authors' code has batch normalisation, which refuses a batch of one.

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
        spatial = self.spatial_attention(high).amax(1, keepdim=True).sigmoid()  # eq. 4
        upsampled = self.upsampling(high)
        return functional.relu(upsampled + spatial * channel * self.detail(low))  # eq. 2


class PlainFusion(nn.Module):
    """What stands in place of DAF: upsampling, concatenation and two convolutions, as in U-Net.

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
        upsampled = functional.interpolate(high, size=low.shape[2:], mode="bilinear")
        return self.convolutions(torch.cat((upsampled, low), 1))
