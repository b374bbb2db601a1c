"""Measure how well label-free scores rank the checkpoints of a training.

The measure is Spearman's correlation with target Dice over epochs.

Run from the repository's root: ``python -m benchmarks.label_free_ranking phantom-da -o FOLDER
[--seeds 1] [--rows ...] [--every 2]``.

The rows of a suite that adapt to unlabelled images, and its lower row with the same images to be
scored on, are trained as the suite says, but keep a checkpoint every few epochs. Each of them
predicts the test set; nothing of the test set enters the training. Finished trainings and predicted
checkpoints are skipped when the same command runs again.
"""

import argparse
import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from tqdm import tqdm

from nnunet_ext.benchmark.progress import Progress
from nnunet_ext.benchmark.run import Place, Run
from nnunet_ext.benchmark.runner import Runner, prepare
from nnunet_ext.benchmark.suite import MadeData, Suite, load_suite
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.pseudo_labels.prediction import TrainedModel
from nnunet_ext.training.engine.label_free import TERMS
from nnunet_ext.training.streams.location import UNLABELLED_ROLES
from nnunet_ext.training.streams.raw_cases import images_by_case

KEPT = "checkpoint_epoch_*.pth"


def scored_suite(suite: Suite, every: int) -> Suite:
    """Return the suite's rows with label-free scores, whose trainings keep checkpoints.

    Nothing is tested at their end.
    """
    unlabelled = [row.streams for row in suite.rows if set(row.streams) & set(UNLABELLED_ROLES)]
    rows = []
    for row in suite.rows:
        streams = row.streams or (unlabelled[0] if row.name == suite.lower else {})
        if streams and not isinstance(row.trains_on, MadeData):
            rows.append(replace(row, streams=streams, tested=False))
    budget = {**suite.budget, "save_every": every, "keep_checkpoints": True}
    return replace(
        suite, name=f"{suite.name}-ranking", rows=tuple(rows), budget=budget, lower="", upper=""
    )


def epochs_table(run: Run) -> pd.DataFrame:
    """Mean target Dice and label-free scores of every kept checkpoint, by epoch counted from 1."""
    path = run.folder / "epochs.csv"
    if path.is_file():
        return pd.read_csv(path, index_col="epoch")
    files = sorted(run.training.folder.glob(KEPT))
    dice = {
        int(file.stem.rpartition("_")[2]): target_dice(run, file.name)
        for file in tqdm(files, desc=run.name)
    }
    terms = pd.read_csv(run.training.folder / "training_terms.csv", index_col="epoch")[list(TERMS)]
    terms.index += 1
    table = terms.loc[list(dice)].assign(dice=pd.Series(dice))
    with whole_file(path) as unfinished:
        table.to_csv(unfinished)
    return table


def target_dice(run: Run, checkpoint: str) -> float:
    """Return the mean Dice over classes and test cases.

    Cases without the class in reference and prediction are left out.
    """
    model = run.training.model
    trained = TrainedModel(
        model, run.place.results, (run.suite.fold,), checkpoint, run.place.device
    )
    test = run.place.raw / run.suite.test_set
    ending = trained.dataset_json["file_ending"]
    images = images_by_case(test / "imagesTs", ending, "test", "choose another -o")
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = trained.load()
        predicted = predictor.predict_from_files_sequential(list(images.values()), None)
    reader = predictor.plans_manager.image_reader_writer_class()
    foreground = [value for value in trained.classes.values() if value]
    scores = []
    for case, labels in zip(images, predicted, strict=True):
        reference = reader.read_seg(str(test / "labelsTs" / f"{case}{ending}"))[0][0]
        scores += [_dice(labels == value, reference == value) for value in foreground]
    return float(np.nanmean(scores))


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else float("nan")


def ranking(tables: Sequence[tuple[Run, pd.DataFrame]]) -> pd.DataFrame:
    """Return one line per run: correlations of each score with target Dice.

    And the Dice of the checkpoints that they choose.
    """
    lines = []
    for run, table in tables:
        line: dict[str, Any] = {"row": run.row.name, "seed": run.seed, "checkpoints": len(table)}
        line |= {term: spearmanr(table[term], table["dice"]).statistic for term in TERMS}
        chosen = table["labelfree_score"].idxmax()
        line |= {"dice_last": table["dice"].iloc[-1], "dice_chosen": table["dice"].loc[chosen]}
        lines.append(line | {"dice_best": table["dice"].max()})
    return pd.DataFrame(lines)


def main() -> None:
    """Train what is missing, predict every kept checkpoint, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite")
    parser.add_argument("-o", dest="output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--every", type=int, default=2, help="epochs between kept checkpoints")
    parser.add_argument("-device", default="cpu")
    arguments = parser.parse_args()

    suite = scored_suite(load_suite(arguments.suite), arguments.every)
    place = Place(arguments.output.resolve(), arguments.device)
    rows = [suite.row(name) for name in arguments.rows] if arguments.rows else suite.rows
    runs: list[Run] = []
    for seed in range(arguments.seeds):
        runs += [Run(suite, row, seed, place) for row in rows]
    _train(suite, place, runs)

    tables = [(run, epochs_table(run)) for run in runs if run.finished]
    table = ranking(tables)
    table.to_csv(place.root / "ranking.csv", index=False, float_format="%.4f")
    numbers = [*TERMS, "dice_last", "dice_chosen", "dice_best"]
    print(table.to_string(index=False, float_format="%.3f"))
    print("\nmean over runs, and least and largest")
    print(table[numbers].agg(["mean", "min", "max"]).to_string(float_format="%.3f"))


def _train(suite: Suite, place: Place, runs: Sequence[Run]) -> None:
    prepare(suite, place)
    with Progress(runs) as progress:
        Runner(progress).run_all([run for run in runs if not run.finished])
    for run in runs:
        if not run.finished:
            print(f"{run.name}: {run.reason}")


if __name__ == "__main__":
    main()
