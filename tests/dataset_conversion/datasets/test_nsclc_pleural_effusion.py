import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.datasets.nsclc_pleural_effusion import PAPER_TEST, NsclcPleuralEffusion
from dataset_conversion.phantoms.dicom_series import write_series
from dataset_conversion.phantoms.effusion_download import effusion_chest
from dataset_conversion.writing.conversion import convert
from nnunet_ext.errors import InputError

PATIENTS = ("LUNG1-001", "LUNG1-005", "LUNG1-008", "LUNG1-010")


@pytest.fixture
def nsclc(nsclc_original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(nsclc_original, tmp_path / "download"))


def written(folder: Path, patient: str, kind: str = "labelsTr") -> np.ndarray:
    """As (slice, row, column), foot to head."""
    ending = "_0000" if kind == "imagesTr" else ""
    return np.asarray(nibabel.load(folder / f"{kind}/{patient}{ending}.nii.gz").dataobj).transpose(
        2, 1, 0
    )


def mask_of(folder: Path, patient: str, kind: str = "effusion_first") -> Path:
    (path,) = folder.rglob(f"{patient}_{kind}_reviewer.nii.gz")
    return path


def edit(path: Path, change: object) -> None:
    image = nibabel.load(path)
    array, affine_mm = change(np.asarray(image.dataobj), image.affine)  # type: ignore[operator]
    nibabel.save(nibabel.Nifti1Image(array, affine_mm), path)


def test_masks_lie_on_the_ct(nsclc: Path, raw: Path) -> None:
    summary = convert(NsclcPleuralEffusion(nsclc), raw / "Dataset120_X")
    assert summary.problems == []
    assert summary.converted == list(PATIENTS)
    assert summary.empty == ["LUNG1-010"]
    assert summary.notes == [
        "4 series left out (4 images): is RT Structure Set Storage, not CT",
        "1 patients have a cavity mask but no effusion; they are converted with an empty label",
    ]
    for number, patient in enumerate(PATIENTS):
        hu, _, effusion, _ = effusion_chest(number)
        assert np.array_equal(written(raw / "Dataset120_X", patient, "imagesTr"), hu)
        expected = effusion if patient != "LUNG1-010" else np.zeros_like(effusion)
        assert np.array_equal(written(raw / "Dataset120_X", patient), expected)
    text = (raw / "Dataset120_X/conversion.csv").read_text()
    assert "header leads elsewhere, placed by HU (flipped [1])" in text  # LUNG1-005


def test_positives_only_are_the_papers_cases(nsclc: Path) -> None:
    found = NsclcPleuralEffusion(nsclc, positives_only=True).find_cases()
    assert [case.id for case in found.cases] == list(PATIENTS[:3])
    assert "1 patients have a cavity mask but no effusion; they are left out" in found.notes
    assert len(PAPER_TEST.split()) == 15


@pytest.mark.parametrize("reviewer", ["first", "second", "union", "intersection"])
def test_reviewers(nsclc: Path, raw: Path, reviewer: str) -> None:
    convert(NsclcPleuralEffusion(nsclc, reviewer=reviewer), raw / "Dataset120_X")  # type: ignore[arg-type]
    first = effusion_chest(2)[2]
    second = first.copy()
    second[np.nonzero(first)[0].min()] = False
    expected = {
        "first": first,
        "second": second,
        "union": first | second,
        "intersection": first & second,
    }
    assert first.sum() > second.sum()
    assert np.array_equal(written(raw / "Dataset120_X", "LUNG1-008"), expected[reviewer])
    text = (raw / "Dataset120_X/conversion.csv").read_text()
    assert ("values between 0 and 1, threshold 0.5" in text) == (reviewer != "first")
    assert ("no mask of the second reviewer" in text) == (reviewer == "second")


def test_headers_that_contradict_the_ct_fail(nsclc: Path, raw: Path) -> None:
    """Flipped array under an unchanged header: the grid fits, what lies under the mask does not."""
    for kind in ("effusion_first", "thor_cav_primary"):
        edit(
            mask_of(nsclc, "LUNG1-001", kind),
            lambda array, affine_mm: (array[::-1, ::-1], affine_mm),
        )
    (problem,) = convert(NsclcPleuralEffusion(nsclc), raw / "Dataset120_X").problems
    assert "its header contradicts the CT: flipped along (0, 1) it fits better" in problem


def test_masks_of_another_size_and_without_ct_are_one_line_each(nsclc: Path, raw: Path) -> None:
    edit(mask_of(nsclc, "LUNG1-001"), lambda array, affine_mm: (array[:, :, 1:], affine_mm))
    shutil.rmtree(nsclc / "NSCLC-Radiomics/LUNG1-008")
    first, second = convert(NsclcPleuralEffusion(nsclc), raw / "Dataset120_X").problems
    assert "no CT of that patient has its size (mask [11, 56, 56], CT 56x56x12)" in first
    assert "has no CT of that patient" in second


def test_the_ct_that_fits_is_chosen_of_several(nsclc: Path, raw: Path) -> None:
    place = nsclc / "NSCLC-Radiomics/LUNG1-001/later"
    write_series(
        place,
        np.full((20, 56, 56), -800),
        np.array([(0.0, 0, z) for z in range(20)]),
        patient="LUNG1-001",
    )
    summary = convert(NsclcPleuralEffusion(nsclc), raw / "Dataset120_X")
    assert summary.problems == []
    assert np.array_equal(written(raw / "Dataset120_X", "LUNG1-001"), effusion_chest(0)[2])


def test_ct_with_a_gap_is_refused(nsclc: Path, raw: Path) -> None:
    folder = nsclc / "NSCLC-Radiomics/LUNG1-001/09-18-2008-StudyID-NA-69331/0.000000-NA-82046"
    (folder / "1-005.dcm").unlink()
    for kind in ("effusion_first", "thor_cav_primary"):
        edit(
            mask_of(nsclc, "LUNG1-001", kind), lambda array, affine_mm: (array[:, :, 1:], affine_mm)
        )
    (problem,) = convert(NsclcPleuralEffusion(nsclc), raw / "Dataset120_X").problems
    assert "CT is not a regular stack (1 slice missing, interpolated)" in problem


def test_download_without_masks_says_what_is_needed(nsclc: Path) -> None:
    shutil.rmtree(nsclc / "Effusions")
    shutil.rmtree(nsclc / "Thoracic_Cavities")
    with pytest.raises(
        InputError, match="-i names a folder with the CT and the unpacked Effusions"
    ):
        NsclcPleuralEffusion(nsclc).find_cases()


def test_published_split(tmp_path: Path) -> None:
    ((train, test),) = NsclcPleuralEffusion(tmp_path).published_folds("paper", ())
    assert (len(train), len(test), len({*train, *test})) == (63, 15, 78)
    assert {train[0], train[-1]} == {"LUNG1-001", "LUNG1-416"} and {test[0], test[-1]} == {
        "LUNG1-002",
        "LUNG1-420",
    }
