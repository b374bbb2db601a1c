import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from nnunet_ext.commands.crossval import crossval_entry
from nnunet_ext.commands.pretrained import pretrained_entry
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training.fold_identity import identity_now
from tests.miniature_plans import DATASET_JSON, plans
from tests.miniature_raw import write_raw
from tests.workplace import DATASET, FEW_STEPS, Workplace

PLANS = plans(2)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        crossval_entry([str(a) for a in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Planned, as far as the command looks: two plans files, one of them without 3d."""
    place = Workplace(tmp_path)
    for name, folder in place.folders.items():
        monkeypatch.setenv(name, str(folder))
    folder = place.folders["nnUNet_preprocessed"] / DATASET
    folder.mkdir()
    configurations = plans(2)["configurations"] | plans(3)["configurations"]
    for name, content in (
        ("nnUNetPlans", {**PLANS, "configurations": configurations}),
        ("otherPlans", PLANS),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return place


def checkpoint(path: Path, **changed: object) -> None:
    """Write what a training of the plans leaves, or one with other settings."""
    without_settings = {"hyperparameters": {}, "streams": {}}
    identity = identity_now(PlainTrainer, without_settings, PLANS, "2d", DATASET_JSON["labels"])
    identity["hyperparameters"] |= changed
    torch.save({"nnunet_ext": {"identity": identity}}, path)


def state(place: Workplace, fold: int, *files: str, maps: Mapping[str, int] | None = None) -> None:
    """Of one fold: files, where a summary is of two cases; soft maps by case and lost bytes."""
    folder = place.fold(DATASET, "PlainTrainer", "2d", str(fold))
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(
            '{"metric_per_case": [{}, {}]}' if file.endswith("summary.json") else ""
        )
        if file == "checkpoint_final.pth":
            checkpoint(folder / file)
    for case, lost in (maps or {}).items():
        path = folder / "validation" / f"{case}.npz"
        np.savez_compressed(path, probabilities=np.zeros((2, 1, 8, 8), np.float32))
        path.write_bytes(path.read_bytes()[: path.stat().st_size - lost])


def test_jobs_continue_each_fold_from_where_it_is(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    state(place, 0, "checkpoint_final.pth", "validation/summary.json")
    state(place, 1, "checkpoint_latest.pth")
    state(place, 2, "checkpoint_final.pth", "validation/case.png")
    state(place, 3, "training_log.txt")
    assert run("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "--jobs", "-device", "cpu") == 0
    command = f"nnUNetv2_train {DATASET} 2d {{}} -tr PlainTrainer -p nnUNetPlans -device cpu"
    jobs = [command.format(fold) for fold in (1, 2, 3, 4)]
    assert capsys.readouterr().out.splitlines() == [f"{jobs[0]} --c", f"{jobs[1]} --val", *jobs[2:]]


def test_soft_maps_are_demanded_for_the_profile_that_needs_them(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    validated = ("checkpoint_final.pth", "validation/summary.json")
    state(place, 0, *validated)
    state(place, 1, *validated, maps={"a": 0, "b": 0})
    state(place, 2, *validated, maps={"a": 0})  # killed after the first
    state(place, 3, *validated, maps={"a": 0, "b": 1})  # while writing the last
    assert (
        run("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "--jobs", "--profile", "plain", "infnet")
        == 0
    )
    command = f"nnUNetv2_train {DATASET} 2d {{}} -tr PlainTrainer -p nnUNetPlans -device cuda"
    jobs = [f"{command.format(fold)} --val --npz" for fold in (0, 2, 3)]
    assert capsys.readouterr().out.splitlines() == [*jobs, f"{command.format(4)} --npz"]


def test_a_validation_cut_short_is_repeated(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    state(place, 0, "checkpoint_final.pth", "validation/summary.json")
    path = place.fold(DATASET, "PlainTrainer", "2d", "0") / "validation" / "summary.json"
    path.write_text(path.read_text()[:20])
    assert run("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "-f", 0, "--jobs") == 0
    assert capsys.readouterr().out.endswith("--val\n")


def test_every_trainer_with_every_plans(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    identifiers = ("nnUNetPlans", "otherPlans")
    trainers = ("PlainTrainer", "nnUNetTrainerDiceCELoss_noSmooth")
    assert (
        run("-d", 120, "-c", "2d", "-tr", *trainers, "-p", *identifiers, "-f", 0, 1, "--jobs") == 0
    )
    captured = capsys.readouterr()
    jobs = captured.out.splitlines()
    assert "0 of 8 folds are finished" in captured.err
    assert [tuple(np.array(job.split())[[3, 5, 7]]) for job in jobs] == [
        (fold, trainer, identifier)
        for trainer in trainers
        for identifier in identifiers
        for fold in "01"
    ]


def test_a_fold_trained_with_other_settings_is_named(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the plans, and those of the other folds; what validation does may differ."""
    arguments = ("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "--jobs")
    for fold in (0, 1):
        state(place, fold, "checkpoint_final.pth", "validation/summary.json")
    path = place.fold(DATASET, "PlainTrainer", "2d", "1") / "checkpoint_final.pth"
    checkpoint(path, num_val_iterations_per_epoch=3)
    assert run(*arguments) == 0

    checkpoint(path, num_epochs=3, initial_lr=0.1)
    assert run(*arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{path.parent}: was trained with other settings than the plans hold: " in error
    assert (
        "hyperparameters.initial_lr is 0.01, was 0.1; hyperparameters.num_epochs is 1000, was 3. "
        "Set" in error
    )

    plans_file = place.folders["nnUNet_preprocessed"] / DATASET / "nnUNetPlans.json"
    content = json.loads(plans_file.read_text())
    content["nnunet_ext"] = {"settings": {"num_epochs": 3, "initial_lr": 0.1}}
    plans_file.write_text(json.dumps(content))
    assert run(*arguments) == 1
    assert "fold_0: was trained with other settings than the plans hold" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_say_is_refused(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    state(place, 0, "checkpoint_final.pth", "validation/summary.json")
    path = place.fold(DATASET, "PlainTrainer", "2d", "0") / "checkpoint_final.pth"
    for content in (b"", b"PK"):
        path.write_bytes(content)
        assert run("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "--jobs") == 1
        assert "checkpoint_final.pth: not a readable checkpoint" in capsys.readouterr().err
    torch.save({"network_weights": {}}, path)
    assert run("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "--jobs") == 1
    assert "does not record the settings of its training" in capsys.readouterr().err


def test_of_nnunets_own_trainers_the_plans_are_compared(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place.fold(DATASET, "nnUNetTrainer", "2d", "0")
    (folder / "validation").mkdir(parents=True)
    (folder / "validation/summary.json").write_text('{"metric_per_case": [{}]}')
    started = {"plans": PLANS, "configuration": "2d", "dataset_json": DATASET_JSON}
    saved = {"trainer_name": "nnUNetTrainer", "init_args": started}
    arguments = ("-d", 120, "-c", "2d", "-tr", "nnUNetTrainer", "--jobs")
    torch.save(saved, folder / "checkpoint_final.pth")
    assert run(*arguments) == 0

    larger = plans(2, batch_size=7)
    torch.save(
        {**saved, "init_args": {**started, "plans": {**PLANS, **larger}}},
        folder / "checkpoint_final.pth",
    )
    assert run(*arguments) == 1
    assert "plans.batch_size is 2, was 7" in capsys.readouterr().err


Spoil = Callable[[Workplace], object]
BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no output": (("-c", "2d", "-tr", "A"), "-o: say where"),
    "fold all": (
        ("-c", "2d", "-tr", "A", "-f", "all", "--jobs"),
        "-f all: is not the number of a fold",
    ),
    "fold 00": (
        ("-c", "2d", "-tr", "A", "-f", "00", "--jobs"),
        "-f 00: is not the number of a fold",
    ),
    "fold squared": (
        ("-c", "2d", "-tr", "A", "-f", "²", "--jobs"),
        "-f ²: is not the number of a fold",
    ),
    "metric": (("-c", "2d", "-tr", "A", "--metrics", "dize", "--jobs"), "--metrics dize: "),
    "labels": (("-c", "2d", "-tr", "A", "-l", "a", "--jobs"), "-l a: write NAME=VALUE"),
    "patients": (
        ("-c", "2d", "-tr", "A", "--profile", "ncovsegnet", "--patients", "absent.csv", "--jobs"),
        "--patients absent.csv: no such file",
    ),
    "no images": (
        ("-c", "2d", "-tr", "A", "--figures", "-i", "absent", "--jobs"),
        "-i absent: no such folder",
    ),
    "images": (("-c", "2d", "-tr", "A", "-i", ".", "--jobs"), "-i: images are drawn behind"),
    "fold twice": (("-c", "2d", "-tr", "A", "-f", "1", "1", "--jobs"), "a fold is named twice"),
    "trainer twice": (("-c", "2d", "-tr", "A", "A", "--jobs"), "named twice"),
    "path": (("-c", "2d", "-tr", "../A", "--jobs"), "../A: is not the name"),
    "plans": (
        ("-c", "2d", "-tr", "A", "-p", "absent", "--jobs"),
        "absent.json: no readable plans; there are nnUNetPlans, otherPlans",
    ),
    "fold 5": (("-c", "2d", "-tr", "A", "-f", "5", "--jobs"), "splits_final.json has 0 to 4"),
    "trainer": (
        ("-c", "2d", "-tr", "nnUNetTrainer", "PlainTraner", "--jobs"),
        "-tr PlainTraner: no such trainer; there are AMDDASTrainer, AdvEntTrainer, "
        "FeatureSpaceDATrainer, ",
    ),
    "first stage": (
        ("-c", "2d", "-tr", "GeneralPretrainTrainer", "--jobs"),
        "-tr GeneralPretrainTrainer: is a first",
    ),
    "module": (("-c", "2d", "-tr", "torch", "--jobs"), "-tr torch: no such trainer"),
    "configuration": (
        ("-c", "3d_fullres", "-tr", "A", "-p", "otherPlans", "--jobs"),
        "no configuration 3d_fullres",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_one_line(
    name: str, place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = BAD[name]
    assert run("-d", 120, *arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_folds_of_a_split_of_ones_own(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    splits = place.folders["nnUNet_preprocessed"] / DATASET / "splits_final.json"
    splits.write_text(json.dumps([{"train": ["a"], "val": ["b"]}] * 7))
    assert run("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "-f", 6, "--jobs") == 0
    splits.write_text("{")
    assert run("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "-f", 6, "--jobs") == 1
    assert "splits_final.json: is not readable as JSON" in capsys.readouterr().err


def test_a_cascades_second_stage_is_refused_as_by_training(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    file = place.folders["nnUNet_preprocessed"] / DATASET / "nnUNetPlans.json"
    content = json.loads(file.read_text())
    fullres = content["configurations"]["3d_fullres"]
    content["configurations"] |= {
        "3d_lowres": fullres,
        "3d_cascade_fullres": {**fullres, "previous_stage": "3d_lowres"},
    }
    file.write_text(json.dumps(content))
    message = (
        "PlainTrainer does not train 3d_cascade_fullres, a cascade's second stage; use 2d or "
        "3d_fullres or 3d_lowres"
    )
    arguments = ("-d", 120, "-c", "3d_cascade_fullres", "-tr", "PlainTrainer")
    assert run(*arguments, "--jobs") == 1
    assert message in capsys.readouterr().err
    weights = place.root / "weights.pth"
    torch.save({"network_weights": {"a": torch.zeros(1)}}, weights)
    with pytest.raises(SystemExit):
        pretrained_entry(
            [*map(str, arguments), "-i", str(weights), "-o", str(place.root / "start.pth")]
        )
    assert message in capsys.readouterr().err


def test_fewer_cases_than_folds(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    """What the line offers works."""
    folder = place.folders["nnUNet_preprocessed"] / DATASET
    (folder / "gt_segmentations").mkdir()
    for case in ("a", "b", "c"):
        (folder / f"gt_segmentations/{case}.png").touch()
    assert run("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "--jobs") == 1
    error = capsys.readouterr().err
    assert (
        "has 3 training cases, and nnU-Net makes 5 folds. Convert with --split patient:3, or write"
        in error
    )

    (folder / "splits_final.json").write_text(error[error.index("[{") : error.index("}]") + 2])
    arguments = error[error.index("-f ") :].split()
    assert run("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "--jobs", *arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("crossval"))
    write_raw(place.folders["nnUNet_raw"], DATASET, 5, (32, 32))
    place.run("nnUNetv2_plan_and_preprocess", "-d", 120, "-c", "2d", "-np", 1)
    place.run(
        "nnUNetv2_ext_configure", "-d", 120, "-np", 1, "--set", "num_epochs=1", *FEW_STEPS[1:]
    )
    return place


@pytest.mark.e2e
def test_trains_compares_and_skips_what_is_finished(planned: Workplace, tmp_path: Path) -> None:
    """Two folds by two runs at once, with soft maps; later only a lost validation is repeated."""
    place = planned
    arguments = (
        "nnUNetv2_ext_crossval",
        "-d",
        120,
        "-c",
        "2d",
        "-tr",
        "PlainTrainer",
        "-f",
        0,
        1,
        "-device",
        "cpu",
        "-o",
        tmp_path / "out",
        "--profile",
        "infnet",
        "--metrics",
        "dice",
        "mae",
        "--figures",
    )
    first, second = place.start(*arguments), place.start(*arguments)
    codes = [command.wait() for command in (first, second)]
    outputs = [command.output for command in (first, second)]
    assert codes == [0, 0], outputs
    assert all(
        "folds are finished" in output and "[1/2] nnUNetv2_train" in output for output in outputs
    )
    for fold in "01":  # one log per training
        assert (
            len(list(place.fold(DATASET, "PlainTrainer", "2d", fold).glob("training_log_*"))) == 1
        )
    held_out = [
        case
        for fold in json.loads(
            (place.folders["nnUNet_preprocessed"] / DATASET / "splits_final.json").read_text()
        )[:2]
        for case in fold["val"]
    ]
    table = pd.read_csv(tmp_path / "out" / "comparison" / "cases.csv")
    assert sorted(table["case"].unique()) == sorted(held_out)
    assert {"dice", "mae"} <= set(table.columns) and "sensitivity" not in table.columns
    merged = tmp_path / "out" / "predictions" / "PlainTrainer"
    for case in held_out:
        assert (merged / f"{case}.npz").is_file()
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(merged / f"{case}.png"))).shape == (32, 32)
    before = (tmp_path / "out" / "comparison" / "summary.md").read_bytes()

    (place.fold(DATASET, "PlainTrainer", "2d", "0") / "validation" / "summary.json").unlink()
    again = place.run(*arguments)
    assert "[1/1] nnUNetv2_train" in again and "--val" in again and "Epoch" not in again
    assert (tmp_path / "out" / "comparison" / "summary.md").read_bytes() == before

    (place.fold(DATASET, "PlainTrainer", "2d", "0") / "validation" / f"{held_out[0]}.png").unlink()
    assert f"{merged}: lacks {held_out[0]}.png (and 0 more)" in place.refused(*arguments)


@pytest.mark.e2e
def test_a_failed_fold_does_not_stop_the_others(planned: Workplace, tmp_path: Path) -> None:
    """RelationDrivenTrainer refuses to train without a general stream, each fold for itself."""
    error = planned.refused(
        "nnUNetv2_ext_crossval",
        "-d",
        120,
        "-c",
        "2d",
        "-tr",
        "RelationDrivenTrainer",
        "-f",
        2,
        3,
        "-device",
        "cpu",
        "-o",
        tmp_path / "out",
    )
    folds = [planned.fold(DATASET, "RelationDrivenTrainer", "2d", number) for number in "23"]
    reasons = "; ".join(f"{fold} (ended with code 1)" for fold in folds)
    assert error.endswith(f"error: 2 of 2 folds failed: {reasons}; run the same again")
    assert not (tmp_path / "out" / "comparison").exists()
