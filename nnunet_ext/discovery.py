"""How stock nnU-Net commands find the trainers: ``nnUNet_extTrainer`` gains one folder at
interpreter start.

The start-up file ``nnunet_ext.pth`` calls :func:`activate`. It runs in every Python process of the
environment, so this module imports nothing but the standard library's cheapest.
"""

import os

TRAINER_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nnunetv2_trainers")  # noqa: PTH100, PTH118, PTH120
SEARCH_VARIABLE = "nnUNet_extTrainer"
OPT_OUT_VARIABLE = "nnUNet_ext_disable"


def is_disabled() -> bool:
    """True when the user opted out of automatic discovery (``nnUNet_ext_disable=1``)."""
    return os.environ.get(OPT_OUT_VARIABLE, "").lower() in ("1", "true", "t")


def activate() -> None:
    """Append our re-export folder to ``nnUNet_extTrainer``; what the user put there stays and is
    searched first.
    """
    if is_disabled():
        return
    folders = [
        folder for folder in os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep) if folder.strip()
    ]
    if TRAINER_FOLDER not in folders:
        os.environ[SEARCH_VARIABLE] = os.pathsep.join([*folders, TRAINER_FOLDER])
