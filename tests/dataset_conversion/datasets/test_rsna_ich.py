import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from dataset_conversion.converter import SourceCase
from dataset_conversion.datasets.rsna_ich import RsnaIch
from dataset_conversion.phantoms.dicom_series import write_series
from dataset_conversion.phantoms.haemorrhage_downloads import (
    head,
    ich_id,
    write_bhsd,
    write_ct_ich,
    write_rsna,
)
from dataset_conversion.reading.haemorrhage_labels import read_slice_mask, slice_label
from dataset_conversion.reading.haemorrhage_table import TYPES, read_table
from dataset_conversion.writing.conversion import convert
from nnunet_ext.errors import InputError
from tests.places import REAL_DATA

needs_real = pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs real data")


@pytest.fixture
def rsna(rsna_original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rsna_original, tmp_path / "download"))


def study(number: int) -> str:
    return f"{ich_id('patient', number)}_{ich_id('study', number)}"


def image(folder: Path, case: str, part: str = "Un") -> nibabel.Nifti1Image:
    return nibabel.load(folder / f"images{part}/{case}_0000.nii.gz")


def label(folder: Path, case: str) -> np.ndarray:
    return np.asarray(nibabel.load(folder / f"labelsTr/{case}.nii.gz").dataobj)


def expected_hu(number: int) -> np.ndarray:
    hu = head(number, 6)[0].astype(int)
    if number == 0:
        hu[:, :2] = -1024  # padding
    return hu


def test_a_damaged_slice_leaves_out_its_series(tmp_path: Path, raw: Path) -> None:
    """In a folder of its own; in the challenge's folder of all series each is converted, with a
    note.
    """
    for place, series in (("alone", 1), ("together", 2)):
        for number in range(series):
            positions_mm = np.outer(np.arange(6), [0.0, 0.0, 5.0])
            names = f"{number}-{{:03d}}.dcm".format
            hu, patient = head(number, 6)[0], ich_id("patient", number)
            write_series(tmp_path / place, hu, positions_mm, patient=patient, names=names)
        first = min((tmp_path / place).rglob("*.dcm"))
        first.write_bytes(first.read_bytes()[:300])
    found = RsnaIch(tmp_path / "alone", dimension="3d").find_cases()
    assert found.cases == [] and any(
        "series left out: a file in this folder is damaged" in p for p in found.problems
    )
    found = RsnaIch(tmp_path / "together", dimension="3d").find_cases()
    assert len(found.cases) == 2 and any(
        "each of its 2 series may lack a slice" in note for note in found.notes
    )


def test_files_called_by_their_uid_without_an_ending(tmp_path: Path, raw: Path) -> None:
    def edit(index: int, data: Any) -> None:
        del data.SOPInstanceUID

    write_series(tmp_path / "a", head(0, 6)[0], np.outer(np.arange(6), [0.0, 0.0, 5.0]), edit=edit)
    for number, file in enumerate(sorted((tmp_path / "a").rglob("*.dcm"))):
        file.rename(file.with_name(f"CT.1.2.840.{number}"))
    assert len(RsnaIch(tmp_path / "a").find_cases().cases) == 6
    assert convert(RsnaIch(tmp_path / "a"), raw / "Dataset120_X").problems == []


def test_slices(rsna: Path, raw: Path) -> None:
    summary = convert(RsnaIch(rsna), raw / "Dataset120_X")
    assert summary.problems == []
    assert summary.count_by_part == {"Un": 6 + 6 + 9 + 6}
    assert not (raw / "Dataset120_X/imagesTr").exists()
    for number in (0, 1, 3):
        for index in range(6):
            volume = image(raw / "Dataset120_X", ich_id(number, index))
            assert np.array_equal(np.asarray(volume.dataobj)[:, :, 0].T, expected_hu(number)[index])
            assert volume.header.get_zooms()[:2] == (5, 5)
            step_mm = 5 * np.cos(np.radians(15)) if number == 1 else 5
            assert volume.header.get_zooms()[2] == pytest.approx(step_mm, abs=0.02)
    rows = {
        row["case"]: row for row in csv.DictReader((raw / "Dataset120_X/conversion.csv").open())
    }
    assert rows[ich_id(1, 0)]["transforms"] == "12-bit values without sign corrected"
    assert rows[ich_id(0, 0)]["transforms"] == "padding set to air"
    assert rows[ich_id(0, 0)]["patient"] == ich_id("patient", 0)
    assert rows[ich_id(3, 0)]["haemorrhage"] == "unknown"
    for index in range(6):
        names = [TYPES[value - 1] for value in np.unique(head(0, 6)[1][index]) if value]
        assert rows[ich_id(0, index)]["haemorrhage"] == (" ".join(sorted(names)) or "none")
    assert "6 rows of the table occur twice, 0 of them with another label" in summary.notes
    assert "9 images are not in the table (the challenge's test images never are)" in summary.notes


