"""``nnUNetv2_ext_match``: which slices of two data sets look alike and have lesions of one size."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.argument_types import positive
from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import dataset_name, environment_folder

if TYPE_CHECKING:
    from nnunet_ext.synthesis.matches import Matches
    from nnunet_ext.synthesis.slice_measures import Measuring, SliceFiles


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_match",
        description="Find, for every labelled slice of one data set, the most similar slices of "
        "another, and the other way round. Similar means: similar at the coarsest scale "
        "(perceptual hash), and lesions of similar size. The file is for PseudoCTSynthesisTrainer "
        "and nnUNetv2_ext_synthesize.",
        epilog="Example: nnUNetv2_ext_match -d 101 --target 102 -n 20 -o matches.json",
    )
    parser.add_argument(
        "-d", required=True, metavar="SOURCE", help="labelled data set of single slices, id or name"
    )
    parser.add_argument(
        "--target",
        required=True,
        metavar="TARGET",
        help="data set of single slices, id or name; imagesUn or imagesTr",
    )
    parser.add_argument(
        "-n",
        type=positive,
        default=20,
        metavar="N",
        help="similar target slices to keep of each source slice, default 20",
    )
    parser.add_argument(
        "-o", required=True, type=Path, metavar="FILE", help="matches.json to write"
    )
    _add_similarity(parser)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the random subsets, default 0"
    )
    parser.add_argument(
        "-np", type=positive, default=2, metavar="N", help="worker processes, default 2"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    return parser


def _add_similarity(parser: argparse.ArgumentParser) -> None:
    """Add what makes two slices similar."""
    parser.add_argument(
        "--target-lesion",
        metavar="LOW:HIGH|P%",
        help="what counts as lesion in the target: values in this range, or above this percentile "
        "of its pixels; default: 50:100 for CT in HU, else 98%%",
    )
    parser.add_argument(
        "--window",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="of the target, for CT in HU; default: 0 80, which shows brain",
    )
    parser.add_argument(
        "--fingerprint-weight",
        type=float,
        default=100.0,
        metavar="W",
        help="of each different bit of 64, default 100",
    )
    parser.add_argument(
        "--lesion-weight",
        type=float,
        default=1.0,
        metavar="W",
        help="of each pixel of difference at 240 x 240, default 1",
    )


@command
def match_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_match``."""
    arguments = _parser().parse_args(argv)
    if arguments.o.suffix != ".json":
        raise InputError(
            f"-o {arguments.o}: call the file .json; the figure beside it becomes .png"
        )
    figure = arguments.o.with_suffix(".png")
    existing = [path for path in (arguments.o, figure) if path.exists()]
    if existing and not arguments.overwrite:
        raise InputError(f"{existing[0]}: exists already; add --overwrite to replace it")
    if not arguments.o.parent.is_dir():
        raise InputError(f"{arguments.o.parent}: no such folder; make it first")
    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: use a whole number from 0")

    from nnunet_ext.synthesis.data_set_matching import Pairing, match_data_sets
    from nnunet_ext.synthesis.match_figure import match_figure
    from nnunet_ext.synthesis.matches import write_matches
    from nnunet_ext.synthesis.matching import Weights

    source, target, lesion = _measurings(arguments)
    weights = Weights(arguments.fingerprint_weight, arguments.lesion_weight)
    pairing = Pairing(arguments.n, weights, arguments.seed, lesion)
    matches = match_data_sets(source, target, pairing, arguments.np)

    match_figure(matches, source, target, figure)
    write_matches(matches, arguments.o)
    print(summary(matches))
    print(f"wrote {arguments.o} and {figure}")
    return 0


def _measurings(arguments: argparse.Namespace) -> tuple[Measuring, Measuring, str]:
    """Return how both data sets are measured, and what option says what a target lesion is."""
    from nnunet_ext.synthesis.slice_measures import (
        Measuring,
        parse_target_lesion,
        slices_with_labels,
        slices_without_labels,
    )

    raw = environment_folder("nnUNet_raw")
    source_name = dataset_name(arguments.d)
    target_name = dataset_name(arguments.target)
    if source_name == target_name:
        raise InputError(f"{source_name}: source and target are the same data set")
    source = slices_with_labels(source_name, raw)
    target = slices_without_labels(target_name, raw)

    lesion = arguments.target_lesion or ("50:100" if target.is_hu else "98%")
    band = parse_target_lesion(lesion, target)
    window = _window(arguments, target)
    return Measuring(source, None, None), Measuring(target, window, band), lesion


def _window(arguments: argparse.Namespace, target: SliceFiles) -> tuple[float, float] | None:
    from nnunet_ext.synthesis.slice_measures import BRAIN_WINDOW_HU

    if arguments.window is None:
        return BRAIN_WINDOW_HU if target.is_hu else None
    low, high = arguments.window
    if not target.is_hu:
        raise InputError(
            f"--window is for CT in HU, whose channel is called CT; {target.dataset} has another "
            "one"
        )

    if not low < high:
        raise InputError(f"--window {low:g} {high:g}: the low end comes first")
    return low, high


def summary(matches: Matches) -> str:
    """Return what was matched, in words."""
    best = []
    used: set[str] = set()
    for entry in matches.source_cases.values():
        best.append(entry.distances[0])
        used.update(entry.targets)

    sources = len(matches.source_cases)
    targets = len(matches.target_cases)
    matched = len(matches.subset("matched"))
    least, most = min(best), max(best)
    mean = sum(best) / len(best)
    lines = [
        f"{sources} source slices, {targets} target slices",
        f"most similar target at distance {least:.0f} to {most:.0f}, mean {mean:.0f}",
        f"matched subset: {matched} source slices; {len(used)} target slices are similar to any",
    ]
    return "\n".join(lines)
