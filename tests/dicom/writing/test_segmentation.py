"""DICOM SEG: every frame at its slice, every voxel as in the mask, the patient as in the images."""

import subprocess
from pathlib import Path
from typing import Any, get_args

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest

from nnunet_ext.dicom.writing.segmentation import SegmentationKind, write_segmentation
from nnunet_ext.dicom.writing.segments import Segment, segments_of
from nnunet_ext.dicom.writing.source import Source, new_series_numbers, read_source
from nnunet_ext.errors import InputError
from tests.dicom.writing.geometries import (
    MODEL,
    SPACING_MM,
    STEP_MM,
    acquisition_below,
    write_geometry,
)
from tests.dicom.writing.validators import dciodvfy_errors, program

KINDS = get_args(SegmentationKind)
Segments = tuple[Segment, ...]


def frames_of(file: Path) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Segment number (0: all), position (3,) and pixels of each frame, without highdicom's help."""
    data = pydicom.dcmread(file)
    frames = []
    for group, pixels in zip(data.PerFrameFunctionalGroupsSequence, data.pixel_array, strict=True):
        shared = data.SharedFunctionalGroupsSequence[0]
        names = group.get("SegmentIdentificationSequence") or shared.get(
            "SegmentIdentificationSequence"
        )
        number = names[0].ReferencedSegmentNumber if names else 0
        position_mm = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        frames.append((number, position_mm, pixels))
    return frames


@pytest.mark.parametrize("kind", KINDS)
def test_frames_lie_on_the_slices(
    tmp_path: Path, source: Source, mask: np.ndarray, segments: Segments, kind: SegmentationKind
) -> None:
    file = tmp_path / "seg.dcm"
    write_segmentation(file, mask, source, segments, MODEL, series_number=1001, kind=kind)
    frames = frames_of(file)
    assert len(frames) == len(mask) * (1 if kind == "labelmap" else len(segments))
    places_mm = np.array([item.position_mm for item in source.acquisition.slices])
    for number, position_mm, pixels in frames:
        distances_mm = np.linalg.norm(places_mm - position_mm, axis=1)
        assert distances_mm.min() < 1e-3
        expected = mask[distances_mm.argmin()]
        if kind != "labelmap":
            expected = (expected == number) * (255 if kind == "fractional" else 1)
        assert np.array_equal(pixels, expected)
    data = pydicom.dcmread(file)
    shared = data.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert np.allclose(orientation, source.acquisition.slices[0].orientation)
    assert np.allclose(shared.PixelMeasuresSequence[0].PixelSpacing, SPACING_MM)


@pytest.mark.parametrize("kind", KINDS)
def test_highdicom_reads_the_mask(
    tmp_path: Path, source: Source, mask: np.ndarray, segments: Segments, kind: SegmentationKind
) -> None:
    file = tmp_path / "seg.dcm"
    write_segmentation(file, mask, source, segments, MODEL, series_number=1001, kind=kind)
    read = highdicom.seg.segread(file)
    slices = source.acquisition.slices
    if slices[0].frame is None:
        pixels = read.get_pixels_by_source_instance([item.sop_uid for item in slices])
    else:
        numbers = [(item.frame or 0) + 1 for item in slices]
        pixels = read.get_pixels_by_source_frame(slices[0].sop_uid, numbers)
    assert np.array_equal(pixels, np.stack([segment.of(mask) for segment in segments], axis=-1))
    assert [
        item.segment_label for item in map(read.get_segment_description, read.segment_numbers)
    ] == ["lung", "lesion"]


def test_probabilities_are_kept(
    tmp_path: Path, regular: Source, mask: np.ndarray, segments: Segments
) -> None:
    probabilities = np.random.default_rng(0).random((2, *mask.shape))
    file = tmp_path / "seg.dcm"
    write_segmentation(
        file,
        mask,
        regular,
        segments,
        MODEL,
        series_number=1,
        kind="fractional",
        probabilities=probabilities,
    )
    for number, position_mm, pixels in frames_of(file):
        index = round((position_mm[2] - 5) / STEP_MM)
        assert np.array_equal(pixels, np.round(255 * probabilities[number - 1, index]))
    with pytest.raises(InputError, match=r"have shape \(1, .*expected \(2, "):
        write_segmentation(
            file,
            mask,
            regular,
            segments,
            MODEL,
            series_number=1,
            kind="fractional",
            probabilities=probabilities[:1],
        )


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_mask_is_written(
    tmp_path: Path, regular: Source, mask: np.ndarray, segments: Segments, kind: SegmentationKind
) -> None:
    file = tmp_path / "seg.dcm"
    write_segmentation(file, 0 * mask, regular, segments, MODEL, series_number=1, kind=kind)
    assert all(not pixels.any() for _, _, pixels in frames_of(file))


def test_regions_overlap(tmp_path: Path, regular: Source, mask: np.ndarray) -> None:
    regions = segments_of({"background": 0, "whole": [1, 2], "core": 2})
    file = tmp_path / "seg.dcm"
    write_segmentation(file, mask, regular, regions, MODEL, series_number=1)
    assert [item.label for item in regions] == ["whole", "core"]
    for number, position_mm, pixels in frames_of(file):
        index = round((position_mm[2] - 5) / STEP_MM)
        assert np.array_equal(pixels, mask[index] > 0 if number == 1 else mask[index] == 2)
    with pytest.raises(InputError, match="share label values"):
        write_segmentation(file, mask, regular, regions, MODEL, series_number=1, kind="labelmap")


