"""``nnUNetv2_ext_configure``: give a data set's plans further streams and hyperparameters."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet_folders import dataset_name, environment_folder

if TYPE_CHECKING:
    from nnunet_ext.training.configuration import Configuration
    from nnunet_ext.training.configured_trainer import ConfiguredTrainer

CONFIGURATIONS = ("2d", "3d_fullres")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_configure",
        description="Preprocess further data sets with the labelled data set's plans and record them, with "
        "hyperparameters, inside the plans. What is not named stays as it was; --reset starts anew.",
        epilog="Example: nnUNetv2_ext_configure -d 120 --general 6 61 --unlabeled 121 --set num_epochs=100",
    )
    parser.add_argument("-d", required=True, metavar="ID", help="labelled data set, id or name; planned already")
    parser.add_argument("--general", nargs="+", metavar="ID", help="labelled data sets of other diseases")
    parser.add_argument("--unlabeled", nargs="+", metavar="ID", help="data sets with images in imagesUn")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", dest="settings",
        help="hyperparameters; Trainer.NAME=VALUE holds for one trainer only",
    )  # fmt: skip
    parser.add_argument("--preset", choices=("recommended", "paper", "code"), help="values as printed, as in the code")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans identifier, default nnUNetPlans")
    parser.add_argument("-o", metavar="NEWPLANS", help="write new plans of this name instead of changing PLANS")
    parser.add_argument("-c", nargs="+", metavar="CONFIG", help="configurations, default: 2d and 3d_fullres if planned")
    parser.add_argument("-np", type=int, default=2, metavar="N", help="worker processes, default 2")
    parser.add_argument("--reset", action="store_true", help="forget what was configured before")
    parser.add_argument("--show", action="store_true", help="print what is configured and change nothing")
    return parser


@command
def configure_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_configure``."""
    arguments = _parser().parse_args(argv)

    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_ext.training.configuration import Configuration

    preprocessed = environment_folder("nnUNet_preprocessed")
    dataset = dataset_name(arguments.d)
    folder = preprocessed / dataset
    plans_file = folder / f"{arguments.p}.json"
    if not plans_file.is_file():
        raise InputError(f"{plans_file}: no such plans; run nnUNetv2_plan_and_preprocess -d {arguments.d} first")
    plans = load_json(str(plans_file))
    configuration = Configuration.from_plans({} if arguments.reset else plans)
    if arguments.show:
        _show(dataset, arguments.p, configuration)
        return 0

    _apply(arguments, configuration)
    manager = PlansManager(plans)
    names = _configurations(arguments.c, manager, plans_file)
    if arguments.np < 1:
        raise InputError(f"-np {arguments.np}: needs at least one process")
    _check_streams(configuration, dataset)
    _preprocess(configuration, folder, manager, names, arguments.np)

    new_name = arguments.o or arguments.p
    plans = {**configuration.into_plans(plans), "plans_name": new_name}
    _write_plans(plans, folder / f"{new_name}.json", replace=new_name == arguments.p)
    _show(dataset, new_name, configuration)
    return 0


def _apply(arguments: argparse.Namespace, configuration: Configuration) -> None:
    """Take over what the command line names."""
    for role in ("general", "unlabeled"):
        if getattr(arguments, role):
            configuration.streams[role] = [dataset_name(dataset) for dataset in getattr(arguments, role)]
    configuration.preset = arguments.preset or configuration.preset
    for assignment in arguments.settings:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise InputError(f"--set {assignment}: write NAME=VALUE")
        configuration.settings[name] = _checked(name, value)