def test_series(rsna: Path, raw: Path) -> None:
    summary = convert(RsnaIch(rsna, dimension="3d"), raw / "Dataset120_X")
    reason = (
        "holds several different slices at 3 positions; neither phase, acquisition, "
        "reconstruction, time nor order in "
        "the headers sorts them into whole stacks"
    )
    assert summary.problems == [f"{rsna / 'stage_2_train'}: series left out (9 images): {reason}"]
    assert set(summary.converted) == {study(0), study(1), study(3)}
    for number in (0, 3):
        voxels = np.asarray(image(raw / "Dataset120_X", study(number)).dataobj)
        assert np.array_equal(voxels.transpose(2, 1, 0), expected_hu(number))
    tilted = image(raw / "Dataset120_X", study(1))
    assert tilted.shape == (40, 40 + int(np.ceil(25 * np.sin(np.radians(15)) / 5)), 6)
    assert (
        "gantry tilt 15.0 degrees, resampled" in (raw / "Dataset120_X/conversion.csv").read_text()
    )


def test_choice_by_the_table(rsna: Path) -> None:
    masks = [head(number, 6)[1] for number in range(3)]

    def cases(**options: object) -> set[str]:
        return {case.id for case in RsnaIch(rsna, **options).find_cases().cases}  # type: ignore[arg-type]

    expected = {ich_id(n, i) for n in range(3) for i in range(6) if masks[n][i].any()}
    assert cases(haemorrhage="any") == expected
    assert (
        cases(haemorrhage="none") == {ich_id(n, i) for n in range(3) for i in range(6)} - expected
    )
    for value, name in enumerate(TYPES, start=1):
        chosen = {ich_id(n, i) for n in range(3) for i in range(6) if (masks[n][i] == value).any()}
        assert cases(haemorrhage=name) == chosen
        series = {study(n) for n in range(2) if (masks[n] == value).any()}
        assert cases(haemorrhage=name, dimension="3d") == series
    (rsna / "stage_2_train.csv").unlink()
    with pytest.raises(InputError, match=r"holds no stage_2_train\.csv, which --haemorrhage needs"):
        cases(haemorrhage="any")


def as_png(mask: np.ndarray, path: Path) -> None:
    Image.fromarray(255 * (mask > 0).astype(np.uint8)).save(path.with_suffix(".png"))


def as_npy(mask: np.ndarray, path: Path) -> None:
    np.save(path.with_suffix(".npy"), mask > 0)


def as_dicom(mask: np.ndarray, path: Path) -> None:
    write_series(
        path.parent,
        2000 * (mask > 0)[None].astype(int),
        np.zeros((1, 3)),
        names=lambda _: f"{path.name}.dcm",
    )


def as_nifti(mask: np.ndarray, path: Path) -> None:
    """On the image's own grid, written upside down."""
    image_affine = np.diag([-5.0, -5.0, 5.0, 1.0])
    image_affine[:3, 3] = (
        95,
        95,
        5.0 * int(np.flatnonzero([path.name == ich_id(0, i) for i in range(9)])[0]),
    )
    volume = nibabel.Nifti1Image((mask.T[:, :, None] > 0).astype(np.uint8), image_affine)
    nibabel.save(volume.as_reoriented(np.array([[0, 1], [1, -1], [2, 1]])), f"{path}.nii.gz")


@pytest.mark.parametrize("write", [as_png, as_npy, as_dicom, as_nifti])
@pytest.mark.parametrize("inside", [False, True], ids=["elsewhere", "in the download"])
def test_masks_of_slices(
    rsna: Path, raw: Path, tmp_path: Path, write: Callable[[np.ndarray, Path], None], inside: bool
) -> None:
    masks = (rsna if inside else tmp_path) / "own"
    masks.mkdir()
    truth = head(0, 6)[1]
    for index in range(4):
        write(truth[index], masks / ich_id(0, index))
    summary = convert(RsnaIch(rsna, masks=masks), raw / "Dataset120_X")
    assert summary.problems == []
    assert summary.count_by_part == {"Tr": 4}
    assert "23 images have no mask and are left out" in summary.notes
    for index in range(4):
        assert np.array_equal(
            label(raw / "Dataset120_X", ich_id(0, index))[:, :, 0].T, truth[index] > 0
        )


