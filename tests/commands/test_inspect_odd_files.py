"""Whatever lies in a folder, ``nnUNetv2_ext_inspect`` describes it or says in a line why not."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from dataset_conversion.phantoms.dicom_series import write_series
from nnunet_ext.commands.inspect import inspect_entry
from tests.dataset_conversion.reading.test_nifti_headers import (
    CONTRADICTIONS,
    LPS_MM,
    UNUSABLE,
    VOXELS,
    header_with,
)
from tests.dicom.conftest import numbered, stacked
from tests.dicom.reading.test_division import raw_text
from tests.dicom.test_contradictions import IMPOSSIBLE, LOSSES

Edit = Callable[[int, object], None]
DICOM = {name: edit for name, (edit, _) in IMPOSSIBLE.items()} | LOSSES
DICOM |= {
    f"{name} is {value.decode().strip()}": raw_text(name, value)
    for name in (
        "SliceThickness",
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "TriggerTime",
    )
    for value in (b"Amadeus ", b"0,58 ", b"nan ", b"1\\2 ", b"1e400 ")
}
NIFTI = {name: content for name, (content, _) in UNUSABLE.items()}
NIFTI |= {
    name: header_with(VOXELS, LPS_MM, *changes) for name, (changes, _) in CONTRADICTIONS.items()
}
NIFTI |= {
    f"{voxels.ndim} axes of {voxels.dtype}": nibabel.Nifti1Image(voxels, LPS_MM).to_bytes()
    for voxels in (
        np.zeros((3, 4), np.uint8),
        np.zeros((3, 4, 5, 1, 2), np.int16),
        np.zeros((1, 3, 4, 5), np.float32),
        np.full((3, 4, 5), np.nan),
        np.zeros((3, 4, 0), np.int16),
    )
}


def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    for more in ([], ["--all"]):
        with pytest.raises(SystemExit) as caught:
            inspect_entry([str(folder), *more])
        assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("edit", DICOM.values(), ids=DICOM)
@pytest.mark.parametrize("copies", [1, 2])
def test_odd_series(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: Edit, copies: int
) -> None:
    write_series(tmp_path / "good", numbered(4), stacked(4), patient="A")
    for copy in range(copies):
        write_series(tmp_path / f"odd{copy}", numbered(4), stacked(4), patient="B", edit=edit)
    out = run(tmp_path, capsys)
    assert f"DICOM CT: {4 + 4 * copies} images" in out or "DICOM CT: 4 images" in out


@pytest.mark.parametrize("content", NIFTI.values(), ids=NIFTI)
def test_odd_volumes(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "good.nii").write_bytes(header_with())
    (tmp_path / "odd.nii.gz").write_bytes(gzip.compress(content))
    (tmp_path / "plain.nii").write_bytes(content)
    assert "3 NIfTI files" in run(tmp_path, capsys)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_odd_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    Image.new(mode, (6, 5)).save(tmp_path / ("a.tif" if mode in ("CMYK", "F", "I") else "a.png"))
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    assert "2 picture files" in run(tmp_path, capsys)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    """Any byte of any header may be anything."""
    generator = np.random.default_rng(seed)
    paths = write_series(tmp_path / "dicom", numbered(4), stacked(4))
    (tmp_path / "a.nii").write_bytes(header_with())
    for path in (*paths, tmp_path / "a.nii"):
        content = bytearray(path.read_bytes())
        for place in generator.integers(0, min(len(content), 900), 12):
            content[place] = int(generator.integers(256))
        path.write_bytes(content)
    run(tmp_path, capsys)
