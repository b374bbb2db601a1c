import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.reading.volumes import (
    check_written_volume,
    copy_volume,
    label_on_image_grid,
    open_volume,
    read_voxels,
    right_angled,
    write_volume,
)
from nnunet_ext.errors import InputError

AFFINE_MM = np.array([[-0.8, 0, 0, 30.0], [0, 0.9, 0, -20.0], [0, 0, 2.5, 7.0], [0, 0, 0, 1]])


def rotation(angle: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product([1, -1], repeat=3)))
def test_flips_and_permutations_are_resolved_by_the_affine(
    axes: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    label = np.random.default_rng(0).integers(0, 3, (4, 5, 6))
    affine_mm = rotation(0.3) @ AFFINE_MM
    orientation = np.array(list(zip(axes, flips, strict=True)))
    stored = nibabel.orientations.apply_orientation(label, orientation)
    stored_mm = affine_mm @ nibabel.orientations.inv_ornt_aff(orientation, label.shape)
    turned, words = label_on_image_grid(stored, stored_mm, label.shape, affine_mm)
    assert np.array_equal(turned, label)
    assert bool(words) == (axes != (0, 1, 2) or flips != (1, 1, 1))


@pytest.mark.parametrize(
    "other_mm",
    [
        AFFINE_MM + np.array([[0, 0, 0, 0.4], [0] * 4, [0] * 4, [0] * 4]),  # half a voxel aside
        AFFINE_MM @ np.diag([2.0, 1, 1, 1]),
        rotation(0.05) @ AFFINE_MM,
        np.eye(4),
        np.diag([-1.0, 1, 1, 1])
        @ AFFINE_MM,  # mirrored about the world's origin, not about the volume
    ],
)
def test_other_grids_are_refused(other_mm: np.ndarray) -> None:
    with pytest.raises(InputError, match="is not the image's"):
        label_on_image_grid(np.zeros((4, 5, 6)), other_mm, (4, 5, 6), AFFINE_MM)


def test_other_shape_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"4x5x7 voxels of 0\.8x0\.9x2\.5 mm, the first at 30, -20, 7 mm"
    ):
        label_on_image_grid(np.zeros((4, 5, 7)), AFFINE_MM, (4, 5, 6), AFFINE_MM)


def test_rounding_in_the_header_is_no_difference() -> None:
    label = np.ones((300, 300, 200), np.uint8)
    rounded = AFFINE_MM.astype(np.float32).astype(float) + 1e-5
    assert label_on_image_grid(label, rounded, label.shape, AFFINE_MM)[0] is label


def test_slightly_skew_axes_are_straightened_and_a_tilt_is_refused() -> None:
    skew = AFFINE_MM.copy()
    skew[1, 2] = 1e-4
    straight = right_angled(skew, (64, 64, 64))
    axes = straight[:3, :3] / np.linalg.norm(straight[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert np.allclose(straight, skew, atol=1e-3)
    skew[1, 2] = 0.3
    with pytest.raises(InputError, match="right angles"):
        right_angled(skew, (64, 64, 64))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_written_volumes_read_back_and_are_deterministic(tmp_path: Path, dtype: type) -> None:
    voxels = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(dtype)
    affine_mm = rotation(0.4) @ AFFINE_MM
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, voxels, affine_mm)
        check_written_volume(tmp_path / name, voxels, affine_mm)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    assert np.array_equal(seen.transpose(2, 1, 0), voxels)
    with pytest.raises(InputError, match="other voxels"):
        check_written_volume(tmp_path / "a.nii.gz", voxels + 1, affine_mm)
    with pytest.raises(InputError, match="another geometry"):
        check_written_volume(tmp_path / "a.nii.gz", voxels, AFFINE_MM)


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "x.nii.gz"
    write_volume(
        path, np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16), AFFINE_MM
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"x\.nii\.gz: is truncated or damaged"):
        read_voxels(path, open_volume(path))
    for content in (b"", b"no image", whole[:20]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.nii\.gz: cannot be read"):
            open_volume(path)


def test_64_bit_integers_and_scaled_values(tmp_path: Path) -> None:
    path = tmp_path / "x.nii.gz"
    nibabel.save(
        nibabel.Nifti1Image(
            np.arange(8, dtype=np.int64).reshape(2, 2, 2), AFFINE_MM, dtype="int64"
        ),
        path,
    )
    assert read_voxels(path, open_volume(path)).dtype == np.int32
    image = nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), AFFINE_MM)
    image.header.set_slope_inter(2, -1024)
    nibabel.save(image, path)
    assert read_voxels(path, open_volume(path)).dtype == np.float32


