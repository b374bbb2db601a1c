"""Time and peak memory of ``nnUNetv2_ext_convert MSD`` beside nnU-Net's own converter, on generated tasks.

Run from the repository's root: ``python -m benchmarks.conversion [--processes 2] [--repeats 3]``. Both convert the same
folder to the same kind of disk with as many processes, in turns, each run in a process of its own. nnU-Net splits 4-D
images and copies 3-D ones and labels as they are; ours reads, proves, hashes, writes and reads back every file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from dataset_conversion.phantoms import write_msd_brain, write_msd_lung

OURS = """
import sys
from pathlib import Path
from dataset_conversion.conversion import Workers, convert
from dataset_conversion.datasets.msd import MSD
if __name__ == "__main__":
    summary = convert(MSD(Path(sys.argv[1])), Path(sys.argv[2]) / "Dataset900_X", Workers(int(sys.argv[3])))
    assert not summary.problems, summary.problems
"""
NNUNET = """
import sys
from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset
if __name__ == "__main__":
    convert_msd_dataset(sys.argv[1], 900, int(sys.argv[3]))
"""


def seconds_and_megabytes(script: Path, task: Path, processes: int) -> tuple[float, float]:
    """Wall time of one conversion, and the largest resident set of any of its processes."""
    with tempfile.TemporaryDirectory() as raw:
        folders = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), raw)
        environment = {**os.environ, **folders, "PYTHONPATH": str(Path(__file__).parents[1])}
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(script), str(task), raw, str(processes)], env=environment, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{script.name} failed on {task}")
    return seconds, usage.ru_maxrss / 1024  # of the process or its largest child


def write_tasks(folder: Path) -> None:
    """A 3-D and a 4-D task, smaller than the real ones."""
    write_msd_lung(folder, n_train=4, n_test=2, shape=(320, 320, 60), spacing=(1.1, 1.1, 5.0))
    write_msd_brain(folder, n_train=4, n_test=2, shape=(160, 160, 96))


def main() -> None:
    """Print a table: medians, and ours over nnU-Net's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scripts = {}
        for name, text in (("ours", OURS), ("nnU-Net", NNUNET)):
            scripts[name] = Path(scratch) / f"{name}.py"
            scripts[name].write_text(text)
        results: dict[str, dict[str, dict[str, float]]] = {}
        # In a process of its own: Linux counts the memory of the parent at the fork as the child's.
        generate = get_context("spawn").Process(target=write_tasks, args=(Path(scratch),))
        generate.start()
        generate.join()
        for task in ("Task06_Lung", "Task01_BrainTumour"):
            folder = Path(scratch) / task
            runs: dict[str, list[tuple[float, float]]] = {name: [] for name in scripts}
            for _ in range(arguments.repeats):
                for name, script in scripts.items():
                    runs[name].append(seconds_and_megabytes(script, folder, arguments.processes))
            results[task] = {}
            for name, pairs in runs.items():
                seconds, megabytes = statistics.median(s for s, _ in pairs), max(m for _, m in pairs)
                results[task][name] = {"seconds": round(seconds, 2), "peak MB": round(megabytes)}
            ratio = results[task]["nnU-Net"]["seconds"] / results[task]["ours"]["seconds"]
            results[task]["ours"]["throughput over nnU-Net"] = round(ratio, 2)
    print(json.dumps({"processes": arguments.processes, "repeats": arguments.repeats, **results}, indent=2))


if __name__ == "__main__":
    main()
