"""Exports with damage of every kind, the same for the same seed."""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.phantoms.dicom_series import uid, write_series
from tests.hospital.conftest import body, stacked

Damage = Callable[[Path, np.random.Generator], None]
TEXTS = (
    "",
    " ",
    "nan",
    "1e999",
    "-1",
    "0",
    "abc",
    "1\\2",
    "\\\\",
    "é",
    "9" * 70,
    "../../x",
    "\x1b[2J",
    "=1+1",
)
NUMBERS = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
    "SliceThickness",
    "SeriesNumber",
    "InstanceNumber",
    "AcquisitionNumber",
    "WindowCenter",
    "WindowWidth",
)
WORDS = (
    "PatientID",
    "PatientName",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "ImageType",
    "SOPClassUID",
    "SeriesDescription",
    "ConvolutionKernel",
    "BodyPartExamined",
    "SpecificCharacterSet",
    "PhotometricInterpretation",
    "StudyDate",
    "PatientBirthDate",
)
SHORTS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
)


def write_malformed(folder: Path, seed: int) -> Path:
    """Write one or two series of a study, and damage some of their files in one to three ways."""
    generator = np.random.default_rng([seed, 16])
    for number in range(int(generator.integers(1, 3))):
        _write(folder / f"s{number}", number, generator)
    for _ in range(int(generator.integers(1, 4))):
        damage = DAMAGES[int(generator.integers(len(DAMAGES)))]
        damage(folder, generator)
    return folder


def _write(folder: Path, number: int, generator: np.random.Generator) -> None:
    slices = int(generator.integers(3, 7))
    positions_mm = stacked(slices)
    if generator.random() < 0.2:
        positions_mm[:, 1] += 0.4 * positions_mm[:, 2]
    if generator.random() < 0.2:
        positions_mm[:, 2] **= 1.5
    write_series(folder, body(slices, 8, number), positions_mm, series=uid("malformed", number))


def _files(folder: Path, generator: np.random.Generator) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    share = generator.choice([0.2, 1.0])
    return [path for path in files if generator.random() < share] or files[:1]


def _edited(folder: Path, generator: np.random.Generator, edit: Callable[[Any], None]) -> None:
    from pydicom import dcmread

    for path in _files(folder, generator):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                data = dcmread(path, force=True)
                edit(data)
                data.save_as(path)
            except Exception:  # what cannot be written that way stays as it is
                continue


def _text(name: str, text: str) -> Callable[[Any], None]:
    def edit(data: Any) -> None:
        data.add_new(name, "UN", text.encode())

    return edit


def truncated(folder: Path, generator: np.random.Generator) -> None:
    for path in _files(folder, generator):
        content = path.read_bytes()
        path.write_bytes(content[: int(generator.integers(0, len(content) + 1))])


def flipped(folder: Path, generator: np.random.Generator) -> None:
    for path in _files(folder, generator):
        content = bytearray(path.read_bytes())
        for place in generator.integers(0, max(len(content), 1), 8):
            if len(content):
                content[place] = int(generator.integers(256))
        path.write_bytes(bytes(content))


def number_of_nonsense(folder: Path, generator: np.random.Generator) -> None:
    name, text = generator.choice(NUMBERS), generator.choice(TEXTS)
    _edited(folder, generator, _text(str(name), str(text)))


def word_of_nonsense(folder: Path, generator: np.random.Generator) -> None:
    name, text = generator.choice(WORDS), generator.choice(TEXTS)
    _edited(folder, generator, _text(str(name), str(text)))


def impossible_short(folder: Path, generator: np.random.Generator) -> None:
    name, value = (
        str(generator.choice(SHORTS)),
        int(generator.choice([0, 1, 3, 7, 8, 12, 32, 65535])),
    )
    _edited(folder, generator, lambda data: setattr(data, name, value))


def tag_removed(folder: Path, generator: np.random.Generator) -> None:
    name = str(generator.choice([*NUMBERS, *WORDS, *SHORTS, "PixelData"]))
    _edited(folder, generator, lambda data: delattr(data, name))


def pixels_cut(folder: Path, generator: np.random.Generator) -> None:
    _edited(folder, generator, lambda data: setattr(data, "PixelData", data.PixelData[:-3]))


def wrong_syntax(folder: Path, generator: np.random.Generator) -> None:
    syntax = str(
        generator.choice(
            ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.2", "1.2", ""]
        )
    )
    _edited(folder, generator, lambda data: setattr(data.file_meta, "TransferSyntaxUID", syntax))


def many_frames(folder: Path, generator: np.random.Generator) -> None:
    frames = str(generator.choice(["0", "2", "-1", "99999999", "x"]))
    _edited(folder, generator, _text("NumberOfFrames", frames))


def without_preamble(folder: Path, generator: np.random.Generator) -> None:
    for path in _files(folder, generator):
        path.write_bytes(path.read_bytes()[132:])


def doubled(folder: Path, generator: np.random.Generator) -> None:
    for path in _files(folder, generator):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))


def of_another_patient(folder: Path, generator: np.random.Generator) -> None:
    _edited(folder, generator, lambda data: setattr(data, "PatientID", "other"))


def other_files(folder: Path, generator: np.random.Generator) -> None:
    contents = {
        "DICOMDIR": b"\0" * 200,
        "autorun.exe": b"MZ\x90",
        "Thumbs.db": b"x",
        "images.zip": b"PK\3\4",
        "a.dcm": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "odd.dcm").mkdir(exist_ok=True)
    if not (folder / "loop").is_symlink():
        (folder / "loop").symlink_to(folder)
        (folder / "dangling.dcm").symlink_to(folder / "absent")
    odd = os.path.join(os.fsencode(folder), b"M\xfcller^Karl.dcm")  # noqa: PTH118 - a name that is no text
    Path(os.fsdecode(odd)).write_bytes(generator.bytes(300))


DAMAGES: tuple[Damage, ...] = (
    truncated,
    flipped,
    number_of_nonsense,
    word_of_nonsense,
    impossible_short,
    tag_removed,
    pixels_cut,
    wrong_syntax,
    many_frames,
    without_preamble,
    doubled,
    of_another_patient,
    other_files,
)