@pytest.mark.parametrize("classes", ["any", "types"])
def test_masks_of_series(rsna: Path, raw: Path, tmp_path: Path, classes: str) -> None:
    """BHSD's masks on the challenge's own DICOM."""
    masks = tmp_path / "own"
    masks.mkdir()
    truth = head(0, 6)[1]
    affine_mm = np.diag([-5.0, -5.0, 5.0, 1.0])
    affine_mm[:3, 3] = (95, 95, 0)
    nibabel.save(
        nibabel.Nifti1Image(truth.transpose(2, 1, 0), affine_mm), masks / f"{study(0)}.nii.gz"
    )
    summary = convert(
        RsnaIch(rsna, dimension="3d", masks=masks, classes=classes), raw / "Dataset120_X"
    )  # type: ignore[arg-type]
    assert len(summary.problems) == 1  # the series of two acquisitions
    assert summary.converted == [study(0)]
    expected = truth if classes == "types" else truth > 0
    assert np.array_equal(label(raw / "Dataset120_X", study(0)).transpose(2, 1, 0), expected)


def test_masks_on_another_grid_fail(rsna: Path, raw: Path, tmp_path: Path) -> None:
    masks = tmp_path / "own"
    masks.mkdir()
    as_npy(np.zeros((30, 40)), masks / ich_id(0, 0))
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((40, 40, 1), np.uint8), np.eye(4)),
        masks / f"{ich_id(0, 1)}.nii.gz",
    )
    first, second = sorted(
        convert(RsnaIch(rsna, masks=masks), raw / "Dataset120_X").problems, key=len
    )
    assert "image and mask have different sizes" in first
    assert "nor is it one with its axes flipped or swapped" in second


@pytest.mark.parametrize(
    ("write", "kinds"), [(write_bhsd, ("any", "types")), (write_ct_ich, ("any",))]
)
def test_collections_with_masks(
    tmp_path: Path, raw: Path, write: Callable[[Path], Path], kinds: tuple
) -> None:
    for classes in kinds:
        folder = raw / f"Dataset{120 + len(classes)}_{classes}"
        summary = convert(RsnaIch(write(tmp_path / "download"), classes=classes), folder)
        assert summary.problems == []
        names = [study(0), study(1)] if write is write_bhsd else ["ich_049", "ich_066"]
        assert set(summary.converted) == set(names)
        assert summary.empty == ([] if write is write_bhsd else ["ich_066"])
        hu, truth = head(0, 6)
        assert np.array_equal(
            np.asarray(image(folder, names[0], "Tr").dataobj).transpose(2, 1, 0), hu
        )
        expected = truth if classes == "types" else truth > 0
        assert np.array_equal(label(folder, names[0]).transpose(2, 1, 0), expected)


