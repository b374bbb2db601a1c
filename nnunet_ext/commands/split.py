"""``nnUNetv2_ext_split``: folds that keep a patient's cases together, for any raw data set."""

import argparse
import os
import sys
from pathlib import Path

from nnunet_ext.argument_types import positive
from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.printable import counted
from nnunet_ext.stock.folders import dataset_name, environment_folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_split",
        description="Write splits_final.json for a raw data set, so that no patient has cases both "
        "in training and in validation. nnU-Net's own folds divide cases, not patients.",
        epilog="Example: nnUNetv2_ext_split -d 120 --patients patients.csv",
    )
    add = parser.add_argument
    add("-d", required=True, metavar="ID", help="data set in nnUNet_raw, id or name")
    add(
        "--patients",
        type=Path,
        metavar="CSV",
        help="table with columns case,patient; default: conversion.csv of the data set",
    )
    add("--folds", type=positive, default=5, metavar="N", help="number of folds, default 5")
    add("--overwrite", action="store_true", help="put earlier, other folds aside")
    return parser


@command
def split_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_split``."""
    arguments = _parser().parse_args(argv)
    if arguments.folds < 2:
        raise InputError("--folds 1: leaves nothing to train on; give at least 2")
    raw = environment_folder("nnUNet_raw") / dataset_name(arguments.d)
    if not raw.is_dir():
        raise InputError(f"{raw}: no such folder; the data set is not in nnUNet_raw")

    from dataset_conversion.writing.raw_splits import splits_by_patient, write_splits_of

    splits = splits_by_patient(raw, arguments.patients, arguments.folds)
    preprocessed = Path(os.environ.get("nnUNet_preprocessed") or raw.parent, raw.name)
    written = write_splits_of(raw, preprocessed, splits, arguments.overwrite)

    print(f"{len(splits.patient_of)} cases of {counted(splits.patients, 'patient')}")
    print("\n".join(splits.describe()))
    for file, earlier in written.items():
        aside = f"; earlier folds are now {earlier}" if earlier else ""
        print(f"wrote {file}{aside}")
    if splits.unused:
        cases = counted(len(splits.unused), "case")
        print(f"note: the table also names {cases} that the data set lacks", file=sys.stderr)
    return 0
