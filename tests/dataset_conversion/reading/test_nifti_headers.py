"""Headers that contradict themselves, say too little, or describe something else than a volume of
numbers.
"""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.checking.verification import verify
from dataset_conversion.converter import LoadedCase
from dataset_conversion.datasets.generic import Generic
from dataset_conversion.reading.nifti_headers import open_volume
from dataset_conversion.reading.volumes import read_voxels
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.label_placing import AGAINST_HEADER, placed_label
from nnunet_ext.errors import InputError

LPS_MM = np.diag([-0.8, -0.8, 2.5, 1.0])
VOXELS = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4) - 1000
QFORM_CODE, SFORM_CODE, PIXDIM, OFFSET, SFORM = 252, 254, 76, 108, 280  # bytes of NIfTI-1

Change = Callable[[bytearray], None]


def header_with(
    voxels: np.ndarray = VOXELS, affine_mm: np.ndarray = LPS_MM, *changes: Change
) -> bytes:
    """A file with both forms of one affine, then changed byte by byte."""
    image = nibabel.Nifti1Image(voxels, affine_mm)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine_mm, 1)
    image.set_sform(affine_mm, 1)
    content = bytearray(image.to_bytes())
    for change in changes:
        change(content)
    return bytes(content)


def put(offset: int, form: str, *values: float) -> Change:
    return lambda content: struct.pack_into(form, content, offset, *values)


def sform(affine_mm: np.ndarray) -> Change:
    return put(SFORM, "<12f", *affine_mm[:3].ravel())


def codes(qform: int, sform: int) -> Change:
    return put(QFORM_CODE, "<2h", qform, sform)


def sizes(*values: float) -> Change:
    return put(PIXDIM + 4, "<3f", *values)


def shifted(affine_mm: np.ndarray, *by_mm: float) -> np.ndarray:
    result = affine_mm.copy()
    result[:3, 3] += by_mm
    return result


def turned(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return np.asarray(turn @ LPS_MM)


CONTRADICTIONS = {
    "both forms": (
        [sform(np.diag([-1.0, -1, 1, 1]))],
        "qform and pixdim say voxels of 0.8x0.8x2.5 mm, its sform 1x",
    ),
    "one size": ([sform(np.diag([-0.8, -0.8, 5, 1]))], "its sform 0.8x0.8x5 mm"),
    "sform alone against pixdim": (
        [codes(0, 2), sform(np.diag([-1.0, -1, 1, 1]))],
        "its pixdim says voxels of 0.8x",
    ),
    "pixdim left at 1": (
        [codes(0, 1), sizes(1, 1, 1)],
        "its pixdim says voxels of 1x1x1 mm, its sform 0.8x0.8x2.5",
    ),
    "one axis reversed": (
        [sform(np.diag([-0.8, 0.8, 2.5, 1]))],
        r"its qform \(LPS from .* and "
        r"its sform \(LAS",
    ),
    "axes swapped": ([sform(LPS_MM[[1, 0, 2, 3]])], "at different places"),
    "turned by 3 degrees": ([sform(turned(3))], "at different places"),
    "another origin": ([sform(shifted(LPS_MM, 10, 0, 0))], r"LPS from 10, 0, 0 mm\)"),
    "sform of a template": ([codes(1, 4), sform(shifted(LPS_MM, 0, 0, 30))], "at different places"),
}


@pytest.mark.parametrize(("changes", "words"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_statements_that_contradict_each_other_are_both_named(
    changes: list[Change], words: str, ending: str, tmp_path: Path
) -> None:
    content = header_with(VOXELS, LPS_MM, *changes)
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    with pytest.raises(InputError, match=words) as caught:
        open_volume(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


AGREEMENTS: dict[str, list[Change]] = {
    "both": [],
    "qform alone": [codes(1, 0), sform(np.eye(4))],
    "sform alone": [codes(0, 1)],
    "rounded to three digits": [sform(np.diag([-0.801, -0.8, 2.5, 1]))],
    "turned by a thousandth": [sform(turned(0.05))],
    "no pixdim beside an sform": [codes(0, 1), sizes(0, 0, 0)],
    "neither": [codes(0, 0)],
    "a quaternion rounded up": [put(256, "<3f", 0, 0, 1.0001)],
}


@pytest.mark.parametrize("changes", AGREEMENTS.values(), ids=AGREEMENTS)
def test_statements_that_agree_within_rounding_are_read(
    changes: list[Change], tmp_path: Path
) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(header_with(VOXELS, LPS_MM, *changes))
    volume = open_volume(path)
    assert np.array_equal(read_voxels(path, volume), VOXELS)
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), (0.8, 0.8, 2.5), rtol=2e-3)


def as_pair(voxels: np.ndarray) -> bytes:
    return bytes(header_with(voxels)[:344] + b"ni1\0" + header_with(voxels)[348:])


def colours() -> np.ndarray:
    return np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])


