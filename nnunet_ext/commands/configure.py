"""``nnUNetv2_ext_configure``: give a data set's plans further streams and hyperparameters."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.json_files import read_object
from nnunet_ext.files.locks import held
from nnunet_ext.own_trainers import known_trainers
from nnunet_ext.stock.files import read_dataset_json, read_plans
from nnunet_ext.stock.folders import dataset_name, environment_folder
from nnunet_ext.training.settings.hyperparameters import PRESETS
from nnunet_ext.training.settings.plans_entry import ROLES

if TYPE_CHECKING:
    from nnunet_ext.training.settings.plans_entry import PlansEntry

LOCK = ".configure.lock"
PLAN_AGAIN = "run nnUNetv2_plan_and_preprocess again"
DEFAULT_CONFIGURATIONS = ("2d", "3d_fullres")
PLANS_NAME = re.compile(
    r"[A-Za-z0-9]+([_.-][A-Za-z0-9]+)*"
)  # a part of nnU-Net's folder names, which it splits at __


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_configure",
        description="Preprocess further data sets with the labelled data set's plans and record "
        "them, with "
        "hyperparameters, inside the plans. What is not named stays as it was; --reset starts "
        "anew.",
        epilog="Example: nnUNetv2_ext_configure -d 120 --general 6 61 --unlabeled 121 --set "
        "num_epochs=100",
    )
    parser.add_argument(
        "-d", required=True, metavar="ID", help="labelled data set, id or name; planned already"
    )
    for role, meaning in ROLES.items():
        parser.add_argument(f"--{role}", nargs="+", metavar="ID", help=meaning)
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="hyperparameters; Trainer.NAME=VALUE holds for one trainer only",
    )
    parser.add_argument(
        "--normalize",
        nargs="+",
        default=[],
        metavar="ROLE=KIND",
        help='a stream\'s own normalization, e.g. "target_domain=window(0,80)": intensities '
        "clipped to 0 and 80 and "
        "mapped to [-1, 1]; ROLE=plans goes back to that of the plans",
    )
    parser.add_argument("--preset", choices=PRESETS, help="values as printed, as in the code")
    parser.add_argument(
        "-p", default="nnUNetPlans", metavar="PLANS", help="plans identifier, default nnUNetPlans"
    )
    parser.add_argument(
        "-o", metavar="NEWPLANS", help="write plans of this name instead of changing PLANS"
    )
    parser.add_argument(
        "-c",
        nargs="+",
        metavar="CONFIG",
        help="configurations to preprocess for, default: 2d and 3d_fullres if planned",
    )
    parser.add_argument("-np", type=int, default=2, metavar="N", help="worker processes, default 2")
    parser.add_argument(
        "--forbid-overlap",
        action="store_true",
        help="refuse a stream that shares images with the labelled data set",
    )
    parser.add_argument("--reset", action="store_true", help="forget what was configured before")
    parser.add_argument(
        "--show", action="store_true", help="print what is configured and change nothing"
    )
    return parser


@command
def configure_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_configure``."""
    arguments = _parser().parse_args(argv)
    if arguments.np < 1:
        raise InputError(f"-np {arguments.np}: needs at least one process")
    preprocessed = environment_folder("nnUNet_preprocessed")
    dataset = dataset_name(arguments.d)
    folder = preprocessed / dataset
    plans_file = folder / f"{arguments.p}.json"
    if not plans_file.is_file():
        raise InputError(
            f"{plans_file}: no such plans; run nnUNetv2_plan_and_preprocess -d {arguments.d} first"
        )
    if arguments.show:
        return _configure(arguments, dataset, folder, plans_file)
    with held(folder / LOCK):  # of another one, which writes the same streams or plans
        return _configure(arguments, dataset, folder, plans_file)


def _configure(arguments: argparse.Namespace, dataset: str, folder: Path, plans_file: Path) -> int:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_ext.training.settings.plans_entry import PlansEntry

    plans = read_plans(plans_file, PLAN_AGAIN)
    target = _target(plans, folder, arguments.o) if arguments.o else plans_file
    before = (
        {}
        if arguments.reset
        else read_object(target if target.is_file() else plans_file, PLAN_AGAIN)
    )
    configuration = PlansEntry.from_plans(before)
    if arguments.show:
        _show(dataset, target.stem, configuration)
        return 0

    _apply(arguments, configuration)
    manager = PlansManager(plans)
    names = _configurations(arguments.c, manager, plans_file)
    if arguments.c or arguments.normalize or any(getattr(arguments, role) for role in ROLES):
        _check_streams(configuration, dataset)
        _check_overlaps(configuration, dataset, arguments.forbid_overlap)
        _preprocess(configuration, folder, manager, names, arguments.np)
    write_json({**configuration.into_plans(plans), "plans_name": target.stem}, target)
    _show(dataset, target.stem, configuration)
    return 0


