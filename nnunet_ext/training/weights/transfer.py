"""Fill a trainer's network from the checkpoint of another trainer or another program."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nnunet_ext.errors import InputError
from nnunet_ext.training.settings.plans_entry import record_regions
from nnunet_ext.training.weights.checkpoint_files import read_weights

GENERAL, TARGET = "encoder_general.", "encoder."  # the two encoders of DualEncoderUNet
# (general and target bottleneck, outputs, *kernel) in DualEncoderUNet
FUSION = "decoder.transpconvs.0.weight"
HEADS = ".seg_layers."  # nnU-Net's -pretrained_weights ignores what it finds under this name
ENCODER_STAGE = re.compile(r"encoder\.stages\.(\d+)\.")
COUNTED_CHILD = re.compile(r"(?:[A-Za-z_]\w*\.)*?(\d+)\.(.+)")

READABLE = (
    "give a checkpoint of nnU-Net, or write one: torch.save({'state_dict': "
    "network.state_dict()}, FILE)"
)
SAME_PLANS = (
    "plan with the source's architecture; nnUNetv2_move_plans_between_datasets takes over its plans"
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
        """``encoder_general``, ``encoder``, ``decoder``, ``heads``; in other networks the child
        that holds it.
        """
        return _part(self.name)


def build_network(
    trainer: type, plans: PlansManager, configuration: str, dataset_json: dict[str, Any]
) -> nn.Module:
    """The network that ``trainer`` trains, with the same random weights every time.

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
            network: nn.Module = build(plans, manager, channels, heads, False)
        except InputError:
            raise
        except Exception as error:  # the trainer's author may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(
                f"{trainer.__name__} builds no network from configuration {configuration} of "
                f"{plans.plans_name} "
                f"({reason}); choose another -tr or -c"
            ) from error
    return network


def fill_network(
    network: nn.Module, checkpoint: Path, may_lack: tuple[str, ...] = ()
) -> list[Origin]:
    """Give each weight of ``network`` its counterpart of equal name in ``checkpoint``; returns
    where each comes from.

    A constant prefix of the checkpoint's names does not matter. A general encoder gets the source's
    encoder if the source has no general one. Two kinds of weights are adapted where their shapes
    differ:

    - The convolution that reads the image: for one input channel the sum over the source's, as in
      timm; else the source's channels repeated in turn and scaled by source / target channels. An
      image of equal channels then gives what it gave in the source, provided that the larger number
      of channels is a multiple of the smaller.
    - The decoder's first upsampling, between one encoder and two: the half of the target encoder is
      copied; the half of the general encoder starts at zero, so that two encoders compute at first
      what the one computed, or is dropped.

    Segmentation heads of another shape, and whole parts that the source lacks (not encoders), keep
    their values; so do weights with one of ``may_lack`` in their names if the source has none of
    that name.

    Raises:
        InputError: unreadable checkpoint, or one that does not fit; the network is then unchanged.
    """
    source = _under_our_names(read_weights(checkpoint, READABLE), network, checkpoint)
    reads_image = _image_convolutions(network)
    origins: list[Origin] = []
    values: list[tuple[torch.Tensor, torch.Tensor]] = []
    misfits: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    for names, own in _tensors(network):
        theirs = _counterpart(names, source)
        fitted = None if theirs is None else _fitted(names[0], theirs, own, id(own) in reads_image)
        if theirs is None or fitted is None:
            if theirs is not None and HEADS not in names[0]:
                misfits.append((names[0], theirs, own))
            origins.append(Origin(names[0], own.numel(), "random"))
            continue
        value, adaptation = fitted
        if not torch.isfinite(value).all():
            raise InputError(
                f"{checkpoint}: {names[0]} is not finite, the training diverged; give another "
                f"checkpoint"
            )
        values.append((own, value))
        origins.append(
            Origin(names[0], own.numel(), "adapted" if adaptation else "copied", adaptation)
        )
    ours = set(network.state_dict())
    stages = _differing_stages(source, ours)
    _require_equal_shapes(misfits, len(origins), stages, checkpoint)
    required = [
        origin
        for origin in origins
        if origin.how != "random" or not _names_one(origin.name, may_lack)
    ]
    _require_whole_parts(required, source, ours, stages, checkpoint)
    with torch.no_grad():
        for own, value in values:
            own.copy_(value)
    return origins


