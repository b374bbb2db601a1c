import itertools
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from dataset_conversion.datasets.lidc_idri import LidcIdri
from dataset_conversion.phantoms.dicom_series import uid, write_series
from dataset_conversion.phantoms.lidc_download import (
    LIDC_SHAPE,
    lidc_reader_masks,
    lidc_xml,
    write_lidc,
)
from dataset_conversion.reading.lidc_annotations import (
    Annotations,
    Outline,
    consensus,
    interior,
    read_annotations,
)
from dataset_conversion.writing.conversion import convert
from nnunet_ext.errors import InputError
from tests.places import REAL_DATA

REAL = REAL_DATA / "lidc"
SERIES = uid("LIDC-IDRI-0001", 1, "ct")


@pytest.fixture
def lidc(lidc_original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lidc_original, tmp_path / "download"))


def xml_of(folder: Path, name: str = "069.xml") -> Path:
    (path,) = folder.rglob(name)
    return path


def label_of(folder: Path, case: str = "LIDC-IDRI-0001") -> np.ndarray:
    """As (slice, row, column), foot to head."""
    return np.asarray(nibabel.load(folder / f"labelsTr/{case}.nii.gz").dataobj).transpose(2, 1, 0)


@pytest.mark.parametrize("layout", [1, 2, 3, 4])
def test_all_layouts(tmp_path: Path, raw: Path, layout: int) -> None:
    found = LidcIdri(write_lidc(tmp_path / "download", layout=layout)).find_cases()
    assert [case.id for case in found.cases] == [
        "LIDC-IDRI-0001",
        "LIDC-IDRI-0132-scan1",
        "LIDC-IDRI-0132-scan2",
    ]
    assert found.problems == []
    assert found.notes == [
        "1 series left out (1 image): is Digital X-Ray Image Storage - For Presentation, not CT",
        "1 series left out (1 image): is Segmentation Storage, not CT",
        "1 XML files are readings of chest X-rays and are ignored",
    ]
    summary = convert(LidcIdri(tmp_path / "download"), raw / "Dataset120_X")
    assert summary.problems == []
    assert len(summary.converted) == 3
    label = label_of(raw / "Dataset120_X")
    assert np.array_equal(label, lidc_reader_masks().sum(axis=0) >= 2)


@pytest.mark.parametrize("percent", [25, 50, 75, 100, 1, 60])
def test_consensus_of_all_four(lidc: Path, raw: Path, percent: float) -> None:
    """Naive count: a voxel belongs to the nodule if at least that share of four readers drew it."""
    convert(LidcIdri(lidc, consensus_percent=percent), raw / "Dataset120_X")
    expected = np.zeros(LIDC_SHAPE, np.uint8)
    masks = lidc_reader_masks()
    for place in np.ndindex(*LIDC_SHAPE):
        expected[place] = (
            masks[(slice(None), *place)].sum() / 4 >= percent / 100
            and masks[(slice(None), *place)].any()
        )
    assert np.array_equal(label_of(raw / "Dataset120_X"), expected)
    assert f"consensus {percent:g} % of all4" in (raw / "Dataset120_X/conversion.csv").read_text()


@pytest.mark.parametrize("percent", [50, 75, 100])
def test_consensus_of_those_who_marked(lidc: Path, raw: Path, percent: float) -> None:
    convert(LidcIdri(lidc, consensus_percent=percent, denominator="marked"), raw / "Dataset120_X")
    masks = lidc_reader_masks()
    pieces, count = ndimage.label(masks.any(axis=0), np.ones((3, 3, 3)))
    assert count == 3
    expected = np.zeros(LIDC_SHAPE, bool)
    for piece in range(1, count + 1):
        marked = sum((mask & (pieces == piece)).any() for mask in masks)
        expected |= (pieces == piece) & (masks.sum(axis=0) / marked >= percent / 100)
    label = label_of(raw / "Dataset120_X")
    assert np.array_equal(label, expected)
    assert label[2, 14, 36] == 1  # drawn by one reader of one


def test_wrong_levels_are_refused(lidc: Path) -> None:
    for percent in (0, -5, 101):
        with pytest.raises(InputError, match="choose a share above 0"):
            LidcIdri(lidc, consensus_percent=percent).find_cases()


