"""``nnUNetv2_ext_configure``: give a data set's plans further streams and hyperparameters."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.argument_types import positive
from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.files.locks import held
from nnunet_ext.own_trainers import known_trainers
from nnunet_ext.stock.folders import dataset_name, environment_folder
from nnunet_ext.training.settings.hyperparameters import PRESETS
from nnunet_ext.training.settings.plans_entry import ROLES

if TYPE_CHECKING:
    from nnunet_ext.training.settings.plans_entry import PlansEntry

LOCK = ".configure.lock"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_configure",
        description="Preprocess further data sets with the labelled data set's plans and record "
        "them, with hyperparameters, inside the plans. Options you omit keep their values; "
        "--reset clears them.",
        epilog="Example: nnUNetv2_ext_configure -d 120 --general 6 61 --unlabeled 121 --set "
        "num_epochs=100",
    )
    add = parser.add_argument
    add("-d", required=True, metavar="ID", help="labelled data set, id or name; planned already")
    for role, meaning in ROLES.items():
        add(f"--{role}", nargs="+", metavar="ID", help=meaning)
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="hyperparameters; Trainer.NAME=VALUE holds for one trainer only",
    )
    add(
        "--normalize",
        nargs="+",
        default=[],
        metavar="ROLE=KIND",
        help='a stream\'s own normalization, e.g. "target_domain=window(0,80)": intensities '
        "clipped to 0 and 80 and mapped to [-1, 1]; ROLE=plans goes back to that of the plans",
    )
    add(
        "--preset",
        choices=PRESETS,
        help="default: recommended; values as printed, or as in the code",
    )
    add("-p", default="nnUNetPlans", metavar="PLANS", help="plans identifier, default nnUNetPlans")
    add("-o", metavar="NEWPLANS", help="write plans of this name instead of changing PLANS")
    add(
        "-c",
        nargs="+",
        metavar="CONFIG",
        help="configurations to preprocess for, default: 2d and 3d_fullres if planned",
    )
    add(
        "--patch",
        nargs="+",
        type=positive,
        metavar="EDGE",
        help="patch of NEWPLANS instead of the planned one, e.g. 352 352; needs -o and -c",
    )
    add("--batch", type=positive, metavar="N", help="batch of NEWPLANS; needs -o and -c")
    add("-np", type=int, default=2, metavar="N", help="worker processes, default 2")
    add(
        "--forbid-overlap",
        action="store_true",
        help="refuse a stream that shares images with the labelled data set",
    )
    add("--reset", action="store_true", help="forget what was configured before")
    add("--show", action="store_true", help="print what is configured and change nothing")
    return parser


@command
def configure_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_configure``."""
    arguments = _parser().parse_args(argv)
    if arguments.np < 1:
        raise InputError(f"-np {arguments.np}: needs at least one process")

    sizes_are_named = arguments.patch or arguments.batch
    if sizes_are_named and not (arguments.o and arguments.c):
        raise InputError(
            "--patch and --batch: name new plans with -o and their configuration with -c"
        )

    preprocessed = environment_folder("nnUNet_preprocessed")
    folder = preprocessed / dataset_name(arguments.d)
    plans_file = folder / f"{arguments.p}.json"
    if not plans_file.is_file():
        raise InputError(
            f"{plans_file}: no such plans; run nnUNetv2_plan_and_preprocess -d {arguments.d} first"
        )
    if arguments.show:
        return _configure(arguments, plans_file)
    with held(folder / LOCK):  # of another one, which writes the same streams or plans
        return _configure(arguments, plans_file)


def _configure(arguments: argparse.Namespace, plans_file: Path) -> int:
    from nnunet_ext.configure.changes import Changes
    from nnunet_ext.configure.run import PlansToChange, Preprocessing, change_plans
    from nnunet_ext.configure.sizes import Sizes
    from nnunet_ext.training.settings.plans_entry import PlansEntry

    plans = PlansToChange.read(plans_file, arguments.o)
    entry = PlansEntry()
    if not arguments.reset:
        entry = plans.entry()
        plans.keep_sizes()
    if not arguments.show:
        streams = {}
        for role in ROLES:
            datasets = getattr(arguments, role)
            if datasets:
                streams[role] = datasets
        changes = Changes(streams, arguments.settings, arguments.normalize, arguments.preset)
        how = Preprocessing(arguments.c, arguments.np, arguments.forbid_overlap)
        sizes = Sizes(arguments.patch, arguments.batch)
        change_plans(plans, entry, changes, sizes, how, print)
    _show(plans_file.parent.name, plans.target.stem, entry)
    return 0


def _show(dataset: str, plans_name: str, entry: PlansEntry) -> None:
    """Print the entry, and which trainers it completes."""
    print(f"\n{dataset}, plans {plans_name}, preset {entry.preset}")
    for role, datasets in entry.streams.items():
        names = ", ".join(datasets)
        line = f"  {role}: {names}"
        normalization = entry.normalizations.get(role)
        if normalization is not None:
            line += f", normalized by {normalization}"
        print(line)
    for name, value in entry.settings.items():
        print(f"  {name} = {value}")
    if not entry.streams and not entry.settings:
        print("  nothing configured: nnU-Net's defaults, labelled stream only")

    for name, trainer in known_trainers().items():
        missing = []
        for role in trainer.required_streams:
            if role not in entry.streams:
                missing.append(f"--{role}")
        state = f"needs {' '.join(missing)}" if missing else "ready"
        print(f"  {name}: {state}")
