"""Which weight of a checkpoint belongs to which weight of a network, by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from nnunet_ext.errors import InputError

ENCODER = "encoder."  # what nnU-Net calls the encoder of its networks
COUNTED_CHILD = re.compile(r"(?:[A-Za-z_]\w*\.)*?(\d+)\.(.+)")

SAME_PLANS = (
    "plan with the source's architecture; nnUNetv2_move_plans_between_datasets takes over its plans"
)

Weights = Mapping[str, torch.Tensor]


def further_encoders(network: nn.Module) -> tuple[str, ...]:
    """Return the encoders that a network declares beside ``encoder``, in ``further_encoders``."""
    return getattr(network, "further_encoders", ())


def tensors_of(network: nn.Module) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Yield each parameter and buffer once, with all its names.

    nnU-Net's networks list most of theirs several times.
    """
    names: dict[int, list[str]] = {}
    tensors = network.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)

    for group in names.values():
        yield group, tensors[group[0]]


def under_our_names(weights: Weights, network: nn.Module, checkpoint: Path) -> Weights:
    """Return the weights without a constant prefix, such as ``module.`` or ``backbone.``.

    The prefix is the one whose removal gives most names a counterpart in the network. A file that
    holds nothing but an encoder may lack the prefix ``encoder.``, which is then added.

    Raises:
        InputError: no name has a counterpart, or several prefixes are equally good.
    """
    weights = _without_counted_children(weights, network)
    ours = set(network.state_dict())
    matches = _prefix_matches(weights, ours)
    if not matches:
        raise InputError(
            f"{checkpoint}: none of its {len(weights)} weights has a counterpart by name; it has "
            f"for instance {next(iter(weights))}, this network {next(iter(network.state_dict()))}; "
            f"{SAME_PLANS}"
        )

    theirs, instead = _best_prefix(matches, checkpoint)
    renamed = {}
    for name, value in weights.items():
        if name.startswith(theirs):
            renamed[instead + name.removeprefix(theirs)] = value
    return renamed


def _best_prefix(matches: Counter[tuple[str, str]], checkpoint: Path) -> tuple[str, str]:
    """Return the prefix to remove and the one to put in its place; none at all if that is as good.

    Raises:
        InputError: several prefixes are equally good.
    """
    most = max(matches.values())
    best = [pair for pair, count in matches.items() if count == most]
    if ("", "") in best:
        return "", ""

    if len(best) > 1:
        prefixes = ", ".join(prefix or "no prefix" for prefix, _ in best)
        raise InputError(
            f"{checkpoint}: holds several networks that fit ({prefixes}); save the one you want "
            "alone"
        )
    return best[0]


def _prefix_matches(weights: Iterable[str], ours: set[str]) -> Counter[tuple[str, str]]:
    """Count the names that have a counterpart, by prefix to remove and prefix to add instead."""
    matches: Counter[tuple[str, str]] = Counter()
    for name in weights:
        ends = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        for end in ends:
            prefix, rest = name[:end], name[end:]
            if rest in ours:
                matches[prefix, ""] += 1

            is_encoder = f".{prefix}".endswith(f".{ENCODER}")
            if ENCODER + rest in ours and not is_encoder:
                matches[prefix, ENCODER] += 1
    return matches


def _without_counted_children(weights: Weights, network: nn.Module) -> Weights:
    """Name weights whose file counts the children of the network: ``backbone.4.0.conv1.weight``.

    ``nn.Sequential(*resnet.children())`` writes such files. Names stay as they are unless more of
    them fit thereby, also behind a constant prefix.
    """
    children = [name for name, _ in network.named_children()]
    named = {}
    for name, value in weights.items():
        counted = COUNTED_CHILD.match(name)
        if counted is None:
            continue
        number, rest = int(counted[1]), counted[2]
        if number < len(children):
            named[f"{children[number]}.{rest}"] = value

    ours = set(network.state_dict())
    fitting_now = max(_prefix_matches(weights, ours).values(), default=0)
    fitting_named = len(ours & set(named))
    return named if fitting_named > fitting_now else weights


def counterpart(
    names: list[str], source: Weights, encoders: tuple[str, ...]
) -> torch.Tensor | None:
    """Return the source's tensor of one of these names; None if there is none.

    Args:
        names: of one tensor of the network.
        source: the weights of the checkpoint, under our names.
        encoders: the network's :func:`further_encoders`. One that the source lacks gets the
            weights of the source's ``encoder``.
    """
    for encoder in encoders:
        prefix = f"{encoder}."
        has_own = any(name.startswith(prefix) for name in source)
        if names[0].startswith(prefix) and not has_own:
            names = [ENCODER + name.removeprefix(prefix) for name in names]

    for name in names:
        if name in source:
            return source[name]
    return None
