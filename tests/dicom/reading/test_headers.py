"""Files as they come: odd encodings, other kinds, damaged and hostile ones."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID

from dataset_conversion.phantoms.dicom_series import write_series
from nnunet_ext.dicom.reading import headers
from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.headers import Slice, read_headers
from nnunet_ext.dicom.reading.pixels import read_pixels
from nnunet_ext.errors import InputError
from tests.dicom.conftest import numbered, stacked

Write = Callable[..., list[Path]]


def place(item: Slice) -> tuple:
    return (
        item.rows,
        item.columns,
        item.position_mm,
        item.orientation,
        item.spacing_mm,
        item.instance_number,
    )


EXPECTED = (6, 5, (-10.0, -20.0, 5.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 1.0), 1)


@pytest.mark.parametrize(
    "syntax",
    ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"],
)
def test_encodings(series: Write, tmp_path: Path, syntax: str) -> None:
    (path,) = series(stacked(1))
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = UID(syntax)
    if syntax.endswith(".2.2"):
        data["PixelData"].VR = "OW"
        data.PixelData = b"".join(
            data.PixelData[i : i + 2][::-1] for i in range(0, len(data.PixelData), 2)
        )
    little, implicit = not syntax.endswith(".2.2"), syntax == "1.2.840.10008.1.2"
    pydicom.dcmwrite(path, data, implicit_vr=implicit, little_endian=little, force_encoding=True)
    (item,) = read_headers(path)
    assert place(item) == EXPECTED
    assert item.transfer_syntax == syntax
    assert (read_pixels(item).values == numbered(1)[0]).all()


@pytest.mark.parametrize("implicit", [True, False])
def test_without_preamble_and_without_ending(series: Write, tmp_path: Path, implicit: bool) -> None:
    (path,) = series(stacked(1))
    data = pydicom.dcmread(path)
    bare = pydicom.Dataset(data)
    path.unlink()
    target = tmp_path / "a/IM000001"
    bare.save_as(target, implicit_vr=implicit, little_endian=True)
    assert target.read_bytes()[:4] == b"\x08\0\x08\0"
    (item,) = read_headers(target)
    assert place(item) == EXPECTED
    assert (read_pixels(item).values == numbered(1)[0]).all()


def test_header_longer_than_the_first_read(series: Write) -> None:
    def edit(_: int, data: Any) -> None:
        data.add_new(0x00091010, "OB", bytes(3 * headers.PREFIX_BYTES))  # a scanner's private block

    (path,) = series(stacked(1), edit=edit)
    assert place(read_headers(path)[0]) == EXPECTED


def test_texts_in_other_character_sets(series: Write) -> None:
    def edit(_: int, data: Any) -> None:
        data.SpecificCharacterSet = "GB18030"
        data.SeriesDescription = "胸部平扫"

    (path,) = series(stacked(1), edit=edit)
    assert read_headers(path)[0].description == "胸部平扫"


def test_other_files_are_passed_over(series: Write, tmp_path: Path) -> None:
    series(stacked(3))
    for name in ("readme.txt", "viewer.exe", "Thumbs.db", ".hidden.dcm", "autorun.inf", "empty"):
        (tmp_path / name).write_bytes(b"MZ something else entirely" if name != "empty" else b"")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX/1.dcm").write_bytes(b"x")
    found = scan(tmp_path)
    assert (len(found.slices), found.damaged, found.others) == (3, {}, 4)


@pytest.mark.skipif(os.name != "posix", reason="names are text there")
def test_names_that_are_no_text(series: Write, tmp_path: Path) -> None:
    (path,) = series(stacked(1), folder="data")
    path.rename(path.with_name(os.fsdecode(b"M\xfcller \xff")))
    (item,) = scan(tmp_path / "data").slices
    assert (read_pixels(item).values == numbered(1)[0]).all()


def test_directories_are_no_images(tmp_path: Path) -> None:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    data.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
    data.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    data.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    (item,) = scan(tmp_path).slices
    assert (item.sop_class, item.rows) == ("1.2.840.10008.1.3.10", 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.dcm", b"", "is empty"),
        ("a.dcm", b"no dicom at all, but called so", "is not a DICOM file"),
        ("export.zip", b"PK\3\4 a whole disc", "is an archive; unpack it"),
        ("a.dcm", b"\0" * 128 + b"DICM", None),
    ],
)
def test_damaged_files_are_one_line(
    tmp_path: Path, name: str, content: bytes, message: str | None
) -> None:
    (tmp_path / name).write_bytes(content)
    found = scan(tmp_path)
    assert [item for item in found.slices if item.rows] == []
    if message is not None:
        ((path, line),) = found.damaged.items()
        assert path == str(tmp_path / name) and path in line
        assert message in line


def test_hostile_numbers_are_one_line(series: Write) -> None:
    for values in (["1", "nan", "0"], ["1", "inf", "0"], ["1", "2"]):
        (path,) = series(stacked(1))
        content = path.read_bytes()
        old = b"-10\\-20\\5"
        assert old in content
        path.write_bytes(content.replace(old, "\\".join(values).encode().ljust(len(old))))
        with pytest.raises(InputError, match="ImagePositionPatient is not 3 numbers"):
            read_headers(path)
    (path,) = series(
        stacked(1), edit=lambda _, data: setattr(data, "NumberOfFrames", 2_000_000_000)
    )
    with pytest.raises(InputError, match="2000000000 frames"):
        read_headers(path)


def test_inflation_bombs_are_refused(series: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "INFLATED_LIMIT", 1 << 25)
    (path,) = series(stacked(1))
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1.99")
    data.save_as(path)
    content = path.read_bytes()
    assert read_headers(path)
    begin = 132 + 12 + int.from_bytes(content[140:144], "little")
    engine = zlib.compressobj(9, wbits=-15)
    path.write_bytes(content[:begin] + engine.compress(bytes(1 << 26)) + engine.flush())
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match="unpacks to more than 32 MiB"):
        read_headers(path)


@pytest.mark.filterwarnings("error::UserWarning")
@settings(max_examples=150)
@given(data=st.data())
def test_any_damage_ends_in_one_line_or_a_header(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (path,) = write_series(folder, numbered(1), stacked(1))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        for item in read_headers(path):
            read_pixels(item)
    except InputError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)


def test_workers_change_nothing(
    series: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_ext.dicom.reading.folder_scan.CHUNK", 5)
    for folder in "abc":
        series(stacked(4), folder=f"data/{folder}", patient=folder)
    (tmp_path / "data/broken.dcm").write_bytes(b"x")
    expected = scan(tmp_path / "data")
    assert scan(tmp_path / "data", processes=2) == expected


def test_an_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        scan(tmp_path / "absent")


def test_files_that_end_in_the_header_are_one_line(series: Write, tmp_path: Path) -> None:
    first, second, third = series(stacked(3))
    content = first.read_bytes()
    rows = content.index(b"\x28\0\x10\0US")  # Rows
    for path, end in ((first, rows), (second, rows - 40), (third, 200)):
        path.write_bytes(content[:end])
    found = scan(tmp_path)
    assert found.slices == [] or all(item.sop_class == "" for item in found.slices)
    assert all("truncated" in line or "damaged" in line for line in found.damaged.values())
    assert len(found.damaged) >= 2
