"""Fill a trainer's network from the checkpoint of another trainer or another program."""

from __future__ import annotations

import re
from collections import Counter
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
    MisfitError,
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
        """``heads`` for segmentation layers, else the network's child that holds the tensor."""
        if HEADS in self.name:
            return "heads"
        child, _, _ = self.name.partition(".")
        return child


@dataclass(frozen=True, eq=False)
class Pair:
    """One tensor of the network and its counterpart in the source."""

    name: str
    own: torch.Tensor
    theirs: torch.Tensor | None
    fitted: Fitted | None

    @property
    def is_misfit(self) -> bool:
        """Whether the source has a tensor that does not fit; heads may differ."""
        if self.theirs is None or self.fitted is not None:
            return False
        is_head = HEADS in self.name
        return not is_head

    @property
    def origin(self) -> Origin:
        """Where the tensor of the network comes from."""
        parameters = self.own.numel()
        if self.fitted is None:
            return Origin(self.name, parameters, "random")

        adaptation = self.fitted.adaptation
        how: Literal["copied", "adapted"] = "adapted" if adaptation else "copied"
        return Origin(self.name, parameters, how, adaptation)


def build_network(
    trainer: type, plans: PlansManager, configuration: str, dataset_json: dict[str, Any]
) -> nn.Module:
    """Build the network that ``trainer`` trains, with the same random weights every time.

    Raises:
        InputError: the trainer cannot build a network from these plans.
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
            # Without deep supervision, as in the predictor: the weights are the same, and not every
            # network has it.
            return build(plans, manager, channels, heads, False)
        except InputError:
            raise
        except Exception as error:  # the trainer's author may raise anything
            reason = first_line(error)[:200]
            raise InputError(
                f"{trainer.__name__} cannot build a network from configuration {configuration} of "
                f"{plans.plans_name} ({reason}); choose another -tr or -c"
            ) from error


def fill_network(
    network: nn.Module,
    checkpoint: Path,
    may_lack: tuple[str, ...] = (),
    adapt: bool = False,
    readable: str = READABLE,
) -> list[Origin]:
    """Give each weight of ``network`` its counterpart of equal name in ``checkpoint``.

    A constant prefix of the checkpoint's names is ignored. An encoder that the network declares in
    ``further_encoders`` gets the source's ``encoder`` if the source has no encoder of its name. Two
    kinds of weights are adapted where their shapes differ:

    - The convolution that reads the image: for one input channel, the sum over the source's
      channels, as in timm; for several, the source's channels repeated in turn and scaled by source
      / target channels. An image of equal channels then has the same result as in the source,
      provided that the larger number of channels is a multiple of the smaller.
    - The decoder's first upsampling, from one encoder to two or back: the half that reads
      ``encoder`` is copied. The other half starts at zero, so that two encoders first compute what
      the one computed, or it is dropped.

    Segmentation heads of another shape keep their values, and so do whole parts that the source
    lacks (not encoders), and weights with one of ``may_lack`` in their names that it lacks.

    With ``adapt``, the source may be planned otherwise, see ``other_plans.py``. ``readable`` says
    which file to give if this one cannot be read.

    Returns:
        Where each weight comes from.

    Raises:
        InputError: unreadable checkpoint, or (MisfitError) one that does not fit; the network is
            then unchanged.
    """
    weights = read_weights(checkpoint, readable)
    source = under_our_names(weights, network, checkpoint)
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
    """Return the usable part of a source with other plans.

    These are the encoder's stages that our network has, and the decoder if all of it fits.
    """
    depth = _stages(ours)
    is_as_deep = _stages(source) == depth
    source = without_surplus_stages(source, depth)
    decoder_fits = True
    for pair in _pairs(network, source, adapt=True):
        is_decoder = pair.name.startswith(DECODER) and HEADS not in pair.name
        if is_decoder and pair.fitted is None:
            decoder_fits = False

    if is_as_deep and decoder_fits:
        return source
    return without_decoder(source)


def _pairs(network: nn.Module, source: Weights, adapt: bool = False) -> list[Pair]:
    """Pair every tensor of the network with its counterpart in the source."""
    encoders = further_encoders(network)
    weights_on_image = image_convolutions(network)
    pairs = []
    for names, own in tensors_of(network):
        name = names[0]
        theirs = counterpart(names, source, encoders)
        fits = None
        if theirs is not None:
            reads_image = id(own) in weights_on_image
            fits = fitted(name, theirs, own, reads_image, adapt)
        pair = Pair(name, own, theirs, fits)
        pairs.append(pair)
    return pairs


def _is_required(origin: Origin, may_lack: tuple[str, ...]) -> bool:
    """Return whether a weight must come from the source for its part to be whole."""
    if origin.how != "random":
        return True
    return not any(fragment in origin.name for fragment in may_lack)


# --- what does not fit


def _require_finite(pairs: Sequence[Pair], checkpoint: Path) -> None:
    for pair in pairs:
        if pair.fitted is not None and not torch.isfinite(pair.fitted.value).all():
            raise InputError(
                f"{checkpoint}: {pair.name} is not finite because the training diverged; give "
                "another checkpoint"
            )


def _require_equal_shapes(pairs: Sequence[Pair], stages: str, checkpoint: Path) -> None:
    misfits = [pair for pair in pairs if pair.is_misfit]
    if not misfits:
        return

    first = misfits[0]
    assert first.theirs is not None
    theirs = list(first.theirs.shape)
    own = list(first.own.shape)
    differing = _differing_shapes(first.name, theirs, own) or stages or "features_per_stage"
    raise MisfitError(
        f"{checkpoint}: {len(misfits)} of {len(pairs)} weights have another shape ({differing}), "
        f"first {first.name}: {theirs} in the file, {own} in the network"
    )


def _differing_shapes(name: str, theirs: list[int], own: list[int]) -> str:
    """Return why the kernels of two weights differ; empty if they do not."""
    if len(theirs) != len(own):
        their_axes = len(theirs) - 2
        own_axes = len(own) - 2
        return f"{their_axes}d against {own_axes}d"
    if theirs[2:] == own[2:]:
        return ""
    return "strides" if "transpconvs" in name else "kernel_sizes"


def _require_whole_parts(origins: Sequence[Origin], stages: str, checkpoint: Path) -> None:
    """Check that every part is filled completely or not at all, and every encoder completely."""
    counts: Counter[str] = Counter()
    missing: dict[str, list[str]] = {}
    filled = set()
    for origin in origins:
        if origin.part == "heads":
            continue
        counts[origin.part] += 1
        if origin.how == "random":
            missing.setdefault(origin.part, []).append(origin.name)
        else:
            filled.add(origin.part)

    for part, names in missing.items():
        is_encoder = part.startswith("encoder")
        must_be_whole = part in filled or is_encoder or not filled
        if must_be_whole:
            raise MisfitError(
                f"{checkpoint}: lacks {len(names)} of {counts[part]} weights of the {part} "
                f"({_differing_layers(stages)}), first {names[0]}"
            )


def _require_no_more_layers(
    origins: Sequence[Origin], source: Weights, ours: set[str], stages: str, checkpoint: Path
) -> None:
    """Check that the source has no further layers in the parts that it fills."""
    places = set()
    for origin in origins:
        is_filled = origin.how != "random"
        if is_filled and origin.part != "heads":
            places.add(_place(origin.name))

    surplus = []
    for name in source:
        if name not in ours and _place(name) in places:
            surplus.append(name)
    if surplus:
        raise MisfitError(
            f"{checkpoint}: has {len(surplus)} weights more than this network "
            f"({_differing_layers(stages)}), first {surplus[0]}"
        )


def _differing_layers(stages: str) -> str:
    """Return what may differ if there are too few or too many layers."""
    other = "another network class, n_conv_per_stage or n_blocks_per_stage, or an incomplete file"
    return stages or other


def _place(name: str) -> str:
    """Return ``encoder.stages`` or ``layer3`` for a weight in one of its blocks.

    ``encoder.projection`` is another place.
    """
    place: list[str] = []
    for part in name.split(".")[:2]:
        is_number_of_block = part.isdigit()
        if place and is_number_of_block:
            break
        place.append(part)
    return ".".join(place)


def _differing_stages(source: Iterable[str], ours: Iterable[str]) -> str:
    """Return how the numbers of encoder stages differ; empty if they do not, or are unknown.

    A network without such stages does not follow the plans, so it is named itself.
    """
    theirs = _stages(source)
    own = _stages(ours)
    if own == 0:
        return "another network"
    if theirs > 0 and theirs != own:
        return f"n_stages, {theirs} against {own}"
    return ""


def _stages(names: Iterable[str]) -> int:
    """Count the stages of the encoder; 0 if no weight is named after one."""
    count = 0
    for name in names:
        match = ENCODER_STAGE.match(name)
        if match is not None:
            number = int(match[1])
            count = max(count, number + 1)
    return count
