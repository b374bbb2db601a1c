"""``nnUNetv2_ext_split_target``: divide target images into easy and hard ones.

Easy ones get pseudo-labels, hard ones stay unlabelled.
"""

import argparse

from nnunet_ext.argument_types import share
from nnunet_ext.commands.entry import command
from nnunet_ext.commands.model_options import model_options, target_of, trained_model
from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import environment_folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_split_target",
        parents=[model_options()],
        description="Predict the images of a target data set with a trained model and rank them "
        "by the mean entropy of the prediction. The surest become a labelled data set with the "
        "predictions as labels, the others an unlabelled one: the easy and the hard part of the "
        "target, between which AdvEntTrainer adapts (IntraDA).",
        epilog="Example: nnUNetv2_ext_split_target -d 138 -c 2d -tr AdvEntTrainer -i 140 -o 151 "
        "--hard 152",
    )
    parser.add_argument(
        "-o", dest="number", required=True, metavar="ID", help="number of the new, easy data set"
    )
    parser.add_argument(
        "--hard", required=True, metavar="ID", help="number of the new, hard data set"
    )
    parser.add_argument(
        "--name", default="Target", help="the data sets are called NAME-easy and NAME-hard"
    )
    parser.add_argument(
        "--easy", type=share, default=0.67, metavar="SHARE", help="of the cases; default 0.67"
    )
    return parser


@command
def split_target_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_split_target``."""
    args = _parser().parse_args(argv)

    from nnunet_ext.pseudo_labels.new_data_sets import NewDataSets, new_name
    from nnunet_ext.pseudo_labels.prediction import predict_cases
    from nnunet_ext.pseudo_labels.splitting import write_split

    if args.easy == 1:
        raise InputError("--easy 1: leaves no hard cases; give a share below 1")
    model = trained_model(args)
    cases = target_of(args, model)
    raw = environment_folder("nnUNet_raw")
    names = (
        new_name(args.number, f"{args.name}-easy", "-o"),
        new_name(args.hard, f"{args.name}-hard", "--hard"),
    )
    if names[0].partition("_")[0] == names[1].partition("_")[0]:
        raise InputError(
            f"-o {args.number} --hard {args.hard}: the two data sets need numbers of their own"
        )

    new = NewDataSets(raw, names)
    with new.reserved():
        if not new.whole:
            predicted = predict_cases(model, cases, new.work / "predicted")
            easy, hard = write_split(model, predicted, args.easy, *new.begin())
            print(f"{easy} easy cases with pseudo-labels, {hard} hard ones without")

        new.publish()

    for name in names:
        print(raw / name)
    print("note: the labels of the easy cases are predictions, also those that validate")
    configure = f"nnUNetv2_ext_configure -d {args.number} --target_domain {args.hard}"
    print(
        f"next: nnUNetv2_plan_and_preprocess -d {args.number}, then {configure}, then train "
        "AdvEntTrainer"
    )
    return 0
