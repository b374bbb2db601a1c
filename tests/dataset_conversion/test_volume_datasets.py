"""The traps of the CT data sets, each in a generated miniature of the download."""

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.converter import Converter
from dataset_conversion.datasets.covid_19_20 import Covid1920
from dataset_conversion.datasets.covid_19_ct_seg import GROUPS, Covid19CTSeg
from dataset_conversion.datasets.generic import Generic, SyntheticCovidCT
from dataset_conversion.datasets.lits import LiTS
from dataset_conversion.datasets.mosmed import MosMed, severity_of
from dataset_conversion.datasets.sirm import SIRM
from dataset_conversion.phantoms.volume_downloads import (
    infected_volume,
    liver_volume,
    save_nifti,
    write_covid_19_20,
    write_covid_19_ct_seg,
    write_generic,
    write_lits,
    write_mosmed,
    write_sirm,
    write_synthetic,
)
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.summary import Summary
from nnunet_ext.errors import InputError
from tests.places import REAL_DATA

REAL_MOSMED = REAL_DATA / "mosmed"


@pytest.fixture
def folder(raw: Path) -> Path:
    return raw / "Dataset120_X"


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def ras(path: Path) -> np.ndarray:
    """Voxels with axes to the right, front and head."""
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "conversion.csv").open(encoding="utf-8") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def converted(converter: Converter, folder: Path) -> Summary:
    summary = convert(converter, folder)
    assert summary.problems == []
    return summary


# --- MosMed
# --------------------------------------------------------------------------------------------------


def test_mosmed_takes_what_has_masks_and_unlabelled_the_rest(
    tmp_path: Path, folder: Path, raw: Path
) -> None:
    source = write_mosmed(tmp_path / "d")
    summary = converted(MosMed(source), folder)
    assert summary.converted == ["study-0255", "study-0256"]
    assert "2 studies have no mask" in summary.notes[0]
    image, _, infection = infected_volume(0, 0)
    assert np.array_equal(ras(folder / "imagesTr/study-0255_0000.nii.gz"), image)
    assert np.array_equal(ras(folder / "labelsTr/study-0255.nii.gz"), infection > 0)
    row = rows(folder)["study-0255"]
    assert (row["severity"], row["patient"], row["intensity_unit"]) == ("CT-1", "study_0255", "HU")
    other = converted(MosMed(source, unlabeled=True), raw / "Dataset121_X")
    assert other.count_by_part == {"Un": 2}
    assert rows(raw / "Dataset121_X")["study-1107"]["severity"] == "CT-4"


def test_mosmed_flat_mirror_with_folders_in_place_of_files(tmp_path: Path, folder: Path) -> None:
    source = write_mosmed(tmp_path / "d")
    flat = source / "studies/study_0255.nii"
    flat.mkdir()
    save_nifti(flat / "study_0255.nii", infected_volume(0, 0)[0], (8.0, 8.0, 8.0), "LAS")
    shutil.move(source / "studies/CT-1/study_0256.nii.gz", source / "studies/study_0256.nii.gz")
    summary = convert(MosMed(source), folder)
    (problem,) = [line for line in summary.problems if "twice" in line]
    assert "study_0255" in problem
    (source / "studies/CT-1/study_0255.nii.gz").unlink()
    assert convert(MosMed(source), folder).problems == []
    assert (
        rows(folder)["study-0256"]["severity"] == "CT-1"
    )  # by its number, as the folders no longer say


@pytest.mark.skipif(not REAL_MOSMED.is_dir(), reason="the published masks are not here")
def test_mosmed_published_masks_on_synthetic_images(tmp_path: Path, folder: Path) -> None:
    masks = sorted((REAL_MOSMED / "masks").glob("study_*_mask.nii.gz"))[:3]
    for mask in masks:
        volume = nibabel.load(mask)
        image = np.full(volume.shape, -800, np.int16)
        path = tmp_path / "studies/CT-1" / mask.name.replace("_mask", "")
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(image, volume.affine), path)
        (tmp_path / "masks").mkdir(exist_ok=True)
        shutil.copy(mask, tmp_path / "masks")
    converted(MosMed(tmp_path), folder)
    for mask in masks:
        study = mask.name[:10].replace("_", "-")
        assert np.array_equal(voxels(folder / f"labelsTr/{study}.nii.gz"), voxels(mask))
        assert rows(folder)[study]["spacing_mm"].endswith("x8.0")


