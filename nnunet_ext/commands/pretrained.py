"""``nnUNetv2_ext_pretrained``: make any checkpoint fit ``nnUNetv2_train -pretrained_weights``."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.own_trainers import find_trainer
from nnunet_ext.stock.files import read_dataset_json, read_plans
from nnunet_ext.stock.folders import dataset_name, environment_folder

if TYPE_CHECKING:
    from nnunet_ext.training.weights.transfer import Origin

HOW = ("copied", "adapted", "random")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_pretrained",
        description="Turn a checkpoint of another trainer, data set or program into one that "
        "nnUNetv2_train -pretrained_weights accepts for this trainer. Prints what was copied, "
        "adapted and left at random. With --timm instead, fetch a backbone's weights from timm.",
        epilog="Example: nnUNetv2_ext_pretrained -i lesions/checkpoint_final.pth -d 120 -c 2d "
        "-tr RelationDrivenTrainer -o start.pth",
    )
    add = parser.add_argument
    add("-i", type=Path, metavar="CHECKPOINT", help="weights to start from, .pth")
    add("-d", metavar="ID", help="data set to train on, id or name; planned already")
    add("-c", metavar="CONFIG", help="configuration, e.g. 2d or 3d_fullres")
    add("-tr", metavar="TRAINER", help="trainer, any that nnU-Net finds")
    add(
        "--timm",
        metavar="MODEL",
        help="write the weights of this timm model, e.g. resnet50.tv_in1k; takes only -o and "
        "--overwrite",
    )
    add("-p", metavar="PLANS", help="plans identifier, default nnUNetPlans")
    add("-o", required=True, type=Path, metavar="FILE", help="checkpoint to write")
    add(
        "--adapt",
        action="store_true",
        help="the source may have been planned otherwise: average its kernels, drop or leave at "
        "random the encoder's deeper stages, and a decoder that does not fit",
    )
    add("--overwrite", action="store_true", help="replace FILE")
    return parser


@command
def pretrained_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_pretrained``."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    needed = ("i", "d", "c", "tr")
    missing = [f"-{name}" for name in needed if getattr(arguments, name) is None]
    is_conversion = len(missing) < len(needed) or arguments.p or arguments.adapt
    if arguments.timm and is_conversion:
        parser.error("--timm takes only -o and --overwrite")
    if not arguments.timm and missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")

    arguments.p = arguments.p or "nnUNetPlans"
    _require_free(arguments.o, arguments.i, arguments.overwrite)
    if arguments.timm:
        return _fetch(arguments.timm, arguments.o)
    return _convert(arguments)


def _fetch(model: str, file: Path) -> int:
    """Write the weights of a timm model."""
    from nnunet_ext.training.weights.timm_models import fetch_weights

    weights = fetch_weights(model)
    _save({"state_dict": weights, "nnunet_ext_pretrained": {"timm": model}}, file)
    print(f"wrote {file}, {len(weights)} tensors of {model}")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    """Fill the trainer's network from the checkpoint, and write and report it."""
    folder = environment_folder("nnUNet_preprocessed") / dataset_name(arguments.d)

    from nnunet_ext.files.checksums import sha256_of_file
    from nnunet_ext.training.weights.transfer import build_network

    trainer = find_trainer(arguments.tr)
    plans, dataset_json = _planned(folder, arguments)
    if hasattr(trainer, "require_trainable"):
        trainer.require_trainable(plans, arguments.c)
    network = build_network(trainer, plans, arguments.c, dataset_json)
    origins = _filled(network, arguments.i, arguments.adapt)
    origin = {
        "file": arguments.i.name,
        "sha256": sha256_of_file(arguments.i),
        "dataset": folder.name,
        "configuration": arguments.c,
        "plans": arguments.p,
        "trainer": arguments.tr,
    }
    _save({"network_weights": network.state_dict(), "nnunet_ext_pretrained": origin}, arguments.o)
    print(report(origins))
    print(
        f"\nwrote {arguments.o}; train with\n  nnUNetv2_train {arguments.d} {arguments.c} FOLD "
        f"-tr {arguments.tr} -p {arguments.p} -pretrained_weights {arguments.o}"
    )
    instead = getattr(trainer, "without_first_stage", {})
    if instead:
        settings = " ".join(f"{name}={value}" for name, value in instead.items())
        print(
            "It takes the place of the result of a first stage. So that the training does not "
            "look for that, first run\n  "
            f"nnUNetv2_ext_configure -d {arguments.d} -p {arguments.p} --set {settings}"
        )
    return 0


