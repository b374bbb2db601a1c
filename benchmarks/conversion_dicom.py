"""DICOM series to NIfTI: ours beside dcm2niix and dicom2nifti.

Ours is ``nnUNetv2_ext_convert RSNA-ICH --dimension 3d``, which takes any folder of CT series. It
hashes every source file, reads every volume back and compares it; the others do neither. dcm2niix
runs once per series, as many at a time as there are processes, and compresses itself (``-z i``) at
its fastest level, at the level whose files are as large as ours, and at its default. dicom2nifti
compresses at nibabel's level; it stores float64.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

from benchmarks.process_cost import OURS, Tool, in_turns, rows_of

SIZE, PIXEL_MM, STEP_MM = 512, 0.7, 2.5
REAL = Path(__file__).parents[2] / "shared/data/dicom"
REAL_SERIES = ("chest_ct_98_slices", "jpeg2000_20_slices")
LEVELS = {
    "dcm2niix -1 (fastest)": "-1",
    "dcm2niix -2 (files as large as ours)": "-2",
    "dcm2niix -6 (default)": "-6",
}
DICOM2NIFTI = """
import sys
from multiprocessing import Pool
from pathlib import Path
import dicom2nifti
def convert(folder):
    output = f"{sys.argv[2]}/{folder.name}.nii.gz"
    dicom2nifti.dicom_series_to_nifti(str(folder), output, reorient_nifti=False)
if __name__ == "__main__":
    with Pool(int(sys.argv[3])) as pool:
        pool.map(convert, sorted(Path(sys.argv[1]).iterdir()), chunksize=1)
"""


def write_inputs(folder: Path, series: int) -> None:
    """Write folders of chest series: uncompressed and long, JPEG 2000, and a small one.

    With the small one the start of the program is all.
    """
    from dataset_conversion.phantoms.dicom_series import chest_series

    generator = np.random.default_rng(44)
    slices = 120
    body, _, _ = chest_series(0, slices, SIZE // 4, (STEP_MM, 4 * PIXEL_MM, 4 * PIXEL_MM))
    for number in range(series):
        fine = np.stack([_with_noise(generator, layer) for layer in body])
        _write(folder / "uncompressed", number, fine)
        _write(folder / "JPEG 2000", number, fine[:40], compressed=True)
    for number in range(2):
        _write(folder / "small", number, body[:20])


def _with_noise(generator: np.random.Generator, layer: np.ndarray) -> np.ndarray:
    """Return a slice in four times the resolution, with a scanner's noise.

    So it compresses as scans do.
    """
    from scipy import ndimage

    noise = ndimage.gaussian_filter(generator.standard_normal((SIZE, SIZE)), 0.6)
    fine = np.kron(layer, np.ones((4, 4))) + 22 * noise / noise.std()
    return np.round(np.clip(fine, -1024, 1500)).astype(np.int16)


def _write(folder: Path, number: int, hu: np.ndarray, compressed: bool = False) -> None:
    from pydicom.uid import JPEG2000Lossless

    from dataset_conversion.phantoms.dicom_series import write_series

    def compress(_: int, data: object) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.compress(
                JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False
            )  # type: ignore[attr-defined]

    pixel_mm = PIXEL_MM * SIZE / hu.shape[1]
    positions_mm = np.array([(-179.0, -179.0, -200 + STEP_MM * index) for index in range(len(hu))])
    write_series(
        folder / f"series{number}",
        hu,
        positions_mm,
        spacing_mm=(pixel_mm, pixel_mm),
        patient=f"P{number}",
        edit=compress if compressed else None,
    )


def link_real_series(folder: Path) -> bool:
    """A folder of links to the real series of this machine, where it has any."""
    present = [REAL / name for name in REAL_SERIES if (REAL / name).is_dir()]
    for source in present:
        target = folder / "real series" / source.name
        target.mkdir(parents=True)
        for file in source.iterdir():
            (target / file.name).symlink_to(file.resolve())
    return bool(present)


def compare(
    scratch: Path,
    convert: Path,
    dcm2niix: str | None,
    dicom2nifti: str | None,
    processes: int,
    repeats: int,
) -> list[dict[str, str]]:
    """Rows of the table.

    Args:
        scratch: folder with what :func:`write_inputs` wrote.
        convert: script that is ``nnUNetv2_ext_convert``.
        dcm2niix: program; None: left out.
        dicom2nifti: Python that has it; None: left out.
        processes: of each.
        repeats: runs of each.
    """
    script = scratch / "with_dicom2nifti.py"
    script.write_text(DICOM2NIFTI)
    inputs = [
        "uncompressed",
        "JPEG 2000",
        "small",
        *(["real series"] if link_real_series(scratch) else []),
    ]
    rows = []
    for name in inputs:
        folder = scratch / name
        tools = {OURS: Tool(lambda _, folder=folder: ours(convert, folder, processes))}
        if dcm2niix:
            folders = "\n".join(f'"{path}"' for path in sorted(folder.iterdir()))
            for label, level in LEVELS.items():
                start = [
                    "xargs",
                    "-P",
                    processes,
                    "-n",
                    "1",
                    dcm2niix,
                    "-z",
                    "i",
                    level,
                    "-b",
                    "n",
                    "-f",
                    "%f",
                    "-o",
                ]
                tools[label] = Tool(lambda out, start=start: [*start, out], folders)
        if dicom2nifti:
            tools["dicom2nifti"] = Tool(
                lambda out, folder=folder: [dicom2nifti, script, folder, out, processes]
            )
        series = list(folder.iterdir())
        images = sum(1 for path in folder.rglob("*") if path.is_file())
        rows += rows_of(f"{name}: {len(series)} series, {images} images", in_turns(tools, repeats))
    return rows


def ours(convert: Path, folder: Path, processes: int) -> list[str | Path]:
    """Our command for a folder of series."""
    return [
        sys.executable,
        convert,
        "RSNA-ICH",
        "-i",
        folder,
        "-d",
        "900",
        "--dimension",
        "3d",
        "-np",
        str(processes),
    ]
