"""``nnUNetv2_ext_doctor -m``: a model in a zip is recognised, a hostile one refused."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nnunet_ext.commands.doctor import doctor_entry
from nnunet_ext.discovery import OPT_OUT_VARIABLE, SEARCH_VARIABLE
from nnunet_ext.errors import InputError
from nnunet_ext.package import DISTRIBUTION, made_by
from nnunet_ext.sharing.received import ReceivedModel, missing_for, read_received
from tests.sharing.conftest import train

PLACE = "Dataset999_Miniature/RelationDrivenTrainer__nnUNetPlans__3d_fullres"


def doctor(capsys: pytest.CaptureFixture[str], archive: Path) -> str:
    with pytest.raises(SystemExit):
        doctor_entry(["-m", str(archive)])
    return capsys.readouterr().out


def write_zip(path: Path, plans: object, checkpoint: object, place: str = PLACE) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{place}/plans.json", json.dumps(plans))
        with file.open(f"{place}/fold_0/checkpoint_final.pth", "w") as stream:
            torch.save(checkpoint, stream)
    return path


CHECKPOINT = {
    "trainer_name": "RelationDrivenTrainer",
    "init_args": {"configuration": "3d_fullres"},
    "network_weights": {"a": torch.zeros(1)},
}


def test_the_doctor_names_what_is_missing(
    share: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(tmp_path, "RelationDrivenTrainer")
    share("RelationDrivenTrainer")
    monkeypatch.setenv(OPT_OUT_VARIABLE, "1")  # as where the package is not installed
    monkeypatch.delenv(SEARCH_VARIABLE)
    printed = doctor(capsys, tmp_path / "model.zip")
    assert f"{PLACE} as RelationDrivenTrainer" in printed
    assert f"PROBLEM  {PLACE} needs RelationDrivenTrainer, which nnU-Net does not find" in printed
    assert f'pip install "{DISTRIBUTION}==' in printed


def test_nothing_is_missing_for_a_stock_network(
    share: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(tmp_path, "FeatureSpaceDATrainer")
    share("FeatureSpaceDATrainer")
    monkeypatch.setenv(OPT_OUT_VARIABLE, "1")
    monkeypatch.delenv(SEARCH_VARIABLE)
    printed = doctor(capsys, tmp_path / "model.zip")
    assert "FeatureSpaceDATrainer__nnUNetPlans__3d_fullres as nnUNetTrainer" in printed
    assert "; nnU-Net alone predicts with it" in printed
    assert "PROBLEM  Dataset999" not in printed


def test_a_newer_version_and_other_packages() -> None:
    newer = ReceivedModel(PLACE, "RelationDrivenTrainer", f"{DISTRIBUTION} 999.0")
    assert missing_for(newer) == (
        f"{PLACE} was made by {DISTRIBUTION} 999.0, newer than {made_by().split()[1]} here",
        f'pip install "{DISTRIBUTION}==999.0"',
    )
    assert missing_for(ReceivedModel(PLACE, "nnUNetTrainer", f"{DISTRIBUTION} 999.0")) is None
    assert missing_for(ReceivedModel(PLACE, "RelationDrivenTrainer", made_by())) is None

    # whatever a zip says, nothing but this package is named as what to install
    for foreign in ("evil 1.0", f'{DISTRIBUTION} 1"; rm -rf "', ""):
        missing = missing_for(ReceivedModel(PLACE, "NoSuchTrainer", foreign))
        assert missing is not None
        assert missing[1] == "ask its sender where the trainer comes from"


def test_a_zip_that_nnunet_exported(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "m.zip", {}, CHECKPOINT)
    assert read_received(archive, tmp_path) == [ReceivedModel(PLACE, "RelationDrivenTrainer", "")]


class Foreign:
    """Pickles as a call of a function."""

    def __reduce__(self) -> tuple:
        return (print, ("the checkpoint ran code",))


def test_hostile_zips_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside, huge, torn = (tmp_path / f"{name}.zip" for name in ("outside", "huge", "torn"))
    write_zip(outside, {}, CHECKPOINT, "../../evil/a")
    with zipfile.ZipFile(huge, "w") as file:
        file.writestr("a/plans.json", "{}")
        file.infolist()[0].file_size = 1 << 40
        file.start_dir = file.fp.tell()  # type: ignore[union-attr]
    torn.write_bytes(outside.read_bytes()[:200])
    code = write_zip(tmp_path / "code.zip", {}, {**CHECKPOINT, "logging": Foreign()})
    plans = write_zip(tmp_path / "plans.zip", [], CHECKPOINT)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as file:
        file.writestr("readme.txt", "")
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as file:
        file.writestr("a/plans.json", "{}")

    for archive, reason in (
        (outside, "leads outside"),
        (huge, "unpacks to 1024 GiB, more than a model"),
        (torn, "is not a readable zip"),
        (code, "nothing but tensors, numbers and plain Python is read"),
        (plans, "holds no JSON object"),
        (tmp_path / "empty.zip", "holds no model of nnU-Net"),
        (tmp_path / "bare.zip", "a has no checkpoint"),
        (tmp_path / "absent.zip", "no such file"),
    ):
        with pytest.raises(InputError, match=reason):
            read_received(archive, tmp_path / "unpacked")
    assert not list(tmp_path.parent.rglob("evil*"))
    assert "ran code" not in capsys.readouterr().out


def test_another_package_of_this_name_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "nnunet_ext"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    installed = tmp_path / "other" / "Lifelong_nnunet-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: Lifelong-nnunet\nVersion: 1.0\n")
    (installed / "top_level.txt").write_text("nnunet_ext\n")
    monkeypatch.setenv(OPT_OUT_VARIABLE, "1")
    monkeypatch.delenv(SEARCH_VARIABLE)

    with pytest.raises(SystemExit):
        doctor_entry([])
    assert "another package" not in capsys.readouterr().out

    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    with pytest.raises(SystemExit) as stop:
        doctor_entry([])
    printed = capsys.readouterr().out
    assert stop.value.code == 1
    assert "PROBLEM  Lifelong-nnunet installs a package nnunet_ext, too" in printed
    assert f"PROBLEM  {other} is another package called nnunet_ext" in printed