def _filled(network: Any, checkpoint: Path, adapt: bool) -> list[Origin]:
    """Fill the network; where other plans are the reason why it cannot be, name the option."""
    from nnunet_ext.training.weights.matching_names import MisfitError
    from nnunet_ext.training.weights.transfer import fill_network

    try:
        return fill_network(network, checkpoint, adapt=adapt)
    except MisfitError as error:
        if adapt:
            raise
        raise InputError(f"{error}; or --adapt takes over what fits") from error


def report(origins: list[Origin]) -> str:
    """Return a Markdown table of what was copied, adapted and left at random, by part.

    Lines below it name the adapted weights and the parts at random.
    """
    tensors = Counter[tuple[str, str]]()
    parameters = Counter[tuple[str, str]]()
    for origin in origins:
        tensors[origin.part, origin.how] += 1
        parameters[origin.part, origin.how] += origin.parameters

    lines = [f"| part | {' | '.join(HOW)} |", "|---|---|---|---|"]
    parts = [origin.part for origin in origins]
    for part in dict.fromkeys(parts):
        cells = []
        for how in HOW:
            cells.append(_cell(tensors[part, how], parameters[part, how]))
        lines.append(f"| {part} | {' | '.join(cells)} |")
    lines.append("\nTensors, and numbers in them in brackets.")
    if "heads" in parts:
        lines.append("Heads: -pretrained_weights always starts them at random.")

    for origin in origins:
        if origin.adaptation:
            lines.append(f"adapted: {origin.name}: {origin.adaptation}")
    for part, how in tensors:
        if how != "random" or part == "heads":
            continue
        is_whole = all((part, other) not in tensors for other in HOW[:2])
        lacking = "it" if is_whole else f"{tensors[part, how]} of its tensors"
        lines.append(f"random: {part}: the checkpoint has nothing for {lacking}")
    return "\n".join(lines)


def _cell(tensors: int, parameters: int) -> str:
    if not tensors:
        return "-"
    return f"{tensors} ({parameters:,})"


def _require_free(file: Path, source: Path | None, overwrite: bool) -> None:
    if not file.parent.is_dir():
        raise InputError(f"{file.parent}: no such folder; make it, or give another -o")
    if file.is_dir():
        raise InputError(f"{file}: is a folder; give -o a file name")
    if not file.exists():
        return

    if source is not None and source.exists() and file.samefile(source):
        raise InputError(f"{file}: is the checkpoint to read; give another -o")
    if not overwrite:
        raise InputError(f"{file}: exists; give another -o, or --overwrite")


def _planned(folder: Path, arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return plans and dataset.json of the data set.

    Raises:
        InputError: not planned, or no such configuration.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    again = f"run nnUNetv2_plan_and_preprocess -d {arguments.d} again"
    plans_file = folder / f"{arguments.p}.json"
    dataset_file = folder / "dataset.json"
    for file in (plans_file, dataset_file):
        if not file.is_file():
            raise InputError(
                f"{file}: no such file; run nnUNetv2_plan_and_preprocess -d {arguments.d} first"
            )
    plans = PlansManager(read_plans(plans_file, again))
    if arguments.c not in plans.available_configurations:
        raise InputError(
            f"{plans_file}: has no configuration {arguments.c}; it has "
            f"{', '.join(plans.available_configurations)}"
        )
    return plans, read_dataset_json(dataset_file, again)


def _save(checkpoint: dict[str, Any], file: Path) -> None:
    from nnunet_ext.training.engine.checkpoints import write_checkpoint

    try:
        write_checkpoint(checkpoint, file)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{file}: cannot be written ({reason}); give another -o") from error
