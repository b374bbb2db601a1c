"""Any DICOM series as raw data, with the labels that lie beside it."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.datasets.dicom_series import DicomSeries
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.summary import Summary
from nnunet_ext.commands.convert import convert_entry
from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.series import acquisitions_of
from nnunet_ext.dicom.reading.volume import read_volume, slices_on_grid
from nnunet_ext.errors import InputError
from nnunet_ext.keyed_names import keyed_name
from tests.dataset_conversion.labelled_export import (
    mask_of,
    patient_of,
    write_labelled_export,
    write_objects,
)
from tests.dicom.writing.geometries import GEOMETRIES, write_geometry

Source = str


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "conversion.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def number_of(row: dict[str, str], export: Path) -> int:
    """The case of the export that a row is about; its files are named under the user's key."""
    name = row["sources"].split("; ")[0]
    files = (path.relative_to(export) for path in export.rglob("*") if path.is_file())
    (file,) = [file for file in files if keyed_name("file", file.as_posix()) == name]
    return int(file.parts[0])


@pytest.mark.parametrize("source", ["seg", "rtstruct"])
def test_our_own_objects_come_back_voxel_for_voxel(
    dicom_original: Path, raw: Path, source: Source
) -> None:
    """Every geometry, and every kind of segmentation."""
    folder = raw / "Dataset120_CT"
    summary = convert(DicomSeries(dicom_original, label_source=source), folder)
    assert (len(summary.converted), summary.problems) == (len(GEOMETRIES), [])
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "lesion": 1, "lung": 2}  # names in order

    for row in rows_of(folder):
        number = number_of(row, dicom_original)
        (acquisition,), _ = acquisitions_of(scan(dicom_original / f"{number}/scan").slices)
        written = np.asarray(nibabel.load(folder / f"labelsTr/{row['case']}.nii.gz").dataobj)
        expected = np.array([0, 2, 1])[mask_of(number)]
        assert np.array_equal(written, slices_on_grid(expected, acquisition))
        image = nibabel.load(folder / f"imagesTr/{row['case']}_0000.nii.gz")
        volume = read_volume(acquisition)
        assert np.array_equal(np.asarray(image.dataobj), volume.voxels)
        assert np.allclose(image.affine, volume.grid.affine_ras_mm, atol=1e-3)


def test_names_and_patients_are_hashed(dicom_original: Path, raw: Path) -> None:
    folder = raw / "Dataset120_CT"
    convert(DicomSeries(dicom_original, split="patient:2"), folder)
    rows = rows_of(folder)
    patients = {number_of(row, dicom_original): row["patient"] for row in rows}
    assert patients[0] == patients[1] and len(set(patients.values())) == len(GEOMETRIES) - 1
    for path in folder.rglob("*"):
        assert "SECRET" not in path.name
        if path.is_file():
            assert patient_of(0).encode() not in path.read_bytes()
            assert b"2.25.9.0.1" not in path.read_bytes()
    folds = json.loads((folder / "splits_final.json").read_text())
    both = {row["case"] for row in rows if number_of(row, dicom_original) < 2}
    assert all(both <= set(fold["val"]) or both <= set(fold["train"]) for fold in folds)


def test_without_labels(dicom_original: Path, raw: Path) -> None:
    folder = raw / "Dataset120_CT"
    summary = convert(DicomSeries(dicom_original, label_source="none"), folder)
    assert summary.count_by_part == {"Un": len(GEOMETRIES)}
    assert DicomSeries(dicom_original, label_source="none").folder_name == "CT-unlabeled"


def problems_of(export: Path, folder: Path, **options: object) -> Summary:
    return convert(DicomSeries(export, **options), folder)  # type: ignore[arg-type]


def test_a_map_chooses_and_orders_labels(tmp_path: Path, raw: Path) -> None:
    export = write_labelled_export(tmp_path / "in", ("regular",))
    folder = raw / "Dataset120_CT"
    convert(DicomSeries(export, map=("LES*=focus",)), folder)
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "focus": 1,
    }
    (file,) = (folder / "labelsTr").iterdir()
    written = np.asarray(nibabel.load(file).dataobj)
    assert np.array_equal(written, (mask_of(0) == 2).transpose(2, 1, 0))
    with pytest.raises(
        InputError, match=r"--map spleen: no region has that name; the export holds lesion, lung"
    ):
        DicomSeries(export, map=("spleen=spleen",)).find_cases()
    with pytest.raises(InputError, match="write NAME=LABEL"):
        DicomSeries(export, map=("lesion",)).find_cases()


