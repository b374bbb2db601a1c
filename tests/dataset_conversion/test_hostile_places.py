"""Where a conversion cannot go on: targets that cannot be written, archives, headers that promise
too much.
"""

import gzip
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.converter import LoadedCase, SourceCase
from dataset_conversion.datasets import converters
from dataset_conversion.datasets.generic import Generic
from dataset_conversion.datasets.msd import MSD
from dataset_conversion.reading.nifti_headers import open_volume
from dataset_conversion.writing.case_writer import TEMPORARY_PREFIX
from dataset_conversion.writing.conversion import convert
from nnunet_ext.commands.convert import convert_entry
from nnunet_ext.errors import InputError

REPOSITORY = Path(__file__).parents[2]
# No file may grow beyond this, so every image fails midway, as on a full disk.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
from nnunet_ext.commands.convert import convert_entry
convert_entry(sys.argv[1:])
"""


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="Linux")
def test_a_target_that_cannot_be_written_is_one_line(lung_original: Path) -> None:
    with pytest.raises(
        InputError, match=r"^/proc/Dataset120_X: cannot write \(.*\); fix that and run .* again$"
    ):
        convert(MSD(lung_original), Path("/proc/Dataset120_X"))


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
def test_a_full_disk_is_one_line_and_the_conversion_continues(
    lung_original: Path, raw: Path
) -> None:
    command = ["MSD", "-i", str(lung_original), "-d", "6", "-np", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    (folder,) = raw.iterdir()
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"nnUNetv2_ext_convert: error: {folder}: cannot write ([Errno 27] File too large); "
        "fix that and run the same command again"
    ]
    assert list(folder.rglob("*.nii.gz")) == []
    assert list(folder.rglob(f"{TEMPORARY_PREFIX}*")) == []
    assert not (folder / "dataset.json").exists()
    again = convert(MSD(lung_original), folder)
    assert (len(again.converted), again.problems) == (4, [])


@pytest.mark.parametrize("name", converters())
def test_an_archive_in_place_of_a_folder(
    name: str, tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "download.zip"
    archive.write_bytes(b"PK\3\4")
    with pytest.raises(SystemExit) as ended:
        convert_entry([name, "-i", str(archive), "-d", "120"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        f"nnUNetv2_ext_convert: error: {archive}: is a file; unpack it, -i names the folder that "
        f"comes out"
    ]
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_declares_more_than_any_image_holds(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"huge{ending}"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    content = bytearray(nibabel.load(path).header.binaryblock + bytes(4 + 64))
    struct.pack_into("<4h", content, 40, 3, 32767, 32767, 32767)
    path.write_bytes(content)  # whether it is compressed, its content says
    with pytest.raises(InputError, match="declares 32767x32767x32767 voxels, too many") as caught:
        open_volume(path)
    assert str(path) in str(caught.value)


def _pair(folder: Path, image: np.ndarray, affine_mm: np.ndarray) -> Path:
    for name, voxels in (("images", image), ("masks", np.zeros(image.shape, np.uint8))):
        (folder / name).mkdir()
        nibabel.save(nibabel.Nifti1Image(voxels, affine_mm), folder / name / "a.nii.gz")
    return folder


SHEARED_MM = np.array([[1.0, 0, 0.8, 0], [0, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("image", "affine_mm", "message"),
    [
        (np.full((8, 8, 8), np.nan, np.float32), np.eye(4), "image holds NaN"),
        (np.zeros((8, 8, 8), np.float32), SHEARED_MM, "image axes are not at right angles"),
    ],
)
def test_what_is_wrong_with_an_image_names_the_image(
    image: np.ndarray, affine_mm: np.ndarray, message: str, tmp_path: Path, raw: Path
) -> None:
    download = _pair(tmp_path, image, affine_mm)
    (problem,) = convert(
        Generic(download, images="images", masks="masks"), raw / "Dataset120_X"
    ).problems
    assert problem.startswith(f"{download / 'images/a.nii.gz'}: {message}")


class OneBadBlock(Generic):
    """A data set in which the voxels of case b lie where the disk gives nothing."""

    def read_case(self, case: SourceCase) -> LoadedCase:
        if case.id == "b":
            Path("/proc/self/mem").read_bytes()  # OSError 5, as of a bad block
        return super().read_case(case)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux")
def test_a_source_that_cannot_be_read_is_its_cases_problem(tmp_path: Path, raw: Path) -> None:
    download = _pair(tmp_path, np.zeros((6, 5, 4), np.int16), np.diag([1.0, 1, 2, 1]))
    for name, place in ((name, place) for name in ("b", "c") for place in ("images", "masks")):
        (download / place / f"{name}.nii.gz").write_bytes(
            (download / place / "a.nii.gz").read_bytes()
        )
    for _ in range(2):  # the next run tries again, and takes nothing else back
        summary = convert(
            OneBadBlock(download, images="images", masks="masks"), raw / "Dataset120_X"
        )
        image = download / "images/b.nii.gz"
        assert summary.problems == [
            f"{image}: cannot be read (Input/output error); copy it again, or check the disk it "
            f"lies on"
        ]
        assert sorted(summary.converted + summary.skipped) == ["a", "c"]


def test_a_name_too_long_for_files_named_after_it_is_its_cases_problem(
    tmp_path: Path, raw: Path
) -> None:
    download = _pair(tmp_path, np.zeros((6, 5, 4), np.int16), np.diag([1.0, 1, 2, 1]))
    for place in ("images", "masks"):
        (download / place / f"{'x' * 240}.nii.gz").write_bytes(
            (download / place / "a.nii.gz").read_bytes()
        )
    summary = convert(Generic(download, images="images", masks="masks"), raw / "Dataset120_X")
    assert summary.converted == ["a"]
    assert len(summary.problems) == 1 and "its name is too long" in summary.problems[0]


def test_a_compressed_nifti_2_file_is_converted(tmp_path: Path, raw: Path) -> None:
    image = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4) - 500
    download = _pair(tmp_path, image, np.diag([1.0, 1, 2, 1]))
    nibabel.save(nibabel.Nifti2Image(image, np.diag([1.0, 1, 2, 1])), download / "images/a.nii.gz")
    summary = convert(Generic(download, images="images", masks="masks"), raw / "Dataset120_X")
    assert (summary.converted, summary.problems) == (["a"], [])
    written = nibabel.load(raw / "Dataset120_X/imagesTr/a_0000.nii.gz")
    assert written.header["sizeof_hdr"] == 348 and np.array_equal(
        np.asanyarray(written.dataobj), image
    )


def test_no_path_of_private_data_and_no_name_in_a_gzip_file_is_passed_on(
    tmp_path: Path, raw: Path
) -> None:
    """Planted names are looked for in every byte that the conversion leaves."""
    patient = "Mustermann-Erika-19640812"
    download = tmp_path / patient
    download.mkdir()
    _pair(download, np.arange(120, dtype=np.int16).reshape(6, 5, 4), np.diag([1.0, 1, 2, 1]))
    packed = download / "images/a.nii.gz"
    content = gzip.decompress(packed.read_bytes())
    empty = io.BytesIO()
    with gzip.GzipFile(f"{patient}.nii", "wb", fileobj=empty):
        pass
    packed.write_bytes(gzip.compress(b"") + empty.getvalue() + gzip.compress(content))
    (download / f"{patient}-ct").symlink_to(download / "images")
    (download / f"{patient}-seg").symlink_to(download / "masks")
    (download / f"{patient}-seg" / "a.nii.gz").chmod(0o644)

    converter = Generic(download, images=f"{patient}-ct", masks=f"{patient}-seg")
    folder = raw / "Dataset120_X"
    assert convert(converter, folder).converted == ["a"]
    assert convert(converter, folder).skipped == ["a"]  # the same key finds the same names
    for file in folder.rglob("*"):
        assert patient.encode() not in (file.read_bytes() if file.is_file() else b""), file
    assert "; file-" in (folder / "conversion.csv").read_text()


@pytest.mark.parametrize(
    "before", [b"", gzip.compress(b"", mtime=0)], ids=["alone", "after an empty member"]
)
def test_a_copied_file_loses_the_name_that_gzip_has_noted(
    before: bytes, tmp_path: Path, raw: Path
) -> None:
    download = _pair(tmp_path, np.zeros((6, 5, 4), np.int16), np.diag([1.0, 1, 2, 1]))
    packed = download / "images/a.nii.gz"
    named = io.BytesIO()
    with gzip.GzipFile("Mustermann.nii", "wb", fileobj=named) as stream:
        stream.write(gzip.decompress(packed.read_bytes()))
    packed.write_bytes(before + named.getvalue())
    assert b"Mustermann" in packed.read_bytes()
    convert(Generic(download, images="images", masks="masks"), raw / "Dataset120_X")
    written = (raw / "Dataset120_X/imagesTr/a_0000.nii.gz").read_bytes()
    assert b"Mustermann" not in written and gzip.decompress(written)[352:] == bytes(240)
