"""``nnUNetv2_ext_pseudo_label``: confident predictions on target images as a labelled data set."""

import argparse

from nnunet_ext.argument_types import probability, share
from nnunet_ext.commands.entry import command
from nnunet_ext.commands.model_options import model_options, target_of, trained_model
from nnunet_ext.stock.folders import environment_folder


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

    # Imported here, so that --help and wrong arguments answer at once.
    from nnunet_ext.pseudo_labels.labelling import Criteria
    from nnunet_ext.pseudo_labels.new_data_sets import new_name
    from nnunet_ext.pseudo_labels.self_training import write_pseudo_labels

    model = trained_model(args)
    cases = target_of(args, model)
    name = new_name(args.number, args.name, "-o")
    criteria = Criteria(args.keep_cases, args.keep_voxels, args.background, args.keep_empty)
    lines = write_pseudo_labels(model, cases, criteria, name, pseudo_only=args.pseudo_only)
    for line in lines:
        print(line)

    print(environment_folder("nnUNet_raw") / name)
    print(f"next: nnUNetv2_plan_and_preprocess -d {args.number} --verify_dataset_integrity")
    if args.pseudo_only:
        print("note: validation would be on pseudo-labels; train with fold all")
    return 0
