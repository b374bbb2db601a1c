"""What tells scans of one series apart: geometry first, then what headers say of phase and
reconstruction.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import UID

from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.series import Acquisition, Rejected, Rules, acquisitions_of
from nnunet_ext.dicom.reading.volume import read_volume
from tests.dicom.conftest import numbered, stacked
from tests.dicom.reading.test_pixels import enhanced

Write = Callable[..., list[Path]]
Edit = Callable[[int, Any], None]


def found_in(folder: Path, rules: Rules | None = None) -> tuple[list[Acquisition], list[Rejected]]:
    content = scan(folder)
    assert content.damaged == {}
    return acquisitions_of(content.slices, rules)


def by_part(of: Callable[[int], int], **fields: tuple[object, ...]) -> Edit:
    """Give slice ``i`` the value number ``of(i)`` of each field."""

    def edit(index: int, data: Any) -> None:
        for name, values in fields.items():
            setattr(data, name, values[of(index)])

    return edit


THICK, THIN = stacked(7, 5.0), stacked(30, 1.0) + np.array((0, 0, 0.5))


@pytest.mark.parametrize(
    "fields",
    [
        {"ConvolutionKernel": ("B30f", "B70f")},
        {"SliceThickness": ("5", "1")},
        {"SeriesNumber": (3, 4)},
        {"FilterType": ("HEAD", "BODY")},
        {"KVP": ("80", "140")},
        {"SeriesDescription": ("thick", "thin")},
        {
            "ImageType": (
                ["ORIGINAL", "PRIMARY", "AXIAL", "A"],
                ["ORIGINAL", "PRIMARY", "AXIAL", "B"],
            )
        },
    ],
    ids=lambda fields: next(iter(fields)),
)
@pytest.mark.parametrize("shift_mm", [0.5, 0.0], ids=["between each other", "at the same places"])
def test_two_reconstructions_are_not_woven_into_one(
    series: Write, tmp_path: Path, fields: dict[str, tuple[object, ...]], shift_mm: float
) -> None:
    positions_mm = np.concatenate([THICK, stacked(31, 1.0) + np.array((0, 0, shift_mm))])
    edit = by_part(lambda index: int(index >= len(THICK)), **fields)
    # InstanceNumber is no help: it counts the slices along the body.
    series(positions_mm, order=np.argsort(positions_mm[:, 2], kind="stable"), edit=edit)
    accepted, rejected = found_in(tmp_path)
    assert rejected == []
    assert [(len(item.slices), item.stack.kind, item.stack.step_mm) for item in accepted] == [
        (7, "regular", 5),
        (31, "regular", 1),
    ]
    hu = numbered(38)
    for acquisition, expected in zip(accepted, (hu[:7], hu[7:]), strict=True):
        assert np.array_equal(read_volume(acquisition).voxels, expected.transpose(2, 1, 0))


@pytest.mark.parametrize(
    "fields",
    [
        {"NominalPercentageOfCardiacPhase": (30.0, 40.0, 50.0)},
        {"TriggerTime": ("300", "400", "500")},
        {
            "NominalPercentageOfCardiacPhase": (30.0, 40.0, 50.0),
            "TriggerTime": ("300", "400", "500"),
        },
    ],
)
def test_phases_of_the_heart_are_volumes(
    series: Write, tmp_path: Path, fields: dict[str, tuple[object, ...]]
) -> None:
    """InstanceNumber runs over the phases first, then along the body."""
    series(np.repeat(stacked(6), 3, axis=0), edit=by_part(lambda index: index % 3, **fields))
    accepted, rejected = found_in(tmp_path)
    assert rejected == []
    for phase, acquisition in enumerate(accepted):
        assert np.array_equal(
            read_volume(acquisition).voxels, numbered(18)[phase::3].transpose(2, 1, 0)
        )
    assert len(accepted) == 3


def test_phases_and_kernels_together(series: Write, tmp_path: Path) -> None:
    def edit(index: int, data: Any) -> None:
        data.NominalPercentageOfCardiacPhase = (30.0, 70.0)[index % 2]
        data.ConvolutionKernel = ("soft", "sharp")[index // 2 % 2]

    series(np.repeat(stacked(5), 4, axis=0), edit=edit)
    accepted, rejected = found_in(tmp_path)
    assert rejected == []
    assert [len(item.slices) for item in accepted] == [5, 5, 5, 5]


def test_files_of_enhanced_images_are_volumes(series: Write, tmp_path: Path) -> None:
    """Two phases at the same places, an enhanced file each, and no field says which is which."""
    for name in "ab":
        series(
            stacked(1),
            folder=name,
            edit=lambda _, data: enhanced(data, numbered(4), [0, 1, 2, 3]),
            series="2.25.1",
        )
        (path,) = (tmp_path / name).iterdir()
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([ord(name), 0]))  # other pixels: these are no copies
    accepted, rejected = found_in(tmp_path)
    assert rejected == []
    assert [{Path(item.path).parent.name for item in found.slices} for found in accepted] == [
        {"a"},
        {"b"},
    ]


@pytest.mark.parametrize("period", [2, 3, 4])
@pytest.mark.parametrize(
    "field", ["AcquisitionNumber", "TemporalPositionIdentifier", "TriggerTime"]
)
def test_a_number_that_cycles_along_a_regular_stack_divides_nothing(
    series: Write, tmp_path: Path, period: int, field: str
) -> None:
    series(stacked(40, 3.0), edit=lambda index, data: setattr(data, field, 1 + index % period))
    (acquisition,), rejected = found_in(tmp_path)
    assert rejected == []
    assert (acquisition.stack.kind, acquisition.stack.step_mm, len(acquisition.slices)) == (
        "regular",
        3,
        40,
    )


def test_a_cycle_with_a_missing_slice_is_one_stack(series: Write, tmp_path: Path) -> None:
    edit = by_part(lambda index: index % 2, AcquisitionNumber=(1, 2))
    series(np.delete(stacked(21), 10, axis=0), edit=edit)
    (acquisition,), _ = found_in(tmp_path)
    assert acquisition.remarks == ("1 slice missing, interpolated",)


@pytest.mark.parametrize("name", ["FrameOfReferenceUID", "StudyInstanceUID", "PatientID"])
@pytest.mark.parametrize("empty", [False, True])
def test_an_identifier_that_some_slices_lack_divides_nothing(
    series: Write, tmp_path: Path, name: str, empty: bool
) -> None:
    def edit(index: int, data: Any) -> None:
        if index in (0, 2, 3):
            setattr(data, name, "") if empty else delattr(data, name)

    series(stacked(7), edit=edit)
    (acquisition,), rejected = found_in(tmp_path)
    assert rejected == []
    assert len(acquisition.slices) == 7


def test_two_frames_of_reference_stay_two_scans(series: Write, tmp_path: Path) -> None:
    edit = by_part(lambda index: int(index >= 4), FrameOfReferenceUID=("2.25.8", "2.25.9"))
    series(np.concatenate([stacked(4), stacked(4)]), edit=edit)
    assert [len(item.slices) for item in found_in(tmp_path)[0]] == [4, 4]


@pytest.mark.parametrize("tilt", [0.0, 0.12])
@pytest.mark.parametrize("beside_mm", [0.0, 0.3], ids=["at one place", "between two slices"])
def test_a_lone_slice_of_another_acquisition_costs_nothing_else(
    series: Write, tmp_path: Path, beside_mm: float, tilt: float
) -> None:
    positions_mm = np.concatenate([stacked(1) + np.array((0, 0, beside_mm)), stacked(20)])
    orientation = (1, 0, 0, 0, np.cos(tilt), np.sin(tilt))
    edit = by_part(lambda index: int(index > 0), AcquisitionNumber=(1, 2))
    series(positions_mm, orientation=orientation, edit=edit)
    (acquisition,), rejected = found_in(tmp_path)
    assert len(acquisition.slices) == 20
    assert "1 slice of another acquisition left out" in acquisition.remarks
    assert [(len(item.slices), item.defect) for item in rejected] == [(1, False)]
    assert (
        rejected[0].reason
        == "has only 1 slice, at least 3 needed; of another acquisition than the slices around"
    )


def test_too_many_lone_slices_are_no_strangers(series: Write, tmp_path: Path) -> None:
    edit = by_part(lambda index: int(index >= 2), AcquisitionNumber=(1, 2))
    series(stacked(8)[[0, 1, *range(8)]], edit=edit)
    accepted, rejected = found_in(tmp_path)
    assert accepted == []
    assert rejected[0].defect


@pytest.mark.parametrize("positions", [1, 2])
def test_the_watch_for_a_contrast_agent_is_no_defect(
    series: Write, tmp_path: Path, positions: int
) -> None:
    def edit(index: int, data: Any) -> None:
        data.AcquisitionNumber, data.AcquisitionTime = index + 1, f"1200{index:02d}"

    series(np.repeat(stacked(positions, 10.0), 12 // positions, axis=0), edit=edit)
    accepted, (rejected,) = found_in(tmp_path)
    assert accepted == []
    assert not rejected.defect
    assert "again and again" in rejected.reason


def test_a_refusal_names_what_was_asked(series: Write, tmp_path: Path) -> None:
    series(stacked(6)[[0, 1, 2, 2, 3, 4, 5]])
    _, (rejected,) = found_in(tmp_path)
    assert rejected.reason == (
        "holds several different slices at 1 position; neither phase, acquisition, "
        "reconstruction, time nor order in "
        "the headers sorts them into whole stacks"
    )


def rounded(step_mm: float, digits: int, count: int = 40) -> np.ndarray:
    return np.array([(-8.0, -8.0, round(step_mm * index, digits)) for index in range(count)])


@pytest.mark.parametrize(
    ("step_mm", "digits"),
    [(0.625, 1), (0.7, 1), (1.25, 1), (0.3125, 2), (2.5, 0), (3.75, 0), (0.625, 2)],
)
def test_half_a_unit_of_the_last_digit_is_no_unevenness(
    series: Write, tmp_path: Path, step_mm: float, digits: int
) -> None:
    series(rounded(step_mm, digits))
    (acquisition,), _ = found_in(tmp_path)
    assert acquisition.stack.is_grid and acquisition.remarks == ()
    assert acquisition.stack.step_mm == pytest.approx(step_mm, abs=0.01 * step_mm)
    assert np.array_equal(read_volume(acquisition).voxels, numbered(40).transpose(2, 1, 0))


@pytest.mark.parametrize("angle", [0.2, 0.7])
def test_rounded_places_of_an_oblique_stack_are_even(
    series: Write, tmp_path: Path, angle: float
) -> None:
    normal = np.cross((1, 0, 0), (0, np.cos(angle), np.sin(angle)))
    positions_mm = np.round(np.arange(40)[:, None] * 0.625 * normal + (3.0, -8.0, 5.0), 1)
    series(
        positions_mm, orientation=(1, 0, 0, 0, np.cos(angle), np.sin(angle)), spacing_mm=(0.5, 0.5)
    )
    (acquisition,), _ = found_in(tmp_path)
    assert acquisition.stack.is_grid
    assert np.array_equal(read_volume(acquisition).voxels, numbered(40).transpose(2, 1, 0))


@pytest.mark.parametrize(
    "heights_mm",
    [
        (0, 0.62, 1.25, 1.97, 2.5, 3.12),  # two digits, and one slice 0.1 mm off
        (0, 1, 2, 3, 5, 6, 9),  # whole numbers say little of a step of 1 mm
        (0, 1.08, 2.2, 9.2, 16.2, 23.2),
    ],
)
def test_real_unevenness_is_still_seen(
    series: Write, tmp_path: Path, heights_mm: tuple[float, ...]
) -> None:
    series(np.array([(0, 0, height) for height in heights_mm]))
    (acquisition,), _ = found_in(tmp_path)
    assert acquisition.stack.kind != "regular"


def test_pixel_spacing_written_with_three_digits_is_the_same(series: Write, tmp_path: Path) -> None:
    def edit(index: int, data: Any) -> None:
        data.PixelSpacing = ["0.703", "0.703"] if index % 3 == 0 else ["0.703125", "0.703125"]

    series(stacked(6), edit=edit)
    assert [len(item.slices) for item in found_in(tmp_path)[0]] == [6]


def test_only_scans_are_judged_by_their_geometry(series: Write, tmp_path: Path) -> None:
    """A report, a scout and a video beside a CT, each with fields that no scan could have."""
    series(stacked(6), patient="A")

    def capture(_: int, data: Any) -> None:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
        data.PixelSpacing, data.ImagePositionPatient = ["1"], [0, 0]
        data.NumberOfFrames = 30_000

    def scout(_: int, data: Any) -> None:
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0], ["0.5"]

    for name, edit in (("capture", capture), ("scout", scout)):
        series(
            stacked(1),
            patient="A",
            series=f"2.25.{len(name)}",
            edit=edit,
            names=lambda _, name=name: f"{name}.dcm",
        )
    accepted, rejected = found_in(tmp_path)
    assert [len(item.slices) for item in accepted] == [6]
    assert sorted(item.defect for item in rejected) == [False, False]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SliceThickness", b"0,625 "),
        ("SliceThickness", b"REMOVED "),
        ("KVP", b"n/a "),
        ("TriggerTime", b"- "),
    ],
)
def test_text_in_a_field_that_decides_nothing(
    series: Write, tmp_path: Path, name: str, value: bytes
) -> None:
    series(stacked(6), edit=raw_text(name, value))
    (acquisition,), rejected = found_in(tmp_path)
    assert rejected == []
    assert np.array_equal(read_volume(acquisition).voxels, numbered(6).transpose(2, 1, 0))


def raw_text(name: str, value: bytes, only: int | None = None) -> Edit:
    """Write bytes that no library would write into a decimal string."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    def edit(index: int, data: Any) -> None:
        if only is None or index == only:
            tag = Tag(tag_for_keyword(name))
            data.pop(tag, None)
            data._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)

    return edit