def test_masks_of_other_images_are_refused(
    tmp_path: Path, regular: Source, mask: np.ndarray, segments: Segments
) -> None:
    file = tmp_path / "seg.dcm"
    with pytest.raises(InputError, match=r"the mask has shape \(8, .*the slices \(9, "):
        write_segmentation(file, mask[1:], regular, segments, MODEL, series_number=1)
    with pytest.raises(InputError, match="holds the value 3, which"):
        write_segmentation(
            file, np.where(mask == 2, 3, mask), regular, segments, MODEL, series_number=1
        )
    with pytest.raises(InputError, match="valid are binary, labelmap, fractional"):
        write_segmentation(file, mask, regular, segments, MODEL, series_number=1, kind="surface")  # type: ignore[arg-type]
    assert not file.exists()


@pytest.mark.parametrize("character_set", ["GB18030", "ISO_IR 100", "ISO_IR 192"])
def test_patient_and_study_stay_byte_for_byte(
    tmp_path: Path, mask: np.ndarray, segments: Segments, character_set: str
) -> None:
    """Also texts that do not fit their character set, impossible dates and unknown sexes."""
    texts = {
        "PatientName": ("PN", b"M\xfcller^J\xf6rg "),
        "PatientBirthDate": ("DA", b"01.02.1950"),
        "PatientSex": ("CS", b"male"),
        "StudyDescription": ("LO", b"Sch\xe4del "),
        "PatientAge": ("AS", b"076Y"),
        "ReferringPhysicianName": ("PN", b"\xb4\xb5\xb6\xb7"),
    }

    def edit(_: int, data: Any) -> None:
        data.SpecificCharacterSet = character_set
        for name, (vr, value) in texts.items():
            tag = pydicom.datadict.tag_for_keyword(name)
            assert tag is not None
            data[tag] = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(tag), vr, len(value), value, 0, False, True, True
            )
        data.set_original_encoding(False, True, data._character_set)

    write_geometry(tmp_path / "scan", "regular", edit=edit)
    source = read_source(acquisition_below(tmp_path / "scan"))
    file = tmp_path / "seg.dcm"
    write_segmentation(file, mask, source, segments, MODEL, series_number=1)
    written = file.read_bytes()
    data = pydicom.dcmread(file)
    assert str(data.SpecificCharacterSet) == character_set
    for name, (_, value) in texts.items():
        assert written.count(value) == 1, name
    assert data.StudyInstanceUID == source.first.StudyInstanceUID
    assert (data.StudyID, data.AccessionNumber) == ("", "")


def test_a_series_of_its_own(
    tmp_path: Path, regular: Source, mask: np.ndarray, segments: Segments
) -> None:
    uids = set()
    for name in ("a", "b"):
        result = write_segmentation(
            tmp_path / name, mask, regular, segments, MODEL, series_number=1003
        )
        uids |= {result.SeriesInstanceUID, result.SOPInstanceUID}
        assert (result.SeriesNumber, result.Modality) == (1003, "SEG")
    assert len(uids) == 4 and regular.first.SeriesInstanceUID not in uids
    assert new_series_numbers([2, None, 7], 2) == [1001, 1002]
    assert new_series_numbers([1001, 1, 99999], 3) == [1002, 1003, 1004]


def test_every_image_is_referred_to_once(
    tmp_path: Path, source: Source, mask: np.ndarray, segments: Segments
) -> None:
    result = write_segmentation(tmp_path / "a", mask, source, segments, MODEL, series_number=1)
    uids = [header.SOPInstanceUID for header in source.headers]
    assert [item.ReferencedSOPInstanceUID for item in result.SourceImageSequence] == uids
    (series,) = result.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence] == uids
    assert series.SeriesInstanceUID == source.first.SeriesInstanceUID


def test_images_without_identifiers_are_refused(tmp_path: Path) -> None:
    write_geometry(
        tmp_path / "scan", "regular", edit=lambda _, data: delattr(data, "SOPInstanceUID")
    )
    with pytest.raises(InputError, match="has no SOPInstanceUID"):
        read_source(acquisition_below(tmp_path / "scan"))


@pytest.mark.parametrize("kind", ["binary", "fractional"])
def test_dciodvfy_finds_no_error(
    tmp_path: Path, source: Source, mask: np.ndarray, segments: Segments, kind: SegmentationKind
) -> None:
    file = tmp_path / "seg.dcm"
    write_segmentation(file, mask, source, segments, MODEL, series_number=1, kind=kind)
    assert dciodvfy_errors(file) == []


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_dcmqi_reads_the_right_grid(
    tmp_path: Path, regular: Source, mask: np.ndarray, segments: Segments, kind: SegmentationKind
) -> None:
    file = tmp_path / "seg.dcm"
    write_segmentation(file, mask, regular, segments, MODEL, series_number=1, kind=kind)
    subprocess.run(
        [
            program("segimage2itkimage"),
            "--mergeSegments",
            "--inputDICOM",
            file,
            "--outputDirectory",
            tmp_path,
            "--outputType",
            "nii",
        ],
        check=True,
        capture_output=True,
    )
    (written,) = tmp_path.glob("*.nii.gz")
    image = nibabel.load(written)
    affine_mm = np.diag([-SPACING_MM[1], -SPACING_MM[0], STEP_MM, 1])
    affine_mm[:3, 3] = (10.25, 20.5, 5)  # NIfTI's axes run to the right and the front
    assert np.allclose(image.affine, affine_mm, atol=1e-4)
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), mask)
