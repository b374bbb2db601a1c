"""The fast way through ordinary files gives what pydicom gives, or leaves the file to it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dataset_conversion.phantoms.dicom_series import set_pixels, write_series
from nnunet_ext.dicom.reading import headers
from nnunet_ext.dicom.reading.headers import read_headers
from nnunet_ext.dicom.reading.ordinary_files import ordinary_elements
from nnunet_ext.dicom.reading.pixels import _decode, _decode_plain, read_pixels
from tests.dicom.conftest import numbered, stacked

Write = Callable[..., list[Path]]
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
SEQUENCES = (
    "ReferencedImageSequence",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    "RequestAttributesSequence",
)


def nested(data: st.DataObject, depth: int) -> Dataset:
    """An item with texts, bytes, and further sequences in it; lengths are defined or not."""
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    item.PixelSpacing = ["9", "9"]  # not the image's
    item.add_new(0x00091010, "OB", data.draw(st.binary(max_size=20)))
    if depth and data.draw(st.booleans()):
        add_sequence(item, data, depth - 1)
    return item


def add_sequence(target: Dataset, data: st.DataObject, depth: int) -> None:
    name = data.draw(st.sampled_from(SEQUENCES))
    items = [nested(data, depth) for _ in range(data.draw(st.integers(0, 2)))]
    for item in items:
        item.is_undefined_length_sequence_item = data.draw(st.booleans())
    setattr(target, name, items)
    target[name].is_undefined_length = data.draw(st.booleans())


@settings(max_examples=60)
@given(data=st.data(), implicit=st.booleans())
def test_header_equals_pydicoms(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, implicit: bool
) -> None:
    def edit(_: int, target: Any) -> None:
        for _ in range(data.draw(st.integers(0, 3))):
            add_sequence(target, data, 3)
        target.StudyDescription = data.draw(st.text("abc ", max_size=9))
        target.add_new(0x00190010, "LO", "maker")
        target.add_new(0x00191001, "UN", data.draw(st.binary(max_size=9)))

    (path,) = write_series(tmp_path_factory.mktemp("header"), numbered(1), stacked(1), edit=edit)
    original = pydicom.dcmread(path)
    original.file_meta.TransferSyntaxUID = UID(IMPLICIT if implicit else EXPLICIT)
    original.save_as(path, implicit_vr=implicit, little_endian=True)
    start = path.read_bytes()
    fast = headers._elements_at(start)
    assert fast is not None
    assert headers._plain_slice(path, fast) == headers._plain_slice(
        path, headers._elements_of(path, start)
    )
    elements = {tag: start[begin:end] for tag, begin, end in ordinary_elements(start)}
    assert elements[0x7FE00010] == original.PixelData
    assert set(elements) >= {int(element.tag) for element in original if element.VR != "SQ"}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300)
@given(data=st.data())
def test_damaged_headers_are_read_alike_or_left_alone(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    (path,) = write_series(tmp_path_factory.mktemp("damage"), numbered(1), stacked(1))
    content = bytearray(path.read_bytes())
    end = content.index(b"\x28\0\x30\0")  # pixel spacing; the fast way looks no further
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(132, end - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    fast = headers._elements_at(bytes(content))
    if fast is None:
        return
    slow = headers._elements_of(path, bytes(content))
    outcomes = []
    for elements in (fast, slow):
        try:
            outcomes.append(str(headers._plain_slice(path, elements)))
        except Exception as error:  # of which the caller makes one line
            outcomes.append(type(error).__name__)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_pixels_equal_pydicoms(series: Write, bits: int, signed: bool, syntax: str) -> None:
    stored = np.random.default_rng(bits).integers(
        0, 1 << 16, (6, 5)
    )  # also in bits that are not stored

    def edit(_: int, data: Any) -> None:
        set_pixels(data, np.zeros((6, 5), int), bits, signed)
        data.PixelData = stored.astype("<u2").tobytes()
        data.file_meta.TransferSyntaxUID = UID(syntax)
        data.add_new(0x00280120, "SS" if signed else "US", -2000 if signed else 63536)

    (path,) = series(stacked(1), edit=edit)
    (item,) = read_headers(path)
    plain = _decode_plain(item)
    assert plain is not None
    header, fast = plain
    data, slow = _decode(item)
    assert (fast.dtype, fast.tolist()) == (slow.dtype, slow.tolist())
    value = stored[0, 0] & ((1 << bits) - 1)
    assert fast[0, 0] == value - ((1 << bits) if signed and value >= 1 << (bits - 1) else 0)
    for name in (
        "BitsStored",
        "PixelRepresentation",
        "RescaleSlope",
        "RescaleIntercept",
        "PhotometricInterpretation",
    ):
        assert header[name] == data.get(name)
    assert header["PixelPaddingValue"] % (1 << 16) == data.PixelPaddingValue % (1 << 16) == 63536


@pytest.mark.parametrize(
    "edit",
    [
        lambda _, data: setattr(data, "NumberOfFrames", 2),
        lambda _, data: setattr(data, "HighBit", 12),
        lambda _, data: setattr(data, "BitsStored", 17),
        lambda _, data: setattr(data, "BitsAllocated", 8),
        lambda _, data: setattr(data, "Rows", 7),
        lambda _, data: setattr(data, "ModalityLUTSequence", []),
        lambda _, data: setattr(data, "RescaleSlope", ["1", "2"]),
        lambda _, data: delattr(data, "PixelRepresentation"),
    ],
)
def test_unusual_pixels_are_left_to_pydicom(
    series: Write, edit: Callable[[int, Any], None]
) -> None:
    (path,) = series(stacked(1), edit=edit)
    assert _decode_plain(read_headers(path)[0]._replace(frame=None)) is None


def test_large_slopes_do_not_overflow(series: Write) -> None:
    (path,) = series(stacked(1), edit=lambda _, data: setattr(data, "RescaleSlope", "100000"))
    values = read_pixels(read_headers(path)[0]).values
    assert values.max() == (numbered(1).max() + 1024) * 100_000.0 - 1024


def test_a_scan_of_ordinary_files_does_without_pydicom(series: Write, tmp_path: Path) -> None:
    series(stacked(3))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nnunet_ext.dicom.reading.folder_scan import scan\n"
        "from nnunet_ext.dicom.reading.series import acquisitions_of\n"
        "from nnunet_ext.dicom.reading.volume import read_volume\n"
        f"(acquisition,), _ = acquisitions_of(scan(Path({str(tmp_path)!r})).slices)\n"
        "assert read_volume(acquisition).voxels.shape == (5, 6, 3)\n"
        "assert 'pydicom' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