def _target(plans: dict, folder: Path, name: str) -> Path:
    """The file of ``-o``: new, or plans that differ from ``plans`` in nothing but name and
    configuration.

    Raises:
        InputError: an impossible name, or other plans of that name.
    """
    from nnunet_ext.training.settings.plans_entry import PLANS_KEY

    if not PLANS_NAME.fullmatch(name):
        raise InputError(f"-o {name}: use letters and digits, with single _ . or - between them")
    path = folder / f"{name}.json"
    if path.is_file():
        existing = read_object(path, "move it away, or choose another name with -o")
        ours = {PLANS_KEY: None, "plans_name": name}
        if {**existing, **ours} != {**json.loads(json.dumps(plans)), **ours}:
            raise InputError(f"{path}: other plans of that name exist; choose another name with -o")
    return path


def _apply(arguments: argparse.Namespace, configuration: PlansEntry) -> None:
    """Take over what the command line names."""
    for role in ROLES:
        given = getattr(arguments, role)
        if given:
            pairs = [entry.partition("=") for entry in given]
            configuration.streams[role] = [
                dataset_name(name) + equals + labels for name, equals, labels in pairs
            ]
    for assignment in arguments.normalize:
        _normalize(assignment, configuration)
    configuration.preset = arguments.preset or configuration.preset
    for assignment in arguments.settings:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise InputError(f"--set {assignment}: write NAME=VALUE")
        configuration.settings[name] = _checked(name, value)


def _normalize(assignment: str, configuration: PlansEntry) -> None:
    """Take over one ``ROLE=KIND``.

    Raises:
        InputError: no such role, a role without data sets, or an impossible normalisation.
    """
    from nnunet_ext.training.streams.normalization import Window

    role, separator, kind = assignment.partition("=")
    if not separator or role not in ROLES:
        raise InputError(
            f"--normalize {assignment}: write ROLE=window(LOW,HIGH), ROLE one of {', '.join(ROLES)}"
        )
    if role not in configuration.streams:
        raise InputError(
            f"--normalize {assignment}: there is no {role} stream; name its data sets with --{role}"
        )

    if kind == "plans":
        configuration.normalizations.pop(role, None)
    else:
        configuration.normalizations[role] = str(Window.parse(kind))


def _checked(name: str, value: str) -> Any:
    """The value as its type; the same name has one meaning in every trainer that declares it."""
    from nnunet_ext.training.settings.hyperparameters import declared, parse, unknown

    scope, _, plain = name.rpartition(".")
    candidates = known_trainers()
    if scope:
        if scope not in candidates:
            raise InputError(f"unknown trainer {scope}; valid are: {', '.join(candidates)}")
        candidates = {scope: candidates[scope]}
    hints = {
        key: hint for trainer in candidates.values() for key, hint in declared(trainer).items()
    }
    if plain not in hints:
        raise unknown(name, sorted(hints))
    parsed = parse(name, value, hints[plain])
    words = next(
        (
            trainer.file_settings[plain]
            for trainer in candidates.values()
            if plain in trainer.file_settings
        ),
        (),
    )
    if not words or parsed in words:
        return parsed

    path = Path(parsed).expanduser().resolve()  # training may start in another folder
    if not path.is_file():
        raise InputError(f"{path}: no such file; {name} is {', '.join(words)} or a file's path")
    return str(path)


def _configurations(given: list[str] | None, manager: Any, plans_file: Path) -> list[str]:
    """The configurations to preprocess for; a cascade's second stage is none."""
    available = manager.available_configurations
    possible = [
        name for name in available if manager.get_configuration(name).previous_stage_name is None
    ]
    wrong = [name for name in given or [] if name not in possible]
    if wrong:
        raise InputError(
            f"{plans_file}: has no configuration {', '.join(wrong)} to train; it has "
            f"{', '.join(possible)}"
        )
    return given or [name for name in DEFAULT_CONFIGURATIONS if name in possible]