UNUSABLE = {
    "no slice distance": (
        header_with(VOXELS, LPS_MM, codes(0, 0), sizes(0.8, 0.8, 0)),
        "gives no voxel size",
    ),
    "no sizes beside a qform": (
        header_with(VOXELS, LPS_MM, codes(1, 0), sizes(0, 0, 0)),
        "gives no voxel size",
    ),
    "sizes are NaN": (
        header_with(VOXELS, LPS_MM, codes(0, 0), sizes(np.nan, 1, 1)),
        "gives no voxel size",
    ),
    "unknown code": (
        header_with(VOXELS, LPS_MM, codes(1, 9)),
        "its sform_code is 9, which NIfTI does not know",
    ),
    "no rotation": (
        header_with(VOXELS, LPS_MM, put(256, "<3f", 0.9, 0.9, 0.9)),
        "its qform is not a rotation",
    ),
    "unknown unit": (
        header_with(VOXELS, LPS_MM, put(123, "<b", 5)),
        "unit 5, which NIfTI does not know",
    ),
    "voxels in the header": (
        header_with(VOXELS, LPS_MM, put(OFFSET, "<f", 0)),
        "begin at byte 0, within its header",
    ),
    "compressed twice": (
        gzip.compress(gzip.compress(header_with())),
        "is compressed twice; unpack it once",
    ),
    "half of a pair": (as_pair(VOXELS), "is the header of a pair .hdr/.img; save both as one file"),
    "colours": (nibabel.Nifti1Image(colours(), LPS_MM).to_bytes(), "is a colour image"),
    "complex": (
        nibabel.Nifti1Image(VOXELS.astype(np.complex64), LPS_MM).to_bytes(),
        "holds complex numbers",
    ),
}


