"""From the scores of runs to the numbers of the table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_ext.benchmark.measured import record
from nnunet_ext.benchmark.published import Published, PublishedTable
from nnunet_ext.benchmark.report import write_report
from nnunet_ext.benchmark.results import (
    cases_table,
    comparisons_table,
    costs_table,
    rows_table,
    step_seconds,
)
from nnunet_ext.benchmark.run import Place, Run
from nnunet_ext.benchmark.suite import Row, Suite
from tests.miniature_raw import write_raw

TARGET = "Dataset120_Target"
CASES = [f"case_{number:02d}" for number in range(10)]
DIFFICULTY = np.linspace(-0.1, 0.1, 10)
MEANS = {"lower": 0.4, "half": 0.6, "upper": 0.8}
PUBLISHED = PublishedTable(
    source="Some et al. 2020, table 1",
    measured="Measured on ten cases.",
    differs="The budget is smaller here.",
    label="lesion",
    columns=("Dice", "sensitivity"),
    lines=(Published("U-Net_a", (0.51, 0.7)), Published("theirs", (0.62, 0.8), "half")),
)
SUITE = Suite(
    "mini",
    "a test",
    lambda raw: None,
    tuple(Row(name, TARGET) for name in MEANS),
    TARGET,
    {"num_epochs": 2, "num_iterations_per_epoch": 4},
    lower="lower",
    upper="upper",
    seeds=3,
    published=(PUBLISHED,),
)


def scored(root: Path, row: str, seed: int, dice: np.ndarray) -> Run:
    """A run with a table as nnUNetv2_ext_evaluate writes it."""
    run = Run(SUITE, SUITE.row(row), seed, Place(root, "cpu"))
    run.scores.parent.mkdir(parents=True)
    table = pd.DataFrame({"profile": "plain", "method": row, "case": CASES, "label": "lesion"})
    table = table.assign(tp=1, fp=1, fn=1, tn=1, dice=dice, voxel_ml=np.nan)
    table.to_csv(run.scores, index=False)
    return run


def all_runs(root: Path) -> list[Run]:
    """Of each row three seeds, 0.02 apart."""
    runs = []
    for row, mean in MEANS.items():
        for seed in range(3):
            dice = mean + DIFFICULTY + 0.02 * (seed - 1)
            runs.append(scored(root, row, seed, dice))
    return runs


def test_means_differences_and_gap(tmp_path: Path) -> None:
    cases = cases_table(all_runs(tmp_path))
    rows = rows_table(SUITE, cases, dict.fromkeys(MEANS, 3)).set_index("row")
    assert rows["mean"].to_dict() == pytest.approx(MEANS)
    assert rows["cases"].tolist() == [10, 10, 10]
    assert rows["seeds"].tolist() == [3, 3, 3]
    assert np.isnan(rows.loc["lower", "difference"])
    assert np.isnan(rows.loc["upper", "gap"])

    half = rows.loc["half"]
    assert half["difference"] == pytest.approx(0.2)
    assert half["gap"] == pytest.approx(0.5)
    assert half["ci_low"] < 0.6 < half["ci_high"]
    assert half["gap_low"] < 0.5 < half["gap_high"]
    # seeds and cases are shared, so neither's difficulty is counted
    assert half["difference_low"] == pytest.approx(half["difference_high"]) == pytest.approx(0.2)


def test_several_labels_are_also_averaged(tmp_path: Path) -> None:
    """An undefined label of a case takes no part."""
    run = scored(tmp_path, "half", 0, np.full(10, 0.2))
    lesion = pd.read_csv(run.scores)
    other = lesion.assign(label="other", dice=[np.nan, *[0.6] * 9])
    together = lesion.assign(label="foreground", dice=0.9)
    pd.concat([lesion, other, together]).to_csv(run.scores, index=False)
    cases = cases_table([run]).set_index(["label", "case"])["dice"]
    assert cases["mean over labels", CASES[0]] == pytest.approx(0.2)
    assert cases["mean over labels", CASES[1]] == pytest.approx(0.4)
    assert cases["other"].mean() == pytest.approx(0.6)


def test_no_share_of_a_gap_that_may_be_none(tmp_path: Path) -> None:
    """Upper and lower rows that overlap over seeds leave no gap to close."""
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 3, 10))
    runs = []
    for number, row in enumerate(MEANS):
        for seed in range(3):
            dice = 0.5 + noise[number, seed]
            runs.append(scored(tmp_path, row, seed, dice))

    rows = rows_table(SUITE, cases_table(runs), dict.fromkeys(MEANS, 3))
    assert "gap" not in rows


def test_tests_over_cases_and_over_seeds(tmp_path: Path) -> None:
    """Ten cases that all differ the same way: Wilcoxon's p is 2 / 2^10, after Holm at most three
    times that.
    """
    tests = comparisons_table(cases_table(all_runs(tmp_path)), "dice")
    assert tests["first"].tolist() == ["lower", "lower", "half"]
    assert tests["second"].tolist() == ["half", "upper", "upper"]
    assert tests["difference"].tolist() == pytest.approx([-0.2, -0.4, -0.2])
    assert (tests["cases_p"] <= 2 / 2**10 * 3).all()  # ties make scipy approximate
    assert (tests["cases_p_holm"] >= tests["cases_p"]).all()
    assert (tests["seeds"] == 3).all()


def test_tests_use_common_seeds(tmp_path: Path) -> None:
    runs = [run for run in all_runs(tmp_path) if run.row.name != "half" or run.seed > 0]
    tests = comparisons_table(cases_table(runs), "dice").set_index(["first", "second"])
    assert tests.loc[("lower", "half"), "seeds"] == 2
    assert tests.loc[("lower", "half"), "difference"] == pytest.approx(-0.2)


def test_a_row_without_the_worst_seed_is_not_better(tmp_path: Path) -> None:
    runs = [run for run in all_runs(tmp_path) if run.row.name != "half" or run.seed > 0]
    rows = rows_table(SUITE, cases_table(runs), dict.fromkeys(MEANS, 3)).set_index("row")
    assert rows.loc["half", "mean"] == pytest.approx(0.61)
    assert rows.loc["half", "difference"] == pytest.approx(0.2)
    assert rows.loc["half", "gap"] == pytest.approx(0.5)


def test_seeds_p_is_that_of_a_paired_t_test(tmp_path: Path) -> None:
    """Differences 1, 2 and 3 hundredths: t = 2 sqrt(3), two degrees of freedom.

    The two-sided p is 1 - t / sqrt(t^2 + 2).
    """
    runs = []
    for seed in range(3):
        for row, gain in (("lower", 0.0), ("half", 0.01 * (seed + 1))):
            runs.append(scored(tmp_path, row, seed, 0.5 + DIFFICULTY + gain))
    tests = comparisons_table(cases_table(runs), "dice")
    t = 2 * np.sqrt(3)
    assert tests["seeds_p"].tolist() == pytest.approx([1 - t / np.sqrt(t**2 + 2)])


def test_gap_of_an_error_is_closed_downwards(tmp_path: Path) -> None:
    means = {"lower": 0.5, "half": 0.4, "upper": 0.3}
    runs = []
    for row, mean in means.items():
        run = scored(tmp_path, row, 0, mean + DIFFICULTY)
        table = pd.read_csv(run.scores).rename(columns={"dice": "hd95"})
        table.to_csv(run.scores, index=False)
        runs.append(run)
    rows = rows_table(SUITE, cases_table(runs), dict.fromkeys(MEANS, 1)).set_index("row")
    assert rows.loc["half", "gap"] == pytest.approx(0.5)


def test_undefined_cases_are_left_out(tmp_path: Path) -> None:
    dice = np.full(10, 0.5)
    dice[:4] = np.nan
    rows = rows_table(
        SUITE, cases_table([scored(tmp_path, "lower", 0, dice)]), {"lower": 1}
    ).set_index("row")
    assert rows.loc["lower", "cases"] == 6 and rows.loc["lower", "mean"] == pytest.approx(0.5)


def test_costs(tmp_path: Path) -> None:
    """Epochs of 2, 4 and 12 seconds of four steps, in two logs."""
    run = scored(tmp_path, "lower", 0, np.full(10, 0.5))
    run.training.folder.mkdir(parents=True)
    (run.training.folder / "training_log_1.txt").write_text(
        "now: Epoch time: 2.0 s\nnow: Epoch time: 12.0 s\n"
    )
    (run.training.folder / "training_log_2.txt").write_text("now: Epoch time: 4.0 s\n")
    assert step_seconds(run) == 1.0
    record(run.measured)
    resident = (
        np.loadtxt("/proc/self/statm")[1] * 4096 / 1e9
        if Path("/proc/self/statm").is_file()
        else 0.05
    )
    (row,) = costs_table([run]).to_dict("records")
    assert 0.9 * resident < row["memory_gb"] < 50 and row["gpu_gb"] == 0


def test_peaks_of_a_continued_training_are_the_highest(tmp_path: Path) -> None:
    higher = {"memory_bytes": 10**14, "gpu_bytes": 7}
    (tmp_path / "training.json").write_text(json.dumps(higher))
    record(tmp_path / "training.json")
    assert json.loads((tmp_path / "training.json").read_text()) == higher


def test_report_marks_what_is_missing(tmp_path: Path) -> None:
    runs = all_runs(tmp_path)
    write_raw(tmp_path / "nnUNet_raw", TARGET, 10)
    test_set = tmp_path / "nnUNet_raw" / TARGET
    (test_set / "imagesTr").rename(test_set / "imagesTs")
    (test_set / "labelsTr").rename(test_set / "labelsTs")
    for run in runs:
        run.predictions.symlink_to(test_set / "labelsTs")
    for number in (4, 6, 7, 8):  # half seed 1, upper
        runs[number].scores.unlink()
    runs[4].failure.write_text("nnUNetv2_train ended with code 1: out of memory\n")
    text = write_report(SUITE, Place(tmp_path, "cpu"), runs)
    assert "| half  | PlainTrainer | 10    | **only 2 of 3** | 0.600 [" in text
    assert "- half seed 1: nnUNetv2\\_train ended with code 1: out of memory" in text
    assert "| upper | PlainTrainer |       | **none of 3**" in text
    assert "- upper seed 2: not run yet" in text
    assert "Measured on ten cases. The budget is smaller here." in text
    words = " ".join(text.split())
    assert "| U-Net\\_a | 0.510 | 0.700 | | |" in words
    assert "| theirs | 0.620 | 0.800 | half | 0.600 |" in words

    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {
        "cases.csv",
        "rows.csv",
        "tests.csv",
        "summary.json",
        "summary.md",
        "rows.png",
        "overlays.png",
    }
