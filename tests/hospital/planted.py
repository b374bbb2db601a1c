"""An export in which every text of every header, and every name of a file, holds an identifier."""

import gzip
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dataset_conversion.phantoms.dicom_series import write_series
from tests.hospital.conftest import body, stacked

MARKER = "ZQXJ7KV"  # in every text; long enough not to occur in pixels by chance
BIRTH_DATE, TIME, AGE = "19370213", "171717.5", "087Y"
UID_MARKER = "773119917"
TEXT_VRS = ("LO", "SH", "PN", "LT", "ST", "UT", "UC", "CS", "UR", "AE")
STRUCTURE = frozenset(
    (
        "Modality",
        "ImageType",
        "PhotometricInterpretation",
        "SpecificCharacterSet",
        "RescaleType",
        "BodyPartExamined",
    )
)
MARKERS = tuple(text.encode() for text in (MARKER, MARKER.lower(), BIRTH_DATE, UID_MARKER))


def write_planted(folder: Path, slices: int = 6) -> Path:
    """Write a CT series that is fit for prediction, a report, and a damaged file."""
    study, series = f"1.2.{UID_MARKER}.1", f"1.2.{UID_MARKER}.2"
    place = folder / f"{MARKER}^Karl {BIRTH_DATE}" / f"Series {MARKER}"
    paths = write_series(
        place,
        body(slices),
        stacked(slices),
        patient=f"{MARKER}-7",
        study=study,
        series=series,
        edit=plant,
        names=f"{MARKER}_{{}}.dcm".format,
    )
    write_series(
        folder / f"{MARKER} report",
        body(1),
        stacked(1),
        patient=f"{MARKER}-7",
        study=study,
        series=f"{series}.5",
        modality=f"{MARKER}M",
        edit=plant,
    )
    paths[0].with_name(f"{MARKER}_damaged.dcm").write_bytes(paths[0].read_bytes()[:600])
    paths[0].with_name(f"{MARKER}.dcm").write_bytes(b"")
    return folder


def plant(index: int, data: Any) -> None:
    """Fill every text attribute that DICOM knows, and private ones."""
    data.update(texts())
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.{UID_MARKER}.3.{index}"
    data.FrameOfReferenceUID = f"1.2.{UID_MARKER}.4"
    data.BodyPartExamined = f"CHEST{MARKER}"


@cache
def texts() -> Any:
    """A data set of every text attribute, and of private ones."""
    from pydicom.datadict import DicomDictionary
    from pydicom.dataset import Dataset

    data = Dataset()
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        group = tag >> 16
        if (
            not keyword
            or retired
            or group in (0x0002, 0x0000, 0x0004, 0xFFFE)
            or keyword in STRUCTURE
        ):
            continue
        if vr in TEXT_VRS:
            data.add_new(tag, vr, f"{MARKER}{tag % 99991}")
        elif vr in ("DA", "DT"):
            data.add_new(tag, vr, BIRTH_DATE)
        elif vr == "TM" and keyword != "AcquisitionTime":
            data.add_new(tag, vr, TIME)
        elif vr == "AS":
            data.add_new(tag, vr, AGE)
    block = data.private_block(0x0029, f"{MARKER} CREATOR", create=True)
    block.add_new(1, "LO", f"{MARKER} private")
    return data


def leaks(folder: Path) -> list[str]:
    """Return what of the planted identifiers lies in names and contents of files below a folder."""
    return [
        f"{name}: {marker!r}"
        for name, content in _contents(folder)
        for marker in MARKERS
        if marker in content
    ]


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        yield "name", str(path.relative_to(folder)).encode()
        if path.is_file():
            content = path.read_bytes()
            yield path.name, content
            if path.suffix == ".gz":
                yield path.name, gzip.decompress(content)