def _check_streams(configuration: PlansEntry, labelled: str) -> None:
    """Every stream exists and has the labelled data set's number of channels."""
    raw = environment_folder("nnUNet_raw")
    labelled_json = environment_folder("nnUNet_preprocessed") / labelled / "dataset.json"
    wanted = read_dataset_json(labelled_json, PLAN_AGAIN)["channel_names"]
    for role, datasets in configuration.streams.items():
        for recorded in datasets:
            dataset, _, lesions = recorded.partition("=")
            if dataset == labelled and role == "general":
                raise InputError(
                    f"{dataset}: is the labelled data set itself; the general stream holds other "
                    f"diseases"
                )
            file = raw / dataset / "dataset.json"
            if not file.is_file():
                raise InputError(
                    f"{file}: no such file; convert the data set first (nnUNetv2_ext_convert "
                    f"--list)"
                )
            content = read_dataset_json(file, "convert the data set again")
            channels = content["channel_names"]
            if len(channels) != len(wanted):
                raise InputError(
                    f"{file}: {len(channels)} channels ({', '.join(channels.values())}), but "
                    f"{labelled} has "
                    f"{len(wanted)} ({', '.join(wanted.values())}); convert it with the matching "
                    f"--channel"
                )
            if (
                list(channels.values()) != list(wanted.values())
                and role not in configuration.normalizations
            ):
                names = " and ".join(", ".join(one.values()) for one in (channels, wanted))
                print(
                    f"note: {dataset} and {labelled} call their channels {names}; their "
                    f"intensities should look alike, "
                    f"or take --normalize {role}=..."
                )
            _check_target(role, raw / dataset, raw / labelled, configuration)
            foreground = [
                name for name in content["labels"] if name not in ("background", "ignore")
            ]
            if role == "general" and not lesions and len(foreground) > 1:
                print(
                    f"note: {dataset}: {', '.join(foreground)} all become lesion; if one is an "
                    f"organ, name the others: "
                    f"--general {dataset}={foreground[-1]}"
                )


def _check_target(role: str, folder: Path, labelled: Path, configuration: PlansEntry) -> None:
    """A target domain has intensities of the labelled data set's unit; that its labels are ignored
    is said.

    Raises:
        InputError: it is the labelled data set itself, or has another unit and no normalisation of
            its own.
    """
    from dataset_conversion.writing.units import different_units
    from nnunet_ext.training.streams.preprocessing import ignores_labels

    if role != "target_domain":
        return
    units = different_units(labelled, folder)
    if units and role not in configuration.normalizations:
        raise InputError(
            f"{units}; convert both to one unit (--window), or take --normalize "
            f"{role}=window(LOW,HIGH)"
        )
    if ignores_labels(role, folder) and folder == labelled:
        raise InputError(
            f"{folder.name}: is the labelled data set itself and has no imagesUn; name a target "
            f"data set"
        )
    if ignores_labels(role, folder):
        print(f"note: {folder.name} has no imagesUn: its imagesTr are used, its labels are ignored")


def _check_overlaps(configuration: PlansEntry, labelled: str, forbid: bool) -> None:
    """Images that are labelled here and in a stream there may be trained on in one and validated on
    in the other.
    """
    from dataset_conversion.writing.overlaps import shared_images, unknown_origin

    raw = environment_folder("nnUNet_raw")
    for name in dict.fromkeys(
        entry.partition("=")[0] for entries in configuration.streams.values() for entry in entries
    ):
        shared = shared_images(raw / labelled, raw / name, read_files=forbid)
        unknown = unknown_origin(raw / labelled, raw / name)
        if unknown and not forbid:
            print(
                f"note: whether {name} shares images with {labelled} is not checked, because "
                f"nnUNetv2_ext_convert did "
                f"not make {' and '.join(unknown)}; --forbid-overlap reads and compares the images"
            )
        if shared and forbid:
            raise InputError(f"{shared}; leave it out, or leave out --forbid-overlap")
        if shared:
            print(f"note: {shared}; what is measured on {labelled} may be too good")


def _preprocess(
    configuration: PlansEntry, folder: Path, manager: Any, names: list[str], processes: int
) -> None:
    from nnunet_ext.training.streams.location import Stream
    from nnunet_ext.training.streams.preprocessing import preprocess_stream

    raw = environment_folder("nnUNet_raw")
    for role, datasets in configuration.streams.items():
        normalization = configuration.normalizations.get(role)
        for recorded in datasets:
            for name in names:
                stream = Stream.locate(
                    role, recorded, folder, manager.get_configuration(name), normalization
                )
                print(preprocess_stream(stream, raw / stream.dataset, manager, name, processes))


def _show(dataset: str, plans_name: str, configuration: PlansEntry) -> None:
    """Print the configuration, and which trainers it completes."""
    print(f"\n{dataset}, plans {plans_name}, preset {configuration.preset}")
    for role, datasets in configuration.streams.items():
        normalization = configuration.normalizations.get(role)
        print(
            f"  {role}: {', '.join(datasets)}"
            + (f", normalized by {normalization}" if normalization else "")
        )
    for name, value in configuration.settings.items():
        print(f"  {name} = {value}")
    if not configuration.streams and not configuration.settings:
        print("  nothing configured: nnU-Net's defaults, labelled stream only")
    for name, trainer in known_trainers().items():
        missing = [role for role in trainer.required_streams if role not in configuration.streams]
        print(f"  {name}: " + (f"needs --{' --'.join(missing)}" if missing else "ready"))
