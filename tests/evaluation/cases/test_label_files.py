import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.label_files import (
    ENDINGS,
    LabelMap,
    find_label_files,
    grid_difference,
    read_label_file,
)

VOLUME = (np.random.default_rng(0).random((6, 20, 30)) > 0.5).astype(np.uint8)
THREE_D = (".nii.gz", ".nii", ".nrrd", ".mha")
TIFF = (".tif", ".tiff")


def write(path: Path, array: np.ndarray = VOLUME) -> Path:
    image = SimpleITK.GetImageFromArray(array)
    if array.ndim == 3:
        image.SetSpacing((0.7, 0.7, 5.0))
        image.SetOrigin((-120.5, 33.25, 7.0))
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("ending", [e for e in ENDINGS if e not in TIFF])
def test_a_file_is_read_and_its_truncations_are_refused(tmp_path: Path, ending: str) -> None:
    array = VOLUME if ending in THREE_D else VOLUME[0]
    path = write(tmp_path / f"case{ending}", array)
    np.testing.assert_array_equal(read_label_file(path).array, array)
    content = path.read_bytes()
    for kept in (0, len(content) // 3, len(content) - 9):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match=f"case{ending}: (cannot be read|truncated)"):
            read_label_file(path)


@pytest.mark.parametrize("ending", TIFF)
def test_a_truncated_tiff_is_refused_or_shows_by_its_shape(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"case{ending}")
    np.testing.assert_array_equal(read_label_file(path).array, VOLUME)
    content = path.read_bytes()
    for kept in range(0, len(content), 211):
        path.write_bytes(content[:kept])
        try:
            read = read_label_file(path).array
        except InputError:
            continue
        assert read.shape != VOLUME.shape or np.array_equal(
            read, VOLUME
        )  # the last bytes are a comment


def test_damaged_bytes_in_a_compressed_file_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "case.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_label_file(path)


def test_a_compressed_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    """A valid gzip stream whose voxels are incomplete: SimpleITK fills the rest with whatever lies
    in memory.
    """
    path = write(tmp_path / "case.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))
    with pytest.raises(
        InputError, match="truncated, 3852 of 3952 bytes"
    ):  # 352 header + 6 * 20 * 30
        read_label_file(path)


def test_geometry_is_that_of_the_file_and_missing_for_photographs(tmp_path: Path) -> None:
    geometry = read_label_file(write(tmp_path / "a.nii.gz")).geometry
    assert geometry is not None
    assert geometry["spacing"] == pytest.approx((0.7, 0.7, 5.0))
    assert geometry["origin"] == pytest.approx((-120.5, 33.25, 7.0))
    assert read_label_file(write(tmp_path / "a.png", VOLUME[0])).geometry is None


def test_float_files_with_whole_numbers_are_labels(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read_label_file(write(tmp_path / "a.nii.gz", VOLUME.astype(float))).array, VOLUME
    )


@pytest.mark.parametrize(
    ("array", "message"),
    [(VOLUME * 0.5, "soft map"), (-VOLUME.astype(np.int16), "negative")],
)
def test_values_that_are_no_labels(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_label_file(write(tmp_path / "a.nii.gz", array))


def test_nan_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NaN"):
        read_label_file(write(tmp_path / "a.nrrd", VOLUME * np.float32("nan")))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_grey_in_colour_channels_is_read_and_colour_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(VOLUME[0]).convert(mode).save(path)
    np.testing.assert_array_equal(read_label_file(path).array, VOLUME[0])
    Image.new(mode, (8, 8), "red").save(path)
    with pytest.raises(InputError, match=r"a\.png: a colour image"):
        read_label_file(path)


GEOMETRY = {
    "spacing": (0.7, 0.7, 5.0),
    "origin": (1.0, 2.0, 3.0),
    "direction": (1.0, 0.0, 0.0, 1.0),
}


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"spacing": (0.7, 0.7, 1.0)}, "spacing"),
        ({"origin": (1.0, 2.0, -3.0)}, "origin"),
        ({"direction": (-1.0, 0.0, 0.0, 1.0)}, "direction"),
    ],
)
def test_grid_difference_names_what_differs(
    changed: dict[str, tuple[float, ...]], word: str
) -> None:
    difference = grid_difference(LabelMap(VOLUME, GEOMETRY), LabelMap(VOLUME, GEOMETRY | changed))
    assert difference is not None and difference.startswith(word)


def test_grids_equal_up_to_rounding_or_without_geometry() -> None:
    rounded = {
        name: tuple(float(np.float32(v)) for v in values) for name, values in GEOMETRY.items()
    }
    assert grid_difference(LabelMap(VOLUME, GEOMETRY), LabelMap(VOLUME, rounded)) is None
    assert grid_difference(LabelMap(VOLUME, GEOMETRY), LabelMap(VOLUME, None)) is None
    assert (
        grid_difference(LabelMap(VOLUME, None), LabelMap(VOLUME[:2], None))
        == "shape (2, 20, 30), reference (6, 20, 30)"
    )


def test_by_products_are_passed_over_and_other_files_reported(tmp_path: Path) -> None:
    for name in (
        "dataset.json",
        "plans.json",
        "summary.json",
        "a.npz",
        "a.pkl",
        ".hidden",
        "a.nii.gz",
        "a.jpg",
        "README",
    ):
        (tmp_path / name).touch()
    (tmp_path / "folder.nii.gz").mkdir()
    cases, unknown = find_label_files(tmp_path)
    assert cases == {"a": tmp_path / "a.nii.gz"}
    assert unknown == ["README", "a.jpg"]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (0.99999994, "such as 0.99999994")],
)
def test_fractions_and_nan_are_called_what_they_are(
    tmp_path: Path, ending: str, value: float, message: str
) -> None:
    """ITK reads NaN in NIfTI as 0, so that a failed prediction would be an empty one."""
    array = np.zeros((4, 5, 6), np.float32)
    array[1:3] = value
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"a{ending}")
    with pytest.raises(InputError, match=message):
        read_label_file(tmp_path / f"a{ending}")


def test_complex_predictions_are_refused(tmp_path: Path) -> None:
    nibabel.save(
        nibabel.Nifti1Image(np.ones((4, 5, 6), np.complex64), np.eye(4)), tmp_path / "a.nii.gz"
    )
    with pytest.raises(InputError, match="complex numbers"):
        read_label_file(tmp_path / "a.nii.gz")


def test_transparent_masks_are_refused_and_opaque_ones_read(tmp_path: Path) -> None:
    grey = np.zeros((6, 7), np.uint8)
    grey[2:4] = 1
    for alpha, name in ((255, "opaque.png"), (0, "clear.png")):
        Image.fromarray(np.dstack([grey, grey, grey, np.full_like(grey, alpha)])).save(
            tmp_path / name
        )
    assert np.array_equal(read_label_file(tmp_path / "opaque.png").array, grey)
    with pytest.raises(InputError, match="transparent pixels"):
        read_label_file(tmp_path / "clear.png")