def test_outline_is_outside_and_holes_take_their_outline_with_them() -> None:
    """A square outline from 2 to 8 encloses 3..7; a hole's outline from 4 to 6 removes 4..6."""

    def square(first: int, last: int, hole: bool = False) -> Outline:
        side = range(first, last)
        points = [(x, first) for x in side] + [(last, y) for y in side]
        points += [(x, last) for x in range(last, first, -1)] + [
            (first, y) for y in range(last, first, -1)
        ]
        return Outline("a", 0.0, hole, tuple(points))

    inside = interior(square(2, 8).points, (12, 12))
    expected = np.zeros((12, 12), bool)
    expected[3:8, 3:8] = True
    assert np.array_equal(inside, expected)
    outlines = (square(4, 6, hole=True), square(2, 8), Outline("a", 0.0, False, ((5, 5),)))
    annotations = Annotations("1", "", ((outlines,),))
    mask = consensus(annotations, dict.fromkeys(outlines, 0), (1, 12, 12), 25, "all4")
    expected[4:7, 4:7] = False
    assert np.array_equal(mask[0], expected)
    with pytest.raises(InputError, match="reaches row 8, column 8 of an image of"):
        interior(square(2, 8).points, (8, 8))


def test_columns_are_x_and_rows_are_y() -> None:
    inside = interior([(0, 0), (9, 0), (9, 3), (0, 3)], (20, 20))
    assert inside[1:3, 1:9].all()
    assert not inside[4:].any()


def test_image_uid_comes_before_height(lidc: Path, raw: Path) -> None:
    path = xml_of(lidc)
    copy = xml_of(lidc, "158.xml")
    text = path.read_text()
    copy.unlink()
    shifted = text.replace("<imageZposition>-190.", "<imageZposition>-193.")
    assert shifted != text
    path.write_text(shifted)
    assert convert(LidcIdri(lidc), raw / "Dataset120_X").problems == []
    assert np.array_equal(label_of(raw / "Dataset120_X"), lidc_reader_masks().sum(axis=0) >= 2)
    path.write_text(
        text.replace(f"<imageSOP_UID>{uid(SERIES, 4)}<", "<imageSOP_UID><")
    )  # then the height
    assert convert(LidcIdri(lidc), raw / "Dataset121_X").problems == []
    assert np.array_equal(label_of(raw / "Dataset121_X"), lidc_reader_masks().sum(axis=0) >= 2)
    path.write_text(shifted.replace(f"<imageSOP_UID>{uid(SERIES, 4)}<", "<imageSOP_UID><"))
    (problem,) = convert(LidcIdri(lidc), raw / "Dataset122_X").problems
    assert "069.xml: an outline lies at -193 mm, where the series has no slice" in problem


def test_two_slices_at_one_place_and_two_acquisitions(lidc: Path, raw: Path) -> None:
    """The lower InstanceNumber counts; what was done is said in conversion.csv."""
    folder = xml_of(lidc).parent
    hu = np.asarray(pydicom.dcmread(folder / "1-004.dcm").pixel_array)
    data = pydicom.dcmread(folder / "1-004.dcm")
    data.PixelData, data.InstanceNumber, data.SOPInstanceUID = (hu + 1).tobytes(), 99, "2.25.99"
    data.save_as(folder / "extra.dcm")
    for path in list(
        xml_of(lidc, "071.xml").parent.glob("*.dcm")
    ):  # a second phase in the same series
        data = pydicom.dcmread(path)
        data.AcquisitionNumber = 1
        data.save_as(path)
        data.AcquisitionNumber, data.SOPInstanceUID = 2, f"{data.SOPInstanceUID}.2"
        data.save_as(path.with_name(f"second-{path.name}"))
    summary = convert(LidcIdri(lidc), raw / "Dataset120_X")
    assert summary.problems == []
    assert summary.converted == [
        "LIDC-IDRI-0001",
        *(f"LIDC-IDRI-0132-scan{number}" for number in (1, 2, 3)),
    ]
    image = np.asarray(
        nibabel.load(raw / "Dataset120_X/imagesTr/LIDC-IDRI-0001_0000.nii.gz").dataobj
    )
    assert image.shape[2] == LIDC_SHAPE[0]
    assert np.array_equal(label_of(raw / "Dataset120_X"), lidc_reader_masks().sum(axis=0) >= 2)
    text = (raw / "Dataset120_X/conversion.csv").read_text()
    assert "several slices at 1 position, the lowest InstanceNumber kept" in text
    assert "acquisition 2 of 2 in one series" in text


