"""Another patch and batch than nnU-Net has planned; preprocessed data do not depend on them."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_ext.errors import InputError

KEYS = ("patch_size", "batch_size")


@dataclass(frozen=True)
class Sizes:
    """The sizes that the command line names; None stays as it is."""

    patch: Sequence[int] | None = None  # pixels or voxels, in the order of the plans
    batch: int | None = None

    def write_into(self, plans: dict[str, Any], configurations: Sequence[str]) -> list[str]:
        """Write the sizes into these configurations of the plans.

        Returns:
            A line for the user about every patch with which nnU-Net's own network cannot be
            trained.

        Raises:
            InputError: the patch has another number of axes than a configuration.
        """
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        warnings = []
        for name in configurations:
            configuration = plans["configurations"][name]
            if self.batch is not None:
                configuration["batch_size"] = self.batch
            if self.patch is None:
                continue

            planned = PlansManager(plans).get_configuration(name)
            axes = len(planned.patch_size)
            if len(self.patch) != axes:
                raise InputError(f"--patch {_listed(self.patch)}: {name} needs {axes} numbers")
            configuration["patch_size"] = list(self.patch)
            multiples = _multiples(planned.network_arch_init_kwargs)
            remainders = map(operator.mod, self.patch, multiples)
            if any(remainders):
                warnings.append(
                    f"{name}: nnU-Net's own network needs edges that are multiples of "
                    f"{_listed(multiples)}; use this patch with trainers that have another network"
                )
        return warnings


def _multiples(network: dict[str, Any]) -> list[int]:
    """Return by what each edge must be divisible; empty for a network without strides."""
    strides_per_stage = network.get("strides", [])
    strides_per_axis = zip(*strides_per_stage, strict=True)
    return [math.prod(strides) for strides in strides_per_axis]


def _listed(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def without_sizes(plans: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the plans, as it is read from a file, that names no patch and no batch."""

    def others(entries: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in entries.items() if key not in KEYS}

    text = json.dumps(plans)
    return json.loads(text, object_hook=others)


def keep_sizes(plans: dict[str, Any], existing: dict[str, Any]) -> None:
    """Take over patch and batch of existing plans with the same configurations."""
    for name, configuration in existing["configurations"].items():
        for key in KEYS:
            if key in configuration:
                plans["configurations"][name][key] = configuration[key]
