"""``nnUNetv2_ext_convert``: convert a public data set, as downloaded, to nnU-Net raw data."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import environment_folder, new_dataset_folder

if TYPE_CHECKING:
    from dataset_conversion.converter import Converter
    from dataset_conversion.writing.summary import Summary

PROGRAM = "nnUNetv2_ext_convert"


@command
def convert_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_convert``; 1 if a case failed."""
    argv = sys.argv[1:] if argv is None else argv
    if "--verify-only" in argv:
        return _verify([argument for argument in argv if argument != "--verify-only"])
    if not argv or argv[0].startswith("-"):
        return _without_name(argv)

    from dataset_conversion.datasets import converter_named
    from dataset_conversion.reading.download_folder import require_unpacked
    from dataset_conversion.writing.conversion import convert
    from dataset_conversion.writing.conversion_job import Workers

    kind = converter_named(argv[0])
    arguments = _parser(kind).parse_args(argv[1:])
    if arguments.np < 1:
        raise InputError(f"-np {arguments.np}: needs at least one process")
    if not 0 <= arguments.part_id < arguments.num_parts:
        raise InputError(
            f"--part-id {arguments.part_id}: parts are numbered 0 to {arguments.num_parts - 1}"
        )
    raw = environment_folder("nnUNet_raw")
    require_unpacked(arguments.i)  # some data sets are named after what lies in the folder
    converter = kind(arguments.i, **_options_of(kind, arguments))
    folder = new_dataset_folder(raw, arguments.d, arguments.name or converter.folder_name)
    workers = Workers(arguments.np, arguments.dask, arguments.part_id, arguments.num_parts)
    summary = convert(
        converter,
        folder,
        workers,
        overwrite=arguments.overwrite,
        dry_run=arguments.dry_run,
        forbid_overlap=arguments.forbid_overlap,
    )
    _print_summary(summary, arguments.d, arguments.dry_run)
    return 1 if summary.problems else 0


def _options_of(kind: type[Converter], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the converter's fields; lists become tuples, because it is a frozen value."""
    options = {}
    for item in dataclasses.fields(kind):
        if item.name == "source":
            continue
        value = getattr(arguments, item.name)
        if isinstance(value, list):
            value = tuple(value)
        options[item.name] = value
    return options


def _without_name(argv: list[str]) -> int:
    from dataset_conversion.datasets import converters

    names = ", ".join(converters())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} NAME -i DOWNLOAD -d ID [options]\n"
        f"       {PROGRAM} NAME -h\n"
        f"       {PROGRAM} --list\n"
        f"       {PROGRAM} --verify-only -d ID",
        description="Convert a public data set, as downloaded, to nnU-Net raw data. "
        f"NAME is one of: {names}.",
        epilog=f"Example: {PROGRAM} COVID-SemiSeg -i ~/downloads/COVID-SemiSeg -d 120",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="table of the data sets: name, task, licence, where to get it",
    )
    parser.add_argument(
        "--verify-only", action="store_true", help="check the raw data set -d, whoever made it"
    )
    if not argv:
        parser.print_help()
        return 0
    if not parser.parse_known_args(argv)[0].list:
        raise InputError(
            f"the data set's name comes first: {PROGRAM} NAME -i DOWNLOAD -d ID; names: {names}"
        )
    _print_list(list(converters().values()))
    return 0


