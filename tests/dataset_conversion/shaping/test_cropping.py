"""Finding the lungs of generated chests, cropping to them, and the way back to the original
grid.
"""

import csv
from itertools import permutations
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_conversion.datasets.generic import Generic
from dataset_conversion.shaping.cropping import (
    MARGIN_MM,
    box_from_text,
    box_text,
    lung_box,
    mask_box,
    with_margin,
)
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.uncropping import uncrop
from nnunet_ext.errors import InputError

SPACING_MM = np.array([4.0, 5.0, 6.0])
AXES = list(permutations(range(3)))
AIR, TISSUE, LUNG = -1000, 40, -800


def ellipsoid(
    shape: tuple[int, ...], center: tuple[float, ...], radii: tuple[float, ...]
) -> np.ndarray:
    """A mask; lengths in voxels."""
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    parts = ((axis - c) / r for axis, c, r in zip(grid, center, radii, strict=True))
    return sum(part**2 for part in parts) <= 1


def chest() -> tuple[np.ndarray, np.ndarray]:
    """HU and lung mask (x, y, z): a body in air, two lungs, gas below them, and a table with air in
    it.
    """
    shape = (80, 60, 40)
    hu = np.full(shape, AIR, np.int16)
    body = np.broadcast_to(ellipsoid(shape[:2], (40, 30), (36, 25))[..., None], shape)
    hu[body] = TISSUE
    lungs = ellipsoid(shape, (25, 30, 22), (9, 15, 12)) | ellipsoid(
        shape, (55, 30, 22), (9, 15, 12)
    )
    hu[lungs] = LUNG
    hu[ellipsoid(shape, (45, 35, 5), (3, 3, 2))] = AIR  # bowel gas
    hu[ellipsoid(shape, (25, 30, 22), (3, 3, 3))] = TISSUE  # a consolidation
    return hu, lungs


def affine(axes: tuple[int, ...], flips: tuple[bool, ...]) -> np.ndarray:
    """World axes from array axes: RAS+, in mm."""
    result = np.zeros((4, 4))
    for column, axis in enumerate(axes):
        result[axis, column] = SPACING_MM[axis] * (-1 if flips[column] else 1)
    result[:, 3] = (-30, 12, 7, 1)
    return result


def turned(volume: np.ndarray, axes: tuple[int, ...], flips: tuple[bool, ...]) -> np.ndarray:
    """The same anatomy in an array whose axes are others."""
    return np.flip(volume.transpose(axes), [axis for axis, flip in enumerate(flips) if flip])


@settings(max_examples=12)
@given(st.sampled_from(AXES), st.tuples(*[st.booleans()] * 3))
def test_the_lungs_are_found_in_every_orientation(
    axes: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    hu, lungs = (turned(volume, axes, flips) for volume in chest())
    box = lung_box(hu, affine(axes, flips))
    spacing_mm = SPACING_MM[list(axes)]
    expected = with_margin(mask_box(lungs), hu.shape, spacing_mm, MARGIN_MM)
    assert np.abs(np.array(box) - np.array(expected)).max() <= 1  # the closing may fill a corner
    assert all(
        low[0] <= high[0] and low[1] >= high[1]
        for low, high in zip(box, mask_box(lungs), strict=True)
    )


def test_a_fine_grid_gives_the_same_box_in_mm() -> None:
    hu, lungs = chest()
    fine = hu.repeat(4, 0).repeat(4, 1)
    box = np.array(lung_box(fine, np.diag([1.0, 1.25, 6.0, 1.0])))
    exact = np.array(mask_box(lungs.repeat(4, 0).repeat(4, 1)))
    assert (box[:, 0] <= exact[:, 0]).all() and (box[:, 1] >= exact[:, 1]).all()
    margin = np.ceil(MARGIN_MM / np.array([1, 1.25, 6])) + 2
    assert (np.abs(box - exact) <= margin[:, None]).all()


def test_a_part_behind_a_consolidation_is_joined_and_bowel_gas_is_not() -> None:
    """The part is as small as the gas, but near the lungs."""
    hu, lungs = chest()
    hu[:, :, 31] = TISSUE  # a plate of 6 mm through both lungs
    low, high = mask_box(lungs)[2]
    assert lungs[:, :, 32:].sum() < 0.1 * lungs[:, :, :31].sum()

    box = lung_box(hu, affine((0, 1, 2), (False,) * 3))
    assert box[2] == (low - 2, high + 2)  # 10 mm in slices of 6 mm


def test_a_body_without_lungs_is_refused() -> None:
    with pytest.raises(InputError, match="no lungs found"):
        lung_box(np.full((20, 20, 10), TISSUE, np.int16), np.diag([4.0, 4, 4, 1]))
    with pytest.raises(InputError, match="no lungs found"):
        lung_box(np.full((20, 20, 10), AIR, np.int16), np.diag([4.0, 4, 4, 1]))


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=4))
def test_boxes_as_text(box: list[tuple[int, int]]) -> None:
    assert box_from_text(box_text(tuple(box))) == tuple(box)


