"""``nnUNetv2_ext_dicom_to_nnunet``: images, manifest, names, exit codes."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from nnunet_ext.commands.dicom_to_nnunet import dicom_to_nnunet_entry
from tests.hospital.conftest import body, stacked

Export = Callable[..., Path]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        dicom_to_nnunet_entry([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_an_image_holds_the_slices_where_they_lie(export: Export, tmp_path: Path) -> None:
    folder, output = export("a", 8, seed=3), tmp_path / "out"
    assert run("-i", folder, "-o", output, "-np", 1) == 0
    (image_file,) = output.glob("*.nii.gz")
    ((name, entry),) = manifest(output)["cases"].items()
    assert image_file.name == f"{name}_0000.nii.gz" == entry["channels"][0]["file"]

    image = SimpleITK.ReadImage(str(image_file))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), body(8, seed=3))
    np.testing.assert_allclose(image.GetOrigin(), stacked(8)[0], atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), (1, 1, 2), atol=1e-6)


@pytest.mark.parametrize(("code", "flipped"), [("LPS", ()), ("RAS", (1, 2)), ("LAI", (0, 1))])
def test_axes_are_turned_as_the_model_was_trained(
    export: Export,
    tmp_path: Path,
    code: str,
    flipped: tuple[int, ...],
) -> None:
    folder, output = export("a", 8, seed=3), tmp_path / "out"
    assert run("-i", folder, "-o", output, "-np", 1, "--orientation", code) == 0
    (image_file,) = output.glob("*.nii.gz")
    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(image_file)))
    np.testing.assert_array_equal(array, np.flip(body(8, seed=3), flipped))


def test_names_are_noted_outside_and_for_their_owner(export: Export, tmp_path: Path) -> None:
    folder, output = export("a", patient="SECRET7"), tmp_path / "out"
    names = tmp_path / "names.jsonl"
    assert run("-i", folder, "-o", output, "--names", output / "names.jsonl") == 1
    assert run("-i", folder, "-o", output, "--names", names) == 0
    (noted,) = [json.loads(line) for line in names.read_text().splitlines()]
    assert noted["patient_id"] == "SECRET7" and noted["name"] in manifest(output)["cases"]
    assert stat.S_IMODE(names.stat().st_mode) == 0o600


def test_a_dry_run_shows_the_table_and_writes_nothing(
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("-i", export("a"), "-o", tmp_path / "out", "--dry-run") == 0
    assert "taken as CT" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_dry_run_fails_where_nothing_would_be_taken(
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    too_short = export("a", slices=2)
    assert run("-i", too_short, "-o", tmp_path / "out", "--dry-run") == 1

    shown = capsys.readouterr()
    assert "only 2 slices" in shown.out
    assert "no study has series that meet the rules; see the table above" in shown.err
    assert not (tmp_path / "out").exists()


def test_one_bad_series_stops_no_other(
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export("good", patient="P1")
    folder = export("bad", patient="P2")
    (folder / "bad" / "1-002.dcm").write_bytes((folder / "bad" / "1-002.dcm").read_bytes()[:-300])
    (folder / "bad" / "1-003.dcm").write_bytes(b"")
    assert run("-i", folder, "-o", tmp_path / "out", "-np", 1) == 3
    content = manifest(tmp_path / "out")
    assert len(content["cases"]) == 1 and len(content["failed"]) == 1
    assert content["damaged_files"] == {"is empty; copy it again or remove it": 1}
    shown = capsys.readouterr()
    assert "1-002" not in shown.out + shown.err and "1 of 2 cases written" in shown.out


def test_nothing_to_predict_is_an_error(export: Export, tmp_path: Path) -> None:
    assert run("-i", export("a", 2), "-o", tmp_path / "out") == 1
    assert run("-i", tmp_path / "absent", "-o", tmp_path / "out") == 1
    assert run("-i", export("b"), "-o", tmp_path / "export" / "out") == 1
