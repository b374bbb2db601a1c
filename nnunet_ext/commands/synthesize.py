"""``nnUNetv2_ext_synthesize``: a labelled data set of synthetic images from a trained synthesis."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ext.argument_types import positive
from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import dataset_name, environment_folder, new_dataset_folder
from nnunet_ext.stock.training import Model

SUBSETS = ("matched", "unmatched", "random", "unmatched_random")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_synthesize",
        description="Translate the labelled cases of a data set to the target domain by a trained "
        "synthesis, and write them in Hounsfield units, with their labels and geometry, as a new "
        "raw data set.",
        epilog="Example: nnUNetv2_ext_synthesize -d 101 -f all -o 301 --matched-only matches.json",
    )
    parser.add_argument(
        "-d", required=True, metavar="SOURCE", help="labelled data set of the synthesis, id or name"
    )
    parser.add_argument(
        "-tr",
        default="PseudoCTSynthesisTrainer",
        metavar="TRAINER",
        help="default PseudoCTSynthesisTrainer",
    )
    parser.add_argument("-c", default="2d", metavar="CONFIG", help="configuration, default 2d")
    parser.add_argument(
        "-f", default="0", metavar="FOLD", help="fold of the synthesis: 0 to 4 or all; default 0"
    )
    parser.add_argument(
        "-p", default="nnUNetPlans", metavar="PLANS", help="plans identifier, default nnUNetPlans"
    )
    parser.add_argument(
        "-chk",
        default="checkpoint_final.pth",
        metavar="FILE",
        help="checkpoint, default checkpoint_final.pth",
    )
    parser.add_argument(
        "-o", required=True, type=positive, metavar="NEWID", help="number of the new data set"
    )
    parser.add_argument(
        "--name", default="PseudoCT", metavar="NAME", help="of the new data set, default PseudoCT"
    )
    parser.add_argument(
        "--matches",
        type=Path,
        metavar="FILE",
        help="of nnUNetv2_ext_match: draw the matched targets",
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        default=[],
        metavar="ID",
        help="data sets that other models made of the same source: draw them beside, in a column "
        "each",
    )
    _add_choice_of_cases(parser)
    parser.add_argument(
        "-device", default="cuda", choices=("cuda", "cpu", "mps"), help="default cuda"
    )
    return parser


def _add_choice_of_cases(parser: argparse.ArgumentParser) -> None:
    """Add what decides which cases are translated; by default all."""
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--matched-only",
        type=Path,
        metavar="FILE",
        help="only cases that are most similar to some target case there",
    )
    chosen.add_argument(
        "--subset", choices=SUBSETS, help="only this subset of the cases in --matches"
    )
    chosen.add_argument(
        "--random-subset", type=positive, metavar="N", help="only N cases, drawn at random"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of --random-subset, default 0"
    )


@command
def synthesize_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_synthesize``."""
    arguments = _parser().parse_args(argv)
    if arguments.f != "all" and not arguments.f.isdigit():
        raise InputError(f"-f {arguments.f}: a fold is a number or all")
    if arguments.subset and arguments.matches is None:
        raise InputError(
            f"--subset {arguments.subset} needs --matches FILE, which says what belongs to it"
        )

    # Imported here, so that --help and wrong arguments answer at once.
    from nnunet_ext.synthesis.translated_data_set import (
        CaseChoice,
        TrainedFold,
        write_translated_data_set,
    )

    model = Model(dataset_name(arguments.d), arguments.tr, arguments.p, arguments.c)
    trained = TrainedFold(model, arguments.f, arguments.chk)
    choice = CaseChoice(
        matches=arguments.matched_only or arguments.matches,
        subset="matched" if arguments.matched_only else arguments.subset,
        random_cases=arguments.random_subset,
        seed=arguments.seed,
    )
    raw = environment_folder("nnUNet_raw")
    folder = new_dataset_folder(raw, arguments.o, arguments.name, "-o")
    beside = [raw / dataset_name(other) for other in arguments.beside]
    print(write_translated_data_set(trained, choice, folder, arguments.device, beside))
    return 0
