import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from dataset_conversion.phantoms import volume_downloads as phantom_volumes
from dataset_conversion.phantoms.dicom_series import write_series
from dataset_conversion.phantoms.effusion_download import write_nsclc
from dataset_conversion.phantoms.haemorrhage_downloads import write_bhsd, write_ct_ich, write_rsna
from dataset_conversion.phantoms.lidc_download import write_lidc
from dataset_conversion.phantoms.slice_downloads import write_covid_semiseg, write_msd_lung
from dataset_conversion.reading import dicom_cases as dicom_converter
from nnunet_ext.commands.inspect import inspect_entry


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        inspect_entry([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("COVID-19-20", phantom_volumes.write_covid_19_20),
        ("COVID-19-CT-Seg", phantom_volumes.write_covid_19_ct_seg),
        ("LIDC-IDRI", write_lidc),
        ("LiTS", phantom_volumes.write_lits),
        ("MosMed", phantom_volumes.write_mosmed),
        ("NSCLC-PleuralEffusion", write_nsclc),
        ("RSNA-ICH", write_rsna),
        ("RSNA-ICH", write_bhsd),
        ("RSNA-ICH", write_ct_ich),
        ("SIRM", phantom_volumes.write_sirm),
        ("MSD", lambda folder: write_msd_lung(folder, n_train=2, n_test=1, shape=(32, 32, 6))),
        (
            "COVID-SemiSeg",
            lambda folder: write_covid_semiseg(
                folder, n_labelled=2, n_test=1, n_unlabeled=3, size=48
            ),
        ),
    ],
)
def test_each_data_set_is_recognised_and_no_other(name: str, write, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path)
    code, out, _ = run(capsys, tmp_path)
    assert code == 0
    assert [line.split()[2] for line in out.splitlines() if line.startswith("looks like")] == [name]


def test_what_a_converter_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom_volumes.write_mosmed(tmp_path)
    lines = run(capsys, tmp_path, "--all")[1].splitlines()
    assert (
        "looks like MosMed (2 in imagesTr); licence: CC BY-NC-ND 3.0: converted data may not be "
        "passed on" in lines
    )
    masks = lines[lines.index("masks: 2 NIfTI files") + 1 :][:6]
    assert masks[:5] == [
        "  shape: 48x44x8",
        "  voxel size (mm): 8x8x8",
        "  orientation: LAS",
        "  stored as: int16",
        "  values: 0 1",
    ]
    assert "  unit: HU" in lines
    assert lines[-1].startswith("ignored: 6 hidden files of operating systems")


def test_oddities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom_volumes.write_lits(tmp_path)
    (tmp_path / "Training_Batch1/volume-3.nii").write_bytes(b"no NIfTI")
    (tmp_path / "empty.nii.gz").touch()
    code, out, _ = run(capsys, tmp_path)
    assert code == 0
    assert "odd: volume-28.nii: voxel size 1x1x1 mm, perhaps lost" in out
    assert "volume-3.nii: cannot be read as NIfTI" in out
    assert "1 empty files" in out


def test_no_such_folder_and_nothing_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, tmp_path / "absent")
    assert code == 1
    assert err.count("\n") == 1
    assert "no such folder" in err
    assert "looks like no known data set" in run(capsys, tmp_path)[1]


@pytest.mark.parametrize(
    ("affine_mm", "coded", "suspected"),
    [
        (np.eye(4), True, True),
        (np.diag([-1.0, -1, 1, 1]), True, True),  # what SimpleITK writes of an array
        (
            np.array([[1.0, 0, 0, -90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]]),
            True,
            False,
        ),  # resampled
        (np.array([[1.0, 0, 0, -90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]]), False, True),
        (np.diag([0.8, 0.8, 2, 1]), False, False),
    ],
)
def test_lost_voxel_sizes(
    affine_mm: np.ndarray, coded: bool, suspected: bool, tmp_path: Path, capsys
) -> None:  # type: ignore[no-untyped-def]
    volume = nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), affine_mm)
    volume.header.set_sform(affine_mm, int(coded))
    volume.header.set_qform(affine_mm, int(coded))
    content = volume.to_bytes()
    if not coded:
        content = content[:252] + bytes(4) + content[256:]  # nibabel gives a new image codes
    (tmp_path / "a.nii").write_bytes(content)
    assert ("a.nii: voxel size 1x1x1 mm, perhaps lost" in run(capsys, tmp_path)[1]) == suspected


