"""The trainers of this package by name, and those that users have built on its bases."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from nnunet_ext.discovery import TRAINER_FOLDER, search_folders
from nnunet_ext.errors import InputError, first_line

if TYPE_CHECKING:
    from nnunet_ext.training.configured_trainer import ConfiguredTrainer

# before the names of users' modules, which may be those of other modules
USERS_MODULES = "nnunet_ext_users_trainers"


def find_trainer(name: str) -> type:
    """Return the class that nnU-Net's commands find under this name, as their ``-tr``.

    Raises:
        InputError: nnU-Net finds none; names the trainers there are.
    """
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it says where it looks
            found: type = recursive_find_trainer_class_by_name(name)
    except (RuntimeError, AssertionError, TypeError) as error:
        own = ", ".join(sorted(known_trainers()))
        raise InputError(
            f"-tr {name}: no such trainer; there are {own}, nnUNetTrainer and its variants"
        ) from error
    return found


def trainers() -> dict[str, type[ConfiguredTrainer]]:
    """Return every trainer of the package by name, as the re-export module lists them."""
    (module_file,) = Path(TRAINER_FOLDER).glob("*.py")
    spec = importlib.util.spec_from_file_location(module_file.stem, module_file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{module_file}: not a module")

    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _trainers_of(module)


def known_trainers() -> dict[str, type[ConfiguredTrainer]]:
    """Return the trainers of the package, then those of :func:`users_trainers`, by name."""
    return {**trainers(), **users_trainers()}


def users_trainers() -> dict[str, type[ConfiguredTrainer]]:
    """Return trainers that a user has built on the package's bases, by name.

    They are searched in the user's own folders of ``nnUNet_extTrainer``. A module that cannot be
    imported is named on stderr.
    """
    found: dict[str, type[ConfiguredTrainer]] = {}
    for folder in map(Path, search_folders()):
        if not folder.is_dir() or folder.resolve() == Path(TRAINER_FOLDER).resolve():
            continue
        for file in sorted(folder.rglob("*.py")):
            for name, trainer in _trainers_in(file, folder).items():
                found.setdefault(name, trainer)  # nnU-Net takes the first, too
    return found


def _trainers_in(file: Path, folder: Path) -> dict[str, type[ConfiguredTrainer]]:
    """Return the trainers that a user's file defines."""
    name = f"{USERS_MODULES}.{file.relative_to(folder).with_suffix('').as_posix()}"
    before = list(sys.path)
    sys.path.insert(0, str(folder))  # where nnU-Net lets its modules find each other
    try:
        module = _imported(file, name)
    except Exception as error:  # nnU-Net would name it when it comes to this file
        reason = first_line(error)
        sys.stderr.write(
            f"note: {file}: its trainers are left out, it cannot be imported ({reason})\n"
        )
        return {}
    finally:
        sys.path[:] = before

    found = _trainers_of(module)
    return {
        name: trainer for name, trainer in found.items() if trainer.__module__ == module.__name__
    }


def _trainers_of(module: ModuleType) -> dict[str, type[ConfiguredTrainer]]:
    """Return the classes on the package's bases that a module holds, imported ones included."""
    from nnunet_ext.training.configured_trainer import ConfiguredTrainer

    found = {}
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, ConfiguredTrainer):
            found[name] = value
    return found


def _imported(file: Path, name: str) -> ModuleType:
    """Import a file under this name, or return the module where that was done before."""
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
