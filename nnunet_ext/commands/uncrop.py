"""``nnUNetv2_ext_uncrop``: predictions of cropped or resized images, back on the original grid."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ext.commands.entry import command
from nnunet_ext.stock.folders import dataset_name, environment_folder


@command
def uncrop_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_uncrop``."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_uncrop",
        description="Write predictions on the grid that the images had before nnUNetv2_ext_convert "
        "cropped (--crop, --lung-masks), resized (--resize) or cut them into slices (--slices with "
        "one of these). Evaluate the result against masks on that grid.",
    )
    parser.add_argument(
        "-i",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="predictions, named after their cases",
    )
    parser.add_argument(
        "-d", required=True, metavar="ID", help="raw data set whose images were predicted"
    )
    parser.add_argument(
        "-o", type=Path, required=True, metavar="FOLDER", help="where the label files go"
    )
    arguments = parser.parse_args(argv)

    from dataset_conversion.writing.uncropping import uncrop

    dataset = environment_folder("nnUNet_raw") / dataset_name(arguments.d)
    for note in uncrop(arguments.i, dataset, arguments.o):
        print(f"note: {note}")
    print(arguments.o)
    return 0