# --- conversion and the way back
# --------------------------------------------------------------------------------------


def download(
    root: Path, axes: tuple[int, ...] = (0, 1, 2), flips: tuple[bool, ...] = (False,) * 3
) -> Path:
    """One chest with a lesion in a lung and one outside."""
    hu, lungs = (turned(volume, axes, flips) for volume in chest())
    label = np.zeros(hu.shape, np.uint8)
    (x, y, z) = np.argwhere(lungs)[len(np.argwhere(lungs)) // 3]
    label[x - 2 : x + 2, y - 2 : y + 2, z - 2 : z + 2] = 1
    for folder, voxels in (("scans", hu), ("masks", label), ("lungs", lungs.astype(np.uint8))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, affine(axes, flips)), root / folder / "a.nii.gz")
    return root


def generic(source: Path, **options: object) -> Generic:
    return Generic(
        source, images="scans", masks="masks", channel="CT", map=("1=lesion",), **options
    )


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "conversion.csv").open() as stream:
        return list(csv.DictReader(stream))


def original_label(source: Path) -> nibabel.Nifti1Image:
    return nibabel.load(source / "masks" / "a.nii.gz")


@settings(max_examples=8)
@given(
    st.sampled_from(AXES),
    st.tuples(*[st.booleans()] * 3),
    st.sampled_from(["", "all"]),
    st.booleans(),
)
def test_what_is_cropped_sliced_and_resized_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    axes: tuple[int, ...],
    flips: tuple[bool, ...],
    slices: str,
    masks: bool,
) -> None:
    """The converted labels as predictions: on the original grid they are the original label."""
    place = tmp_path_factory.mktemp("chest")
    source, folder = download(place / "download", axes, flips), place / "Dataset006_X"
    cut = {"lung_masks": source / "lungs"} if masks else {"crop": "lungs"}
    summary = convert(generic(source, slices=slices, resize=90 if slices else None, **cut), folder)
    assert summary.problems == []
    assert all(row["crop_box"] and "cropped to" in row["transforms"] for row in rows_of(folder))

    notes = uncrop(folder / "labelsTr", folder, place / "back")
    back, original = nibabel.load(place / "back" / "a.nii.gz"), original_label(source)
    assert np.array_equal(np.asarray(back.dataobj), np.asarray(original.dataobj))
    assert np.allclose(back.affine, original.affine)
    assert len(notes) == (1 if slices else 0)  # slices beyond the box


def test_cropped_images_are_parts_of_the_original_in_place(tmp_path: Path) -> None:
    source, folder = download(tmp_path / "download"), tmp_path / "Dataset006_X"
    convert(generic(source, crop="lungs"), folder)
    (row,) = rows_of(folder)
    box = box_from_text(row["crop_box"])
    image = nibabel.load(folder / "imagesTr" / "a_0000.nii.gz")
    original = nibabel.load(source / "scans" / "a.nii.gz")
    inside = tuple(slice(*part) for part in box)
    assert np.array_equal(np.asarray(image.dataobj), np.asarray(original.dataobj)[inside])
    first = [start for start, _ in box]
    assert np.allclose(image.affine @ [0, 0, 0, 1], original.affine @ [*first, 1])