def _odd_chest(folder: Path) -> None:
    """Eight series of one patient whose header, file and folder names say who it is."""
    generator = np.random.default_rng(7)
    hu = generator.integers(-1000, 400, (8, 16, 16))
    hu[:, 0, :2] = (-1000, 400)
    regular_mm = np.array([(-8.0, -8.0, 3.0 * index) for index in range(8)])

    def named(index: int, data: Any) -> None:
        del index
        data.PatientName, data.PatientBirthDate = "SECRETNAME^ANNA", "19431224"

    def localizer(index: int, data: Any) -> None:
        named(index, data)
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    def secondary(index: int, data: Any) -> None:
        named(index, data)
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage

    def write(name: str, positions_mm: np.ndarray, values: np.ndarray = hu, **more: Any) -> None:
        more.setdefault("edit", named)
        write_series(
            folder / "SECRETNAME_ANNA" / name,
            values,
            positions_mm,
            spacing_mm=(0.8, 0.7),
            patient="SECRETID",
            series=f"2.25.{sum(name.encode())}",
            **more,
        )

    write("regular", regular_mm)
    write("missing", np.delete(regular_mm, 4, axis=0), np.delete(hu, 4, axis=0))
    write("uneven", regular_mm + [[0, 0, 1.2 * (index % 3 == 1)] for index in range(8)])
    write("tilted", regular_mm, orientation=(1, 0, 0, 0, np.cos(0.2), np.sin(0.2)))
    write("copies", regular_mm[[*range(8), 2, 3]], hu[[*range(8), 2, 3]])
    write("clash", regular_mm[[*range(8), 2, 3]], np.concatenate([hu, hu[2:4] + 1]))
    write("scout", regular_mm[:1], hu[:1], edit=localizer)
    write("capture", regular_mm[:1], hu[:1], edit=secondary)
    whole = (folder / "SECRETNAME_ANNA/regular/1-001.dcm").read_bytes()
    (folder / "damaged.dcm").write_bytes(whole[: len(whole) // 3])


def test_series_are_described_without_their_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _odd_chest(tmp_path)
    code, out, _ = run(capsys, tmp_path, "--all")
    assert code == 0
    lines = out.splitlines()
    assert lines[:9] == [
        "DICOM of no known data set",
        "DICOM CT: 53 images, 8 series, 1 patients",
        "  volumes: 5 (39 images)",
        "  transfer syntax (images): Explicit VR Little Endian",
        "  shape: 16x16x8 (4), 16x16x7 (1)",
        "  voxel size (mm): 0.7x0.8x3 (4), 0.7x0.8x2.94 (1)",
        "  orientation: LPS",
        "  unit (of slices read): HU",
        "  range: -1000 to 400 (of 39 slices read)",
    ]
    for line in (
        "1 series left out (10 images): holds several different slices at 2 positions; "
        "neither phase, acquisition, recon",
        "1 series left out (1 image): is a localizer",
        "1 series left out (1 image): is Secondary Capture Image Storage, not CT or MR",
        "odd: 1 series: 1 slice missing, interpolated",
        "odd: 1 series: slices 1.8 to 4.2 mm apart, resampled to 3 mm",
        "odd: 1 series: gantry tilt 11.5 degrees, resampled",
        "odd: 1 series: 2 exact copies left out",
        "odd: damaged.dcm: ",
    ):
        assert line in out
    for secret in ("SECRET", "1943"):
        assert secret not in out


def test_headers_are_read_once(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    folders: list[Path] = []
    read = dicom_converter.headers_below
    for module in (
        "dataset_conversion.reading.dicom_cases",
        "dataset_conversion.checking.inspection",
    ):
        monkeypatch.setattr(
            f"{module}.headers_below", lambda folder, *more: folders.append(folder) or read(folder)
        )
    run(capsys, write_lidc(tmp_path))
    assert folders == [tmp_path]


def test_a_collection_that_lacks_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lidc(tmp_path)
    for file in tmp_path.rglob("*.xml"):
        file.unlink()
    out = run(capsys, tmp_path)[1]
    assert out.startswith(
        f"looks like LIDC-IDRI ({tmp_path}: holds no XML file of a CT reading; unpack"
    )
    assert out.count("looks like") == 1


def test_without_the_packages_for_dicom(tmp_path: Path) -> None:
    write_lidc(tmp_path)
    volume = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.diag([2.0, 2, 2, 1]))
    nibabel.save(volume, tmp_path / "mask.nii.gz")
    code = (
        "import sys\nsys.modules['pydicom'] = None\nfrom nnunet_ext.commands.inspect import "
        "inspect_entry\n"
        f"inspect_entry([{str(tmp_path)!r}])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("DICOM")]
    assert line.startswith("DICOM: 29 files; ")
    assert line.endswith("reading DICOM needs further packages; pip install 'nnunetv2-ext[dicom]'")
    assert ".: 1 NIfTI files" in ended.stdout
