"""How stock nnU-Net commands find the trainers: ``nnUNet_extTrainer`` gains one folder.

The start-up file ``nnunet_ext.pth`` runs this file at the start of every Python process of the
environment, and calls :func:`activate`. It does so without importing the package: in a clone, an
installed package would otherwise be imported before the one that the clone holds. For the same
reason this file imports nothing but ``os``.
"""

import os

TRAINER_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nnunetv2_trainers")  # noqa: PTH100, PTH118, PTH120
SEARCH_VARIABLE = "nnUNet_extTrainer"
OPT_OUT_VARIABLE = "nnUNet_ext_disable"


def is_disabled() -> bool:
    """Return whether the user switched automatic discovery off (``nnUNet_ext_disable=1``)."""
    value = os.environ.get(OPT_OUT_VARIABLE, "")
    return value.lower() in ("1", "true", "t")


def search_folders() -> list[str]:
    """Return the folders in which nnU-Net looks for trainers, in its order."""
    listed = os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep)
    return [folder for folder in listed if folder.strip()]


def activate() -> None:
    """Add our folder behind those of ``nnUNet_extTrainer``, which are searched first."""
    if is_disabled():
        return

    folders = search_folders()
    if TRAINER_FOLDER not in folders:
        os.environ[SEARCH_VARIABLE] = os.pathsep.join([*folders, TRAINER_FOLDER])
