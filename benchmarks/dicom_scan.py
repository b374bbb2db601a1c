"""Files per second of the DICOM header scan, beside pydicom alone.

On generated slices of a scanner's size.

Run from the repository's root: ``python -m benchmarks.dicom_scan [--files 6000] [--repeats 5]``.
Headers are as long as a scanner's (private elements, sequences, a hundred tags), pixels 512 x 512.
Rows alternate, so that a machine that changes its speed changes all. Start of the worker processes
is included.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from nnunet_ext.dicom.reading.folder_scan import scan

SERIES = 200  # slices in one


def write_files(folder: Path, files: int) -> None:
    """Series of 200 slices; pixels are holes in the file, because no scan reads them."""
    from dataset_conversion.phantoms.dicom_series import uid, write_series

    (template,) = write_series(
        folder, np.zeros((1, 8, 8), int), np.zeros((1, 3)), edit=lambda _, data: fill(data)
    )
    data = pydicom.dcmread(template)
    template.unlink()
    for number in range(files):
        group, index = divmod(number, SERIES)
        data.PatientID, data.StudyInstanceUID = f"P{group}", uid(group)
        data.SeriesInstanceUID = uid(group, "series")
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid(group, index)
        data.ImagePositionPatient, data.InstanceNumber = [0, 0, index], index + 1
        path = folder / str(group) / f"1-{index + 1:03d}.dcm"
        path.parent.mkdir(exist_ok=True)
        data.save_as(path, enforce_file_format=True)
        with path.open("r+b") as stream:
            stream.truncate(path.stat().st_size + 512 * 512 * 2 - 128)


def fill(data: Dataset) -> None:
    """What scanners add: acquisition parameters, referenced images, private elements."""
    from dataset_conversion.phantoms.dicom_series import (
        uid,
    )  # not at the top: worker processes import this module

    for name in (
        "PatientName",
        "StudyDescription",
        "SeriesDescription",
        "Manufacturer",
        "InstitutionName",
        "ProtocolName",
        "StationName",
        "OperatorsName",
        "ReferringPhysicianName",
    ):
        setattr(data, name, "generated")
    for name in (
        "KVP",
        "XRayTubeCurrent",
        "ExposureTime",
        "TableHeight",
        "GantryDetectorTilt",
        "ReconstructionDiameter",
        "WindowCenter",
        "WindowWidth",
        "DistanceSourceToDetector",
    ):
        setattr(data, name, "120")
    data.ReferencedImageSequence = []
    for index in range(3):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
            data.SOPClassUID,
            uid("reference", index),
        )
        data.ReferencedImageSequence.append(item)
    for element in range(40):
        data.add_new(0x00090000 + 0x1000 + element, "LO", "private value")
        data.add_new(0x00190000 + 0x1000 + element, "DS", "1.25")


def pydicom_alone(folder: Path) -> int:
    """The plain way: one process, every header in full."""
    return sum(
        1 for path in folder.rglob("*.dcm") if pydicom.dcmread(path, stop_before_pixels=True).Rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=6000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "files"
        write_files(folder, arguments.files)
        ways: dict[str, Callable[[], object]] = {
            "pydicom alone, one process": lambda: pydicom_alone(folder),
            "scan, one process": lambda: scan(folder),
            "scan, two processes": lambda: scan(folder, processes=2),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            for name, run in ways.items():
                start = time.perf_counter()
                run()
                rates[name].append(arguments.files / (time.perf_counter() - start))
    print(
        f"| {arguments.files} files, {arguments.repeats} runs | files/s, median | lowest to "
        f"highest |"
    )
    print("| --- | --- | --- |")
    for name, values in rates.items():
        print(
            f"| {name} | {statistics.median(values):.0f} | {min(values):.0f} to {max(values):.0f} |"
        )


if __name__ == "__main__":
    main()