def trainers() -> dict[str, type[ConfiguredTrainer]]:
    """Every trainer of the package by name, as the re-export module lists them."""
    import importlib.util

    from nnunet_ext.discovery import TRAINER_FOLDER
    from nnunet_ext.training.configured_trainer import ConfiguredTrainer

    (module_file,) = Path(TRAINER_FOLDER).glob("*.py")
    spec = importlib.util.spec_from_file_location(module_file.stem, module_file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{module_file}: not a module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {name: value for name, value in classes.items() if issubclass(value, ConfiguredTrainer)}


def _checked(name: str, value: str) -> Any:
    """The value as its type; the same name has one meaning in every trainer that declares it."""
    from nnunet_ext.training.hyperparameters import declared, parse, unknown

    scope, _, plain = name.rpartition(".")
    candidates = trainers()
    if scope:
        if scope not in candidates:
            raise InputError(f"unknown trainer {scope}; valid are: {', '.join(candidates)}")
        candidates = {scope: candidates[scope]}
    hints = {key: hint for trainer in candidates.values() for key, hint in declared(trainer).items()}
    if plain not in hints:
        raise unknown(name, sorted(hints))
    return parse(name, value, hints[plain])


def _configurations(given: list[str] | None, manager: Any, plans_file: Path) -> list[str]:
    planned = [name for name in CONFIGURATIONS if name in manager.available_configurations]
    unplanned = [name for name in given or [] if name not in planned]
    if unplanned:
        raise InputError(
            f"{plans_file}: has no configuration {', '.join(unplanned)} to train; it has {', '.join(planned)}"
        )
    return given or planned


def _check_streams(configuration: Configuration, labelled: str) -> None:
    """Every stream exists and has the labelled data set's number of channels."""
    from batchgenerators.utilities.file_and_folder_operations import load_json

    raw = environment_folder("nnUNet_raw")
    labelled_json = environment_folder("nnUNet_preprocessed") / labelled / "dataset.json"
    wanted = load_json(str(labelled_json))["channel_names"]
    for role, datasets in configuration.streams.items():
        for dataset in datasets:
            if dataset == labelled and role == "general":
                raise InputError(f"{dataset}: is the labelled data set itself; the general stream holds other diseases")
            file = raw / dataset / "dataset.json"
            if not file.is_file():
                raise InputError(f"{file}: no such file; convert the data set first (nnUNetv2_ext_convert --list)")
            channels = load_json(str(file))["channel_names"]
            if len(channels) != len(wanted):
                raise InputError(
                    f"{file}: {len(channels)} channels ({', '.join(channels.values())}), but {labelled} has "
                    f"{len(wanted)} ({', '.join(wanted.values())}); convert it with the matching --channel"
                )
            if list(channels.values()) != list(wanted.values()):
                print(f"note: {dataset} has channel {list(channels.values())}, {labelled} has {list(wanted.values())}")


def _preprocess(configuration: Configuration, folder: Path, manager: Any, names: list[str], processes: int) -> None:
    from nnunet_ext.training.stream_preprocessing import preprocess_stream
    from nnunet_ext.training.streams import Stream

    raw = environment_folder("nnUNet_raw")
    for role, datasets in configuration.streams.items():
        for dataset in datasets:
            for name in names:
                stream = Stream.locate(role, dataset, folder, manager.get_configuration(name))
                print(preprocess_stream(stream, raw / dataset, manager, name, processes))


def _write_plans(plans: dict, path: Path, replace: bool) -> None:
    """Write atomically; other plans of that name are kept unless they differ only in this configuration."""
    from nnunet_ext.training.configuration import PLANS_KEY

    if path.is_file() and not replace:
        existing = json.loads(path.read_text())
        if {**existing, PLANS_KEY: None} != {**json.loads(json.dumps(plans)), PLANS_KEY: None}:
            raise InputError(f"{path}: other plans of that name exist; choose another name with -o")
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(plans, indent=4))
    unfinished.replace(path)


def _show(dataset: str, plans_name: str, configuration: Configuration) -> None:
    """Print the configuration, and which trainers it completes."""
    print(f"\n{dataset}, plans {plans_name}, preset {configuration.preset}")
    for role, datasets in configuration.streams.items():
        print(f"  {role}: {', '.join(datasets)}")
    for name, value in configuration.settings.items():
        print(f"  {name} = {value}")
    if not configuration.streams and not configuration.settings:
        print("  nothing configured: nnU-Net's defaults, labelled stream only")
    for name, trainer in trainers().items():
        missing = [role for role in trainer.required_streams if role not in configuration.streams]
        print(f"  {name}: " + (f"needs --{' --'.join(missing)}" if missing else "ready"))
