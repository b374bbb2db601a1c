"""Fill a trainer's network from the checkpoint of another trainer or another program."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_ext.errors import InputError, first_line
from nnunet_ext.training.settings.plans_entry import record_regions
from nnunet_ext.training.weights.checkpoint_files import read_weights
from nnunet_ext.training.weights.fitting_shapes import Fitted, fitted, image_convolutions
from nnunet_ext.training.weights.matching_names import (
    SAME_PLANS,
    Weights,
    counterpart,
    further_encoders,
    tensors_of,
    under_our_names,
)
from nnunet_ext.training.weights.other_plans import (
    DECODER,
    names_of_missing_stages,
    without_decoder,
    without_surplus_stages,
)

HEADS = ".seg_layers."  # nnU-Net's -pretrained_weights ignores what it finds under this name
ENCODER_STAGE = re.compile(r"encoder\.stages\.(\d+)\.")

READABLE = (
    "give a checkpoint of nnU-Net, or write one: "
    "torch.save({'state_dict': network.state_dict()}, FILE)"
)


@dataclass(frozen=True)
class Origin:
    """Where one tensor of the network comes from."""

    name: str  # in the network; the first one, where it has several
    parameters: int
    how: Literal["copied", "adapted", "random"]
    adaptation: str = ""

    @property
    def part(self) -> str:
        """``heads`` for segmentation layers, else the child of the network that holds it."""
        return "heads" if HEADS in self.name else self.name.partition(".")[0]


@dataclass(frozen=True, eq=False)
class Pair:
    """One tensor of the network and what the source has for it."""

    name: str
    own: torch.Tensor
    theirs: torch.Tensor | None
    fitted: Fitted | None

    @property
    def is_misfit(self) -> bool:
        """Whether the source has a tensor that does not fit; heads may differ."""
        return self.theirs is not None and self.fitted is None and HEADS not in self.name

    @property
    def origin(self) -> Origin:
        """Where the tensor of the network comes from."""
        if self.fitted is None:
            return Origin(self.name, self.own.numel(), "random")
        adaptation = self.fitted.adaptation
        how: Literal["copied", "adapted"] = "adapted" if adaptation else "copied"
        return Origin(self.name, self.own.numel(), how, adaptation)


def build_network(
    trainer: type, plans: PlansManager, configuration: str, dataset_json: dict[str, Any]
) -> nn.Module:
    """Build the network that ``trainer`` trains, with the same random weights every time.

    Raises:
        InputError: the trainer builds none from these plans.
    """
    manager = plans.get_configuration(configuration)
    channels = determine_num_input_channels(plans, manager, dataset_json)
    labels = plans.get_label_manager(dataset_json)
    heads = labels.num_segmentation_heads
    record_regions(plans.plans, labels.has_regions)

    build: Any = trainer.build_network_architecture  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            # Without deep supervision, as the predictor does: same weights, and not every network
            # has it.
            return build(plans, manager, channels, heads, False)
        except InputError:
            raise
        except Exception as error:  # the trainer's author may raise anything
            reason = first_line(error)[:200]
            raise InputError(
                f"{trainer.__name__} builds no network from configuration {configuration} of "
                f"{plans.plans_name} ({reason}); choose another -tr or -c"
            ) from error


def fill_network(
    network: nn.Module, checkpoint: Path, may_lack: tuple[str, ...] = (), adapt: bool = False
) -> list[Origin]:
    """Give each weight of ``network`` its counterpart of equal name in ``checkpoint``.

    A constant prefix of the checkpoint's names does not matter. An encoder that the network
    declares in ``further_encoders`` gets the source's ``encoder`` if the source has none of its
    name. Two kinds of weights are adapted where their shapes differ:

    - The convolution that reads the image: for one input channel the sum over the source's, as in
      timm; else the source's channels repeated in turn and scaled by source / target channels. An
      image of equal channels then gives what it gave in the source, provided that the larger number
      of channels is a multiple of the smaller.
    - The decoder's first upsampling, between one encoder and two: the half of ``encoder`` is
      copied; the other half starts at zero, so that two encoders compute at first what the one
      computed, or is dropped.

    Segmentation heads of another shape, and whole parts that the source lacks (not encoders), keep
    their values; so do weights with one of ``may_lack`` in their names if the source has none of
    that name.

    With ``adapt``, the source may be planned otherwise, see ``other_plans.py``.

    Returns:
        Where each weight comes from.

    Raises:
        InputError: unreadable checkpoint, or one that does not fit; the network is then unchanged.
    """
    source = under_our_names(read_weights(checkpoint, READABLE), network, checkpoint)
    ours = set(network.state_dict())
    if adapt:
        missing = names_of_missing_stages(_stages(source), _stages(ours))
        may_lack = (*may_lack, *missing)
        source = _reduced(source, network, ours)
    pairs = _pairs(network, source, adapt)
    _require_finite(pairs, checkpoint)

    stages = _differing_stages(source, ours)
    _require_equal_shapes(pairs, stages, checkpoint)
    origins = [pair.origin for pair in pairs]
    required = [origin for origin in origins if _is_required(origin, may_lack)]
    _require_whole_parts(required, stages, checkpoint)
    _require_no_more_layers(required, source, ours, stages, checkpoint)

    with torch.no_grad():
        for pair in pairs:
            if pair.fitted is not None:
                pair.own.copy_(pair.fitted.value)
    return origins


def _reduced(source: Weights, network: nn.Module, ours: set[str]) -> Weights:
    """Return what of a source with other plans can be taken over.

    These are the encoder's stages that we have, and the decoder only if it fits whole.
    """
    depth = _stages(ours)
    same_depth = _stages(source) == depth
    source = without_surplus_stages(source, depth)
    pairs = _pairs(network, source, adapt=True)
    decoder = [p for p in pairs if p.name.startswith(DECODER) and HEADS not in p.name]
    if same_depth and all(pair.fitted is not None for pair in decoder):
        return source
    return without_decoder(source)


def _pairs(network: nn.Module, source: Weights, adapt: bool = False) -> list[Pair]:
    """Pair every tensor of the network with the source's."""
    encoders = further_encoders(network)
    reads_image = image_convolutions(network)
    pairs = []
    for names, own in tensors_of(network):
        theirs = counterpart(names, source, encoders)
        fits = None
        if theirs is not None:
            fits = fitted(names[0], theirs, own, id(own) in reads_image, adapt)
        pairs.append(Pair(names[0], own, theirs, fits))
    return pairs


