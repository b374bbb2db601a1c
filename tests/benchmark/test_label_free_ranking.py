"""The benchmark of label-free scores, on tables written by hand."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.label_free_ranking import ranking, scored_suite
from nnunet_ext.benchmark.run import Place, Run
from nnunet_ext.benchmark.suite import load_suite
from nnunet_ext.training.engine.label_free import TERMS


def test_only_rows_with_unlabelled_images_are_scored_and_keep_checkpoints() -> None:
    suite = load_suite("phantom-da")
    scored = scored_suite(suite, 2)
    names = [row.name for row in scored.rows]
    assert {"source-only", "adv-ent", "image-space"} <= set(names) and not {
        "target-only",
        "self-training",
    } & set(names)
    assert scored.row("source-only").streams == suite.row("adv-ent").streams
    assert scored.budget == {**suite.budget, "save_every": 2, "keep_checkpoints": True}
    assert not any(row.tested for row in scored.rows)


def test_scores_that_order_checkpoints_as_dice_does(tmp_path: Path) -> None:
    suite = scored_suite(load_suite("phantom-da"), 2)
    run = Run(suite, suite.rows[0], 3, Place(tmp_path, "cpu"))
    dice = [0.2, 0.5, 0.4, 0.3]
    table = pd.DataFrame({"dice": dice}, index=[2, 4, 6, 8])
    for term, sign in zip(TERMS, (-1, 1, 1, 1), strict=True):
        table[term] = [sign * value for value in dice]
    table["labelfree_source_dice"] = [
        1.0,
        2.0,
        3.0,
        4.0,
    ]  # ranks 1 2 3 4, those of Dice are 1 4 3 2

    (line,) = ranking([(run, table)]).to_dict("records")
    assert (line["row"], line["seed"], line["checkpoints"]) == (run.row.name, 3, 4)
    assert line["labelfree_entropy"] == pytest.approx(-1) and line[
        "labelfree_score"
    ] == pytest.approx(1)
    squares = (1 - 1) ** 2 + (2 - 4) ** 2 + (3 - 3) ** 2 + (4 - 2) ** 2
    assert line["labelfree_source_dice"] == pytest.approx(1 - 6 * squares / (4 * (4**2 - 1)))
    assert (line["dice_last"], line["dice_chosen"], line["dice_best"]) == (0.3, 0.5, 0.5)
