import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK

from nnunet_ext.commands.evaluate import PROFILE_NAMES, RESULTS, evaluate_entry
from nnunet_ext.evaluation.profiles import PROFILES
from nnunet_ext.evaluation.report import files

Arrays = dict[str, np.ndarray]

OF_ONE_METHOD = {*RESULTS} - {"tests.csv", "ranks.csv", "reliability.csv"}  # nothing to compare


def bars(first: int, last: int, value: int = 1) -> np.ndarray:
    """A 4 x 10 x 6 volume whose rows first..last-1 are foreground: 24 voxels per row."""
    array = np.zeros((4, 10, 6), np.uint8)
    array[:, first:last] = value
    return array


REFERENCE = {"a": bars(0, 4), "b": bars(2, 6), "c": bars(0, 0)}
PREDICTION = {
    "a": bars(2, 6),
    "b": bars(2, 6),
    "c": bars(0, 0),
}  # half overlap, perfect, both empty


def write_folder(
    folder: Path, arrays: Arrays, ending: str = ".nii.gz", origin: float = 0.0
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        image = SimpleITK.GetImageFromArray(array, isVector=False)
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
    return write_folder(tmp_path / "labels", REFERENCE), write_folder(
        tmp_path / "model", PREDICTION
    )


def test_prints_only(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert run("-r", folders[0], "-p", folders[1]) == 0
    out = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "| model  | 1     | 3     | 0.750 ± 0.354 [0.500, 1.000] (1 undefined)" in out
    for words in (
        "BCa, 9999 resamples, seed 0",
        "--empty nan",
        "left out of the mean",
        "Fewer than 10 cases",
    ):
        assert words in out


def test_tables(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    assert run("-r", folders[0], "-p", folders[1], "-o", out) == 0
    cases = pd.read_csv(out / "cases.csv").set_index("case")
    assert list(cases.columns[:7]) == ["profile", "method", "label", "tp", "fp", "fn", "tn"]
    assert cases.loc["a", ["tp", "fp", "fn", "tn"]].tolist() == [48, 48, 48, 240 - 144]
    assert cases.loc["a", "dice"] == 2 * 48 / (96 + 96)
    assert cases.loc["a", "mae"] == 96 / 240
    assert cases.loc["b", "dice"] == 1 and np.isnan(cases.loc["c", "dice"])
    dice = pd.read_csv(out / "summary.csv").set_index("metric").loc["dice"]
    assert dice[["cases", "n", "undefined", "mean"]].tolist() == [3, 2, 1, 0.75]
    assert (out / "summary.md").read_text(encoding="utf-8") == capsys.readouterr().out[:-1]
    assert {p.name for p in out.iterdir()} == OF_ONE_METHOD


def test_summary_for_programs(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """What is undefined is null, since JSON has no NaN."""
    twin = tmp_path / "twin"
    shutil.copytree(folders[1], twin)
    out = tmp_path / "out"
    assert run("-r", folders[0], "-p", folders[1], twin, "-o", out) == 0

    report = json.loads((out / "summary.json").read_text(encoding="utf-8"), parse_constant=int)
    assert report["profile"] == "plain"
    assert report["metrics"]["mae"]["better"] == "lower"
    dice = next(row for row in report["summary"] if row["metric"] == "dice")
    assert (dice["n"], dice["undefined"], dice["mean"]) == (2, 1, 0.75)
    assert {row["first"] for row in report["ranks"]} == {1.0}
    assert [row["t_p"] for row in report["tests"] if row["metric"] == "dice"] == [1.0]


@pytest.mark.parametrize(("empty", "mean"), [("nan", 1.5 / 2), ("one", 2.5 / 3), ("zero", 1.5 / 3)])
def test_empty_policy(folders: tuple[Path, Path], tmp_path: Path, empty: str, mean: float) -> None:
    assert run("-r", folders[0], "-p", folders[1], "-o", tmp_path / "out", "--empty", empty) == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("metric")
    assert summary.loc["dice", "mean"] == pytest.approx(mean)
    assert f"--empty {empty}" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")


def test_png_masks_of_255_and_two_methods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = write_folder(tmp_path / "r", {k: v[0] * 255 for k, v in REFERENCE.items()}, ".png")
    first = write_folder(
        tmp_path / "x" / "fold", {k: v[0] * 255 for k, v in PREDICTION.items()}, ".png"
    )
    second = write_folder(
        tmp_path / "y" / "fold", {k: v[0] * 255 for k, v in REFERENCE.items()}, ".png"
    )
    arguments = ("-r", reference, "-p", first, f"perfect={second}", "-l", "infection=255")
    assert run(*arguments, "-o", tmp_path / "out") == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index(
        ["method", "label", "metric"]
    )["mean"]
    assert (
        summary["fold", "infection", "dice"] == 0.75
        and summary["perfect", "infection", "dice"] == 1
    )
    assert "no CI: all equal" in capsys.readouterr().out


def test_labels_of_dataset_json_and_merged_foreground(tmp_path: Path) -> None:
    reference = write_folder(tmp_path / "Dataset1" / "labelsTr", {"a": bars(0, 2) + bars(2, 4, 2)})
    prediction = write_folder(tmp_path / "model", {"a": bars(0, 4, 2)})
    labels = {"background": 0, "lung": 1, "infection": 2}
    (tmp_path / "Dataset1" / "dataset.json").write_text(
        json.dumps({"labels": labels}), encoding="utf-8"
    )
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
        assert (
            run(
                "-r",
                folders[0],
                "-p",
                folders[1],
                "-np",
                processes,
                "-o",
                tmp_path / f"{processes}",
            )
            == 0
        )
    for name in OF_ONE_METHOD:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_chill_evaluates_a_fold_and_says_so(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
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
    "shape": (
        lambda r, p: write_folder(p, {"a": bars(0, 1)[:3]}),
        "model/a.nii.gz: shape (3, 10, 6)",
    ),
    "origin": (
        lambda r, p: write_folder(p, {"b": bars(0, 1)}, origin=3.0),
        "model/b.nii.gz: origin (3.0, 0.0, 0.0)",
    ),
    "missing": (lambda r, p: (p / "b.nii.gz").unlink(), "no prediction of b; --chill"),
    "extra": (lambda r, p: (r / "b.nii.gz").unlink(), "no reference in"),
    "twice": (
        lambda r, p: write_folder(p, {"a": bars(0, 1)}, ".nrrd"),
        "a.nii.gz and a.nrrd are the same case",
    ),
    "no labels": (lambda r, p: [f.unlink() for f in p.iterdir()], "model: no label files"),
    "no folder": (lambda r, p: p.rename(p.with_name("gone")), "model: no such folder"),
    "truncated": (
        lambda r, p: (p / "a.nii.gz").write_bytes((p / "a.nii.gz").read_bytes()[:-40]),
        "a.nii.gz: cannot",
    ),
    "no image": (
        lambda r, p: (r / "a.nii.gz").write_text("text"),
        "labels/a.nii.gz: cannot be read",
    ),
    "soft map": (
        lambda r, p: write_folder(p, {"a": bars(0, 4) * 0.5}),
        "a.nii.gz: values that are not integers",
    ),
    "unlike": (
        lambda r, p: write_folder(p, {k: v * 2 for k, v in PREDICTION.items()}),
        "bring both to the same",
    ),
    "vectors": (
        lambda r, p: SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(np.ones((4, 10, 6, 5), np.uint8), isVector=True),
            str(p / "a.nii.gz"),
        ),
        "model/a.nii.gz: 5 values per voxel",
    ),
    "four axes": (
        lambda r, p: write_folder(p, {"a": np.stack([bars(0, 1)] * 2)}),
        "model/a.nii.gz: 4 dimensions",
    ),
    "background": (
        lambda r, p: [write_folder(f, {k: bars(0, 0) for k in REFERENCE}) for f in (r, p)],
        "hold only background",
    ),
    "broken json": (
        lambda r, p: (p / "dataset.json").write_text("{"),
        "dataset.json: is not readable as JSON",
    ),
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
    assert (
        "model/a.nii.gz: value 3 is not among the labels [0, 1]" in err
        and "model/b.nii.gz: value 7" in err
    )


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
    arguments: tuple[str, ...],
    message: str,
    folders: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
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
        "except SystemExit: print(sorted({'pandas', 'scipy', 'torch', 'SimpleITK', 'numpy'} & "
        "set(sys.modules)))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert time.monotonic() - start < 5  # 0.05 s when measured; the bound is for busy machines


def summary_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "summary.csv").set_index(["method", "metric"])


def test_profiles_are_those_of_the_evaluation() -> None:
    assert tuple(PROFILES) == PROFILE_NAMES
    assert files.RESULTS == RESULTS


@pytest.mark.parametrize("profile", PROFILE_NAMES)
def test_every_table_names_its_profile_and_counts_its_cases(
    profile: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    second = write_folder(tmp_path / "second", REFERENCE)
    assert run("-r", folders[0], "-p", folders[1], second, "-o", out, "--profile", profile) == 0
    markdown, latex = (
        (out / "summary.md").read_text(encoding="utf-8"),
        (out / "table.tex").read_text(encoding="utf-8"),
    )
    assert f"Profile `{profile}`: {PROFILES[profile].definition[:60]}" in markdown
    cases = 2 if profile == "slice" else 3  # one case has no slice with lesion
    assert f"Profile {profile}" in latex and f"{cases} cases" in latex
    for name in ("cases.csv", "summary.csv", "tests.csv", "table.csv"):
        assert set(pd.read_csv(out / name)["profile"]) == {profile}
    summary = pd.read_csv(out / "summary.csv").set_index("metric")
    assert set(summary.drop("pooled_dice", errors="ignore")["cases"]) == {cases}
    if profile == "slice":
        assert set(summary.loc["pooled_dice", "cases"]) == {3}


def test_ncovsegnet_aggregates_overlap_error_and_volume_difference_both_ways(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """Half overlap, twice the volume, both empty: Dice 1/2, 2/3, 1; VOE 2/3, 1/2, 0; RVD 0, 1,
    0.
    """
    write_folder(folders[1], {"b": bars(2, 10)})  # 8 rows for 4: Dice 2/3, VOE 1/2
    assert (
        run("-r", folders[0], "-p", folders[1], "-o", tmp_path / "out", "--profile", "ncovsegnet")
        == 0
    )
    mean = summary_of(tmp_path / "out").loc["model", "mean"]
    dice = (1 / 2 + 2 / 3 + 1) / 3
    assert mean["dice"] == pytest.approx(dice)
    assert mean["voe"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert mean["voe_of_mean_dice"] == pytest.approx(1 - dice / (2 - dice))
    assert mean["abs_rvd"] == mean["abs_mean_rvd"] == pytest.approx(1 / 3)
    write_folder(folders[1], {"a": bars(0, 0)})  # -1 and +1 cancel in the signed mean only
    assert (
        run(
            "-r",
            folders[0],
            "-p",
            folders[1],
            "-o",
            tmp_path / "out",
            "--profile",
            "ncovsegnet",
            "--overwrite",
        )
        == 0
    )
    mean = summary_of(tmp_path / "out").loc["model", "mean"]
    assert mean["abs_rvd"] == pytest.approx(2 / 3) and mean["abs_mean_rvd"] == 0


def test_slice_profiles_differ_in_empty_slices(tmp_path: Path) -> None:
    """Four slices of 6 pixels per row: half overlap, perfect, false alarm of one row, nothing."""
    reference, prediction = np.zeros((4, 10, 6), np.uint8), np.zeros((4, 10, 6), np.uint8)
    reference[0, 0:4] = prediction[0, 2:6] = reference[1, 0:2] = prediction[1, 0:2] = prediction[
        2, 0:1
    ] = 1
    folders = (
        write_folder(tmp_path / "r", {"a": reference}),
        write_folder(tmp_path / "p", {"a": prediction}),
    )
    for profile in ("slice", "smooth1"):
        assert (
            run("-r", folders[0], "-p", folders[1], "-o", tmp_path / profile, "--profile", profile)
            == 0
        )
    table = summary_of(tmp_path / "slice").loc["p"]
    assert table.loc["dice", ["cases", "units", "mean"]].tolist() == [1, 2, (0.5 + 1) / 2]
    assert table.loc["pooled_dice", "mean"] == pytest.approx(
        2 * (12 + 12) / (24 + 12 + 24 + 12 + 6)
    )
    smooth = summary_of(tmp_path / "smooth1").loc[("p", "dice_smooth1")]
    assert smooth["units"] == 4
    assert smooth["mean"] == pytest.approx(((2 * 12 + 1) / (48 + 1) + 1 + 1 / (6 + 1) + 1) / 4)


def test_calibration_of_nnunets_probabilities(tmp_path: Path) -> None:
    """Every voxel of the bars has probability 0.8, and three of their four rows hold the label."""
    reference = write_folder(tmp_path / "r", {"a": bars(0, 3), "b": bars(2, 5)})
    prediction = write_folder(tmp_path / "p", {"a": bars(0, 4), "b": bars(2, 6)})
    for name, rows in {"a": (0, 4), "b": (2, 6)}.items():
        lesion = 0.8 * bars(*rows)
        probabilities = np.stack([1 - lesion, lesion]).astype(np.float32)
        np.savez(prediction / f"{name}.npz", probabilities=probabilities)
    labels = {"labels": {"background": 0, "infection": 1}}
    (prediction / "dataset.json").write_text(json.dumps(labels))
    out = tmp_path / "out"
    arguments = ("-r", reference, "-p", prediction, "--profile", "calibration", "--figures")
    assert run(*arguments, "-o", out) == 0

    mean = summary_of(out)["mean"]["p"]
    assert mean["possible_ece"] == pytest.approx(0.05, abs=1e-6)
    assert mean["ece"] == pytest.approx(0.05 * 0.4, abs=1e-6)  # 4 of 10 rows, the rest is certain
    assert mean["brier"] == pytest.approx(0.4 * (0.75 * 0.2**2 + 0.25 * 0.8**2), abs=1e-6)

    table = pd.read_csv(out / "reliability.csv")
    filled = table[table["voxels"] > 0]
    assert filled["voxels"].tolist() == [2 * 144, 2 * 96]
    assert filled["frequency"].tolist() == [0, 0.75]
    assert filled["mean_probability"].tolist() == pytest.approx([0, 0.8])
    assert (out / "figures" / "reliability.png").stat().st_size > 1000


def test_infnet_on_soft_maps_of_nnunet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The soft map is the reference at contrast 0.3: stretched, it is the perfect binary mask."""
    reference = write_folder(tmp_path / "r", {"a": bars(0, 4), "b": bars(2, 6)})
    prediction = write_folder(tmp_path / "p", {"a": bars(0, 0), "b": bars(0, 0)})
    hard = write_folder(tmp_path / "hard", {"a": bars(0, 0), "b": bars(0, 0)})
    for name, rows in {"a": (0, 4), "b": (2, 6)}.items():
        lesion = 0.1 + 0.3 * bars(*rows)
        np.savez(
            prediction / f"{name}.npz",
            probabilities=np.stack([1 - lesion, lesion]).astype(np.float16),
        )
    arguments = (
        "-r",
        reference,
        "-p",
        prediction,
        hard,
        "--profile",
        "infnet",
        "-o",
        tmp_path / "out",
    )
    assert run(*arguments) == 1
    assert (
        "p: soft maps, but no dataset.json says which channel is which" in capsys.readouterr().err
    )
    (prediction / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "infection": 1}})
    )
    assert run(*arguments) == 0
    assert "hard: no soft maps (.npz)" in capsys.readouterr().out
    mean = summary_of(tmp_path / "out")["mean"]
    assert mean["p", "specificity"] == pytest.approx(255 / 256) and mean[
        "p", "mae"
    ] == pytest.approx(0)
    assert [mean["hard", name] for name in ("dice", "sensitivity", "specificity")] == [0, 0, 0]
    (prediction / "b.npz").unlink()
    assert run(*arguments, "--overwrite") == 1
    assert "1 of 2 cases have a soft map" in capsys.readouterr().err


def test_surface_metrics_use_the_spacing(tmp_path: Path) -> None:
    """One slice of 5 mm further: hd95 is 5 mm, and a tolerance of 5.1 mm forgives it."""
    masks = [np.zeros((8, 10, 6), np.uint8) for _ in range(2)]
    masks[0][2:4], masks[1][3:5] = 1, 1
    folders = [
        write_folder(tmp_path / name, {"a": mask}) for name, mask in zip("rp", masks, strict=True)
    ]
    metrics = ("--metrics", "dice", "surface_dice", "hd95", "assd")
    assert run("-r", folders[0], "-p", folders[1], *metrics, "-o", tmp_path / "out") == 0
    mean = summary_of(tmp_path / "out").loc["p", "mean"]
    assert mean["dice"] == 0.5 and mean["hd95"] == pytest.approx(5) and mean["surface_dice"] < 1
    assert (
        run(
            "-r",
            folders[0],
            "-p",
            folders[1],
            *metrics,
            "--tolerance",
            "5.1",
            "-o",
            tmp_path / "wide",
        )
        == 0
    )
    assert summary_of(tmp_path / "wide").loc[("p", "surface_dice"), "mean"] == 1
    assert "surface Dice at 5.1 mm" in (tmp_path / "wide" / "summary.md").read_text(
        encoding="utf-8"
    )


def test_tests_between_methods_and_the_papers_layout(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    better = write_folder(tmp_path / "better_one", REFERENCE)
    assert (
        run("-r", folders[0], "-p", folders[1], better, "-o", tmp_path / "out", "--empty", "one")
        == 0
    )
    tests = pd.read_csv(tmp_path / "out" / "tests.csv").set_index("metric")
    assert tests.loc["dice", ["first", "second", "n"]].tolist() == ["model", "better_one", 3]
    assert tests.loc["dice", "mean_difference"] == pytest.approx(-0.5 / 3)
    assert (
        tests.loc["dice", "t_p"]
        == tests.loc["dice", "t_p_holm"]
        == pytest.approx(1 - 1 / np.sqrt(3))
    )  # t = -1, 2 df
    latex = (tmp_path / "out" / "table.tex").read_text(encoding="utf-8").splitlines()
    rows = [line for line in latex if line.startswith(("model", "better"))]
    assert (
        rows[1].startswith(r"better\_one & \textbf{1.000} $\pm$ 0.000 & ")
        and "textbf" not in rows[0]
    )
    wide = pd.read_csv(tmp_path / "out" / "table.csv").set_index("method")
    assert wide.loc["better_one", "1 dice mean"] == 1 and wide.loc[
        "model", "1 dice sd"
    ] == pytest.approx(0.5 / 3**0.5)
    assert "**1.000**" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")


def test_figures_on_volumes_with_images(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images = write_folder(
        tmp_path / "images", {f"{k}_0000": v.astype(np.float32) for k, v in REFERENCE.items()}
    )
    out = tmp_path / "out"
    assert run("-r", folders[0], "-p", folders[1], "-o", out, "--figures", "-i", images) == 0
    names = sorted(path.name for path in (out / "figures").iterdir())
    assert names == [
        "bland_altman.png",
        "box_plots.png",
        "dice_over_volume.png",
        "worst_cases_1_model.png",
    ]
    assert (
        run("-r", folders[0], "-p", folders[1], "-o", out, "--figures") == 1
    )  # earlier results are kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--figures",), "--figures: needs a folder"),
        (("--profile", "slice", "--empty", "one"), "profile slice has its own rule"),
        (
            ("--profile", "slice", "--metrics", "hd95"),
            "--metrics hd95: profile slice can measure dice",
        ),
        (("--tolerance", "3"), "--tolerance: for surface_dice only"),
        (("-i", "{r}", "--figures", "-o", "{r}/out"), "labels: no image a_0000.*"),
        (("-i", "{r}"), "-i: images are drawn behind the worst cases; add --figures"),
        (("--metrics", "dice", "dice"), "--metrics: dice is given twice"),
        (("--profile", "plain", "plain"), "--profile: plain is given twice"),
        (
            ("--profile", "plain", "slice", "--metrics", "hd95"),
            "profile slice can measure none of them, but dice",
        ),
        (("--patients", "{r}/p.csv"), "--patients: for a profile on patients only"),
        (
            ("--profile", "ncovsegnet", "--patients", "{r}/p.csv"),
            "p.csv: is not a table with columns case,patient",
        ),
    ],
)
def test_options_that_do_not_fit(
    arguments: tuple[str, ...],
    message: str,
    folders: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        run(
            "-r",
            folders[0],
            "-p",
            folders[1],
            *(a.replace("{r}", str(folders[0])) for a in arguments),
        )
        == 1
    )
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def figures_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.png"))


def test_overwrite_leaves_nothing_of_an_earlier_run(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("-r", folders[0], "-p", folders[1], "-o", out, "--overwrite")
    second = write_folder(tmp_path / "second", REFERENCE)
    assert (
        run("-r", folders[0], "-p", folders[1], second, "-o", out, "--figures", "--metrics", "voe")
        == 0
    )
    assert "worst_cases_2_second.png" in figures_in(out) and (out / "tests.csv").exists()
    assert run(*arguments, "--figures") == 0
    assert figures_in(out) == [
        "bland_altman.png",
        "box_plots.png",
        "dice_over_volume.png",
        "worst_cases_1_model.png",
    ]
    assert run(*arguments, "--profile", "plain", "slice") == 0
    assert sorted(path.name for path in out.iterdir()) == ["plain", "slice"] and not figures_in(out)
    assert run(*arguments) == 0
    assert {path.name for path in out.iterdir()} == OF_ONE_METHOD


def test_several_profiles_give_the_tables_of_each_alone(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = ("-r", folders[0], "-p", folders[1], "-l", "lesion=1")
    metrics = ("--metrics", "dice", "hd95", "s_measure")
    both = tmp_path / "both"
    assert (
        run(*arguments, "-o", both, "--profile", "plain", "infnet", *metrics, "--empty", "one") == 0
    )
    assert (
        run(*arguments, "-o", tmp_path / "plain", "--metrics", "dice", "hd95", "--empty", "one")
        == 0
    )
    assert (
        run(
            *arguments,
            "-o",
            tmp_path / "infnet",
            "--profile",
            "infnet",
            "--metrics",
            "dice",
            "s_measure",
        )
        == 0
    )
    for profile in ("plain", "infnet"):
        for name in OF_ONE_METHOD:
            assert (both / profile / name).read_bytes() == (tmp_path / profile / name).read_bytes()
    assert run(*arguments, "-o", both) == 1  # earlier results are kept


def test_slices_are_pooled_to_patients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two slices of patient p (one hit of 12 pixels, one missed of 24), one of patient q
    (perfect).
    """
    masks = {name: np.zeros((10, 6), np.uint8) for name in "abc"}
    masks["a"][:2] = masks["b"][:4] = masks["c"][:3] = 1
    reference = write_folder(tmp_path / "data" / "labelsTs", masks, ".png")
    prediction = write_folder(tmp_path / "m", masks | {"b": masks["b"] * 0}, ".png")
    arguments = ("-r", reference, "-p", prediction, "--profile", "ncovsegnet")
    assert run(*arguments, "-o", tmp_path / "unknown") == 0
    for name in ("table.tex", "table.csv", "summary.csv", "cases.csv", "summary.md"):
        assert "3 single slices count as patients" in (tmp_path / "unknown" / name).read_text(
            encoding="utf-8"
        )
    table = "case,folder,patient\na,imagesTs,p\nb,imagesTs,p\nc,imagesTs,q\n"
    (tmp_path / "data" / "conversion.csv").write_text(table)
    (tmp_path / "mine.csv").write_text(table)
    assert run(*arguments, "-o", tmp_path / "beside", "--figures") == 0
    (tmp_path / "data" / "conversion.csv").write_text("case,volume\na,p\nb,p\nc,q\n")
    assert run(*arguments, "-o", tmp_path / "volumes") == 0
    (tmp_path / "data" / "conversion.csv").unlink()
    assert run(*arguments, "-o", tmp_path / "given", "--patients", tmp_path / "mine.csv") == 0
    for out in ("beside", "volumes", "given"):
        dice = summary_of(tmp_path / out).loc[("m", "dice")]
        assert dice[["cases", "units", "mean"]].tolist() == [
            3,
            2,
            pytest.approx((2 * 12 / (24 + 24) + 1) / 2),
        ]
        for name in ("table.tex", "table.csv", "summary.md"):
            assert "3 single slices of 2 patients" in (tmp_path / out / name).read_text(
                encoding="utf-8"
            )
    capsys.readouterr()
    assert run(*arguments, "--patients", tmp_path / "mine.csv", "--metrics", "hd95") == 1
    assert "hd95 of a patient need one volume" in capsys.readouterr().err
    for table, message in (
        ("case,patient\na,p\n", "names no patient of b (and of 1 more)"),
        ("case,patient\na,p\na,q\nb,q\nc,q\n", "assigns a to several patients"),
    ):
        (tmp_path / "mine.csv").write_text(table)
        assert run(*arguments, "--patients", tmp_path / "mine.csv") == 1
        assert message in capsys.readouterr().err


def test_a_slice_without_patient_is_no_patient_of_its_name(tmp_path: Path) -> None:
    reference = write_folder(tmp_path / "labelsTs", {name: bars(2, 6) for name in "abc"}, ".png")
    (tmp_path / "conversion.csv").write_text("case,patient\na,b\nb,\nc,b\n")
    assert (
        run("-r", reference, "-p", reference, "--profile", "ncovsegnet", "-o", tmp_path / "out")
        == 0
    )
    assert pd.read_csv(tmp_path / "out" / "cases.csv")["case"].unique().tolist() == ["b", "case b"]


def test_means_of_different_cases_are_not_compared(tmp_path: Path) -> None:
    """Each method predicts nothing in another case, so that both have the same number of
    distances.
    """
    reference = write_folder(tmp_path / "r", {name: bars(2, 6) for name in "abcd"})
    first = write_folder(
        tmp_path / "first", {name: bars(2, 2 if name == "a" else 7) for name in "abcd"}
    )
    second = write_folder(
        tmp_path / "second", {name: bars(2, 2 if name == "b" else 8) for name in "abcd"}
    )
    arguments = (
        "-r",
        reference,
        "-p",
        first,
        second,
        "--metrics",
        "hd95",
        "dice",
        "-o",
        tmp_path / "out",
    )
    assert run(*arguments) == 0
    table = (tmp_path / "out" / "table.tex").read_text(encoding="utf-8")
    assert "($n=3$)" in table and table.count(r"\textbf") == 1  # of Dice


def test_values_of_an_image_are_no_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = np.arange(60, dtype=np.uint8).reshape(10, 6)
    reference = write_folder(tmp_path / "r", {"a": grey}, ".png")
    assert run("-r", reference, "-p", reference) == 1
    assert "hold 59 values, as images do" in capsys.readouterr().err


def test_a_method_that_predicts_nothing_is_not_the_best(tmp_path: Path) -> None:
    reference = write_folder(tmp_path / "r", {name: bars(2, 6) for name in "abcdef"})
    good = write_folder(tmp_path / "good", {name: bars(2, 7) for name in "abcdef"})
    lazy = write_folder(
        tmp_path / "lazy", {name: bars(2, 6 if name == "a" else 2) for name in "abcdef"}
    )
    out = tmp_path / "out"
    assert run("-r", reference, "-p", good, lazy, "--metrics", "hd95", "dice", "-o", out) == 0
    rows = {
        line.split(" ")[0]: line
        for line in (out / "table.tex").read_text(encoding="utf-8").splitlines()
    }
    assert (
        rows["lazy"].startswith("lazy & 0.00 ($n=1$) & 0.167 ")
        and r"& \textbf{0.889}" in rows["good"]
    )
    assert rows["good"].startswith(r"good & 0.70 $\pm$ 0.00 & ")
    wide = pd.read_csv(out / "table.csv").set_index("method")
    assert wide["1 hd95 n"].to_dict() == {"good": 6, "lazy": 1}
    assert "No bold where" in (out / "summary.md").read_text(encoding="utf-8")


def test_tests_compare_the_same_slices(tmp_path: Path) -> None:
    """Method b finds nothing in slice 1, where a is poor: the precision of slice 0 is the same for
    both.
    """
    reference, first, second = np.zeros((2, 10, 6), np.uint8), np.zeros((2, 10, 6), np.uint8), None
    reference[:, 2:6] = first[0, 2:7] = first[1, 5:9] = 1
    second = first.copy()
    second[1] = 0
    folders = [
        write_folder(tmp_path / name, dict.fromkeys("xyz", array))
        for name, array in (("r", reference), ("a", first), ("b", second))
    ]
    assert (
        run("-r", folders[0], "-p", *folders[1:], "--profile", "slice", "-o", tmp_path / "out") == 0
    )
    tests = pd.read_csv(tmp_path / "out" / "tests.csv").set_index("metric")
    assert tests.loc["precision", ["n", "mean_difference"]].tolist() == [3, 0]


def test_every_table_counts_the_cases_with_a_lesion(tmp_path: Path) -> None:
    masks = {name: np.zeros((2, 10, 6), np.uint8) for name in "abcd"}
    masks["a"][:, 2:6] = masks["b"][:, 3:7] = 1
    reference = write_folder(tmp_path / "r", masks)
    arguments = (
        "-r",
        reference,
        "-p",
        reference,
        "--profile",
        "slice",
        "-l",
        "lesion=1",
        "-o",
        tmp_path / "out",
    )
    assert run(*arguments) == 0
    assert pd.read_csv(tmp_path / "out" / "table.csv")["lesion cases"].tolist() == [2]
    assert "2 cases" in (tmp_path / "out" / "table.tex").read_text(encoding="utf-8")


def test_undefined_volume_differences_do_not_count(tmp_path: Path) -> None:
    reference = write_folder(tmp_path / "r", {"a": bars(0, 0), "b": bars(0, 4)})
    prediction = write_folder(tmp_path / "p", {"a": bars(0, 1), "b": bars(0, 5)})
    assert (
        run("-r", reference, "-p", prediction, "--profile", "ncovsegnet", "-o", tmp_path / "out")
        == 0
    )
    rvd = summary_of(tmp_path / "out").loc[("p", "abs_mean_rvd")]
    assert rvd[["n", "undefined", "mean"]].tolist() == [1, 1, 0.25]


def test_infnet_on_disjoint_regions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = bars(0, 2) + bars(2, 4, 2) + bars(6, 8, 3)
    reference, prediction = (write_folder(tmp_path / name, {"a": labels}) for name in "rp")
    declared = {"background": 0, "infection": [1, 2], "effusion": 3}
    (prediction / "dataset.json").write_text(json.dumps({"labels": declared}), encoding="utf-8")
    maps = 0.1 + 0.8 * np.stack([np.isin(labels, (1, 2)), labels == 3])
    np.savez(prediction / "a.npz", probabilities=maps)
    assert (
        run("-r", reference, "-p", prediction, "--profile", "infnet", "-o", tmp_path / "out") == 0
    )
    assert "the soft map of foreground is the maximum over" in capsys.readouterr().out
    mean = pd.read_csv(tmp_path / "out" / "summary.csv").set_index(["label", "metric"])["mean"]
    assert [
        mean[label, "mae"] for label in ("infection", "effusion", "foreground")
    ] == pytest.approx([0, 0, 0])


def test_an_image_of_another_shape_is_found_before_anything_is_written(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_folder(
        tmp_path / "images", {f"{k}_0000": v.astype(np.float32) for k, v in REFERENCE.items()}
    )
    write_folder(images, {"b_0000": bars(0, 1)[:3].astype(np.float32)})
    assert (
        run("-r", folders[0], "-p", folders[1], "-o", tmp_path / "out", "--figures", "-i", images)
        == 1
    )
    assert "b_0000.nii.gz: shape (3, 10, 6), reference (4, 10, 6)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_awkward_names(folders: tuple[Path, Path], tmp_path: Path) -> None:
    names = (f"[1] w/o $L_{{adv}}={folders[1]}", f"_x $ y={folders[1]}")
    assert run("-r", folders[0], "-p", *names, "-o", tmp_path / "out", "--figures") == 0
    latex = (tmp_path / "out" / "table.tex").read_text(encoding="utf-8")
    assert "\n{}[1] w/o \\$L\\_\\{adv\\} & " in latex
    markdown = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert r"| \[1\] w/o $L\_{adv} " in markdown and r"| \_x $ y " in markdown


def test_a_2d_nifti_file_has_no_volume(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / name, {"a": bars(0, 4)[0]}) for name in "rp"]
    assert run("-r", folders[0], "-p", folders[1], "-o", tmp_path / "out") == 0
    assert pd.read_csv(tmp_path / "out" / "cases.csv")["voxel_ml"].isna().all()


KILLED = """
import os, sys
from pathlib import Path
from nnunet_ext.commands.evaluate import evaluate_entry
left, replace = int(sys.argv[1]), Path.replace
def counted(path, target):
    global left
    if left == 0:
        os._exit(137)  # as SIGKILL ends it: nothing is cleaned up
    left -= 1
    return replace(path, target)
Path.replace = counted
evaluate_entry(sys.argv[2:])
"""


def test_a_set_that_is_not_whole_has_no_summary(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Kills between any two files of a replacement; running again finishes it."""
    out, earlier = tmp_path / "out", tmp_path / "earlier"
    assert run("-r", folders[0], "-p", folders[1], "-o", earlier) == 0
    arguments = [
        "-r",
        folders[0],
        "-p",
        f"again={folders[1]}",
        "-o",
        out,
        "--overwrite",
        "--metrics",
        "dice",
    ]
    for left in (0, 2, 4):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(earlier, out)
        command = [sys.executable, "-c", KILLED, str(left), *map(str, arguments)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 137
        assert not (out / "summary.md").exists()
    assert run(*arguments) == 0
    assert (out / "summary.md").is_file() and not list(out.glob(".*"))


def test_no_link_is_followed_where_figures_are_drawn(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    foreign, out = tmp_path / "foreign", tmp_path / "out"
    (foreign / "kept").mkdir(parents=True)
    out.mkdir()
    for name in (".figures.part", ".part-x-figures"):
        (out / name).symlink_to(foreign)
    assert run("-r", folders[0], "-p", folders[1], "-o", out, "--figures") == 0
    assert [path.name for path in foreign.iterdir()] == ["kept"] and (
        out / "figures/box_plots.png"
    ).is_file()