def test_official_split_of_bhsd(tmp_path: Path, raw: Path) -> None:
    download = write_bhsd(tmp_path / "download")
    with pytest.raises(
        InputError, match=r"label_192: --split official needs BHSD's dataset\.json there"
    ):
        convert(RsnaIch(download, split="official"), raw / "Dataset120_X")
    content = {
        "training": [
            {"image": f"./imagesTr/{study(1)}.nii.gz", "label": f"./labelsTr/{study(1)}.nii.gz"}
        ],
        "test": [f"./imagesTs/{study(0)}.nii.gz"],
    }
    (download / "dataset.json").write_text(json.dumps(content))
    assert convert(RsnaIch(download, split="official"), raw / "Dataset120_X").problems == []
    folds = json.loads((raw / "Dataset120_X/splits_final.json").read_text())
    assert folds == [{"train": [study(1)], "val": [study(0)]}]
    (download / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deeply"):
        convert(RsnaIch(download, split="official"), raw / "Dataset120_X")


def test_scans_of_the_challenge_are_an_overlap(rsna: Path, tmp_path: Path, raw: Path) -> None:
    convert(RsnaIch(rsna), raw / "Dataset120_X")
    with pytest.raises(InputError, match="Dataset120_X overlaps with BHSD"):
        convert(RsnaIch(write_bhsd(tmp_path / "bhsd")), raw / "Dataset121_X", forbid_overlap=True)
    ct_ich = RsnaIch(write_ct_ich(tmp_path / "ct_ich"))
    assert ct_ich.collection == ct_ich.folder_name == "ct-ich"
    assert convert(ct_ich, raw / "Dataset121_X", forbid_overlap=True).problems == []
    with pytest.raises(InputError, match="ct-ich's masks tell no types"):
        convert(RsnaIch(tmp_path / "ct_ich", classes="types"), raw / "Dataset122_X")


@pytest.mark.parametrize("dimension", ["2d", "3d"])
def test_a_hospitals_identifiers_leave_as_hashes(tmp_path: Path, raw: Path, dimension: Any) -> None:
    def edit(_: int, data: Any) -> None:
        data.PatientID, data.StudyInstanceUID = "Mustermann 1961", "1.2.826.4711"

    write_series(
        tmp_path / "download",
        head(0, 6)[0],
        np.array([(0, 0, 5.0 * z) for z in range(6)]),
        edit=edit,
    )
    folder = raw / "Dataset120_X"
    assert convert(RsnaIch(tmp_path / "download", dimension=dimension), folder).problems == []
    written = [path.name for path in folder.rglob("*")]
    text = " ".join(path.read_text() for path in folder.glob("conversion*"))
    assert not any("Mustermann" in name or "4711" in name for name in written)
    assert "Mustermann" not in text and text.count("patient-") >= 2


def test_a_series_without_any_identifier_has_a_name(tmp_path: Path, raw: Path) -> None:
    def edit(_: int, data: Any) -> None:
        del data.PatientID, data.StudyInstanceUID, data.SeriesInstanceUID

    write_series(
        tmp_path / "download",
        head(0, 6)[0],
        np.array([(0, 0, 5.0 * z) for z in range(6)]),
        edit=edit,
    )
    assert convert(
        RsnaIch(tmp_path / "download", dimension="3d"), raw / "Dataset120_X"
    ).converted == ["series"]


def test_what_is_no_scan_is_left_out(tmp_path: Path, raw: Path) -> None:
    positions_mm = np.array([(0, 0, 5.0 * z) for z in range(3)])
    write_series(tmp_path / "download/ct", head(0, 6)[0][:3], positions_mm)
    write_series(
        tmp_path / "download/other",
        head(0, 6)[0][:3],
        positions_mm,
        edit=lambda _, data: setattr(data, "Modality", "DX"),
        names=lambda index: f"x{index}.dcm",
    )
    summary = convert(RsnaIch(tmp_path / "download"), raw / "Dataset120_X")
    assert (len(summary.converted), summary.problems) == (3, [])
    assert "3 images left out: has modality DX, not CT" in summary.notes


def test_copies_of_collections_with_names_lost(tmp_path: Path, raw: Path) -> None:
    download = write_bhsd(tmp_path / "download")
    images = download / "label_192/images"
    first, second = sorted(images.iterdir())
    first.rename(images / first.name.removesuffix(".nii.gz"))
    problems = convert(RsnaIch(download), raw / "Dataset120_X").problems
    assert any("has no ending, as 1 files; call them .nii.gz" in line for line in problems)
    assert any("ground truths" in line and "has no image" in line for line in problems)
    with pytest.raises(InputError, match="--haemorrhage belongs to the challenge's DICOM files"):
        RsnaIch(download, haemorrhage="any").find_cases()
    assert [case.id for case in RsnaIch(download).find_cases().cases] == [
        second.name.removesuffix(".nii.gz")
    ]


def test_truncated_and_constant_images(rsna: Path, raw: Path) -> None:
    """As ID_6431af929 of the challenge, and the handful without any contrast."""
    path = rsna / f"stage_2_train/{ich_id(0, 0)}.dcm"
    path.write_bytes(path.read_bytes()[:-1000])

    def edit(_: int, data: Any) -> None:
        data.SOPInstanceUID = "ID_f1a7f1a70"

    hu = np.full((1, 40, 40), -1000)
    write_series(
        rsna / "stage_2_train",
        hu,
        np.zeros((1, 3)),
        patient="ID_0",
        edit=edit,
        names=lambda _: "ID_f1a7f1a70.dcm",
    )
    summary = convert(RsnaIch(rsna), raw / "Dataset120_X")
    (problem,) = summary.problems
    assert f"{path}: its pixels cannot be read" in problem
    assert "ID_f1a7f1a70" in summary.converted
    assert "all voxels have one value" in (raw / "Dataset120_X/conversion.csv").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,Label\nID_a_epidural,1\nID_a_epidural,2\n", "line 3 is 'ID_a_epidural,2'"),
        ("ID,Label\nID_a_stroke,1\n", "line 2 is 'ID_a_stroke,1'"),
        ("ID,Label\nnothing\n", "line 2 is 'nothing'"),
    ],
)
def test_damaged_tables_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_table([tmp_path / "table.csv"])


