"""Which slices form a stack, and why the others do not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.series import Acquisition, Rejected, Rules, acquisitions_of
from nnunet_ext.dicom.reading.volume import acquisition_in, grid_on_slices, read_volume
from nnunet_ext.errors import InputError
from tests.dicom.conftest import numbered, stacked

Write = Callable[..., list[Path]]


def found_in(folder: Path, rules: Rules | None = None) -> tuple[list[Acquisition], list[Rejected]]:
    content = scan(folder)
    assert content.damaged == {}
    return acquisitions_of(content.slices, rules)


def reasons(rejected: list[Rejected]) -> list[tuple[int, str]]:
    return [(len(item.slices), item.reason) for item in rejected]


def test_regular_series(series: Write, tmp_path: Path) -> None:
    series(stacked(5), order=(3, 0, 4, 2, 1))
    (acquisition,), rejected = found_in(tmp_path)
    assert rejected == []
    assert acquisition.remarks == ()
    volume = read_volume(acquisition)
    assert np.array_equal(volume.voxels, numbered(5).transpose(2, 1, 0))
    assert np.allclose(
        volume.grid.affine_ras_mm, [[-1, 0, 0, 10], [0, -1, 0, 20], [0, 0, 2, 5], [0, 0, 0, 1]]
    )
    assert volume.unit == "HU"


def test_pixel_spacing_is_rows_first(series: Write, tmp_path: Path) -> None:
    series(stacked(3), spacing_mm=(0.5, 0.75))  # rows half a millimetre apart
    volume = read_volume(found_in(tmp_path)[0][0])
    assert np.allclose(np.diag(volume.grid.affine_ras_mm), (-0.75, -0.5, 2, 1))


def test_missing_slices_are_interpolated_and_said(series: Write, tmp_path: Path) -> None:
    positions_mm = stacked(8)
    series(np.delete(positions_mm, [3, 4], axis=0))
    (acquisition,), _ = found_in(tmp_path)
    assert acquisition.remarks == ("2 slices missing, interpolated",)
    volume = read_volume(acquisition)
    kept, hu = [0, 1, 2, 5, 6, 7], numbered(6)
    assert volume.voxels.shape[2] == 8
    assert volume.warnings == ("2 slices missing, interpolated",)
    assert np.array_equal(volume.voxels[:, :, kept], hu.transpose(2, 1, 0))
    assert np.array_equal(volume.voxels[:, :, 3], np.round(hu[2] * 2 / 3 + hu[3] / 3).T)


def test_uneven_slices_are_resampled_and_said(series: Write, tmp_path: Path) -> None:
    series(np.array([(0, 0, z) for z in (0, 1.08, 2.2, 9.2, 16.2, 23.2)]))
    (acquisition,), _ = found_in(tmp_path)
    assert acquisition.remarks == ("slices 1.08 to 7 mm apart, resampled to 7 mm",)
    volume = read_volume(acquisition)
    hu, layer_mm = numbered(6), 7.0
    between = hu[2] + (hu[3] - hu[2]) * (layer_mm - 2.2) / 7
    assert np.abs(volume.voxels[:, :, 1] - between.T).max() <= 0.5


def test_series_spread_over_folders_and_copied(series: Write, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        series(stacked(4), folder=folder, series="2.25.1")
    (tmp_path / "a/1-002.dcm").unlink()
    (tmp_path / "b/1-004.dcm").unlink()
    (acquisition,), rejected = found_in(tmp_path)
    assert rejected == []
    assert acquisition.remarks == ("2 exact copies left out",)
    assert np.array_equal(read_volume(acquisition).voxels, numbered(4).transpose(2, 1, 0))


def two_phases(field: str, first: object, second: object) -> Callable[[int, Any], None]:
    return lambda index, data: setattr(data, field, first if index < 4 else second)


@pytest.mark.parametrize(
    "edit",
    [
        two_phases("AcquisitionNumber", 1, 2),
        two_phases("TemporalPositionIdentifier", 1, 2),
        two_phases(
            "ImageType",
            ["ORIGINAL", "PRIMARY", "AXIAL", "120KV"],
            ["ORIGINAL", "PRIMARY", "AXIAL", "80KV"],
        ),
        None,  # only InstanceNumber runs twice along the body
    ],
    ids=["acquisition", "time", "image type", "runs"],
)
def test_two_phases_are_two_acquisitions(series: Write, tmp_path: Path, edit: object) -> None:
    series(np.concatenate([stacked(4), stacked(4)]), edit=edit)
    accepted, rejected = found_in(tmp_path)
    assert rejected == []
    assert [item.index for item in accepted] == [1, 2]
    assert [item.remarks for item in accepted] == [
        ("acquisition 1 of 2 in one series",),
        ("acquisition 2 of 2 in one series",),
    ]
    for part, acquisition in enumerate(accepted):
        expected = numbered(8)[4 * part : 4 * part + 4].transpose(2, 1, 0)
        assert np.array_equal(read_volume(acquisition).voxels, expected)


def test_overlapping_phases_are_not_mixed(series: Write, tmp_path: Path) -> None:
    """The second phase begins higher and ends higher: the lowest InstanceNumber per position would
    mix both.
    """
    series(np.concatenate([stacked(6), stacked(6) + np.array((0, 0, 4.0))]))
    accepted, _ = found_in(tmp_path)
    assert [len(item.slices) for item in accepted] == [6, 6]
    assert np.array_equal(read_volume(accepted[1]).voxels, numbered(12)[6:].transpose(2, 1, 0))


@pytest.mark.parametrize("further_mm", [1.0, 0.05])
def test_a_pass_between_the_slices_of_another_is_not_merged(
    series: Write, tmp_path: Path, further_mm: float
) -> None:
    def edit(index: int, data: Any) -> None:
        data.AcquisitionNumber = 1 + index // 6

    series(
        np.concatenate([stacked(6), stacked(6) + np.array((0, 0, further_mm))]), edit=edit
    )  # 2 mm apart
    accepted, rejected = found_in(tmp_path)
    assert rejected == []
    for part, acquisition in enumerate(accepted):
        assert (acquisition.stack.kind, acquisition.stack.step_mm) == ("regular", 2)
        expected = numbered(12)[6 * part : 6 * part + 6].transpose(2, 1, 0)
        assert np.array_equal(read_volume(acquisition).voxels, expected)


def test_blocks_of_rotations_are_one_stack(series: Write, tmp_path: Path) -> None:
    series(stacked(12), edit=lambda index, data: setattr(data, "AcquisitionNumber", index // 4))
    accepted, rejected = found_in(tmp_path)
    assert [len(item.slices) for item in accepted] == [12]
    assert rejected == []


def test_a_volume_that_would_be_mostly_invented_is_refused(series: Write, tmp_path: Path) -> None:
    series(
        np.concatenate([stacked(6), stacked(6) + np.array((0, 0, 0.05))])
    )  # nothing tells the passes apart
    accepted, rejected = found_in(tmp_path)
    assert accepted == []
    assert reasons(rejected) == [
        (12, "its 12 slices lie at few of 202 regular places; most would be invented")
    ]
    assert rejected[0].defect


def test_one_acquisition_number_per_slice_is_one_stack(series: Write, tmp_path: Path) -> None:
    series(stacked(5), edit=lambda index, data: setattr(data, "AcquisitionNumber", index))
    accepted, rejected = found_in(tmp_path)
    assert len(accepted) == 1
    assert rejected == []


def test_rotations_are_no_acquisitions(series: Write, tmp_path: Path) -> None:
    """Two phases of a step-and-shoot scan: four slices per rotation share a time, which would
    divide it into pieces.
    """

    def edit(index: int, data: Any) -> None:
        data.AcquisitionTime = f"{100000 + index // 4}"

    series(np.concatenate([stacked(12), stacked(12)]), edit=edit)
    accepted, rejected = found_in(tmp_path)
    assert [len(item.slices) for item in accepted] == [12, 12]  # by the runs of InstanceNumber
    assert rejected == []


def test_defects_are_told_from_other_objects(series: Write, tmp_path: Path) -> None:
    def edit(index: int, data: Any) -> None:
        if index == 0:
            data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        if index == 1:
            del data.ImagePositionPatient

    series(stacked(5), edit=edit)
    accepted, rejected = found_in(tmp_path)
    assert [len(item.slices) for item in accepted] == [3]
    assert [(item.reason, item.defect) for item in rejected] == [
        ("is a localizer", False),
        ("has no position, orientation or pixel spacing", True),
    ]


def test_one_repeated_position_is_no_end_of_a_stack(series: Write, tmp_path: Path) -> None:
    positions_mm = stacked(6)[[0, 1, 2, 2, 3, 4, 5]]
    series(positions_mm)
    accepted, rejected = found_in(tmp_path)
    assert accepted == []
    assert reasons(rejected) == [
        (
            7,
            "holds several different slices at 1 positions; neither phase, acquisition, "
            "reconstruction, time "
            "nor order in the headers sorts them into whole stacks",
        )
    ]
    (acquisition,), rejected = found_in(tmp_path, Rules(repeats="first"))
    assert rejected == []
    assert acquisition.remarks == ("several slices at 1 positions, the lowest InstanceNumber kept",)
    assert np.array_equal(
        read_volume(acquisition).voxels, numbered(7)[[0, 1, 2, 4, 5, 6]].transpose(2, 1, 0)
    )


def test_repeats_without_instance_number_are_refused(series: Write, tmp_path: Path) -> None:
    """As in a series of the RSNA challenge: 42 slices at 32 positions."""
    series(
        stacked(32)[[*range(32), *range(5, 15)]],
        edit=lambda index, data: delattr(data, "InstanceNumber"),
    )
    accepted, rejected = found_in(tmp_path)
    assert accepted == []
    assert reasons(rejected) == [
        (
            42,
            "holds several different slices at 10 positions; neither phase, acquisition, "
            "reconstruction, time "
            "nor order in the headers sorts them into whole stacks",
        )
    ]


def changed(index: int, **values: object) -> Callable[[int, Any], None]:
    def edit(number: int, data: Any) -> None:
        for name, value in values.items() if number == index else ():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (changed(3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "is a localizer"),
        (
            changed(3, ImageType=["DERIVED", "SECONDARY", "MPR"]),
            "is computed from another series (ImageType",
        ),
        (
            changed(3, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
            "is Secondary Capture Image Storage, not CT",
        ),
        (
            changed(3, SOPClassUID="1.2.840.10008.5.1.4.1.1.20"),
            "is Nuclear Medicine Image Storage, not CT",
        ),
        (
            changed(3, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67"),
            "is X-Ray Radiation Dose SR Storage, not CT",
        ),
        (changed(3, Modality="PT"), "has modality PT, not CT"),
        (changed(3, ImagePositionPatient=None), "has no position, orientation or pixel spacing"),
        (changed(3, PixelSpacing=None), "has no position, orientation or pixel spacing"),
        (
            changed(3, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
            "its orientation is not two unit vectors",
        ),
        (
            changed(3, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
            "has 1 slices, needs 3",
        ),  # a scout across the stack
        (changed(3, PixelSpacing=[2, 2]), "has 1 slices, needs 3"),
        (changed(3, SamplesPerPixel=3), "is a colour picture"),
    ],
)
def test_strangers_in_a_series_are_rejected(
    series: Write, tmp_path: Path, edit: object, reason: str
) -> None:
    series(stacked(4), edit=edit)
    accepted, rejected = found_in(tmp_path)
    assert [len(item.slices) for item in accepted] == [3]
    assert len(rejected) == 1
    assert rejected[0].reason.startswith(reason)


def test_orientations_that_differ_by_rounding_are_one_stack(series: Write, tmp_path: Path) -> None:
    def edit(index: int, data: Any) -> None:
        data.ImageOrientationPatient = [1, 0, 0, 0, 0.99995, -0.0005 * (index % 2)]

    series(stacked(6), edit=edit)
    accepted, rejected = found_in(tmp_path)
    assert [len(item.slices) for item in accepted] == [6]
    assert rejected == []


def test_rules(series: Write, tmp_path: Path) -> None:
    series(stacked(2), folder="two", patient="A")
    series(
        stacked(4),
        folder="derived",
        patient="B",
        edit=lambda _, data: setattr(data, "ImageType", ["DERIVED", "SECONDARY"]),
    )
    series(
        np.array([(0, y, 0) for y in (9.0, 6, 3, 0)]),
        folder="coronal",
        patient="C",
        orientation=(1, 0, 0, 0, 0, -1),
    )
    series(
        stacked(4),
        folder="mr",
        patient="D",
        modality="MR",
        edit=lambda _, data: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
    )

    def patients(rules: Rules) -> str:
        return "".join(sorted(item.slices[0].patient_id for item in found_in(tmp_path, rules)[0]))

    assert patients(Rules()) == "C"
    assert patients(Rules(minimum_slices=2)) == "AC"
    assert patients(Rules(derived=True)) == "BC"
    assert patients(Rules(modalities=("CT", "MR"))) == "CD"


def test_patients_with_one_series_uid_stay_apart(series: Write, tmp_path: Path) -> None:
    for patient in "AB":
        series(stacked(3), folder=patient, patient=patient, series="2.25.1", study="2.25.2")
    accepted, _ = found_in(tmp_path)
    assert [item.slices[0].patient_id for item in accepted] == ["A", "B"]


def test_acquisition_is_found_again_or_the_reason_is_said(series: Write, tmp_path: Path) -> None:
    series(np.concatenate([stacked(4), stacked(4)]))
    slices = scan(tmp_path).slices
    assert acquisition_in(slices, index=2).index == 2
    with pytest.raises(InputError, match="no such acquisition"):
        acquisition_in(slices, index=3)
    with pytest.raises(InputError, match="the series has 2 slices, needs 3"):
        acquisition_in(slices[:2])


def test_masks_of_another_volume_are_refused(series: Write, tmp_path: Path) -> None:
    series(stacked(4))
    (acquisition,), _ = found_in(tmp_path)
    assert grid_on_slices(np.ones((5, 6, 4)), acquisition).shape == (4, 6, 5)
    with pytest.raises(InputError, match=r"mask has shape \(6, 5, 4\), the volume \(5, 6, 4\)"):
        grid_on_slices(np.ones((6, 5, 4)), acquisition)


def test_highdicom_builds_the_same_volume(series: Write, tmp_path: Path) -> None:
    """A strict second opinion on a regular series of odd orientation."""
    spatial = pytest.importorskip("highdicom.spatial")
    image = pytest.importorskip("highdicom.image")
    import pydicom

    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    normal = np.cross(turn[0], turn[1])
    series(
        np.arange(5)[:, None] * 2.5 * normal,
        orientation=(*turn[0], *turn[1]),
        spacing_mm=(0.5, 0.75),
    )
    (acquisition,), _ = found_in(tmp_path)
    volume = read_volume(acquisition)
    datasets = [pydicom.dcmread(item.path) for item in acquisition.slices]
    assert spatial.get_series_volume_positions(datasets)[0] == pytest.approx(2.5, abs=1e-4)
    theirs = image.get_volume_from_series(datasets, apply_modality_transform=True)
    ours_in_theirs = np.linalg.inv(theirs.affine) @ volume.grid.affine_lps_mm  # index to index
    index = np.stack(
        np.meshgrid(*map(np.arange, volume.voxels.shape), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    there = np.round(index @ ours_in_theirs[:3, :3].T + ours_in_theirs[:3, 3], 3).astype(int)
    assert np.array_equal(theirs.array[tuple(there.T)], volume.voxels.reshape(-1))