def test_overlapping_regions_need_a_decision(tmp_path: Path, raw: Path) -> None:
    """A second object of the series names a region that lies on the first's."""
    export = write_labelled_export(tmp_path / "in", ("regular",))
    write_geometry(
        tmp_path / "copy/scan", "regular", patient="SECRET1", study="2.25.9.0", series="2.25.9.0.1"
    )
    mask = np.zeros_like(mask_of(0))
    mask[3, 5:9, 5:9] = 1
    write_objects(tmp_path / "copy", mask)
    _rename_region(tmp_path / "copy/results/1", export / "0/results/3")
    (problem,) = problems_of(export, raw / "Dataset120_CT").problems
    assert "overlap in" in problem and "say with --map" in problem
    summary = problems_of(
        export, raw / "Dataset121_CT", map=("lung=lung", "lesion=lesion", "other=other")
    )
    assert summary.problems == []
    (file,) = (raw / "Dataset121_CT/labelsTr").iterdir()
    expected = np.where(mask == 1, 3, mask_of(0)).transpose(2, 1, 0)
    assert np.array_equal(np.asarray(nibabel.load(file).dataobj), expected)


def _rename_region(file: Path, result: Path) -> None:
    import pydicom

    data = pydicom.dcmread(file)
    data.SegmentSequence[0].SegmentLabel, data.SegmentSequence[1].SegmentLabel = "other", "nothing"
    data.save_as(result)


def test_two_opinions_of_one_region_are_refused(tmp_path: Path, raw: Path) -> None:
    export = write_labelled_export(tmp_path / "in", ("regular",))
    write_geometry(
        tmp_path / "copy/scan", "regular", patient="SECRET1", study="2.25.9.0", series="2.25.9.0.1"
    )
    write_objects(tmp_path / "copy", mask_of(1))
    (tmp_path / "copy/results/1").rename(export / "0/results/3")
    (problem,) = problems_of(export, raw / "Dataset120_CT").problems
    assert "another file gives a different 'lung' for this series" in problem


def test_series_without_labels_are_named(tmp_path: Path, raw: Path) -> None:
    export = write_labelled_export(tmp_path / "in", ("regular", "uneven"))
    for file in (export / "1/results").iterdir():
        file.unlink()
    summary = problems_of(export, raw / "Dataset120_CT")
    assert len(summary.converted) == 1 and summary.problems == []
    assert "1 series have no label and are left out; --unlabeled takes them" in summary.notes
    unlabeled = problems_of(export, raw / "Dataset121_CT", unlabeled=True)
    assert unlabeled.count_by_part == {"Un": 1}


def test_objects_of_absent_series_are_named(tmp_path: Path, raw: Path) -> None:
    export = write_labelled_export(tmp_path / "in", ("regular", "uneven"))
    for file in (export / "1/scan").iterdir():
        file.unlink()
    assert (
        "1 label objects refer to no series that is taken"
        in problems_of(export, raw / "Dataset120_CT").notes
    )


def test_damaged_objects_are_problems(tmp_path: Path, raw: Path) -> None:
    export = write_labelled_export(tmp_path / "in", ("regular", "uneven"))
    file = export / "0/results/1"
    file.write_bytes(file.read_bytes()[:-3000])
    summary = problems_of(export, raw / "Dataset120_CT")
    assert len(summary.converted) == 1
    assert (
        [problem for problem in summary.problems if str(file) in problem] == summary.problems != []
    )


def test_modalities_are_not_mixed(tmp_path: Path) -> None:
    write_geometry(tmp_path / "a", "regular")

    def edit(_: int, data: object) -> None:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"  # type: ignore[attr-defined]

    write_geometry(tmp_path / "b", "regular", modality="MR", series="2.25.8", edit=edit)
    with pytest.raises(InputError, match="holds CT and MR series; choose with --modality"):
        DicomSeries(tmp_path).find_cases()
    for modality in ("CT", "MR"):
        converter = DicomSeries(tmp_path, modality=modality)
        assert len(converter.find_cases().cases) == 1 and converter.channel_names == (modality,)


def test_absent_labels_are_said(tmp_path: Path) -> None:
    write_geometry(tmp_path / "a", "regular")
    with pytest.raises(InputError, match="holds no SEG object; choose another --labels"):
        DicomSeries(tmp_path, label_source="seg").find_cases()


def test_the_command(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = write_labelled_export(tmp_path / "in", ("regular",))
    command = [
        "DICOM",
        "-i",
        str(export),
        "-d",
        "120",
        "--labels",
        "rtstruct",
        "--map",
        "les*=lesion",
        "-np",
        "1",
    ]
    with pytest.raises(SystemExit) as ended:
        convert_entry(command)
    assert ended.value.code == 0
    assert "next: nnUNetv2_plan_and_preprocess -d 120" in capsys.readouterr().out
    assert (raw / "Dataset120_CT/dataset.json").is_file()