def adapted_to_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """A convolution's weight ``[outputs, inputs, *kernel]`` for other input channels; rule in
    :func:`fill_network`.

    >>> adapted_to_channels(torch.tensor([[1.0, 2.0, 3.0]]), 1)
    tensor([[6.]])
    >>> adapted_to_channels(torch.tensor([[6.0]]), 3)
    tensor([[2., 2., 2.]])
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    given = weight.shape[1]
    return weight[:, [channel % given for channel in range(channels)]] * (given / channels)


# --- names
# --------------------------------------------------------------------------------------------------


def _names_one(name: str, fragments: tuple[str, ...]) -> bool:
    return any(fragment in name for fragment in fragments)


def _part(name: str) -> str:
    return "heads" if HEADS in name else name.partition(".")[0]


def _tensors(network: nn.Module) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Each parameter and buffer once, with all its names: nnU-Net's networks list most of theirs
    several times.
    """
    names: dict[int, list[str]] = {}
    tensors = network.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    for group in names.values():
        yield group, tensors[group[0]]


def _under_our_names(
    weights: Mapping[str, torch.Tensor], network: nn.Module, checkpoint: Path
) -> Mapping[str, torch.Tensor]:
    """The weights without the constant prefix that gives most names a counterpart, e.g. ``module.``
    or ``backbone.``.

    A file that holds nothing but an encoder may lack the prefix ``encoder.``.

    Raises:
        InputError: no name has a counterpart, or several prefixes are equally good.
    """
    ours = set(network.state_dict())
    weights = _without_counted_children(weights, network)
    matches = _prefix_matches(weights, ours)
    if not matches:
        raise InputError(
            f"{checkpoint}: none of its {len(weights)} weights has a counterpart by name; it has "
            f"for instance "
            f"{next(iter(weights))}, this network {next(iter(network.state_dict()))}; {SAME_PLANS}"
        )
    most = max(matches.values())
    best = [pair for pair, count in matches.items() if count == most]
    if len(best) > 1 and ("", "") not in best:
        prefixes = ", ".join(prefix or "no prefix" for prefix, _ in best)
        raise InputError(
            f"{checkpoint}: holds several networks that fit ({prefixes}); save the one you want "
            f"alone"
        )
    theirs, instead = ("", "") if ("", "") in best else best[0]
    return {
        instead + name[len(theirs) :]: value
        for name, value in weights.items()
        if name.startswith(theirs)
    }


def _prefix_matches(weights: Iterable[str], ours: set[str]) -> Counter[tuple[str, str]]:
    """How many names have a counterpart, by the prefix to remove and the one to put in its
    place.
    """
    matches: Counter[tuple[str, str]] = Counter()
    for name in weights:
        ends = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        for end in ends:
            prefix = name[:end]
            if name[end:] in ours:
                matches[prefix, ""] += 1
            if TARGET + name[end:] in ours and not f".{prefix}".endswith(f".{TARGET}"):
                matches[prefix, TARGET] += 1
    return matches


def _without_counted_children(
    weights: Mapping[str, torch.Tensor], network: nn.Module
) -> Mapping[str, torch.Tensor]:
    """Name weights whose file counts the children of the network: ``backbone.4.0.conv1.weight``.

    ``nn.Sequential(*resnet.children())`` writes such files. Names stay as they are unless more of
    them fit thereby, also behind a constant prefix.
    """
    children = [name for name, _ in network.named_children()]
    named = {}
    for name, value in weights.items():
        counted = COUNTED_CHILD.match(name)
        if counted and int(counted[1]) < len(children):
            named[f"{children[int(counted[1])]}.{counted[2]}"] = value

    ours = set(network.state_dict())
    fitting_now = max(_prefix_matches(weights, ours).values(), default=0)
    return named if len(ours & set(named)) > fitting_now else weights


