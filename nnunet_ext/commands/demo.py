"""``nnUNetv2_ext_demo``: the whole path on generated data, through the commands that users run."""

import argparse
import logging
from pathlib import Path

from nnunet_ext.commands.entry import command
from nnunet_ext.commands.model_options import default_device
from nnunet_ext.errors import InputError


@command
def demo_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_demo``."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_demo",
        description="Generate miniature chest CT in the original download layouts, convert, plan, "
        "configure, train plain nnU-Net and RelationDrivenTrainer on few labels, predict, "
        "evaluate and draw; about 10 minutes on two CPU cores. After an interruption, run it "
        "again: it continues.",
    )
    parser.add_argument(
        "-o", default="nnunet_ext_demo", metavar="FOLDER", help="default: ./nnunet_ext_demo"
    )
    parser.add_argument("-device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    parser.add_argument(
        "--hospital",
        action="store_true",
        help="instead: train on generated chest CT with nodules, and predict a generated hospital "
        "export (DICOM)",
    )
    parser.add_argument(
        "--downloads",
        action="store_true",
        help="instead: only write a generated miniature of every data set's download",
    )
    arguments = parser.parse_args(argv)
    root = Path(arguments.o).resolve()
    if arguments.downloads:
        _write_downloads(root)
        return 0

    # Imported here, so that --help answers at once.
    from nnunet_ext.demo.comparison import TrainerComparison
    from nnunet_ext.demo.hospital import HospitalExport

    device = arguments.device or default_device()
    demo = HospitalExport if arguments.hospital else TrainerComparison
    demo(root, device).run()
    return 0


def _write_downloads(root: Path) -> None:
    """Write the miniatures, and print the folder of each.

    Raises:
        InputError: a miniature is there already.
    """
    from dataset_conversion.phantoms.miniatures import write_miniatures

    logging.getLogger("pydicom").setLevel(logging.ERROR)  # the challenge's UIDs are odd, as here
    try:
        folders = write_miniatures(root)
    except FileExistsError as error:
        raise InputError(f"{error.filename}: is there already; choose another -o") from error
    for folder in folders:
        print(folder)