def test_lesions_outside_the_lungs_are_warned_about(tmp_path: Path) -> None:
    source, folder = download(tmp_path / "download"), tmp_path / "Dataset006_X"
    label = np.asarray(original_label(source).dataobj).copy()
    label[:3, :3, :2] = 1
    nibabel.save(
        nibabel.Nifti1Image(label, affine((0, 1, 2), (False,) * 3)), source / "masks" / "a.nii.gz"
    )
    convert(generic(source, crop="lungs"), folder)
    assert (
        f"18 of {label.sum()} label voxels lie outside the lung box"
        in rows_of(folder)[0]["warnings"]
    )


def test_resized_pictures_come_back(covid: Path, raw: Path, tmp_path: Path) -> None:
    from PIL import Image

    from dataset_conversion.datasets.covid_semiseg import CovidSemiSeg

    folder, whole = raw / "Dataset120_X", raw / "Dataset121_Y"
    convert(CovidSemiSeg(covid, resize=100), folder)
    convert(CovidSemiSeg(covid), whole)
    assert uncrop(folder / "labelsTr", folder, tmp_path / "back") == []
    for file in (tmp_path / "back").iterdir():
        assert np.array_equal(
            np.asarray(Image.open(file)), np.asarray(Image.open(whole / "labelsTr" / file.name))
        )
    with pytest.raises(InputError, match="neither cropped nor resized"):
        uncrop(whole / "labelsTr", whole, tmp_path / "again")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "heart"}, "there is only lungs"),
        ({"crop": "lungs", "lung_masks": Path()}, "choose one"),
        ({"lung_masks": Path("missing")}, "no such folder"),
    ],
)
def test_impossible_crops(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(generic(download(tmp_path / "download"), **options), tmp_path / "Dataset006_X")


def test_a_case_without_lungs_fails_alone_and_is_named(tmp_path: Path) -> None:
    source = download(tmp_path / "download")
    for folder, value in (("scans", TISSUE), ("masks", 0)):
        volume = nibabel.Nifti1Image(np.full((9, 9, 9), value, np.int16), np.diag([4.0, 4, 4, 1]))
        volume.dataobj[0, 0, 0] = AIR if folder == "scans" else 1
        nibabel.save(volume, source / folder / "b.nii.gz")
    summary = convert(generic(source, crop="lungs"), tmp_path / "Dataset006_X")
    assert len(summary.problems) == 1 and "scans/b.nii.gz: no lungs found" in summary.problems[0]
    assert summary.converted == ["a"]


def test_a_missing_or_empty_mask_fails_its_case(tmp_path: Path) -> None:
    source = download(tmp_path / "download")
    (source / "lungs" / "a.nii.gz").rename(source / "lungs" / "b.nii.gz")
    summary = convert(generic(source, lung_masks=source / "lungs"), tmp_path / "Dataset006_X")
    assert "a.nii.gz: no such lung mask" in summary.problems[0]
    empty = nibabel.Nifti1Image(np.zeros((80, 60, 40), np.uint8), affine((0, 1, 2), (False,) * 3))
    nibabel.save(empty, source / "lungs" / "a.nii.gz")
    summary = convert(generic(source, lung_masks=source / "lungs"), tmp_path / "Dataset006_X")
    assert "marks no lung" in summary.problems[0]


def test_predictions_of_other_images_are_refused(tmp_path: Path) -> None:
    source, folder = download(tmp_path / "download"), tmp_path / "Dataset006_X"
    convert(generic(source, crop="lungs"), folder)
    label = nibabel.load(folder / "labelsTr" / "a.nii.gz")
    voxels = np.asarray(label.dataobj)
    shifted = label.affine.copy()
    shifted[0, 3] += 20

    for number, (name, content, where, message) in enumerate(
        [
            ("a", voxels[1:], label.affine, "the converted image"),
            ("a", voxels, shifted, "lies elsewhere"),
            ("b", voxels, label.affine, "has no case b"),
        ]
    ):
        predictions = tmp_path / f"predictions{number}"
        predictions.mkdir()
        nibabel.save(nibabel.Nifti1Image(content, where), predictions / f"{name}.nii.gz")
        with pytest.raises(InputError, match=message):
            uncrop(predictions, folder, tmp_path / "back")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no predictions"):
        uncrop(tmp_path / "none", folder, tmp_path / "back")
    with pytest.raises(InputError, match=r"conversion\.csv: no such file"):
        uncrop(folder / "labelsTr", tmp_path, tmp_path / "back")
