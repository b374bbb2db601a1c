"""MSD to nnU-Net raw data: ours beside nnU-Net's own converter, on generated tasks.

nnU-Net splits 4-D images and copies 3-D ones and labels as they are; ours reads, proves, hashes,
writes and reads back every file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.process_cost import OURS, Tool, in_turns, rows_of

NNUNET = """
import sys
from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset
if __name__ == "__main__":
    convert_msd_dataset(sys.argv[1], 900, int(sys.argv[2]))
"""


def write_tasks(folder: Path) -> None:
    """A 3-D and a 4-D task, smaller than the real ones."""
    from dataset_conversion.phantoms.slice_downloads import write_msd_brain, write_msd_lung

    write_msd_lung(folder, n_train=4, n_test=2, shape=(320, 320, 60), spacing=(1.1, 1.1, 5.0))
    write_msd_brain(folder, n_train=4, n_test=2, shape=(160, 160, 96))


def compare(scratch: Path, convert: Path, processes: int, repeats: int) -> list[dict[str, str]]:
    """Rows of the table.

    Args:
        scratch: folder with what :func:`write_tasks` wrote.
        convert: script that is ``nnUNetv2_ext_convert``.
        processes: of each.
        repeats: runs of each.
    """
    nnunet = scratch / "nnunet.py"
    nnunet.write_text(NNUNET)
    rows = []
    for name in ("Task06_Lung", "Task01_BrainTumour"):
        task = scratch / name
        tools = {
            OURS: Tool(
                lambda _, task=task: [
                    sys.executable,
                    convert,
                    "MSD",
                    "-i",
                    task,
                    "-d",
                    "900",
                    "-np",
                    processes,
                ]
            ),
            "nnU-Net": Tool(lambda _, task=task: [sys.executable, nnunet, task, processes]),
        }
        rows += rows_of(name, in_turns(tools, repeats))
    return rows