def _verify(argv: list[str]) -> int:
    """Check a raw data set, and print what is wrong."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} --verify-only", description="Check a raw data set; change nothing."
    )
    # A name of the data set is accepted and ignored; its folder says all.
    parser.add_argument("name", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument(
        "-d", required=True, metavar="ID", help="number or name, e.g. 120 or Dataset120_X"
    )
    parser.add_argument("-np", type=int, default=2, metavar="N", help="worker processes, default 2")
    arguments = parser.parse_args(argv)

    from dataset_conversion.checking.verification import verify

    folder = _raw_folder(arguments.d)
    verified = verify(folder, max(arguments.np, 1))
    for problem in verified.problems:
        print(f"{PROGRAM}: error: {problem}", file=sys.stderr)
    for finding in verified.findings:
        print(f"note: {finding}")
    print(f"{folder}: {verified.cases} cases checked, {len(verified.problems)} problems")
    return 1 if verified.problems else 0


def _raw_folder(dataset: str) -> Path:
    raw = environment_folder("nnUNet_raw")
    pattern = f"Dataset{int(dataset):03d}_*" if dataset.isdigit() else dataset
    folders = []
    for folder in raw.glob("Dataset*"):
        if folder.match(pattern) and folder.is_dir():
            folders.append(folder)
    if len(folders) != 1:
        raise InputError(
            f"{raw}: holds {len(folders)} data sets {dataset}; give the name of one, e.g. "
            f"Dataset120_X"
        )
    return folders[0]


def _parser(kind: type[Converter]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {kind.name}",
        description=f"{kind.name}: {kind.task}. Licence: {kind.licence}. Download: {kind.download}",
        epilog="An interrupted conversion continues when the same command is run again.",
    )
    parser.add_argument(
        "-i", type=Path, required=True, metavar="DOWNLOAD", help="folder of the unpacked download"
    )
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="data set id, 1 to 999")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="folder becomes Dataset<ID>_<NAME>; default: after the data set",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="convert again what this command made before"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be converted; write nothing"
    )
    parser.add_argument(
        "--forbid-overlap",
        action="store_true",
        help="refuse if another data set in nnUNet_raw shares images with it",
    )
    _add_shape_options(parser.add_argument_group("what is converted"), kind)
    scale = parser.add_argument_group("large data sets")
    scale.add_argument("-np", type=int, default=2, metavar="N", help="worker processes, default 2")
    scale.add_argument(
        "--num-parts", type=int, default=1, metavar="N", help="of a job array, default 1"
    )
    scale.add_argument(
        "--part-id", type=int, default=0, metavar="I", help="this job's part, 0 to N-1"
    )
    scale.add_argument(
        "--dask", metavar="ADDRESS", help="Dask scheduler instead of -np, e.g. tcp://head:8786"
    )
    group = parser.add_argument_group(f"options of {kind.name}")
    kind.add_options(group)
    return parser


def _add_shape_options(group: argparse._ArgumentGroup, kind: type[Converter]) -> None:
    """Add the options that the core carries out for every data set."""
    _add_label_options(group, kind)
    _add_image_options(group, kind)
    _add_split_options(group)


def _add_label_options(group: argparse._ArgumentGroup, kind: type[Converter]) -> None:
    groups = "".join([f"; {name} = {' + '.join(of)}" for name, of in kind.label_groups.items()])
    group.set_defaults(labels_wanted=kind.labels_wanted)
    if kind.chooses_labels:
        group.add_argument(
            "--labels",
            dest="labels_wanted",
            default=kind.labels_wanted,
            metavar="A,B+C",
            help=f"labels to keep, + merges, the others become background{groups}; "
            f"default: {kind.labels_wanted or 'all as published'}",
        )
    group.add_argument(
        "--unlabeled",
        action="store_true",
        help="the images that have no labels, or else those of training without them, into "
        "imagesUn",
    )


def _add_image_options(group: argparse._ArgumentGroup, kind: type[Converter]) -> None:
    group.add_argument(
        "--slices",
        default=kind.slices,
        metavar="lesion|all|every:N|FIRST:LAST",
        help="single axial slices instead of volumes: those with a label, all, every Nth, or a "
        "range counted from 0",
    )
    group.add_argument(
        "--window",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="CT in HU to grey values 0..255, to go with pictures such as COVID-SemiSeg; lung "
        "window: -1250 250",
    )
    group.add_argument(
        "--crop",
        metavar="lungs",
        help="CT volumes in HU: only the box around the lungs, found by threshold and connected "
        "components; nnUNetv2_ext_uncrop brings predictions back",
    )
    group.add_argument(
        "--lung-masks",
        type=Path,
        metavar="FOLDER",
        help="the same with your own masks CASE.nii.gz, e.g. of TotalSegmentator",
    )
    group.add_argument(
        "--resize",
        type=int,
        metavar="N",
        help="single slices become N x N pixels, e.g. 352; nnUNetv2_ext_uncrop brings predictions "
        "back",
    )


def _add_split_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--split",
        default="",
        metavar="official|paper|patient:K",
        help="write splits_final.json, which nnU-Net takes when planning: a published split, or K "
        "folds by patient",
    )
    group.add_argument(
        "--patients",
        type=Path,
        metavar="CSV",
        help="columns case,patient: assigns cases to patients if the download does not, for "
        "--split patient:K",
    )


def _print_list(kinds: list[type[Converter]]) -> None:
    rows = [("NAME", "TASK", "LICENCE", "WHERE TO GET IT")]
    for kind in kinds:
        rows.append((kind.name, kind.task, kind.licence, kind.download))

    columns = []
    for cells in zip(*rows, strict=True):
        width = max(map(len, cells))
        columns.append([cell.ljust(width) for cell in cells])
    for line in zip(*columns, strict=True):
        text = "  ".join(line)
        print(text.rstrip())


def _print_summary(summary: Summary, dataset_id: int, dry_run: bool) -> None:
    from dataset_conversion.writing.summary import markdown

    for note in summary.notes:
        print(f"note: {note}")
    if dry_run:
        counts = sorted(summary.count_by_part.items())
        folders = [f"{count} in images{part}" for part, count in counts]
        print(
            f"would convert {len(summary.planned)} cases ({', '.join(folders) or 'none'}) to "
            f"{summary.folder}; nothing is written"
        )
    else:
        print(markdown(summary), end="")
    for problem in summary.problems:
        print(f"{PROGRAM}: error: {problem}", file=sys.stderr)
    if not summary.complete:
        print("other parts are not done; dataset.json comes with the last one")
    elif dry_run or not (summary.folder / "dataset.json").is_file():
        return
    elif summary.count_by_part["Tr"]:
        print(f"next: nnUNetv2_plan_and_preprocess -d {dataset_id} --verify_dataset_integrity")
    elif summary.count_by_part["Un"]:
        print(f"next: nnUNetv2_ext_configure -d LABELLED_ID --unlabeled {dataset_id}")
