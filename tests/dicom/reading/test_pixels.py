"""Pixels to Hounsfield units, and every way in which files spell them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from dataset_conversion.phantoms.dicom_series import set_pixels
from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.headers import read_headers
from nnunet_ext.dicom.reading.pixels import Pixels, read_pixels
from nnunet_ext.dicom.reading.series import acquisitions_of
from nnunet_ext.dicom.reading.volume import read_volume
from nnunet_ext.errors import InputError
from tests.dicom.conftest import numbered, stacked
from tests.places import REAL_DATA

Write = Callable[..., list[Path]]
REAL = REAL_DATA / "dicom"


def one(series: Write, edit: Callable[[int, Any], None]) -> Pixels:
    (path,) = series(stacked(1), edit=edit)
    return read_pixels(read_headers(path)[0])


def stored(
    values: list[int], bits: int = 16, signed: bool = False, **fields: Any
) -> Callable[[int, Any], None]:
    """An edit that gives a 1xN slice these stored values and header fields; None deletes a
    field.
    """

    def edit(index: int, data: Any) -> None:
        data.Rows, data.Columns = 1, len(values)
        set_pixels(data, np.array([values]), bits, signed)
        for name, value in fields.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)

    return edit


CASES = {
    "integer rescale": (
        stored([0, 1000, 4095], 12, RescaleSlope="2", RescaleIntercept="-1024"),
        [-1024, 976, 7166],
    ),
    "fractional rescale": (
        stored([0, 10], RescaleSlope="0.5", RescaleIntercept="-0.25"),
        [-0.25, 4.75],
    ),
    "signed": (stored([-1024, 0, 300], 16, True, RescaleIntercept="0"), [-1024, 0, 300]),
    "signed 12 bits": (stored([-1024, 300], 12, True, RescaleIntercept="0"), [-1024, 300]),
    "declared padding": (
        stored([0, -100, 40], 16, True, PixelPaddingValue=-100, RescaleIntercept="0"),
        [0, -1024, 40],
    ),
    "padding inside the range": (stored([0, 5, 1064], PixelPaddingValue=5), [-1024, -1024, 40]),
    "range of padding": (
        stored([0, 7, 1064, 3000], PixelPaddingValue=2990, PixelPaddingRangeLimit=3010),
        [-1024, -1017, 40, -1024],
    ),
    "undeclared padding": (
        stored([-2000, -400, 0], 16, True),
        [-1024, -1424, -1024],
    ),  # intercept -1024
    "12-bit wrap": (
        stored([3096, 4095, 0, 1000, 3095], 12, RescaleIntercept="-24"),
        [-1024, -25, -24, 976, 3071],
    ),
    "12-bit values that are no wrap: intercept": (
        stored([3096, 0], 12, RescaleIntercept="-1024"),
        [2072, -1024],
    ),
    "12-bit values that are no wrap: signed": (
        stored([2000, -1000], 12, True, RescaleIntercept="0"),
        [2000, -1000],
    ),
    "16-bit values that are no wrap": (stored([3096, 0], 16, RescaleIntercept="0"), [3096, 0]),
    "HU in spite of MONOCHROME1": (
        stored([0, 1064], PhotometricInterpretation="MONOCHROME1"),
        [-1024, 40],
    ),
    "no rescale": (
        stored([-900, 40], 16, True, RescaleSlope=None, RescaleIntercept=None),
        [-900, 40],
    ),
}


@pytest.mark.parametrize(("edit", "expected"), CASES.values(), ids=CASES)
def test_values(series: Write, edit: Callable[[int, Any], None], expected: list[float]) -> None:
    pixels = one(series, edit)
    assert pixels.values.tolist() == [expected]
    assert pixels.unit == "HU"


def test_padding_declared_without_its_sign(series: Write) -> None:
    """As in LIDC-IDRI: 65436 as an unsigned number means -100 among signed pixels."""

    def edit(index: int, data: Any) -> None:
        stored([0, -100, 40], 16, True, RescaleIntercept="0")(index, data)
        data.add_new("PixelPaddingValue", "US", 65436)

    pixels = one(series, edit)
    assert pixels.values.tolist() == [[0, -1024, 40]]
    assert pixels.remarks == ("padding set to air",)


def test_grey_values_without_rescale_are_inverted(series: Write) -> None:
    edit = stored(
        [0, 100, 4095],
        12,
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope=None,
        RescaleIntercept=None,
    )
    pixels = one(series, edit)
    assert pixels.values.tolist() == [[4095, 3995, 0]]
    assert (pixels.unit, pixels.remarks) == ("unknown", ("MONOCHROME1 inverted",))


def test_modality_table(series: Write) -> None:
    def edit(index: int, data: Any) -> None:
        stored([0, 1, 2], RescaleSlope=None, RescaleIntercept=None)(index, data)
        table = Dataset()
        table.add_new("LUTDescriptor", "SS", [3, 0, 16])
        table.add_new("ModalityLUTType", "LO", "HU")
        table.add_new("LUTData", "OW", np.array([65536 - 1000, 0, 500], "<u2").tobytes())
        data.ModalityLUTSequence = [table]

    pixels = one(series, edit)
    assert pixels.remarks == ("modality table applied",)
    assert (pixels.values.tolist(), pixels.unit) == ([[-1000, 0, 500]], "HU")


def test_each_slice_has_its_own_rescale(series: Write, tmp_path: Path) -> None:
    """As in PET or some CT exports: slopes vary, values do not."""

    def edit(index: int, data: Any) -> None:
        slope = 1 + index
        set_pixels(data, (np.round(hu[index] / slope) * slope + 1200) // slope, 16, False)
        data.RescaleSlope, data.RescaleIntercept = str(slope), "-1200"

    hu = numbered(3) // 6 * 6
    series(stacked(3), edit=edit)
    (acquisition,), _ = acquisitions_of(scan(tmp_path).slices)
    assert np.array_equal(read_volume(acquisition).voxels, hu.transpose(2, 1, 0))


def test_mixed_units_are_refused(series: Write, tmp_path: Path) -> None:
    def edit(index: int, data: Any) -> None:
        if index == 1:
            data.RescaleType = "mgml"

    series(stacked(3), edit=edit)
    (acquisition,), _ = acquisitions_of(scan(tmp_path).slices)
    with pytest.raises(InputError, match="different units"):
        read_volume(acquisition)


def test_ct_without_rescale_is_judged_as_a_series(series: Write, tmp_path: Path) -> None:
    """One slice shows air, the others do not; the gap makes it resampled."""

    def edit(index: int, data: Any) -> None:
        set_pixels(data, np.full((6, 5), -1000 if index == 0 else 40), 16, True)
        del data.RescaleSlope, data.RescaleIntercept

    series(stacked(5)[[0, 1, 2, 4]], edit=edit)
    (acquisition,), _ = acquisitions_of(scan(tmp_path).slices)
    assert read_volume(acquisition).unit == "HU"
    for path in (tmp_path / "a").iterdir():
        if read_headers(path)[0].instance_number == 1:
            path.unlink()
    (acquisition,), _ = acquisitions_of(scan(tmp_path).slices)
    volume = read_volume(acquisition)
    assert volume.unit == "unknown"
    assert "no value lies below -200: perhaps not HU" in volume.warnings
    assert set(np.unique(volume.voxels)) == {40}


def test_values_that_are_no_hu_are_said(series: Write, tmp_path: Path) -> None:
    series(stacked(3), edit=lambda _, data: setattr(data, "RescaleIntercept", "0"))
    (acquisition,), _ = acquisitions_of(scan(tmp_path).slices)
    volume = read_volume(acquisition)
    assert volume.unit == "unknown"
    assert volume.warnings == ("no value lies below -200: perhaps not HU",)


@pytest.mark.parametrize(
    "syntax",
    ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"],
    ids=["RLE", "JPEG-LS", "JPEG 2000"],
)
def test_lossless_compression_is_exact(series: Write, tmp_path: Path, syntax: str) -> None:
    hu = np.random.default_rng(0).integers(-1024, 3000, (3, 64, 48))

    def edit(index: int, data: Any) -> None:
        data.Rows, data.Columns = hu.shape[1:]
        set_pixels(data, hu[index] + 1024, 12, False)
        data.compress(UID(syntax), generate_instance_uid=False)

    series(stacked(3), edit=edit)
    (acquisition,), _ = acquisitions_of(scan(tmp_path).slices)
    assert acquisition.slices[0].transfer_syntax == syntax
    assert np.array_equal(read_volume(acquisition).voxels, hu.transpose(2, 1, 0))


def compressed_as(data: Any, syntax: str) -> None:
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.PixelData = encapsulate([b"no such stream"])


@pytest.mark.parametrize("name", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1"])
def test_lossless_jpeg_of_older_scanners_is_exact(series: Write, tmp_path: Path, name: str) -> None:
    """Encoded by GDCM, because pydicom encodes no JPEG."""
    gdcm = pytest.importorskip("gdcm")
    hu = np.random.default_rng(0).integers(-1024, 3000, (1, 64, 48))

    def edit(_: int, data: Any) -> None:
        data.Rows, data.Columns = hu.shape[1:]
        set_pixels(data, hu[0] + 1024, 12, False)

    (path,) = series(stacked(1), edit=edit)
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    (item,) = read_headers(path)
    assert item.transfer_syntax in ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
    assert np.array_equal(read_pixels(item).values, hu[0])


@pytest.mark.parametrize("end", [-1, -10, 700])
def test_truncated_pixels_are_one_line(series: Write, end: int) -> None:
    (path,) = series(stacked(1))
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(InputError) as caught:
        read_pixels(read_headers(path)[0])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda _, data: setattr(data, "RescaleSlope", "0"), "its values are lost"),
        (lambda _, data: setattr(data, "RescaleIntercept", "1e30"), "its values are lost"),
        (lambda _, data: setattr(data, "SamplesPerPixel", 3), "colour picture"),
        (
            lambda _, data: (setattr(data, "Rows", 65535), setattr(data, "Columns", 65535)),
            "it is damaged",
        ),
        (lambda _, data: delattr(data, "PixelData"), "pixels cannot be read"),
        (lambda _, data: compressed_as(data, "1.2.840.10008.1.2.4.100"), "cannot be read"),  # MPEG2
    ],
)
def test_unreadable_pixels_are_one_line(
    series: Write, edit: Callable[[int, Any], None], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        one(series, edit)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs real data")
@pytest.mark.parametrize(
    ("name", "slices", "step_mm", "unit"),
    [
        ("chest_ct_98_slices", 98, 1.0, "HU"),  # SliceThickness says 2
        ("jpeg2000_20_slices", 20, 2.0, "HU"),  # SliceThickness says 3
        ("small_17_slices", 17, 2.0, "unknown"),
        ("no_modality_two_slices", 2, 1.0, "HU"),
        ("implicit_vr_one_slice", 1, 5.0, "HU"),
    ],
)
def test_real_series_equal_simpleitk(name: str, slices: int, step_mm: float, unit: str) -> None:
    import SimpleITK as sitk

    from nnunet_ext.dicom.reading.series import Rules

    (acquisition,), rejected = acquisitions_of(scan(REAL / name).slices, Rules(minimum_slices=1))
    assert rejected == []
    assert (len(acquisition.slices), acquisition.stack.step_mm) == (slices, step_mm)
    volume = read_volume(acquisition)
    assert volume.unit == unit
    image = sitk.ReadImage([item.path for item in acquisition.slices])
    theirs = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    assert np.array_equal(volume.voxels, np.where(theirs < -1500, -1024, theirs))
    direction = np.reshape(image.GetDirection(), (3, 3))
    spacing_mm = np.array([*image.GetSpacing()[:2], step_mm])  # of one slice SimpleITK says 1
    assert np.allclose(volume.grid.affine_lps_mm[:3, :3], direction * spacing_mm)
    assert np.allclose(volume.grid.affine_lps_mm[:3, 3], image.GetOrigin())


def test_enhanced_multi_frame(tmp_path: Path, series: Write) -> None:
    """One file, frames out of order, each with its own place and rescale."""
    hu, order = numbered(4), [2, 0, 3, 1]
    (path,) = series(stacked(1), edit=lambda _, data: enhanced(data, hu, order))
    slices = read_headers(path)
    assert [item.frame for item in slices] == [0, 1, 2, 3]
    (acquisition,), rejected = acquisitions_of(slices)
    assert rejected == []
    volume = read_volume(acquisition)
    assert np.array_equal(volume.voxels, hu.transpose(2, 1, 0))
    assert np.allclose(np.diag(volume.grid.affine_ras_mm), (-0.75, -0.5, 2, 1))
    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence[-1]
    data.save_as(path)
    with pytest.raises(InputError, match="has 4 frames but describes 3"):
        read_headers(path)


def test_multi_frame_without_places_is_rejected(series: Write, tmp_path: Path) -> None:
    def edit(_: int, data: Any) -> None:
        data.NumberOfFrames = 2
        data.PixelData = data.PixelData * 2

    series(stacked(3), edit=edit)
    accepted, rejected = acquisitions_of(scan(tmp_path).slices)
    assert accepted == []
    assert rejected[0].reason == "has no position, orientation or pixel spacing"


def enhanced(data: Any, hu: np.ndarray, order: list[int]) -> None:
    """Turn a slice into an enhanced CT whose frame i is slice ``order[i]``."""

    def group(**fields: Any) -> list[Dataset]:
        item = Dataset()
        item.update({})
        for name, value in fields.items():
            setattr(item, name, value)
        return [item]

    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")
    data.NumberOfFrames = len(order)
    del (
        data.ImagePositionPatient,
        data.ImageOrientationPatient,
        data.PixelSpacing,
        data.RescaleSlope,
        data.RescaleIntercept,
    )
    shared = Dataset()
    shared.PixelMeasuresSequence = group(PixelSpacing=[0.5, 0.75], SliceThickness=7)
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = []
    for index in order:
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=[-10, -20, 5 + 2 * index])
        frame.PixelValueTransformationSequence = group(
            RescaleSlope=1, RescaleIntercept=-1100 - index, RescaleType="HU"
        )
        data.PerFrameFunctionalGroupsSequence.append(frame)
    frames = np.stack([hu[index] + 1100 + index for index in order])
    set_pixels(data, frames, 16, False)