def test_no_frames_are_one_frame(series: Write, tmp_path: Path) -> None:
    series(stacked(4), edit=lambda _, data: setattr(data, "NumberOfFrames", 0))
    (acquisition,), _ = found_in(tmp_path)
    assert np.array_equal(read_volume(acquisition).voxels, numbered(4).transpose(2, 1, 0))


def test_slices_beyond_a_stack_continue_it(series: Write, tmp_path: Path) -> None:
    """The base of a head, two slices of another thickness, below twenty of the vertex."""
    positions_mm = np.array(
        [(-8.0, -8.0, height) for height in (0, 4, *(8 + 7 * index for index in range(20)))]
    )
    series(positions_mm, edit=by_part(lambda index: int(index >= 2), SliceThickness=("4", "7")))
    (acquisition,), rejected = found_in(tmp_path)
    assert rejected == []
    assert (len(acquisition.slices), acquisition.stack.kind) == (22, "uneven")


@pytest.mark.parametrize("name", ["ConvolutionKernel", "SeriesNumber", "ImageType"])
def test_a_field_that_every_second_slice_lost_divides_nothing(
    series: Write, tmp_path: Path, name: str
) -> None:
    values = {"ConvolutionKernel": "B30f", "SeriesNumber": 2, "ImageType": ["ORIGINAL", "PRIMARY"]}

    def edit(index: int, data: Any) -> None:
        setattr(data, name, values[name])
        if index % 2:
            delattr(data, name)

    series(stacked(12), edit=edit)
    assert [len(item.slices) for item in found_in(tmp_path)[0]] == [12]


def test_kernels_in_turn_are_two_volumes_although_their_places_are_regular(
    series: Write, tmp_path: Path
) -> None:
    edit = by_part(lambda index: index % 2, ConvolutionKernel=("B30f", "B70f"))
    series(stacked(12), edit=edit)
    assert [(len(item.slices), item.stack.step_mm) for item in found_in(tmp_path)[0]] == [
        (6, 4),
        (6, 4),
    ]
