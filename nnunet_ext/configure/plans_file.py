"""The plans file that is written, and for which of its configurations streams are preprocessed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.configure.sizes import without_sizes
from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object
from nnunet_ext.training.settings.plans_entry import PLANS_KEY

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

DEFAULT_CONFIGURATIONS = ("2d", "3d_fullres")
# a part of nnU-Net's folder names, which it splits at __
PLANS_NAME = re.compile(r"[A-Za-z0-9]+([_.-][A-Za-z0-9]+)*")


def new_plans_file(plans: dict[str, Any], folder: Path, name: str) -> Path:
    """Return the file of ``-o``: a new one, or plans that differ only in what we write.

    This is the name, our entry, patch and batch.

    Args:
        plans: those that are copied.
        folder: of the file.
        name: of the new plans.

    Raises:
        InputError: an impossible name, or other plans of that name.
    """
    if not PLANS_NAME.fullmatch(name):
        raise InputError(f"-o {name}: use letters and digits, with single _ . or - between them")

    path = folder / f"{name}.json"
    if path.is_file():
        existing = read_object(path, "move it away, or choose another name with -o")
        ours = {PLANS_KEY: None, "plans_name": name}
        theirs = without_sizes({**existing, **ours})
        if theirs != without_sizes({**plans, **ours}):
            raise InputError(f"{path}: other plans of that name exist; choose another name with -o")
    return path


def chosen_configurations(
    given: list[str] | None, plans: PlansManager, plans_file: Path
) -> list[str]:
    """Return nnU-Net's configurations to preprocess for; a cascade's second stage is not one.

    Args:
        given: by the user; None: those that are usual.
        plans: that hold them.
        plans_file: for the message.

    Raises:
        InputError: one that the plans do not have.
    """
    possible = []
    for name in plans.available_configurations:
        if plans.get_configuration(name).previous_stage_name is None:
            possible.append(name)

    wrong = [name for name in given or [] if name not in possible]
    if wrong:
        raise InputError(
            f"{plans_file}: has no configuration {', '.join(wrong)} to train; it has "
            f"{', '.join(possible)}"
        )
    return given or [name for name in DEFAULT_CONFIGURATIONS if name in possible]
