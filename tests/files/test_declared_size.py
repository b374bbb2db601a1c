"""Headers that declare more than their file holds are refused before memory is reserved."""

import gzip
import resource
import struct
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.reading.nifti_headers import open_volume
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.counting import Case, compare_case, count_value_pairs
from nnunet_ext.evaluation.cases.label_files import read_label_file
from nnunet_ext.files.declared_size import DEFLATE_RATIO, require_intact, require_size


def _lying(path: Path, shape: tuple[int, int, int]) -> Path:
    header = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float64), np.eye(4)).header
    content = bytearray(header.binaryblock + bytes(4 + 512))
    struct.pack_into("<4h", content, 40, 3, *shape)
    struct.pack_into("<f", content, 108, 352)  # where the voxels begin
    packed = gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content)
    path.write_bytes(packed)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_small_file_that_declares_gigabytes(ending: str, tmp_path: Path) -> None:
    path = _lying(tmp_path / f"a{ending}", (1250, 1250, 1250))  # 15 GB of float64
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for reader in (open_volume, read_label_file):
        with pytest.raises(InputError, match="truncated"):
            reader(path)
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 500e6


def test_the_most_that_deflate_can_hold(tmp_path: Path) -> None:
    zeros = bytes(50_000_000)
    path = tmp_path / "zeros.gz"
    path.write_bytes(gzip.compress(zeros))
    require_size(path, len(zeros), compressed=True)
    with pytest.raises(InputError, match=f"declares {len(zeros) * 2} bytes"):
        require_size(path, len(zeros) * 2, compressed=True)
    assert len(zeros) / path.stat().st_size < DEFLATE_RATIO


@pytest.mark.parametrize("kept", [1, 100, -9, -1])
def test_gzip_without_its_end(kept: int, tmp_path: Path) -> None:
    whole = gzip.compress(np.random.default_rng(0).bytes(5000))
    path = tmp_path / "image.nii.gz"
    path.write_bytes(whole)
    require_intact(path)
    path.write_bytes(whole[:kept])
    with pytest.raises(InputError, match=r"image\.nii\.gz: is truncated or damaged"):
        require_intact(path)


def test_gzip_with_a_changed_byte(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(bytes(range(256)) * 20))
    content[-8] ^= 1  # of the checksum
    path = tmp_path / "image.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        require_intact(path)
    require_intact(path.rename(tmp_path / "image.nii"))  # other formats have checks of their own


def test_shapes_are_compared_before_voxels_are_read(tmp_path: Path) -> None:
    for name, shape in (("reference", (4, 5, 6)), ("prediction", (4, 5, 7))):
        nibabel.save(
            nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / f"{name}.nii"
        )
    damaged = tmp_path / "prediction.nii"
    damaged.write_bytes(damaged.read_bytes()[:400])
    reference = tmp_path / "reference.nii"
    compared = compare_case(Case("a", reference, {"method": damaged}))
    expected = (
        f"{damaged}: shape (7, 5, 4), reference (6, 5, 4) ({reference}); resample it to the "
        f"reference"
    )
    assert compared.problems == [expected]


def test_an_image_in_place_of_labels_ends_soon() -> None:
    values = np.arange(20_000)
    with pytest.raises(InputError, match="more than 1000 different values, as images do"):
        count_value_pairs(values, values[::-1].copy())


def test_a_line_stays_readable() -> None:
    line = str(InputError(f"a.nii: holds {', '.join(map(str, range(20_000)))}; mend it"))
    assert len(line) < 2000 and line.startswith("a.nii: holds 0, 1") and line.endswith("; mend it")