@pytest.mark.parametrize(("content", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_is_no_volume_of_numbers_is_called_what_it_is(
    content: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        open_volume(path)
    assert "download it again" not in str(caught.value)


def generic(folder: Path, mask: bytes, image: bytes | None = None) -> Generic:
    """Images and masks of two cases, all alike."""
    for name, content in (("images", image or header_with(SCENE)), ("masks", mask)):
        (folder / "in" / name).mkdir(parents=True)
        for case in "ab":
            (folder / "in" / name / f"{case}.nii.gz").write_bytes(gzip.compress(content))
    return Generic(folder / "in", images="images", masks="masks", channel="CT")


LESION = np.zeros((12, 10, 8), np.uint8)
LESION[2:5, 1:4, 1:3] = 1
SCENE = np.where(LESION == 1, 60, -1000).astype(np.int16)


@pytest.mark.parametrize(
    "mask",
    [
        header_with(LESION, LPS_MM, codes(0, 0)),  # nibabel assumes LAS
        header_with(LESION[..., None, None]),
        header_with(LESION[None]),  # the header's sizes are of other axes
        header_with(LESION[:, :, None]),
    ],
    ids=["no code", "five axes", "axis before", "axis between"],
)
def test_a_label_is_not_turned_on_what_no_header_states(mask: bytes, tmp_path: Path) -> None:
    summary = convert(generic(tmp_path, mask), tmp_path / "Dataset120_X")
    assert summary.problems == []
    written = np.asarray(nibabel.load(tmp_path / "Dataset120_X/labelsTr/a.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert np.array_equal(written, LESION)


def test_an_image_without_orientation_turns_no_label_either(tmp_path: Path) -> None:
    converter = generic(
        tmp_path, header_with(LESION, LPS_MM), header_with(SCENE, LPS_MM, codes(0, 0))
    )
    assert convert(converter, tmp_path / "Dataset120_X").problems == []
    written = np.asarray(nibabel.load(tmp_path / "Dataset120_X/labelsTr/a.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert np.array_equal(written, LESION)


def test_a_label_without_orientation_needs_the_images_voxels(tmp_path: Path) -> None:
    mask = header_with(LESION, np.diag([-0.8, -0.8, 5.0, 1]), codes(0, 0))
    summary = convert(generic(tmp_path, mask), tmp_path / "Dataset120_X")
    assert len(summary.problems) == 2
    assert (
        "no orientation is stated, and the label's voxels (12x10x8 voxels of 0.8x0.8x5 mm) are not"
        in summary.problems[0]
    )


def test_a_label_that_fits_only_as_it_lies_is_not_turned(tmp_path: Path) -> None:
    """The header would reverse x; only unturned the label lies on what is dense in the lungs."""
    hu = np.full((60, 50, 40), -1000, np.int16)
    hu[6:54, 5:45] = 40
    hu[34:48, 10:34, 4:36] = hu[10:22, 12:34, 4:28] = -850
    hu[36:44, 26:33, 6:14] = -300
    lesion = np.zeros(hu.shape, np.uint8)
    lesion[36:44, 26:33, 6:14] = 1
    affine_mm, flip = np.diag([4.0, 4, 4, 1]), np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = hu.shape[0] - 1
    reading = LoadedCase(hu[None], lesion, "HU", affine_mm, affine_mm @ flip)
    placed = placed_label(Generic(tmp_path, channel="CT"), reading, lesion)
    assert np.array_equal(placed.voxels, lesion)
    assert placed.warnings == (AGAINST_HEADER,)


def test_a_raw_data_set_is_checked_as_both_readers_see_it(tmp_path: Path) -> None:
    """nnU-Net tries SimpleITK first, which takes the qform where nibabel takes the sform."""
    convert(generic(tmp_path, header_with(LESION)), tmp_path / "Dataset120_X")
    assert verify(tmp_path / "Dataset120_X").problems == []
    for content, words in (
        (
            header_with(SCENE, LPS_MM, sform(np.diag([-1.0, -1, 1, 1]))),
            "its qform and pixdim say voxels of",
        ),
        (
            header_with(SCENE, LPS_MM, codes(0, 1), sizes(0, 0, 0)),
            "is read differently by nnU-Net's readers",
        ),
        (header_with(SCENE[None], LPS_MM), "has shape"),
    ):
        (tmp_path / "Dataset120_X/imagesTr/a_0000.nii.gz").write_bytes(gzip.compress(content))
        assert any(words in problem for problem in verify(tmp_path / "Dataset120_X").problems)


def test_axes_that_simpleitk_refuses_are_named(tmp_path: Path) -> None:
    convert(generic(tmp_path, header_with(LESION)), tmp_path / "Dataset120_X")
    skew_mm = LPS_MM.copy()
    skew_mm[1, 2] = 0.9
    content = header_with(SCENE, skew_mm, codes(0, 1))
    (tmp_path / "Dataset120_X/imagesTr/a_0000.nii.gz").write_bytes(gzip.compress(content))
    assert any("SimpleITK" in problem for problem in verify(tmp_path / "Dataset120_X").problems)


def test_a_raw_label_without_orientation_lies_as_its_image(tmp_path: Path) -> None:
    """Readers assume one orientation or another, but nnU-Net trains on the arrays."""
    convert(generic(tmp_path, header_with(LESION)), tmp_path / "Dataset120_X")
    label = tmp_path / "Dataset120_X/labelsTr/a.nii.gz"
    label.write_bytes(gzip.compress(header_with(LESION, LPS_MM, codes(0, 0))))
    assert verify(tmp_path / "Dataset120_X").problems == []
    label.write_bytes(gzip.compress(header_with(LESION, LPS_MM, codes(0, 0), sizes(1, 1, 1))))
    assert any(
        "of another voxel size" in problem for problem in verify(tmp_path / "Dataset120_X").problems
    )


def test_a_damaged_deflate_block_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nibabel.save(
        nibabel.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4)), path
    )
    content = path.read_bytes()
    for at in range(10, 60):
        path.write_bytes(content[:at] + b"\xff\xff\xff" + content[at + 3 :])
        with pytest.raises(InputError, match=r"a\.nii\.gz: "):
            read_voxels(path, open_volume(path))
