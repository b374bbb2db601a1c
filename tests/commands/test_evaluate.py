import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK

from nnunet_ext.commands.evaluate import RESULTS, evaluate_entry

Arrays = dict[str, np.ndarray]


def bars(first: int, last: int, value: int = 1) -> np.ndarray:
    """A 4 x 10 x 6 volume whose rows first..last-1 are foreground: 24 voxels per row."""
    array = np.zeros((4, 10, 6), np.uint8)
    array[:, first:last] = value
    return array


REFERENCE = {"a": bars(0, 4), "b": bars(2, 6), "c": bars(0, 0)}
PREDICTION = {"a": bars(2, 6), "b": bars(2, 6), "c": bars(0, 0)}  # half overlap, perfect, both empty


def write_folder(folder: Path, arrays: Arrays, ending: str = ".nii.gz", origin: float = 0.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        image = SimpleITK.GetImageFromArray(array)
        if array.ndim == 3:
            image.SetSpacing((0.7, 0.7, 5.0))
            image.SetOrigin((origin, 0.0, 0.0))
        SimpleITK.WriteImage(image, str(folder / f"{name}{ending}"))
    return folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        evaluate_entry([str(a) for a in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_folder(tmp_path / "labels", REFERENCE), write_folder(tmp_path / "model", PREDICTION)


def test_prints_only(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert run("-r", folders[0], "-p", folders[1]) == 0
    out = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "| model  | 1     | 3     | 0.750 ± 0.354 [0.500, 1.000] (1 undefined)" in out
    for words in ("BCa, 9999 resamples, seed 0", "--empty nan", "left out of the mean", "Fewer than 10 cases"):
        assert words in out


def test_tables(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    assert run("-r", folders[0], "-p", folders[1], "-o", out) == 0
    cases = pd.read_csv(out / "cases.csv").set_index("case")
    assert list(cases.columns[:6]) == ["method", "label", "tp", "fp", "fn", "tn"]
    assert cases.loc["a", ["tp", "fp", "fn", "tn"]].tolist() == [48, 48, 48, 240 - 144]
    assert cases.loc["a", "dice"] == 2 * 48 / (96 + 96)
    assert cases.loc["a", "mae"] == 96 / 240
    assert cases.loc["b", "dice"] == 1 and np.isnan(cases.loc["c", "dice"])
    dice = pd.read_csv(out / "summary.csv").set_index("metric").loc["dice"]
    assert dice[["cases", "n", "undefined", "mean"]].tolist() == [3, 2, 1, 0.75]
    assert (out / "summary.md").read_text(encoding="utf-8") == capsys.readouterr().out[:-1]
    assert {p.name for p in out.iterdir()} == {*RESULTS} - {"tests.csv"}  # one method: nothing to test


@pytest.mark.parametrize(("empty", "mean"), [("nan", 1.5 / 2), ("one", 2.5 / 3), ("zero", 1.5 / 3)])
def test_empty_policy(folders: tuple[Path, Path], tmp_path: Path, empty: str, mean: float) -> None:
    assert run("-r", folders[0], "-p", folders[1], "-o", tmp_path / "out", "--empty", empty) == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("metric")
    assert summary.loc["dice", "mean"] == pytest.approx(mean)
    assert f"--empty {empty}" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")


def test_png_masks_of_255_and_two_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = write_folder(tmp_path / "r", {k: v[0] * 255 for k, v in REFERENCE.items()}, ".png")
    first = write_folder(tmp_path / "x" / "fold", {k: v[0] * 255 for k, v in PREDICTION.items()}, ".png")
    second = write_folder(tmp_path / "y" / "fold", {k: v[0] * 255 for k, v in REFERENCE.items()}, ".png")
    arguments = ("-r", reference, "-p", first, f"perfect={second}", "-l", "infection=255")
    assert run(*arguments, "-o", tmp_path / "out") == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index(["method", "label", "metric"])["mean"]
    assert summary["fold", "infection", "dice"] == 0.75 and summary["perfect", "infection", "dice"] == 1
    assert "no CI: all equal" in capsys.readouterr().out


def test_labels_of_dataset_json_and_merged_foreground(tmp_path: Path) -> None:
    reference = write_folder(tmp_path / "Dataset1" / "labelsTr", {"a": bars(0, 2) + bars(2, 4, 2)})
    prediction = write_folder(tmp_path / "model", {"a": bars(0, 4, 2)})
    labels = {"background": 0, "lung": 1, "infection": 2}
    (tmp_path / "Dataset1" / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    for name in ("plans.json", "predict_from_raw_data_args.json", "summary.json", "a.npz", "a.pkl"):
        (prediction / name).touch()
    assert run("-r", reference, "-p", prediction, "-o", tmp_path / "out") == 0
    dice = pd.read_csv(tmp_path / "out" / "cases.csv").set_index("label")["dice"]
    assert dice.to_dict() == {"lung": 0.0, "infection": 2 * 48 / (48 + 96), "foreground": 1.0}


def test_ignore_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = write_folder(tmp_path / "r", {"a": bars(0, 4) + bars(4, 10, 9)})
    prediction = write_folder(tmp_path / "p", {"a": bars(0, 10)})
    assert run("-r", reference, "-p", prediction, "-l", "infection=1", "ignore=9") == 0
    out = capsys.readouterr().out
    assert "| 1.000 [no CI: one case] |" in out and "ignore label" in out


def test_processes_give_the_same_tables(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for processes in (1, 2):
        assert run("-r", folders[0], "-p", folders[1], "-np", processes, "-o", tmp_path / f"{processes}") == 0
    for name in {*RESULTS} - {"tests.csv"}:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_chill_evaluates_a_fold_and_says_so(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (folders[1] / "b.nii.gz").unlink()
    assert run("-r", folders[0], "-p", folders[1], "--chill") == 0
    assert "1 of 3 references have no prediction and are left out" in capsys.readouterr().out


def test_earlier_results_are_kept(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("-r", folders[0], "-p", folders[1], "-o", out) == 0
    (out / "cases.csv").write_text("mine", encoding="utf-8")
    assert run("-r", folders[0], "-p", folders[1], "-o", out) == 1
    assert (out / "cases.csv").read_text(encoding="utf-8") == "mine"
    assert run("-r", folders[0], "-p", folders[1], "-o", out, "--overwrite") == 0
    assert (out / "cases.csv").read_text(encoding="utf-8") != "mine"


Spoil = Callable[[Path, Path], object]
BAD_INPUT: dict[str, tuple[Spoil, str]] = {
    "shape": (lambda r, p: write_folder(p, {"a": bars(0, 1)[:3]}), "model/a.nii.gz: shape (3, 10, 6)"),
    "origin": (lambda r, p: write_folder(p, {"b": bars(0, 1)}, origin=3.0), "model/b.nii.gz: origin (3.0, 0.0, 0.0)"),
    "missing": (lambda r, p: (p / "b.nii.gz").unlink(), "no prediction of b; --chill"),
    "extra": (lambda r, p: (r / "b.nii.gz").unlink(), "no reference in"),
    "twice": (lambda r, p: write_folder(p, {"a": bars(0, 1)}, ".nrrd"), "a.nii.gz and a.nrrd are the same case"),
    "no labels": (lambda r, p: [f.unlink() for f in p.iterdir()], "model: no label files"),
    "no folder": (lambda r, p: p.rename(p.with_name("gone")), "model: no such folder"),
    "truncated": (lambda r, p: (p / "a.nii.gz").write_bytes((p / "a.nii.gz").read_bytes()[:-40]), "a.nii.gz: cannot"),
    "no image": (lambda r, p: (r / "a.nii.gz").write_text("text"), "labels/a.nii.gz: cannot be read"),
    "soft map": (lambda r, p: write_folder(p, {"a": bars(0, 4) * 0.5}), "a.nii.gz: values that are no integers"),
    "unlike": (lambda r, p: write_folder(p, {k: v * 2 for k, v in PREDICTION.items()}), "bring both to the same"),
    "background": (
        lambda r, p: [write_folder(f, {k: bars(0, 0) for k in REFERENCE}) for f in (r, p)],
        "nothing but background",
    ),
    "broken json": (lambda r, p: (p / "dataset.json").write_text("{"), "dataset.json: no readable 'labels'"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_line_and_writes_nothing(
    name: str, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = BAD_INPUT[name]
    spoil(*folders)
    capsys.readouterr()
    assert run("-r", folders[0], "-p", folders[1], "-o", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert captured.out == "" and not (tmp_path / "out").exists()
    assert message in captured.err and captured.err.count("\n") == 1


def test_values_outside_the_labels_name_every_file(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(folders[1], {"a": bars(0, 4, 3), "b": bars(0, 4, 7)})
    assert run("-r", folders[0], "-p", folders[1], "-l", "infection=1") == 1
    err = capsys.readouterr().err
    assert "model/a.nii.gz: value 3 is not among the labels [0, 1]" in err and "model/b.nii.gz: value 7" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", "{p}", "{p}"), "a second method called 'model'"),
        (("-p", "={p}"), "write FOLDER or NAME=FOLDER"),
        (("-p", "{p}", "-l", "infection"), "write NAME=VALUE"),
        (("-p", "{p}", "-o", "{p}/a.nii.gz"), "is a file"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[str, ...], message: str, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-r", folders[0], *(a.replace("{p}", str(folders[1])) for a in arguments)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [("-np", "0"), ("--empty", "legacy")])
def test_wrong_choices_end_in_usage(wrong: tuple[str, str], folders: tuple[Path, Path]) -> None:
    assert run("-r", folders[0], "-p", folders[1], *wrong) == 2


def test_help_is_quick() -> None:
    code = (
        "import sys; from nnunet_ext.commands.evaluate import evaluate_entry\n"
        "try: evaluate_entry(['--help'])\n"
        "except SystemExit: print(sorted({'pandas', 'scipy', 'torch', 'SimpleITK', 'numpy'} & set(sys.modules)))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert time.monotonic() - start < 5  # 0.05 s when measured; the bound is for busy machines
