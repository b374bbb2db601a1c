"""``--strip-skull`` of RSNA-ICH."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.converter import LoadedCase
from dataset_conversion.datasets.rsna_ich import RsnaIch
from dataset_conversion.phantoms.brains import ct_slice
from dataset_conversion.phantoms.haemorrhage_downloads import write_bhsd
from dataset_conversion.phantoms.heads import FIELD_OF_VIEW_MM
from dataset_conversion.reading.volumes import write_volume
from dataset_conversion.shaping.skull_removal import case_without_skull
from dataset_conversion.writing.conversion import convert
from nnunet_ext.errors import InputError

SIZE = 96
PIXEL_MM = FIELD_OF_VIEW_MM / SIZE


def head_volume() -> tuple[np.ndarray, np.ndarray]:
    """Two slices of one size as (x, y, z) in HU, and where the brain is."""
    slices = [ct_slice(5, patient, SIZE) for patient in range(2)]
    return np.stack([item.image.T for item in slices], -1), np.stack(
        [item.brain.T for item in slices], -1
    )


def write_pair(folder: Path) -> np.ndarray:
    """Write one scan as BHSD's and return its HU."""
    hu, _ = head_volume()
    affine_mm = np.diag([-PIXEL_MM, -PIXEL_MM, 5.0, 1.0])
    for name, voxels in (("images", hu), ("ground truths", np.zeros_like(hu))):
        place = folder / "label_192" / name
        place.mkdir(parents=True)
        write_volume(place / "ID_0123abcd_ID_0123456789.nii.gz", voxels, affine_mm)
    return hu


def converted(folder: Path) -> np.ndarray:
    (file,) = (folder / "imagesTr").iterdir()
    return np.asarray(nibabel.load(file).dataobj)


@pytest.mark.parametrize("axial", [0, 1, 2])
def test_slices_are_axial_wherever_the_volume_keeps_them(axial: int) -> None:
    hu, brain = head_volume()
    places = np.insert(np.arange(2), axial, 2)  # the volume's axis for each of the array's
    affine_mm = np.eye(4)
    affine_mm[:3, :3] = np.diag([PIXEL_MM, PIXEL_MM, 5.0])[:, places]
    turned = np.transpose(hu, places)
    reading = LoadedCase(turned[None], None, "HU", affine_mm, as_read=turned)

    stripped = case_without_skull(reading, -10)
    found = stripped.image[0] != -10
    overlap = 2 * (found & np.transpose(brain, places)).sum() / (found.sum() + brain.sum())
    assert overlap > 0.95
    assert np.array_equal(stripped.image[0][found], turned[found])
    assert (
        stripped.as_read is None
        and stripped.transforms[-1] == "skull removed, -10 HU outside the brain"
    )
    assert stripped.warnings == ()


def test_slices_without_brain_are_reported() -> None:
    hu, _ = head_volume()
    hu = hu.copy()
    hu[..., 1] = -1000
    stripped = case_without_skull(
        LoadedCase(hu[None], None, "HU", np.diag([PIXEL_MM, PIXEL_MM, 5, 1])), 0
    )
    assert stripped.warnings == ("no brain found in 1 of 2 slices",)
    assert (stripped.image[..., 1] == 0).all()


def test_grey_values_are_refused() -> None:
    reading = LoadedCase(np.zeros((1, 8, 8, 1), np.uint8), None, "unknown", np.eye(4))
    with pytest.raises(InputError, match="needs Hounsfield units"):
        case_without_skull(reading, 0)


def test_a_converted_scan_shows_the_brain_alone(tmp_path: Path, raw: Path) -> None:
    hu = write_pair(tmp_path / "download")
    summary = convert(RsnaIch(tmp_path / "download", strip_skull=True), raw / "Dataset120_X")
    assert summary.problems == []
    stripped = converted(raw / "Dataset120_X")
    assert (stripped == 0).mean() > 0.5 and np.array_equal(
        stripped[stripped != 0], hu[stripped != 0]
    )
    assert (
        "skull removed, 0 HU outside the brain"
        in (raw / "Dataset120_X" / "conversion.csv").read_text()
    )


@pytest.mark.parametrize("low", [-20.0, 4.5])
def test_the_background_of_a_window_is_its_low_end(tmp_path: Path, raw: Path, low: float) -> None:
    hu = write_pair(tmp_path / "download")
    whole = convert(RsnaIch(tmp_path / "download", window=(low, 100.0)), raw / "Dataset120_X")
    alone = convert(
        RsnaIch(tmp_path / "download", window=(low, 100.0), strip_skull=True), raw / "Dataset121_X"
    )
    assert whole.problems == alone.problems == []
    grey, brain = converted(raw / "Dataset120_X"), converted(raw / "Dataset121_X")
    assert (brain[hu > 300] == 0).all() and grey.max() == 255
    assert np.array_equal(brain[brain > 0], grey[brain > 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background_hu": 5}, "no effect without --strip-skull"),
        (
            {"strip_skull": True, "background_hu": 5, "window": (0.0, 80.0)},
            "its low end, 0; leave one of them out",
        ),
    ],
)
def test_backgrounds_that_contradict_each_other_are_refused(
    tmp_path: Path, options: dict, message: str
) -> None:
    write_bhsd(tmp_path)
    with pytest.raises(InputError, match=message):
        RsnaIch(tmp_path, **options).find_cases()
