"""The trainers of this package by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.discovery import TRAINER_FOLDER

if TYPE_CHECKING:
    from nnunet_ext.training.configured_trainer import ConfiguredTrainer


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
