"""Models as folders and zips: what is found, and what is refused with a line."""

import json
import zipfile
from pathlib import Path

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.hospital.model import opened_model, read_model

FILES = {
    "dataset.json": {"channel_names": {"0": "CT"}, "labels": {}, "file_ending": ".nii.gz"},
    "plans.json": {},
}
NAME = "Dataset1_X/nnUNetTrainer__nnUNetPlans__2d"


def write_folder(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text("{}")
    (folder / "dataset.json").write_text(json.dumps({**FILES["dataset.json"], **changes}))
    for fold in ("0", "1", "all"):
        (folder / f"fold_{fold}").mkdir()
        (folder / f"fold_{fold}" / "checkpoint_final.pth").touch()
    return folder


def write_zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, json.dumps(FILES.get(Path(name).name, {})))
    return path


def from_zip(path: Path, temporary: Path) -> str:
    temporary.mkdir()
    with opened_model(path, None, None, "", "", temporary) as model:
        assert model.folder.is_relative_to(temporary)
        return model.name


def test_all_trained_folds_or_those_that_are_named(tmp_path: Path) -> None:
    model = read_model(write_folder(tmp_path / "a"))
    assert list(model.checkpoints(None, "checkpoint_final.pth")) == ["0", "1"]
    assert list(model.checkpoints(["all"], "checkpoint_final.pth")) == ["all"]
    with pytest.raises(InputError, match=r"of fold 3 \(has 0, 1, all\)"):
        model.checkpoints(["3"], "checkpoint_final.pth")
    with pytest.raises(InputError, match=r"checkpoint_best.pth of any fold \(has none\)"):
        model.checkpoints(None, "checkpoint_best.pth")


def test_a_zip_of_one_model_is_opened(tmp_path: Path) -> None:
    archive = write_zip(
        tmp_path / "m.zip", [f"{NAME}/dataset.json", f"{NAME}/plans.json", "Dataset1_X/other.json"]
    )
    assert from_zip(archive, tmp_path / "t") == "nnU-Net nnUNetTrainer nnUNetPlans 2d"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["../../evil/plans.json"], "leads outside"),
        (["/evil/plans.json"], "leads outside"),
        ([f"{NAME}/plans.json", "b/plans.json"], "holds 2 models"),
        (["readme.txt"], r"holds 0 models \(none\)"),
    ],
)
def test_other_zips_are_refused(tmp_path: Path, names: list[str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        from_zip(write_zip(tmp_path / "m.zip", names), tmp_path / "t")
    assert not (tmp_path / "evil").exists()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.zip").write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match="not a readable zip"):
        from_zip(tmp_path / "torn.zip", tmp_path / "t")
    with pytest.raises(InputError, match="no such model"):
        read_model(tmp_path / "absent")
    with pytest.raises(InputError, match=r"images end in .png"):
        read_model(write_folder(tmp_path / "pictures", file_ending=".png"))
    with pytest.raises(InputError, match="names no channel"):
        read_model(write_folder(tmp_path / "mute", channel_names={}))
    broken = write_folder(tmp_path / "broken")
    (broken / "plans.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"plans.json: is not readable as JSON"):
        read_model(broken)