def test_wrong_checksum_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_volume(path, np.zeros((30, 30, 30), np.int16), AFFINE_MM)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # of the CRC-32, which the voxels do not depend on
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.nii\.gz: is truncated or damaged \(CRC check failed"):
        read_voxels(path, open_volume(path))


def test_nifti_2_is_read(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for name in ("a.nii.gz", "a.nii"):
        nibabel.save(nibabel.Nifti2Image(values, AFFINE_MM), tmp_path / name)
        assert np.array_equal(read_voxels(tmp_path / name, open_volume(tmp_path / name)), values)


def harmless(image: nibabel.Nifti1Image) -> None:
    image.header["cal_max"] = 100
    image.header["regular"] = b"r"


def text(image: nibabel.Nifti1Image) -> None:
    image.header["descrip"] = b"DOE^JANE"


def extension(image: nibabel.Nifti1Image) -> None:
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"DOE^JANE"))


def gap(image: nibabel.Nifti1Image) -> None:
    image.header.set_data_offset(400)  # room for text before the voxels


def scaled(image: nibabel.Nifti1Image) -> None:
    image.header.set_slope_inter(2, 0)


def contradiction(image: nibabel.Nifti1Image) -> None:
    image.set_qform(np.diag([1.0, 1, 1, 1]), 1)
    image.set_sform(AFFINE_MM, 0)


VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def copied(folder: Path, content: bytes, **gzip_fields: bytes) -> bytes | None:
    """What becomes of a compressed file; None: it is not copied."""
    source, copy = folder / "source.nii.gz", folder / "copy.nii.gz"
    with gzip.GzipFile(
        fileobj=source.open("wb"), mode="wb", **{"filename": "", **gzip_fields}
    ) as stream:
        stream.write(content)
    volume = open_volume(source)
    return (
        copy.read_bytes()
        if copy_volume(source, copy, read_voxels(source, volume), AFFINE_MM)
        else None
    )


@pytest.mark.parametrize("change", [harmless, text, extension, gap, scaled, contradiction])
def test_a_file_is_copied_only_if_its_header_says_no_more_than_ours(
    tmp_path: Path, change: Callable[[nibabel.Nifti1Image], None]
) -> None:
    image = nibabel.Nifti1Image(VALUES, AFFINE_MM)
    change(image)
    content = image.to_bytes()
    result = copied(tmp_path, content)
    assert (result is not None) == (change is harmless)
    if result is not None:
        assert gzip.decompress(result) == content


def test_nothing_outside_header_and_voxels_is_copied(tmp_path: Path) -> None:
    content = nibabel.Nifti1Image(VALUES, AFFINE_MM).to_bytes()
    named = copied(tmp_path, content, filename=b"DOE^JANE.nii")  # type: ignore[arg-type]
    assert (
        named is not None
        and b"DOE" in (tmp_path / "source.nii.gz").read_bytes()
        and b"DOE" not in named
    )
    assert gzip.decompress(named) == content
    assert copied(tmp_path, content + b"DOE^JANE") is None
    commented = bytearray((tmp_path / "source.nii.gz").read_bytes())
    commented[3] = 16  # FCOMMENT
    commented[10:10] = b"DOE^JANE\0"
    (tmp_path / "source.nii.gz").write_bytes(commented)
    assert not copy_volume(tmp_path / "source.nii.gz", tmp_path / "copy.nii.gz", VALUES, AFFINE_MM)


def test_what_was_read_is_not_changed_in_place(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", VALUES, AFFINE_MM)
    voxels = read_voxels(tmp_path / "a.nii.gz", open_volume(tmp_path / "a.nii.gz"))
    with pytest.raises(ValueError, match="read-only"):
        voxels[0] = 1


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_other_units_than_mm_are_refused(tmp_path: Path, unit: str) -> None:
    image = nibabel.Nifti1Image(VALUES, AFFINE_MM)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=rf"a\.nii\.gz: its header gives voxel sizes in {unit}"):
        open_volume(tmp_path / "a.nii.gz")
