"""Self-training and the split of the target through stock commands: train, label, plan, train
again.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.miniature_raw import write_raw
from tests.workplace import Workplace, kill_when

pytestmark = pytest.mark.e2e

SOURCE, TARGET = "Dataset120_Source", "Dataset121_Target"
SETTINGS = ["num_epochs=1", "num_iterations_per_epoch=10", "num_val_iterations_per_epoch=1"]
MODEL = ("-d", 120, "-c", "2d", "-tr", "PlainTrainer", "-i", 121, "-device", "cpu")
ROUND = ("--keep-cases", 1, "--keep-voxels", 0.5, "--background", 0.6, "--keep-empty")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A source with a trained model, and a target without labels."""
    place = Workplace(tmp_path_factory.mktemp("self_training"))
    raw = place.folders["nnUNet_raw"]
    write_raw(raw, SOURCE, 5)
    write_raw(raw, TARGET, 6, labelled=False, seed=1)
    train(place, 120)
    return place


def train(place: Workplace, dataset: int) -> None:
    place.run(
        "nnUNetv2_plan_and_preprocess",
        "-d",
        dataset,
        "-c",
        "2d",
        "-np",
        1,
        "--verify_dataset_integrity",
    )
    place.run("nnUNetv2_ext_configure", "-d", dataset, "--set", *SETTINGS)
    place.run("nnUNetv2_train", dataset, "2d", 0, "-tr", "PlainTrainer", "-device", "cpu")


def labels(dataset: Path) -> dict[str, np.ndarray]:
    return {
        path.name: np.asarray(Image.open(path)) for path in sorted((dataset / "labelsTr").iterdir())
    }


def test_one_round_ends_in_a_model_that_validates_on_true_labels(place: Workplace) -> None:
    output = place.run("nnUNetv2_ext_pseudo_label", *MODEL, "-o", 130, *ROUND)
    assert (
        "6 target cases: 6 kept" in output
        and "5 labelled cases of Dataset120_Source; only these validate" in output
    )
    made = place.folders["nnUNet_raw"] / "Dataset130_PseudoLabels"
    written = labels(made)
    assert len(written) == 11
    pseudo = np.stack([label for name, label in written.items() if name.startswith("pseudo_")])
    assert set(np.unique(pseudo)) <= {0, 1, 2}
    assert (
        len(pd.read_csv(made / "pseudo_labels.csv")) == 6 and (made / "pseudo_labels.png").is_file()
    )

    train(place, 130)
    fold = place.fold("Dataset130_PseudoLabels", "PlainTrainer", "2d")
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    (validated,) = [Path(case["prediction_file"]).name for case in summary["metric_per_case"]]
    assert validated.startswith("case_")


def test_a_killed_round_is_finished_by_the_same_command(place: Workplace) -> None:
    """And has the labels of a round that was not killed."""
    raw = place.folders["nnUNet_raw"]
    command = (
        "nnUNetv2_ext_pseudo_label",
        *MODEL,
        "-o",
        131,
        "--name",
        "Killed",
        "--pseudo-only",
        *ROUND,
    )
    predicted = raw / ".Dataset131_Killed.unfinished" / "predicted"
    kill_when(place.start(*command), lambda: any(predicted.glob("*.npz")))
    if not (raw / "Dataset131_Killed").exists():
        place.run(*command)
    assert not predicted.parent.exists()
    killed, whole = labels(raw / "Dataset131_Killed"), labels(raw / "Dataset130_PseudoLabels")
    assert len(killed) == 6
    for name, label in killed.items():
        np.testing.assert_array_equal(label, whole[name])


def test_the_target_is_split_into_easy_and_hard(place: Workplace) -> None:
    output = place.run(
        "nnUNetv2_ext_split_target", *MODEL, "-o", 140, "--hard", 141, "--easy", 0.67
    )
    assert "4 easy cases with pseudo-labels, 2 hard ones without" in output
    assert len(labels(place.folders["nnUNet_raw"] / "Dataset140_Target-easy")) == 4