# --- COVID-19-CT-Seg
# --------------------------------------------------------------------------------------------------


def test_covid_19_ct_seg_brings_both_units_into_one_window(tmp_path: Path, folder: Path) -> None:
    source = write_covid_19_ct_seg(tmp_path / "d")
    summary = converted(Covid19CTSeg(source), folder)
    assert summary.units == {"grey values 0..255 of a lung window": 4}
    for index, name in enumerate(("coronacases_001", "coronacases_002", "radiopaedia_10_85902_1")):
        hu, _, infection = infected_volume(0, index)
        grey = np.round(255 * np.clip((hu + 1250.0) / 1500, 0, 1))
        assert np.array_equal(ras(folder / f"imagesTr/{name}_0000.nii.gz"), grey)
        assert np.array_equal(ras(folder / f"labelsTr/{name}.nii.gz"), infection > 0)
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "lung-window CT"}
    assert "between 0 and 1: threshold 0.5" in rows(folder)["coronacases_001"]["warnings"]
    assert rows(folder)["radiopaedia_10_85902_3"]["patient"] == "radiopaedia_10"


def test_covid_19_ct_seg_in_hu_with_lungs(tmp_path: Path, folder: Path) -> None:
    source = write_covid_19_ct_seg(tmp_path / "d")
    summary = converted(Covid19CTSeg(source, labels_wanted="lung,infection", hu_only=True), folder)
    assert summary.converted == ["coronacases_001", "coronacases_002"]
    _, lungs, infection = infected_volume(0, 1)
    expected = np.where(infection > 0, 2, lungs > 0)
    assert np.array_equal(ras(folder / "labelsTr/coronacases_002.nii.gz"), expected)
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "lung": 1,
        "infection": 2,
    }


def test_covid_19_ct_seg_names_of_the_mirror(tmp_path: Path, folder: Path) -> None:
    source = write_covid_19_ct_seg(
        tmp_path / "d", scans=("coronacases_001", "radiopaedia_7_85703_0")
    )
    scans = source / "COVID-19-CT-Seg_20cases"
    (scans / "coronacases_001.nii.gz").rename(scans / "coronacases_org_001.nii.gz")
    new = "radiopaedia_org_covid-19-pneumonia-7_85703_0-dcm.nii.gz"
    (scans / "radiopaedia_7_85703_0.nii.gz").rename(scans / new)
    scans.rename(source / "ct_scans")
    (source / "Infection_Mask").rename(source / "infection_mask")
    assert converted(Covid19CTSeg(source), folder).converted == [
        "coronacases_001",
        "radiopaedia_7_85703_0",
    ]


def test_covid_19_ct_seg_wrong_side_is_a_warning_and_bright_lungs_an_error(
    tmp_path: Path, folder: Path
) -> None:
    source = write_covid_19_ct_seg(tmp_path / "d", scans=("coronacases_001", "coronacases_002"))
    lungs, hu = infected_volume(0, 0)[1], infected_volume(0, 1)[0]
    both = source / "Lung_and_Infection_Mask"
    save_nifti(
        both / "coronacases_001.nii.gz",
        np.array([0, 2, 1, 3], np.uint8)[lungs],
        (8.0, 8.0, 10.0),
        "LPS",
    )
    save_nifti(
        both / "coronacases_002.nii.gz", hu > -100, (8.0, 8.0, 10.0), "LPS"
    )  # all but air and lungs
    summary = convert(Covid19CTSeg(source, labels_wanted="", hu_only=True), folder)
    (problem,) = summary.problems
    assert "coronacases_002" in problem and "perhaps one is flipped" in problem
    assert "left lung lies on the patient's right" in rows(folder)["coronacases_001"]["warnings"]


def test_covid_19_ct_seg_published_folds(tmp_path: Path, folder: Path) -> None:
    scans = tuple(sorted(scan for group in GROUPS for scan in group))
    assert len(scans) == len(set(scans)) == 20
    source = write_covid_19_ct_seg(tmp_path / "d", scans=scans, shape=(24, 22, 4))
    converted(Covid19CTSeg(source, split="paper"), folder)
    folds = json.loads((folder / "splits_final.json").read_text())
    assert [(len(fold["train"]), len(fold["val"])) for fold in folds] == [(4, 16)] * 5
    assert set(folds[0]["train"]) == set(GROUPS[0])
    assert all(not set(fold["train"]) & set(fold["val"]) for fold in folds)
    convert(
        Covid19CTSeg(source, split="patient:3"), folder
    )  # another split needs no new conversion
    folds = json.loads((folder / "splits_final.json").read_text())
    for fold in folds:
        for pair in ({"radiopaedia_10_85902_1", "radiopaedia_10_85902_3"},):
            assert pair <= set(fold["val"]) or pair <= set(fold["train"])
    assert sorted(case for fold in folds for case in fold["val"]) == list(scans)