def test_contradictory_rows_count_as_positive(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(
        "\ufeffID,Label\nID_a_b_any,1\nID_a_b_any,0\nID_a_b_any,1\nID_c_subdural,0\n"
    )
    (tmp_path / "other.csv").write_text("Patient,Age\n1,2\n")
    table = read_table(sorted(tmp_path.glob("*.csv")))
    types, notes = table.types, table.notes
    assert types == {"ID_a_b": {"any"}, "ID_c": frozenset()}
    assert notes == ["2 rows of the table occur twice, 2 of them with another label"]


def test_values_of_masks() -> None:
    for values, expected in (
        ([-32768, 32767], [0, 1]),
        ([0, 255], [0, 1]),
        ([0, 5], [0, 1]),
        ([3, 3], [1, 1]),
    ):
        assert slice_label(np.array([values]), types=False)[0].tolist() == [expected]
    assert slice_label(np.array([[0, 3, 5]]), types=True)[0].tolist() == [[0, 3, 5]]
    for values, types in (([1, 2, 900], False), ([0, 6], True), ([0.5, 1.5], True)):
        with pytest.raises(InputError, match="holds"):
            slice_label(np.array([values]), types)


def test_masks_with_code_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="must hold plain numbers"):
        read_slice_mask(tmp_path / "a.npy", types=False)
    np.save(tmp_path / "b.npy", np.zeros((3, 4, 5)))
    with pytest.raises(InputError, match="expected the mask of one slice"):
        read_slice_mask(tmp_path / "b.npy", types=False)


@needs_real
def test_real_slices_of_ct_ich(raw: Path) -> None:
    """16 slices without geometry, masks of -32768 and 32767; every mask marks something."""
    import pydicom

    converter = RsnaIch(REAL_DATA / "ich_physionet")
    summary = convert(converter, raw / "Dataset120_X")
    assert summary.problems == summary.empty == []
    assert summary.count_by_part == {"Tr": 16}
    for path in (REAL_DATA / "ich_physionet/images").glob("*.dcm"):
        case = f"ich_{path.stem}"
        hu = pydicom.dcmread(path).pixel_array.astype(int)
        mask = pydicom.dcmread(REAL_DATA / "ich_physionet/masks" / path.name).pixel_array > 0
        voxels = np.asarray(image(raw / "Dataset120_X", case, "Tr").dataobj)[:, :, 0].T
        assert np.array_equal(voxels, np.where(hu < -1500, -1024, hu))
        assert np.array_equal(label(raw / "Dataset120_X", case)[:, :, 0].T, mask)
        assert 0 < hu[mask].mean() < 100  # blood
    patients = {case.details["patient"] for case in converter.find_cases().cases}
    assert len(patients) == 11


@needs_real
def test_real_slices_in_the_challenges_layout(tmp_path: Path, raw: Path) -> None:
    """The nine NIfTI slices, wrapped as the challenge's DICOM: converted, they hold the same
    values.
    """
    expected = {}
    rows = ["ID,Label"]
    for number, path in enumerate(sorted((REAL_DATA / "rsna_ich/raw").glob("*.nii"))):
        name, volume = path.stem, nibabel.load(path)
        hu = np.round(np.squeeze(np.asarray(volume.dataobj))).astype(int).T
        expected[name] = np.where(hu < -1500, -1024, hu)

        def edit(_: int, data: Any, name: str = name, hu: np.ndarray = hu) -> None:
            data.SOPInstanceUID = name
            data.RescaleIntercept = "-4000"
            data.PixelData = (hu + 4000).astype("<u2").tobytes()

        write_series(
            tmp_path / "download/stage_2_train",
            hu[None],
            np.array([(0.0, 0, number)]),
            patient=f"ID_{number}",
            edit=edit,
            names=lambda _, name=name: f"{name}.dcm",
        )
        rows += [f"{name}_{kind},0" for kind in (*TYPES, "any")]
    (tmp_path / "download/stage_2_train.csv").write_text("\n".join(rows))
    summary = convert(RsnaIch(tmp_path / "download"), raw / "Dataset120_X")
    assert summary.problems == summary.notes == []
    assert sorted(summary.converted) == sorted(expected)
    assert len(expected) == 9
    for name, hu in expected.items():
        assert np.array_equal(np.asarray(image(raw / "Dataset120_X", name).dataobj)[:, :, 0].T, hu)
    assert RsnaIch(tmp_path / "download", haemorrhage="any").find_cases().cases == []
    assert isinstance(RsnaIch(tmp_path / "download").find_cases().cases[0], SourceCase)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_miniature_is_the_challenges(rsna_original: Path) -> None:
    import pydicom

    data = pydicom.dcmread(next((rsna_original / "stage_2_train").iterdir()))
    for absent in ("InstanceNumber", "SliceThickness", "FrameOfReferenceUID", "Manufacturer"):
        assert absent not in data
    assert str(data.SeriesInstanceUID).startswith("ID_")
    assert write_rsna.__doc__