def test_newest_of_different_files_counts(lidc: Path, raw: Path) -> None:
    path = xml_of(lidc, "158.xml")
    newer = path.read_text().replace("2008-08-18", "2009-01-01").replace("Nodule 1", "x")
    sessions = newer.split("<readingSession>")
    path.write_text(
        "<readingSession>".join([sessions[0], *sessions[1:4]]) + "</LidcReadMessage>"
    )  # three readers
    summary = convert(LidcIdri(lidc), raw / "Dataset120_X")
    assert summary.problems == []
    assert np.array_equal(label_of(raw / "Dataset120_X"), lidc_reader_masks()[:3].sum(axis=0) >= 2)
    text = (raw / "Dataset120_X/conversion.csv").read_text()
    assert "2 different XML files describe this series, 158.xml is the newest" in text
    assert "only 3 reading sessions" in text


def test_scans_without_reading_and_readings_without_scan(lidc: Path) -> None:
    xml_of(lidc, "071.xml").unlink()
    shutil.rmtree(xml_of(lidc, "070.xml").parent)
    (lidc / "elsewhere.xml").write_text(lidc_xml("1.2.3", np.arange(9.0)))
    found = LidcIdri(lidc).find_cases()
    assert len(found.cases) == 2
    assert found.notes == [
        "1 CT series have no XML file and are left out",
        "1 series with an XML file have no CT in the download",
    ]


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b '
    '"&a;&a;&a;&a;&a;&a;&a;&a;">]><a>&b;</a>'
)
EXTERNAL = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "declares entities or a document type"),
        (EXTERNAL, "declares entities or a document type"),
        ("<!DOCTYPE a><a/>", "declares entities or a document type"),
        ("<LidcReadMessage", "cannot be read as XML"),
        ("", "cannot be read as XML"),
        ("<html/>", "is not an LIDC-IDRI reading"),
        ('<LidcReadMessage xmlns="http://www.nih.gov"/>', "names no series"),
        ("<a>" * 100_000, "cannot be read as XML"),
    ],
)
def test_hostile_and_damaged_xml_is_one_line(
    lidc: Path, raw: Path, text: str, message: str
) -> None:
    (lidc / "bad.xml").write_text(text)
    summary = convert(LidcIdri(lidc), raw / "Dataset120_X")
    assert len(summary.problems) == 1
    assert f"{lidc / 'bad.xml'}: {message}" in summary.problems[0]
    assert "\n" not in summary.problems[0]
    assert len(summary.converted) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<xCoord>14<", "<xCoord>fourteen<"),
        ("<xCoord>14<", "<xCoord>-1<"),
        ("<xCoord>14<", "<xCoord>999999<"),
        ("<inclusion>FALSE<", "<inclusion>MAYBE<"),
        ("<imageZposition>-190.", "<imageZposition>x"),
    ],
)
def test_unreadable_outlines_are_one_line(lidc: Path, old: str, new: str) -> None:
    path = xml_of(lidc)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"069\.xml: holds an outline that cannot be read"):
        read_annotations(path)


def test_too_many_readers_are_refused(lidc: Path) -> None:
    path = xml_of(lidc)
    text = path.read_text()
    session = text[text.index("<readingSession>") : text.index("</LidcReadMessage>")]
    path.write_text(text.replace(session, session * 2))
    with pytest.raises(InputError, match="has 8 readers, the collection had 4"):
        read_annotations(path)


def test_download_without_xml_says_where_it_is(lidc: Path) -> None:
    for path in lidc.rglob("*.xml"):
        path.unlink()
    with pytest.raises(InputError, match=r"unpack LIDC-XML-only\.zip"):
        LidcIdri(lidc).find_cases()


def test_a_fixed_or_completed_download_is_converted_again(lidc: Path, raw: Path) -> None:
    folder = raw / "Dataset120_X"
    parent = xml_of(lidc).parent
    heights_mm = {
        path: pydicom.dcmread(path).ImagePositionPatient[2] for path in parent.glob("*.dcm")
    }
    top = max(heights_mm, key=lambda path: heights_mm[path])
    content = top.read_bytes()

    top.write_bytes(content[:300])
    summary = convert(LidcIdri(lidc), folder)
    assert f"{parent}: series left out: a file in this folder is damaged" in summary.problems
    assert "LIDC-IDRI-0001" not in summary.converted

    top.unlink()  # and nothing tells that a slice at the end is not there
    assert convert(LidcIdri(lidc), folder).problems == []
    assert len(label_of(folder)) == LIDC_SHAPE[0] - 1

    top.write_bytes(content)
    summary = convert(LidcIdri(lidc), folder)
    assert (summary.converted, summary.problems) == (["LIDC-IDRI-0001"], [])
    assert len(label_of(folder)) == LIDC_SHAPE[0]


