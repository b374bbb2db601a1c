"""The trainers of this package by name, and those that users have built on its bases."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from nnunet_ext.discovery import SEARCH_VARIABLE, TRAINER_FOLDER

if TYPE_CHECKING:
    from nnunet_ext.training.configured_trainer import ConfiguredTrainer

USERS_MODULES = (
    "nnunet_ext_users_trainers"  # before their names, which may be those of other modules
)


def trainers() -> dict[str, type[ConfiguredTrainer]]:
    """Every trainer of the package by name, as the re-export module lists them."""
    from nnunet_ext.training.configured_trainer import ConfiguredTrainer

    (module_file,) = Path(TRAINER_FOLDER).glob("*.py")
    spec = importlib.util.spec_from_file_location(module_file.stem, module_file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{module_file}: not a module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {name: value for name, value in classes.items() if issubclass(value, ConfiguredTrainer)}


def known_trainers() -> dict[str, type[ConfiguredTrainer]]:
    """The trainers of the package, then those on its bases in the user's own folders of
    ``nnUNet_extTrainer``.
    """
    return {**trainers(), **users_trainers()}


def users_trainers() -> dict[str, type[ConfiguredTrainer]]:
    """Trainers that a user has built on the package's bases, by name; modules that fail are named
    on stderr.
    """
    folders = [
        Path(text) for text in os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep) if text.strip()
    ]
    found: dict[str, type[ConfiguredTrainer]] = {}
    for folder in folders:
        if not folder.is_dir() or folder.resolve() == Path(TRAINER_FOLDER).resolve():
            continue
        for file in sorted(folder.rglob("*.py")):
            for name, trainer in _trainers_in(file, folder).items():
                found.setdefault(name, trainer)  # nnU-Net takes the first, too
    return found


def _trainers_in(file: Path, folder: Path) -> dict[str, type[ConfiguredTrainer]]:
    from nnunet_ext.training.configured_trainer import ConfiguredTrainer

    before = list(sys.path)
    sys.path.insert(0, str(folder))  # where nnU-Net lets its modules find each other
    try:
        content = _module(
            file, f"{USERS_MODULES}.{file.relative_to(folder).with_suffix('').as_posix()}"
        )
    except (
        Exception
    ) as error:  # the user's own code, of which nnU-Net would name the error when it comes to it
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        sys.stderr.write(
            f"note: {file}: its trainers are left out, it cannot be imported ({reason})\n"
        )
        return {}
    finally:
        sys.path[:] = before

    classes = {name: value for name, value in vars(content).items() if isinstance(value, type)}
    return {
        name: value
        for name, value in classes.items()
        if issubclass(value, ConfiguredTrainer) and value.__module__ == content.__name__
    }


def _module(file: Path, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file}: not a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where the hints of its classes are looked up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