# --- SIRM
# --------------------------------------------------------------------------------------------------


def test_sirm_slices_are_cases_of_their_own(tmp_path: Path, folder: Path) -> None:
    source = write_sirm(tmp_path / "d")
    summary = converted(SIRM(source), folder)
    assert summary.count_by_part == {"Tr": 5, "Ts": 2}
    stack, masks = voxels(source / "tr_im.nii.gz"), voxels(source / "tr_mask.nii.gz")
    for index in range(5):
        image = voxels(folder / f"imagesTr/slice_{index:03d}_0000.nii.gz")
        assert np.array_equal(image, stack[..., index])  # not rotated, two axes
        label = voxels(folder / f"labelsTr/slice_{index:03d}.nii.gz")
        assert np.array_equal(label, np.isin(masks[..., index], (1, 2)))  # effusion is background
    assert (masks == 3).any()
    row = rows(folder)["slice_000"]
    assert row["intensity_unit"].startswith("HU (estimated")
    assert "not trustworthy" in row["warnings"]
    assert not (folder / "labelsTs").exists()


def test_sirm_patients_are_needed_for_a_split_by_patient(tmp_path: Path, folder: Path) -> None:
    source = write_sirm(tmp_path / "d")
    with pytest.raises(InputError, match="does not say whose slice_000 is; give --patients CSV"):
        convert(SIRM(source, split="patient:2"), folder)
    table = tmp_path / "patients.csv"
    table.write_text(
        "case,patient\nslice_000,a\nslice_001,a\nslice_002,b\nslice_003,c\nslice_004,c\n",
        "utf-8-sig",
    )
    assert (
        convert(SIRM(source, split="patient:2", patients=table), folder).converted == []
    )  # the table suffices
    folds = json.loads((folder / "splits_final.json").read_text())
    assert rows(folder)["slice_004"]["patient"] == "c"
    assert folds[0]["val"] in (["slice_000", "slice_001"], ["slice_000", "slice_001", "slice_002"])


def test_sirm_volumes(tmp_path: Path, folder: Path) -> None:
    source = write_sirm(tmp_path / "d")
    options = {
        "wanted_part": "volumes",
        "labels_wanted": "ggo,consolidation",
        "spacing": (0.7, 0.8, 6.0),
    }
    converted(SIRM(source, **options), folder)
    _, _, infection = infected_volume(0, 51)
    label = nibabel.load(folder / "labelsTr/volume_1.nii.gz")  # from rp_im/1.nii/1.nii
    assert np.array_equal(ras(folder / "labelsTr/volume_1.nii.gz"), infection)
    assert np.allclose(label.header.get_zooms(), (0.7, 0.8, 6.0))


# --- LiTS
# --------------------------------------------------------------------------------------------------


def test_lits_leaves_lost_voxel_sizes_out_until_a_table_gives_them(
    tmp_path: Path, folder: Path
) -> None:
    source = write_lits(tmp_path / "d")
    summary = converted(LiTS(source), folder)
    assert summary.converted == ["test_000", "volume_002", "volume_010", "volume_100"]
    assert "1 volumes say 1x1x1 mm" in summary.notes[0]
    assert np.array_equal(ras(folder / "labelsTr/volume_010.nii.gz"), liver_volume(0, 10)[1])
    assert "padding" in rows(folder)["volume_002"]["warnings"]
    table = tmp_path / "spacing.csv"
    table.write_text("volume,x,y,z\n28,0.7,0.7,1.6\n")
    other = folder.with_name("Dataset121_X")
    assert "volume_028" in converted(LiTS(source, ircad_spacing_table=str(table)), other).converted
    assert np.allclose(
        nibabel.load(other / "labelsTr/volume_028.nii.gz").header.get_zooms(), (0.7, 0.7, 1.6)
    )
    table.write_text("volume,x,y,z\n28,0.7,0.7,a\n")
    with pytest.raises(InputError, match=r"spacing\.csv: is not a table"):
        LiTS(source, ircad_spacing_table=str(table)).find_cases()


