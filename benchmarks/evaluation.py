"""Time and memory of ``nnUNetv2_ext_evaluate`` on one chest-CT-sized pair with all metrics.

Run from the repository's root: ``python -m benchmarks.evaluation [--shape 300 512 512] [--repeats
5]``. Lesions are generated: blobs in two ellipsoids that fill most of the image, so that the
surfaces' bounding box is nearly the whole volume. Times are of the whole command (start of Python,
reading the .nii.gz files, metrics, tables), in a process of its own; median and range.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.evaluation.metrics.infnet import INFNET_METRICS
from nnunet_ext.evaluation.metrics.overlap import COUNT_METRICS
from nnunet_ext.evaluation.metrics.surfaces import SURFACE_METRICS

SURFACES = (*COUNT_METRICS, *SURFACE_METRICS)
ALL = tuple(dict.fromkeys((*SURFACES, *INFNET_METRICS)))
RUNS = {
    "counts": ("--metrics", *COUNT_METRICS),
    "counts and surfaces": ("--metrics", *SURFACES),
    "infnet, all": ("--profile", "infnet", "--metrics", *INFNET_METRICS),
    "all of both": ("--profile", "plain", "infnet", "--metrics", *ALL),
}


def lesions(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return reference and prediction: smooth noise in both lungs above two thresholds.

    About 4 % is foreground.
    """
    coarse = tuple(max(2, size // 12) for size in shape)
    noise = np.random.default_rng(0).normal(size=coarse).astype(np.float32)
    field = ndimage.zoom(noise, np.array(shape) / coarse, order=1)

    z, y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    along = (z[:, None, None] / 0.95) ** 2
    down = (y[:, None] / 0.8) ** 2
    across = ((np.abs(x) - 0.5) / 0.42) ** 2
    lungs = along + down + across < 1
    return lungs & (field > 0.75), lungs & (field > 0.85)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shape", type=int, nargs=3, default=(300, 512, 512), help="slices, rows, columns"
    )
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    shape = tuple(args.shape)
    with tempfile.TemporaryDirectory() as folder:
        for name, mask in zip(("reference", "prediction"), lesions(shape), strict=True):
            image = sitk.GetImageFromArray(mask.astype(np.uint8))
            image.SetSpacing((0.7, 0.7, 1.25))
            (Path(folder) / name).mkdir()
            sitk.WriteImage(image, str(Path(folder) / name / "case.nii.gz"), useCompression=True)
            print(f"{name}: {mask.mean():.1%} foreground")
        code = "from nnunet_ext.commands.evaluate import evaluate_entry; evaluate_entry()"
        command = [sys.executable, "-c", code, "-r", f"{folder}/reference"]
        command += ["-p", f"{folder}/prediction", "-l", "lesion=1"]
        load = os.getloadavg()[0]
        print(f"\n{os.cpu_count()} cores, load {load:.1f}, {args.repeats} runs each\n")
        print("| metrics | seconds | CPU s | peak MB |\n|---|---|---|---|")
        for name, arguments in RUNS.items():
            runs = [measured([*command, *arguments]) for _ in range(args.repeats)]
            cells = [with_range(values) for values in zip(*runs, strict=True)]
            print(f"| {name} | {' | '.join(cells)} |")


def measured(command: list[str]) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and peak memory in MB of a command."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    wall = time.perf_counter() - start
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def with_range(values: tuple[float, ...]) -> str:
    """Return median and range."""
    median = statistics.median(values)
    return f"{median:.4g} ({min(values):.4g} to {max(values):.4g})"


if __name__ == "__main__":
    main()