# Real readings and published masks; see the folder's own description.
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="needs real data")
GOLDEN = [("0001_R_1", "069.xml"), ("0003_R_3", "072.xml"), ("0003_R_4", "072.xml")]


def on_grid_of(mask: nibabel.Nifti1Image, annotations: Annotations, percent: float) -> np.ndarray:
    """Consensus (x, y, z) on a mask's grid, matched by height: the slices themselves are not
    there.
    """
    columns, rows, slices = mask.shape
    heights_mm = mask.affine[2, 3] + mask.affine[2, 2] * np.arange(slices)
    outlines = [
        outline for nodules in annotations.readers for nodule in nodules for outline in nodule
    ]
    places = {outline: int(np.abs(heights_mm - outline.z_mm).argmin()) for outline in outlines}
    assert max(abs(heights_mm[index] - outline.z_mm) for outline, index in places.items()) < 0.01
    return consensus(annotations, places, (slices, rows, columns), percent, "all4").transpose(
        2, 1, 0
    )


@needs_real
@pytest.mark.parametrize(("name", "xml"), GOLDEN)
def test_union_equals_published_masks(name: str, xml: str) -> None:
    mask = nibabel.load(REAL / f"masks/LIDC-IDRI-{name}.nii.gz")
    published = np.asarray(mask.dataobj) > 0
    annotations = read_annotations(REAL / "xml" / xml)
    assert annotations is not None
    levels = [on_grid_of(mask, annotations, percent) for percent in (25, 50, 75, 100)]
    pieces, _ = ndimage.label(levels[0], np.ones((3, 3, 3)))
    touched = set(np.unique(pieces[published])) - {0}
    assert len(touched) == 1
    assert np.array_equal(pieces == touched.pop(), published)
    for wider, narrower in itertools.pairwise(levels):
        assert (narrower <= wider).all()
        assert narrower.sum() < wider.sum()


@needs_real
def test_real_xray_readings_are_skipped() -> None:
    readings = {path.name: read_annotations(path) for path in (REAL / "xml").glob("*.xml")}
    assert {name for name, reading in readings.items() if reading is None} == {
        "068.xml",
        "070.xml",
        "073.xml",
        "079.xml",
    }
    assert all(len(reading.readers) == 4 for reading in readings.values() if reading is not None)


@needs_real
def test_whole_conversion_equals_a_published_mask(tmp_path: Path, raw: Path) -> None:
    """Generated images on the published grid, with the image UIDs of the real XML: from DICOM to
    the label file.
    """
    mask = nibabel.load(REAL / "masks/LIDC-IDRI-0003_R_4.nii.gz")
    published = np.asarray(mask.dataobj) > 0
    annotations = read_annotations(REAL / "xml/072.xml")
    assert annotations is not None
    affine_mm = mask.affine
    drawn = [outline for nodules in annotations.readers for nodule in nodules for outline in nodule]
    layers = [round((outline.z_mm - affine_mm[2, 3]) / affine_mm[2, 2]) for outline in drawn]
    slices = range(min(layers) - 1, max(layers) + 2)
    uids = {layer: outline.sop_uid for layer, outline in zip(layers, drawn, strict=True)}
    first_mm = (-affine_mm[0, 3], -affine_mm[1, 3])
    positions_mm = np.array([(*first_mm, affine_mm[2, 3] + affine_mm[2, 2] * z) for z in slices])

    def edit(index: int, data: Any) -> None:
        data.SOPInstanceUID = uids.get(slices[index], uid("other", index))

    hu = np.full((len(slices), *mask.shape[1::-1]), -800)
    write_series(
        tmp_path / "download",
        hu,
        positions_mm,
        spacing_mm=(-affine_mm[1, 1], -affine_mm[0, 0]),
        patient="LIDC-IDRI-0003",
        series=annotations.series_uid,
        edit=edit,
    )
    shutil.copy(REAL / "xml/072.xml", tmp_path / "download")
    summary = convert(LidcIdri(tmp_path / "download", consensus_percent=25), raw / "Dataset120_X")
    assert summary.problems == []
    label = nibabel.load(raw / "Dataset120_X/labelsTr/LIDC-IDRI-0003.nii.gz")
    assert np.allclose(label.affine[:3, :3], affine_mm[:3, :3], atol=1e-4)
    pieces, _ = ndimage.label(np.asarray(label.dataobj), np.ones((3, 3, 3)))
    part = published[:, :, slices.start : slices.stop]
    (piece,) = set(np.unique(pieces[part])) - {0}
    assert np.array_equal(pieces == piece, part)