# --- COVID-19-20
# --------------------------------------------------------------------------------------------------


def test_covid_19_20_two_scans_of_a_patient_and_a_turned_label(
    tmp_path: Path, folder: Path
) -> None:
    source = write_covid_19_20(tmp_path / "d")
    summary = converted(Covid1920(source, split="patient:2"), folder)
    assert summary.count_by_part == {"Tr": 3, "Ts": 1}
    assert summary.notes == []
    turned = folder / "labelsTr/covid19-A-0047_1.nii.gz"
    assert np.array_equal(ras(turned), infected_volume(0, 2)[2] > 0)
    assert "flipped [2]" in rows(folder)["covid19-A-0047_1"]["transforms"]
    folds = json.loads((folder / "splits_final.json").read_text())
    assert folds[0]["val"] == ["covid19-A-0047", "covid19-A-0047_1"]
    assert folds[1]["val"] == ["covid19-A-0003"]


def test_covid_19_20_first_release_and_lost_label(tmp_path: Path) -> None:
    source = write_covid_19_20(tmp_path / "d")
    (source / "COVID-19-20_v2").rename(source / "COVID-19-20")
    (source / "COVID-19-20/Train/volume-covid19-A-0003_seg.nii.gz").unlink()
    found = Covid1920(source).find_cases()
    assert "first release" in found.notes[0]
    assert "0003_ct.nii.gz: has no _seg file" in found.problems[0]


# --- Synthetic and Generic
# --------------------------------------------------------------------------------------------


def test_synthetic_demands_what_the_values_mean(tmp_path: Path, folder: Path) -> None:
    source = write_synthetic(tmp_path / "d")
    with pytest.raises(InputError, match=r"hold 0  64  128  255; say with --map"):
        convert(SyntheticCovidCT(source, images="img", masks="map"), folder)
    names = ("0=background", "64=lung", "128=ggo", "255=consolidation")
    converter = SyntheticCovidCT(source, images="img", masks="map", map=names)
    converted(converter, folder)
    from PIL import Image

    with Image.open(source / "map/1.png") as before, Image.open(folder / "labelsTr/1.png") as after:
        expected = np.searchsorted([0, 64, 128, 255], np.asarray(before))
        assert np.array_equal(np.asarray(after), expected)
    merged = SyntheticCovidCT(
        source, images="img", masks="map", map=names, labels_wanted="infection"
    )
    converted(merged, folder.with_name("Dataset121_X"))
    with Image.open(folder.with_name("Dataset121_X") / "labelsTr/1.png") as after:
        assert np.array_equal(np.asarray(after), expected > 1)


@pytest.mark.parametrize("entry", ["5", "a=b", "1,2=x", "=y"])
def test_generic_map_is_checked(tmp_path: Path, entry: str) -> None:
    with pytest.raises(InputError, match="--map"):
        Generic(write_generic(tmp_path), images="scans", masks="masks", map=(entry,)).find_cases()


def test_generic_volumes_with_suffixes(tmp_path: Path, folder: Path) -> None:
    source = write_generic(tmp_path / "d")
    names = {
        "images": "scans",
        "masks": "masks",
        "image_suffix": "_ct",
        "mask_suffix": "_seg",
        "channel": "CT",
    }
    summary = convert(Generic(source, **names), folder)
    assert all("holds 0  1  5; say with --map" in line for line in summary.problems)
    assert len(summary.problems) == 2
    converted(Generic(source, **names, map=("1=a", "5=b")), folder.with_name("Dataset121_X"))
    label = ras(folder.with_name("Dataset121_X") / "labelsTr/a1.nii.gz")
    assert np.array_equal(label, infected_volume(0, 1)[1])


@pytest.mark.skipif(not REAL_MOSMED.is_dir(), reason="the published registry is not here")
def test_mosmed_registry_confirms_the_numbering() -> None:
    with (REAL_MOSMED / "dataset_registry.csv").open(encoding="utf-8-sig", newline="") as stream:
        published = {int(row["study_id"]): row["category"] for row in csv.DictReader(stream)}
    assert len(published) > 1000
    assert {study: severity_of(Path("study.nii"), study) for study in published} == published
