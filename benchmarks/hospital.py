"""What the hospital path costs beyond nnU-Net's own prediction, by number of studies.

Run from the repository's root: ``python -m benchmarks.hospital [--studies 1 4] [--repeats 2]``.

Studies are generated chest CT, the model is a 3d U-Net with random weights. Ours is
``nnUNetv2_ext_predict_dicom``: a DICOM folder to DICOM SEG, structured report, captures and
summaries. nnU-Net's is ``nnUNetv2_predict_from_modelfolder`` on the same images, which have been
converted to NIfTI before. Both mirror nothing. The table goes to stdout, as Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.process_cost import OURS, Tool, in_turns, markdown, rows_of
from nnunet_ext.keyed_names import KEY_VARIABLE
from nnunet_ext.stock.commands import console_script

SPACING_MM = (2.5, 1.4, 1.4)


def write_studies(export: Path, count: int, slices: int, size: int) -> None:
    """Write generated chest CTs of several patients, a folder each."""
    from dataset_conversion.phantoms.dicom_series import chest_series, write_series

    for number in range(count):
        hu, _, positions_mm = chest_series(number, slices, size, SPACING_MM, nodules=2)
        patient = f"PHANTOM-{number}"
        write_series(export / patient, hu, positions_mm, spacing_mm=SPACING_MM[1:], patient=patient)


def write_random_model(folder: Path) -> Path:
    """Write a model of a planned size for the studies; return its folder."""
    from tests.miniature_models import write_model

    return write_model(
        folder, patch_size=(32, 128, 128), features=(16, 32, 64, 128), spacing_mm=SPACING_MM
    )


def convert(export: Path, images: Path, model: Path) -> None:
    """Convert the export as the hospital path does, for nnU-Net's own prediction."""
    script = console_script("nnUNetv2_ext_dicom_to_nnunet")
    command = [script, "-i", export, "-o", images, "-m", model, "-np", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def tools_for(export: Path, images: Path, model: Path) -> dict[str, Tool]:
    """Return both ways from the export to predictions."""
    shared = ["-m", model, "-f", "0", "-device", "cpu", "--disable_tta"]
    ours = [console_script("nnUNetv2_ext_predict_dicom"), "-i", export, *shared]
    nnunet = [console_script("nnUNetv2_predict_from_modelfolder"), "-i", images, *shared]
    nnunet += ["-npp", "1", "-nps", "1"]
    return {
        OURS: Tool(lambda output: [*ours, "-o", output / "results"]),
        "nnU-Net's prediction alone": Tool(lambda output: [*nnunet, "-o", output / "results"]),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        os.environ[KEY_VARIABLE] = str(scratch / "private" / "key")
        model = write_random_model(scratch / "results")
        for count in arguments.studies:
            export = scratch / f"export_{count}"
            images = scratch / f"images_{count}"
            write_studies(export, count, arguments.slices, arguments.size)
            convert(export, images, model)

            tools = tools_for(export, images, model)
            costs = in_turns(tools, arguments.repeats)
            rows += rows_of(f"{count} x {arguments.slices} slices", costs)
    print(markdown(rows))


if __name__ == "__main__":
    main()
