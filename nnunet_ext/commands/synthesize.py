"""``nnUNetv2_ext_synthesize``: a labelled data set of synthetic images from a trained synthesis."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.argument_types import positive
from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import dataset_name, environment_folder, plain_name

if TYPE_CHECKING:
    from nnunet_ext.synthesis.matches import Matches
    from nnunet_ext.training.streams.raw_cases import RawCase

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
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
        help="PseudoCTSynthesisTrainer",
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
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --random-subset; 0")
    parser.add_argument(
        "-device", default="cuda", choices=("cuda", "cpu", "mps"), help="default cuda"
    )
    return parser


@command
def synthesize_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_synthesize``."""
    arguments = _parser().parse_args(argv)
    _require_possible(arguments)
    source, results, folder = _folders(arguments)

    import torch

    from nnunet_ext.synthesis.export import ExportJob, export, source_cases
    from nnunet_ext.synthesis.export_figure import export_figure
    from nnunet_ext.synthesis.model import SynthesisModel

    matches = _matches(arguments, source.name)
    every_case = source_cases(source)
    chosen = _chosen(arguments, matches, [case.name for case in every_case])
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("-device cuda: no CUDA device found; use -device cpu")
    model = SynthesisModel.load(results, arguments.f, arguments.chk, torch.device(arguments.device))

    job = ExportJob(source, folder, chosen, _origin(arguments, results, str(model.window)))
    contrasts = export(model, job)

    cases = [case for case in every_case if case.name in contrasts]
    window = (model.window.low, model.window.high)
    matched = _matched_files(matches, cases) if matches else None
    export_figure(folder, cases, window, folder / "examples.png", matched)
    differences = [found.difference for found in contrasts.values()]
    print(_summary(folder, differences, str(model.window)))
    return 0


def _require_possible(arguments: argparse.Namespace) -> None:
    if not NAME.fullmatch(arguments.name):
        raise InputError(f"--name {arguments.name}: use letters, digits, _ . and -")
    if arguments.f != "all" and not arguments.f.isdigit():
        raise InputError(f"-f {arguments.f}: a fold is a number or all")
    if arguments.subset and arguments.matches is None:
        raise InputError(
            f"--subset {arguments.subset} needs --matches FILE, which says what belongs to it"
        )


def _folders(arguments: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Return the raw source, the results of the synthesis and the raw folder to write.

    Raises:
        InputError: the number is taken, or there are no such results.
    """
    raw = environment_folder("nnUNet_raw")
    source = dataset_name(arguments.d)
    names = [plain_name(getattr(arguments, name), f"-{name}") for name in ("tr", "p", "c")]
    results = environment_folder("nnUNet_results") / source / "__".join(names)
    if not (results / "plans.json").is_file():
        raise InputError(
            f"{results}: no trained synthesis; run nnUNetv2_train {source} {arguments.c} "
            f"{arguments.f} -tr {arguments.tr} -p {arguments.p} first"
        )

    folder = raw / f"Dataset{arguments.o:03d}_{arguments.name}"
    others = [path.name for path in raw.glob(f"Dataset{arguments.o:03d}_*") if path != folder]
    if others:
        raise InputError(f"-o {arguments.o}: {others[0]} has this number; choose another one")
    return raw / source, results, folder


def _matches(arguments: argparse.Namespace, source: str) -> Matches | None:
    """Return the matches that an option names.

    Raises:
        InputError: they are of another data set.
    """
    from nnunet_ext.synthesis.matches import read_matches

    file = arguments.matched_only or arguments.matches
    if file is None:
        return None
    matches = read_matches(file)
    if matches.source != source:
        raise InputError(
            f"{file}: matches of {matches.source}, not of {source}; run nnUNetv2_ext_match -d "
            f"{source}"
        )

    return matches


def _chosen(
    arguments: argparse.Namespace, matches: Matches | None, cases: list[str]
) -> tuple[str, ...]:
    """Return the cases to translate.

    Raises:
        InputError: there are none, or fewer than wanted, or the source lacks one.
    """
    if arguments.random_subset:
        return _random_cases(cases, arguments.random_subset, arguments.seed)
    subset = "matched" if arguments.matched_only else arguments.subset
    if subset is None or matches is None:
        return tuple(cases)

    wanted = matches.subset(subset)
    missing = sorted(set(wanted) - set(cases))
    if missing or not wanted:
        what = f"names {missing[0]}, which {matches.source} lacks" if missing else "is empty"
        raise InputError(f"the subset {subset} {what}; run nnUNetv2_ext_match again")
    return tuple(sorted(wanted))


def _random_cases(cases: list[str], count: int, seed: int) -> tuple[str, ...]:
    import numpy as np

    if count > len(cases):
        raise InputError(f"--random-subset {count}: there are {len(cases)} cases")
    generator = np.random.default_rng(seed)
    drawn = generator.choice(cases, count, replace=False)
    return tuple(sorted(drawn.tolist()))


def _origin(arguments: argparse.Namespace, results: Path, window: str) -> dict[str, Any]:
    """Return what the images were made by."""
    from dataset_conversion.reading.download_folder import sha256_of_file

    subset = "all"
    if arguments.matched_only or arguments.subset:
        subset = arguments.subset or "matched"
    if arguments.random_subset:
        subset = f"random {arguments.random_subset}, seed {arguments.seed}"
    return {
        "trainer": arguments.tr,
        "plans": arguments.p,
        "configuration": arguments.c,
        "fold": arguments.f,
        "checkpoint": arguments.chk,
        "checkpoint_sha256": sha256_of_file(results / f"fold_{arguments.f}" / arguments.chk),
        "window": window,
        "subset": subset,
    }


def _matched_files(matches: Matches, cases: list[RawCase]) -> dict[str, str]:
    """Return the image of each case's most similar target case, where its raw data are here."""
    folder = environment_folder("nnUNet_raw") / matches.target
    files = {}
    for case in cases:
        similar = matches.source_cases.get(case.name)
        if similar is None:
            continue

        found: list[Path] = []
        for part in ("imagesUn", "imagesTr"):
            found += folder.glob(f"{part}/{similar.targets[0]}_0000.*")
        if found:
            files[case.name] = str(min(found))
    return files


def _summary(folder: Path, differences: list[float], window: str) -> str:
    import numpy as np

    known = [value for value in differences if np.isfinite(value)]
    lines = [f"{len(differences)} cases in {window} -> {folder.name}"]
    if known:
        brighter = sum(value > 0 for value in known)
        lines.append(
            f"lesions: {np.mean(known):+.1f} against their rim on average, brighter in {brighter} "
            f"of {len(known)} cases"
        )

    lines.append("see lesion_contrast.csv, provenance.csv and examples.png there")
    return "\n".join(lines)
