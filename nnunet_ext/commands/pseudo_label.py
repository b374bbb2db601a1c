"""``nnUNetv2_ext_pseudo_label``: confident predictions on target images as a labelled data set."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.argument_types import probability, share
from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import dataset_name, environment_folder

if TYPE_CHECKING:
    from nnunet_ext.pseudo_labels.labelling import Round, TargetCase
    from nnunet_ext.pseudo_labels.prediction import TrainedModel
    from nnunet_ext.training.streams.raw_cases import RawCase

PICTURES = 5


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
        help="predict together; default 0",
    )
    model.add_argument(
        "-chk",
        dest="checkpoint",
        default="checkpoint_final.pth",
        metavar="FILE",
        help="default: final",
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
    from nnunet_ext.stock.training import Model

    for name in (args.trainer, args.plans, args.configuration, args.checkpoint, *args.folds):
        if Path(name).name != name:
            raise InputError(
                f"{name}: is not the name of a trainer, plans, configuration, fold or checkpoint"
            )
    if len(set(args.folds)) < len(args.folds):
        raise InputError("-f: a fold is named twice")

    found = TrainedModel(
        Model(dataset_name(args.dataset), args.trainer, args.plans, args.configuration),
        environment_folder("nnUNet_results"),
        tuple(args.folds),
        args.checkpoint,
        args.device or _device(),
        not args.disable_tta,
    )
    found.require_usable()
    return found


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def target_of(args: argparse.Namespace, model: TrainedModel) -> list[RawCase]:
    """Return the cases to predict; anything unusual about them is printed.

    Raises:
        InputError: there are none, or they do not fit the model.
    """
    from dataset_conversion.writing.overlaps import shared_images
    from dataset_conversion.writing.units import different_units
    from nnunet_ext.pseudo_labels.domains import target_cases

    raw = environment_folder("nnUNet_raw")
    own = model.model.dataset
    target = dataset_name(args.target)
    cases, notes = target_cases(raw / target, model.dataset_json, own)

    units = different_units(raw / own, raw / target)
    if units:
        raise InputError(f"{units}; convert both to one unit (--window)")

    shared = shared_images(raw / own, raw / target) if own != target else None
    if shared and args.forbid_overlap:
        raise InputError(f"{shared}; leave it out, or leave out --forbid-overlap")
    if shared:
        notes.append(shared)
    for note in notes:
        print(f"note: {note}")
    return cases


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_pseudo_label",
        parents=[model_options()],
        description="Predict the images of a target data set with a trained model, keep the "
        "confident cases and in them the confident voxels, and write a raw data set with these "
        "labels and with the model's own labelled cases. Train on it with stock nnU-Net: one round "
        "of self-training.",
        epilog="Example: nnUNetv2_ext_pseudo_label -d 138 -c 2d -tr PlainTrainer -i 140 -o 150",
    )
    parser.add_argument(
        "-o", dest="number", required=True, metavar="ID", help="number of the new raw data set"
    )
    parser.add_argument("--name", default="PseudoLabels", help="its name, default PseudoLabels")
    parser.add_argument(
        "--keep-cases",
        type=share,
        default=0.5,
        metavar="SHARE",
        help="of the cases in which foreground is predicted, the most confident ones; default 0.5",
    )
    parser.add_argument(
        "--keep-voxels",
        type=share,
        default=0.8,
        metavar="SHARE",
        help="of the voxels of each foreground class, the most confident ones; the others get "
        "nnU-Net's ignore label; default 0.8",
    )
    parser.add_argument(
        "--background",
        type=probability,
        default=0.9,
        metavar="P",
        help="background below this probability gets the ignore label, too; default 0.9",
    )
    parser.add_argument(
        "--keep-empty",
        action="store_true",
        help="keep all cases without predicted foreground; default: none of them",
    )
    parser.add_argument(
        "--pseudo-only", action="store_true", help="leave the model's own labelled cases out"
    )
    return parser


@command
def pseudo_label_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_pseudo_label``."""
    args = _parser().parse_args(argv)

    from nnunet_ext.pseudo_labels.domains import labelled_source
    from nnunet_ext.pseudo_labels.labelling import Criteria, Round
    from nnunet_ext.pseudo_labels.new_data_sets import NewDataSets, new_name
    from nnunet_ext.pseudo_labels.prediction import predict_cases

    model = trained_model(args)
    cases = target_of(args, model)
    raw = environment_folder("nnUNet_raw")
    own = model.model.dataset
    preprocessed = environment_folder("nnUNet_preprocessed")
    source = None if args.pseudo_only else labelled_source(raw / own, preprocessed / own)

    new = NewDataSets(raw, (new_name(args.number, args.name, "-o"),))
    with new.reserved():
        if not new.whole:
            predicted = predict_cases(model, cases, new.work / "predicted")
            criteria = Criteria(args.keep_cases, args.keep_voxels, args.background, args.keep_empty)
            (folder,) = new.begin()
            _write(Round(model, predicted, criteria, source), folder)
        new.publish()

    print(raw / new.names[0])
    print(f"next: nnUNetv2_plan_and_preprocess -d {args.number} --verify_dataset_integrity")
    if args.pseudo_only:
        print("note: validation would be on pseudo-labels; train with fold all")
    return 0


def _write(plan: Round, folder: Path) -> None:
    from nnunet_ext.pseudo_labels.labelling import write_round

    cases, thresholds = write_round(plan, folder)
    kept = [case for case in cases if case.kept]
    _draw(plan, kept, folder)

    outcomes = Counter(case.outcome for case in cases)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    print(f"{len(cases)} target cases: {counts}")
    lowest = ", ".join(f"{name} {value:.3f}" for name, value in thresholds.items())
    print(f"lowest confidence of a kept voxel: {lowest}")
    if plan.source is not None:
        labelled = len(plan.source.cases)
        print(f"{labelled} labelled cases of {plan.model.model.dataset}; only these validate")


def _draw(plan: Round, kept: list[TargetCase], folder: Path) -> None:
    """Draw cases from the most to the least confident."""
    import numpy as np

    from nnunet_ext.pseudo_labels.figures import pseudo_labels_figure
    from nnunet_ext.pseudo_labels.labelling import FIGURE, picture_of

    ordered = sorted(kept, key=lambda case: -np.nan_to_num(case.confidence))
    places = np.linspace(0, len(ordered) - 1, min(PICTURES, len(ordered))).round().astype(int)
    pictures = [picture_of(plan, ordered[place], folder) for place in places]

    foreground = {name: value for name, value in plan.model.classes.items() if value}
    title = "Kept cases, most confident first"
    pseudo_labels_figure(pictures, foreground, plan.ignore, folder / FIGURE, title)
