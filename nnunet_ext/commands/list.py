"""``nnUNetv2_ext_list``: which trainers there are, what each needs, and when to use it."""

from __future__ import annotations

import argparse
import inspect
from typing import TYPE_CHECKING

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.own_trainers import known_trainers
from nnunet_ext.training.settings.hyperparameters import declared, describe

if TYPE_CHECKING:
    from nnunet_ext.training.configured_trainer import ConfiguredTrainer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_list",
        description="List the trainers, the streams that each needs, and when to use it. "
        "With the name of a trainer, show its paper, presets and hyperparameters.",
        epilog="Example: nnUNetv2_ext_list RelationDrivenTrainer",
    )
    parser.add_argument("trainer", nargs="?", metavar="TRAINER", help="show this trainer in full")
    return parser


@command
def list_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_list``."""
    arguments = _parser().parse_args(argv)
    known = known_trainers()
    if arguments.trainer is None:
        _print_overview(known)
        return 0

    if arguments.trainer not in known:
        raise InputError(f"{arguments.trainer}: no such trainer; there are {', '.join(known)}")
    _print_trainer(known[arguments.trainer])
    return 0


def _print_overview(known: dict[str, type[ConfiguredTrainer]]) -> None:
    for name, trainer in known.items():
        streams = _streams(trainer)
        configurations = ", ".join(trainer.configurations)
        print(name)
        print(f"    {_advice(trainer)}")
        print(f"    streams: {streams}; configurations: {configurations}")
    print("\nnnUNetv2_ext_list TRAINER shows its paper, presets and hyperparameters.")


def _advice(trainer: type[ConfiguredTrainer]) -> str:
    if not trainer.use_when:
        return "no advice (use_when) is given"
    return f"use it when {trainer.use_when}"


def _streams(trainer: type[ConfiguredTrainer]) -> str:
    """Return the data sets beside the labelled one, as options of nnUNetv2_ext_configure."""
    options = []
    for role in trainer.required_streams:
        options.append(f"--{role}")
    for role in getattr(trainer, "optional_streams", ()):
        options.append(f"[--{role}]")
    return " ".join(options) or "none"


def _print_trainer(trainer: type[ConfiguredTrainer]) -> None:
    print(trainer.__name__)
    print(f"\n{inspect.getdoc(trainer)}\n")
    advice = _advice(trainer)
    first, rest = advice[0], advice[1:]
    print(f"{first.upper()}{rest}.")
    configurations = ", ".join(trainer.configurations)
    print(f"Streams: {_streams(trainer)}. Configurations: {configurations}.\n")

    for preset, values in trainer.presets.items():
        changed = [f"{name}={value}" for name, value in values.items()]
        shown = ", ".join(changed) or "the defaults"
        print(f"Preset {preset}: {shown}")

    print("\nHyperparameters, with their values before a preset changes them")
    print("(nnUNetv2_ext_configure -d ID --set NAME=VALUE):")
    for name, hint in declared(trainer).items():
        default = getattr(trainer, name)
        print(f"    {name}={default}  ({describe(hint)})")
