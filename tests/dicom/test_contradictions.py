"""Slices that contradict each other, and values that no scan has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from dataset_conversion.datasets.rsna_ich import RsnaIch
from dataset_conversion.phantoms.dicom_series import set_pixels
from dataset_conversion.writing.conversion import convert
from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.headers import read_headers
from nnunet_ext.dicom.reading.pixels import read_pixels
from nnunet_ext.dicom.reading.series import acquisitions_of
from nnunet_ext.dicom.reading.volume import read_volume
from nnunet_ext.errors import InputError
from tests.dicom.conftest import numbered, stacked
from tests.dicom.reading.test_division import raw_text

Write = Callable[..., list[Path]]
Edit = Callable[[int, Any], None]


def lost(*names: str, empty: bool = False) -> Edit:
    """Slices 2 and 3 lose these fields."""

    def edit(index: int, data: Any) -> None:
        for name in names if index in (2, 3) else ():
            setattr(data, name, None) if empty else delattr(data, name)

    return edit


LOSSES = {
    "both": lost("RescaleSlope", "RescaleIntercept"),
    "intercept": lost("RescaleIntercept"),
    "slope": lost("RescaleSlope"),
    "both empty": lost("RescaleSlope", "RescaleIntercept", empty=True),
    "intercept empty": lost("RescaleIntercept", empty=True),
}


@pytest.mark.parametrize("edit", LOSSES.values(), ids=LOSSES)
def test_a_rescaling_that_some_slices_lack_is_a_contradiction(
    series: Write, tmp_path: Path, edit: Edit
) -> None:
    series(stacked(6), edit=edit)
    accepted, (rejected,) = acquisitions_of(scan(tmp_path).slices)
    assert accepted == []
    assert rejected.defect
    assert rejected.reason.startswith(
        "its slices contradict each other about the rescaling (4 state RescaleSlope, Resc"
    )


def test_single_slices_whose_rescaling_is_lost_are_left_out_and_the_others_kept(
    series: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series(stacked(6), edit=LOSSES["both"])
    summary = convert(RsnaIch(tmp_path / "a"), tmp_path / "Dataset120_X")
    assert len(summary.converted) == 4
    (problem,) = summary.problems
    assert "and 1 more images of its series state no RescaleSlope, RescaleIntercept" in problem


def test_a_series_without_any_rescaling_contradicts_nothing(series: Write, tmp_path: Path) -> None:
    def edit(index: int, data: Any) -> None:
        del data.RescaleSlope, data.RescaleIntercept
        set_pixels(data, numbered(4)[index], 16, True)

    series(stacked(4), edit=edit)
    (acquisition,), _ = acquisitions_of(scan(tmp_path).slices)
    assert np.array_equal(read_volume(acquisition).voxels, numbered(4).transpose(2, 1, 0))


@pytest.mark.parametrize("name", ["hu", "HU", "Hounsfield Unit", "HOUNSFIELD UNITS", "Hounsfield "])
def test_hounsfield_units_in_any_spelling(series: Write, name: str) -> None:
    (path,) = series(stacked(1), edit=lambda _, data: setattr(data, "RescaleType", name))
    assert read_pixels(read_headers(path)[0]).unit == "HU"


def table_without_descriptor(_: int, data: Any) -> None:
    del data.RescaleIntercept, data.RescaleSlope
    table = Dataset()
    table.ModalityLUTType = "HU"
    data.ModalityLUTSequence = [table]


def empty_table(_: int, data: Any) -> None:
    table_without_descriptor(0, data)
    data.ModalityLUTSequence[0].add_new("LUTDescriptor", "SS", [0, 0])
    data.ModalityLUTSequence[0].add_new("LUTData", "OW", b"")


IMPOSSIBLE = {
    "comma": (
        raw_text("RescaleIntercept", b"-1024,0 "),
        "RescaleIntercept is '-1024,0', not a number",
    ),
    "two values": (
        raw_text("RescaleIntercept", b"-1024\\-1024 "),
        r"RescaleIntercept is '-1024\\-1024', not a number",
    ),
    "word": (
        raw_text("RescaleIntercept", b"Amadeus "),
        "RescaleIntercept is 'Amadeus', not a number",
    ),
    "slope": (raw_text("RescaleSlope", b"1.0.0 "), "RescaleSlope is '1.0.0', not a number"),
    "NaN": (raw_text("RescaleSlope", b"nan "), "its values are lost"),
    "table without descriptor": (
        table_without_descriptor,
        "its rescaling, table or padding cannot be read",
    ),
    "empty table": (empty_table, "cannot be read"),
    "intercept of a million": (
        lambda _, data: setattr(data, "RescaleIntercept", "1000000"),
        "rescales by 1, 1e",
    ),
    "negative slope": (lambda _, data: setattr(data, "RescaleSlope", "-1"), "rescales by -1"),
    "RGB": (
        lambda _, data: setattr(data, "PhotometricInterpretation", "RGB"),
        r"colour picture \(RGB\)",
    ),
    "YBR": (
        lambda _, data: setattr(data, "PhotometricInterpretation", "YBR_FULL"),
        "colour picture",
    ),
    "palette": (
        lambda _, data: setattr(data, "PhotometricInterpretation", "PALETTE COLOR"),
        "colour picture",
    ),
    "high bit below": (lambda _, data: setattr(data, "HighBit", 3), "stores 16 bits up to bit 3"),
}


@pytest.mark.parametrize(("edit", "words"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_values_that_cannot_be_are_one_line(series: Write, edit: Edit, words: str) -> None:
    (path,) = series(stacked(1), edit=edit)
    with pytest.raises(InputError, match=words) as caught:
        read_pixels(read_headers(path)[0])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name in IMPOSSIBLE if name not in ("RGB", "YBR", "palette")]
)
def test_one_bad_series_costs_no_other(series: Write, tmp_path: Path, name: str) -> None:
    """Its slices lie there twice, so that their pixels are read while cases are still looked
    for.
    """
    edit = IMPOSSIBLE[name][0]
    for folder, patient, own in (
        ("good", "A", None),
        ("bad", "C", edit),
        ("copy", "C", edit),
        ("also good", "B", None),
    ):
        series(stacked(4), folder=folder, patient=patient, edit=own)
    summary = convert(RsnaIch(tmp_path, dimension="3d"), tmp_path / "raw/Dataset120_X")
    assert len(summary.converted) == 2
    assert len(summary.problems) == 1
    assert str(tmp_path / "bad") in summary.problems[0]


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "PALETTE COLOR"])
def test_colours_in_one_sample_are_no_scan(series: Write, tmp_path: Path, photometric: str) -> None:
    series(stacked(4), edit=lambda _, data: setattr(data, "PhotometricInterpretation", photometric))
    accepted, (rejected,) = acquisitions_of(scan(tmp_path).slices)
    assert accepted == []
    assert (rejected.reason, rejected.defect) == ("is a colour picture", False)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [11, 13, 15])
def test_values_in_the_high_bits(series: Write, high: int, signed: bool) -> None:
    """Twelve bits that end at another bit than the twelfth, with dirt below them."""
    values = np.array([[-1000, 40, 300]]) if signed else np.array([[24, 1064, 1324]])

    def edit(_: int, data: Any) -> None:
        data.Rows, data.Columns = values.shape
        set_pixels(data, (values << (high - 11)) | ((1 << (high - 11)) - 1), 16, signed)
        data.BitsStored, data.HighBit = 12, high
        data.RescaleIntercept = "0" if signed else "-1024"

    (path,) = series(stacked(1), edit=edit)
    assert read_pixels(read_headers(path)[0]).values.tolist() == [[-1000, 40, 300]]


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.2.3.4", "1.2.840.10008.1.2.4.100"])
def test_a_transfer_syntax_that_nobody_decodes_is_named(series: Write, syntax: str) -> None:
    (path,) = series(stacked(1))
    data = pydicom.dcmread(path)
    content = path.read_bytes()
    old, new = b"1.2.840.10008.1.2.1\0", syntax.encode() + b"\0" * (len(syntax) % 2)
    length = int.from_bytes(content[140:144], "little") + len(new) - len(old)
    content = content.replace(b"UI\x14\0" + old, b"UI" + len(new).to_bytes(2, "little") + new)
    path.write_bytes(content[:140] + length.to_bytes(4, "little") + content[144:])
    assert data.file_meta.TransferSyntaxUID == old.rstrip(b"\0").decode()
    with pytest.raises(InputError, match=rf"transfer syntax {syntax}.*gdcmconv"):
        read_pixels(read_headers(path)[0])
