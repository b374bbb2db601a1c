"""Find by name which weight of a checkpoint belongs to which weight of a network."""

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


class MisfitError(InputError):
    """The weights of a file are not those of the network; advises other plans.

    ``reason`` is the message without that advice, for networks that do not follow the plans.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; {SAME_PLANS}")
        self.reason = reason


def further_encoders(network: nn.Module) -> tuple[str, ...]:
    """Return the encoders that a network declares in ``further_encoders``, beside ``encoder``."""
    return getattr(network, "further_encoders", ())


def tensors_of(network: nn.Module) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Yield each parameter and buffer once, with all its names.

    nnU-Net's networks list most of them several times.
    """
    names_of: dict[int, list[str]] = {}
    tensors = network.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        names = names_of.setdefault(id(tensor), [])
        names.append(name)

    for names in names_of.values():
        tensor = tensors[names[0]]
        yield names, tensor


def under_our_names(weights: Weights, network: nn.Module, checkpoint: Path) -> Weights:
    """Return the weights without a constant prefix, such as ``module.`` or ``backbone.``.

    The chosen prefix is the one whose removal gives most names a counterpart in the network. A file
    that holds nothing but an encoder may lack the prefix ``encoder.``, which is then added.

    Raises:
        InputError: no name has a counterpart, or several prefixes are equally good.
    """
    weights = _without_counted_children(weights, network)
    ours = set(network.state_dict())
    matches = _prefix_matches(weights, ours)
    if not matches:
        their_first = next(iter(weights))
        our_first = next(iter(network.state_dict()))
        raise MisfitError(
            f"{checkpoint}: none of its {len(weights)} weights has a counterpart by name; it has "
            f"for instance {their_first}, this network {our_first}"
        )

    removed, added = _best_prefix(matches, checkpoint)
    renamed = {}
    for name, value in weights.items():
        if name.startswith(removed):
            rest = name.removeprefix(removed)
            renamed[added + rest] = value
    return renamed


def _best_prefix(matches: Counter[tuple[str, str]], checkpoint: Path) -> tuple[str, str]:
    """Return the prefixes to remove and to add; both are empty if that is equally good.

    Raises:
        InputError: several prefixes are equally good.
    """
    most = max(matches.values())
    best = [pair for pair, count in matches.items() if count == most]
    if ("", "") in best:
        return "", ""

    if len(best) > 1:
        prefixes = ", ".join(removed or "no prefix" for removed, _ in best)
        raise InputError(
            f"{checkpoint}: holds several networks that fit ({prefixes}); save only the one you "
            "want"
        )
    return best[0]


def _prefix_matches(weights: Iterable[str], ours: set[str]) -> Counter[tuple[str, str]]:
    """Count the names that have a counterpart, by prefix to remove and prefix to add instead."""
    matches: Counter[tuple[str, str]] = Counter()
    for name in weights:
        parts = name.split(".")
        for count in range(len(parts)):
            prefix = "".join(f"{part}." for part in parts[:count])
            rest = name.removeprefix(prefix)
            if rest in ours:
                matches[prefix, ""] += 1

            in_encoder = ENCODER + rest
            is_encoder = f".{prefix}".endswith(f".{ENCODER}")
            if in_encoder in ours and not is_encoder:
                matches[prefix, ENCODER] += 1
    return matches


def _without_counted_children(weights: Weights, network: nn.Module) -> Weights:
    """Rename weights whose file counts the network's children: ``backbone.4.0.conv1.weight``.

    ``nn.Sequential(*resnet.children())`` writes such files. The names change only if more weights
    fit afterwards than by removing a constant prefix.
    """
    children = [name for name, _ in network.named_children()]
    renamed = {}
    for name, value in weights.items():
        counted = COUNTED_CHILD.match(name)
        if counted is None:
            continue
        number = int(counted[1])
        if number < len(children):
            child = children[number]
            renamed[f"{child}.{counted[2]}"] = value

    ours = set(network.state_dict())
    matches = _prefix_matches(weights, ours)
    fitting_now = max(matches.values(), default=0)
    fitting_renamed = len(ours.intersection(renamed))
    return renamed if fitting_renamed > fitting_now else weights


def counterpart(
    names: list[str], source: Weights, encoders: tuple[str, ...]
) -> torch.Tensor | None:
    """Return the source's tensor of one of these names; None if there is none.

    Args:
        names: of one tensor of the network.
        source: the weights of the checkpoint, under our names.
        encoders: the network's :func:`further_encoders`. One that the source lacks gets the weights
            of the source's ``encoder``.
    """
    for encoder in encoders:
        prefix = f"{encoder}."
        if not names[0].startswith(prefix):
            continue
        has_own = any(name.startswith(prefix) for name in source)
        if not has_own:
            names = [ENCODER + name.removeprefix(prefix) for name in names]

    for name in names:
        if name in source:
            return source[name]
    return None
