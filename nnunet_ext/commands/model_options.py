"""Options that name a trained model and the images that it predicts, shared by two commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import dataset_name, environment_folder
from nnunet_ext.stock.training import Model

if TYPE_CHECKING:
    from nnunet_ext.pseudo_labels.prediction import TrainedModel
    from nnunet_ext.training.streams.raw_cases import RawCase


def model_options() -> argparse.ArgumentParser:
    """Return options that name a trained model and the images that it predicts."""
    parser = argparse.ArgumentParser(add_help=False)
    model = parser.add_argument_group("trained model, as in nnUNetv2_predict")
    model.add_argument(
        "-d", dest="dataset", required=True, metavar="ID", help="data set that it was trained on"
    )
    model.add_argument(
        "-c", dest="configuration", required=True, metavar="CONFIG", help="2d, 3d_fullres, ..."
    )
    model.add_argument(
        "-tr",
        dest="trainer",
        default="nnUNetTrainer",
        metavar="TRAINER",
        help="default nnUNetTrainer",
    )
    model.add_argument(
        "-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="default nnUNetPlans"
    )
    model.add_argument(
        "-f",
        dest="folds",
        nargs="+",
        default=["0"],
        metavar="FOLD",
        help="several predict together; default 0",
    )
    model.add_argument(
        "-chk",
        dest="checkpoint",
        default="checkpoint_final.pth",
        metavar="FILE",
        help="default checkpoint_final.pth",
    )
    model.add_argument(
        "--disable_tta", action="store_true", help="do not average over mirrored images"
    )
    model.add_argument(
        "-device", choices=("cpu", "cuda", "mps"), help="default: cuda if there is one, else cpu"
    )

    parser.add_argument(
        "-i",
        dest="target",
        required=True,
        metavar="ID",
        help="raw data set of the target: its imagesUn, else imagesTr",
    )
    parser.add_argument(
        "--forbid-overlap",
        action="store_true",
        help="refuse a target that shares images with the model's data set",
    )
    return parser


def trained_model(args: argparse.Namespace) -> TrainedModel:
    """Return the model that the options name.

    Raises:
        InputError: there is none.
    """
    from nnunet_ext.pseudo_labels.prediction import TrainedModel

    for name in (args.trainer, args.plans, args.configuration, args.checkpoint, *args.folds):
        if Path(name).name != name:
            raise InputError(
                f"{name}: is not the name of a trainer, plans, configuration, fold or checkpoint"
            )
    if len(set(args.folds)) < len(args.folds):
        raise InputError("-f: a fold is named twice")

    found = TrainedModel(
        model=Model(dataset_name(args.dataset), args.trainer, args.plans, args.configuration),
        results=environment_folder("nnUNet_results"),
        folds=tuple(args.folds),
        checkpoint=args.checkpoint,
        device=args.device or default_device(),
        mirroring=not args.disable_tta,
    )
    found.require_usable()
    return found


def target_of(args: argparse.Namespace, model: TrainedModel) -> list[RawCase]:
    """Return the cases to predict; anything unusual about them is printed.

    Raises:
        InputError: there are none, or they do not fit the model.
    """
    from nnunet_ext.pseudo_labels.self_training import fitting_target

    target = dataset_name(args.target)
    cases, notes = fitting_target(model, target, forbid_overlap=args.forbid_overlap)
    for note in notes:
        print(f"note: {note}")
    return cases


def default_device() -> str:
    """Return ``cuda`` if there is such a device, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
