from pathlib import Path

import pytest

from dataset_conversion import phantom_volumes
from dataset_conversion.dicom_miniatures import write_bhsd, write_ct_ich, write_lidc, write_nsclc, write_rsna
from dataset_conversion.phantoms import write_covid_semiseg, write_msd_lung
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
        ("COVID-SemiSeg", lambda folder: write_covid_semiseg(folder, n_labelled=2, n_test=1, n_unlabeled=3, size=48)),
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
    assert "looks like MosMed (2 in imagesTr); licence: CC BY-NC-ND 3.0: converted data may not be passed on" in lines
    masks = lines[lines.index("masks: 2 NIfTI files") + 1 :][:6]
    assert masks[:5] == [
        "  shape: 48x44x8", "  voxel size (mm): 8x8x8", "  orientation: LAS", "  stored as: int16", "  values: 0 1",
    ]  # fmt: skip
    assert "  unit: HU" in lines
    assert lines[-1].startswith("passed over: 6 hidden files of operating systems")


def test_oddities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom_volumes.write_lits(tmp_path)
    (tmp_path / "Training_Batch1/volume-3.nii").write_bytes(b"no NIfTI")
    (tmp_path / "empty.nii.gz").touch()
    code, out, _ = run(capsys, tmp_path)
    assert code == 0
    assert "odd: volume-28.nii: voxel size 1x1x1 mm, perhaps lost" in out
    assert "volume-3.nii: cannot be read as NIfTI" in out
    assert "1 empty files" in out


def test_no_such_folder_and_nothing_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, tmp_path / "absent")
    assert code == 1
    assert err.count("\n") == 1
    assert "no such folder" in err
    assert "looks like no known data set" in run(capsys, tmp_path)[1]