def _is_required(origin: Origin, may_lack: tuple[str, ...]) -> bool:
    """Return whether a weight must come from the source for its part to be whole."""
    return origin.how != "random" or not any(fragment in origin.name for fragment in may_lack)


# --- what does not fit


def _require_finite(pairs: Sequence[Pair], checkpoint: Path) -> None:
    for pair in pairs:
        if pair.fitted is not None and not torch.isfinite(pair.fitted.value).all():
            raise InputError(
                f"{checkpoint}: {pair.name} is not finite, the training diverged; give another "
                "checkpoint"
            )


def _require_equal_shapes(pairs: Sequence[Pair], stages: str, checkpoint: Path) -> None:
    misfits = [pair for pair in pairs if pair.is_misfit]
    if not misfits:
        return

    first = misfits[0]
    assert first.theirs is not None
    theirs, own = list(first.theirs.shape), list(first.own.shape)
    differing = stages or "features_per_stage"
    if len(theirs) != len(own):
        differing = f"{len(theirs) - 2}d against {len(own) - 2}d"
    elif theirs[2:] != own[2:]:
        differing = "strides" if "transpconvs" in first.name else "kernel_sizes"
    raise InputError(
        f"{checkpoint}: {len(misfits)} of {len(pairs)} weights have another shape ({differing}), "
        f"first {first.name}: {theirs} in the file, {own} in the network; {SAME_PLANS}"
    )


def _require_whole_parts(origins: Sequence[Origin], stages: str, checkpoint: Path) -> None:
    """Check that every part is filled whole or not at all, and an encoder whole."""
    body = [origin for origin in origins if origin.part != "heads"]
    filled = {origin.part for origin in body if origin.how != "random"}
    parts: dict[str, list[Origin]] = {}
    for origin in body:
        parts.setdefault(origin.part, []).append(origin)

    for part, of_part in parts.items():
        missing = [origin.name for origin in of_part if origin.how == "random"]
        must_be_whole = part in filled or part.startswith("encoder") or not filled
        if missing and must_be_whole:
            raise InputError(
                f"{checkpoint}: lacks {len(missing)} of {len(of_part)} weights of the {part} "
                f"({_differing_layers(stages)}), first {missing[0]}; {SAME_PLANS}"
            )


def _require_no_more_layers(
    origins: Sequence[Origin], source: Weights, ours: set[str], stages: str, checkpoint: Path
) -> None:
    """Check that the source has no more layers in the parts that it fills."""
    filled = [origin for origin in origins if origin.part != "heads" and origin.how != "random"]
    places = {_place(origin.name) for origin in filled}
    surplus = [name for name in source if _place(name) in places and name not in ours]
    if surplus:
        raise InputError(
            f"{checkpoint}: has {len(surplus)} weights more than this network "
            f"({_differing_layers(stages)}), first {surplus[0]}; {SAME_PLANS}"
        )


def _differing_layers(stages: str) -> str:
    """Return what of the plans may differ where layers are missing or too many."""
    other = "another network class, n_conv_per_stage or n_blocks_per_stage, or an incomplete file"
    return stages or other


def _place(name: str) -> str:
    """Return ``encoder.stages`` for a weight in there.

    A foreign ``encoder.projection`` is thus not a layer of this network.
    """
    return ".".join(name.split(".")[:2])


def _differing_stages(source: Iterable[str], ours: Iterable[str]) -> str:
    """Return how the numbers of encoder stages differ; empty if they do not, or are unknown."""
    theirs, own = _stages(source), _stages(ours)
    if theirs and own and theirs != own:
        return f"n_stages, {theirs} against {own}"
    return ""


def _stages(names: Iterable[str]) -> int:
    """Count the stages of the encoder; 0 if no weight has the name of one."""
    matches = [ENCODER_STAGE.match(name) for name in names]
    return max((int(match[1]) + 1 for match in matches if match), default=0)