def _counterpart(names: list[str], source: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """The source's tensor of one of these names; of its only encoder, if the names are the general
    encoder's.
    """
    if names[0].startswith(GENERAL) and not any(name.startswith(GENERAL) for name in source):
        names = [TARGET + name.removeprefix(GENERAL) for name in names]
    return next((source[name] for name in names if name in source), None)


# --- shapes
# --------------------------------------------------------------------------------------------------


def _image_convolutions(network: nn.Module) -> set[int]:
    """Identities of the weights of each encoder's first convolution, in other networks of the first
    one.
    """
    encoders = [
        getattr(network, name.rstrip("."))
        for name in (GENERAL, TARGET)
        if hasattr(network, name.rstrip("."))
    ]
    convolutions = (
        [m for m in part.modules() if isinstance(m, _ConvNd)] for part in encoders or [network]
    )
    return {id(found[0].weight) for found in convolutions if found}


def _fitted(
    name: str, theirs: torch.Tensor, own: torch.Tensor, reads_image: bool
) -> tuple[torch.Tensor, str] | None:
    """The source's tensor in the shape of ours and how it was adapted; None if it does not fit."""
    if theirs.shape == own.shape:
        return theirs, ""
    if theirs.ndim != own.ndim:
        return None
    (their_first, *their_rest), (own_first, *own_rest) = theirs.shape, own.shape
    if reads_image and their_first == own_first and their_rest[1:] == own_rest[1:]:
        how = "summed to" if own_rest[0] == 1 else "repeated and rescaled to"
        return adapted_to_channels(
            theirs, own_rest[0]
        ), f"{their_rest[0]} input channels {how} {own_rest[0]}"
    if name == FUSION and their_rest == own_rest and own_first == 2 * their_first:
        half = "the target encoder's half copied, the general encoder's half zero"
        return torch.cat((torch.zeros_like(theirs), theirs)), half
    if name == FUSION and their_rest == own_rest and their_first == 2 * own_first:
        return theirs[
            own_first:
        ], "the target encoder's half copied, the general encoder's half dropped"
    return None


def _require_equal_shapes(
    misfits: list[tuple[str, torch.Tensor, torch.Tensor]], total: int, stages: str, checkpoint: Path
) -> None:
    if not misfits:
        return
    name, theirs, own = misfits[0]
    if theirs.ndim != own.ndim:
        differing = f"{theirs.ndim - 2}d against {own.ndim - 2}d"
    elif theirs.shape[2:] != own.shape[2:]:
        differing = "strides" if "transpconvs" in name else "kernel_sizes"
    else:
        differing = stages or "features_per_stage"
    raise InputError(
        f"{checkpoint}: {len(misfits)} of {total} weights have another shape ({differing}), first "
        f"{name}: "
        f"{list(theirs.shape)} in the file, {list(own.shape)} in the network; {SAME_PLANS}"
    )


def _require_whole_parts(
    origins: list[Origin],
    source: Mapping[str, torch.Tensor],
    ours: set[str],
    stages: str,
    checkpoint: Path,
) -> None:
    """Every part is filled whole or not at all, an encoder whole, and the source has no more layers
    there.
    """
    differing = (
        stages
        or "another network class, n_conv_per_stage or n_blocks_per_stage, or an incomplete file"
    )
    body = [origin for origin in origins if origin.part != "heads"]
    filled = {origin.part for origin in body if origin.how != "random"}
    for part in dict.fromkeys(origin.part for origin in body):
        names = [origin.name for origin in body if origin.part == part]
        missing = [origin.name for origin in body if origin.part == part and origin.how == "random"]
        if missing and (part in filled or part.startswith("encoder") or not filled):
            raise InputError(
                f"{checkpoint}: lacks {len(missing)} of {len(names)} weights of the {part} "
                f"({differing}), "
                f"first {missing[0]}; {SAME_PLANS}"
            )
    places = {_place(origin.name) for origin in body if origin.how != "random"}
    surplus = [name for name in source if _place(name) in places and name not in ours]
    if surplus:
        raise InputError(
            f"{checkpoint}: has {len(surplus)} weights more than this network ({differing}), "
            f"first {surplus[0]}; "
            f"{SAME_PLANS}"
        )


def _place(name: str) -> str:
    """``encoder.stages`` of a weight in there: a foreign ``encoder.projection`` is no layer of this
    network.
    """
    return ".".join(name.split(".")[:2])


def _differing_stages(source: Iterable[str], ours: Iterable[str]) -> str:
    theirs, own = (
        max((int(match[1]) + 1 for match in map(ENCODER_STAGE.match, names) if match), default=0)
        for names in (source, ours)
    )
    return f"n_stages, {theirs} against {own}" if theirs and own and theirs != own else ""
