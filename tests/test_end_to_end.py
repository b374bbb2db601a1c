"""Every trainer through stock nnU-Net commands: plan, train, kill, resume, predict, zip out and in,
predict again.
"""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_ext.own_trainers import trainers
from nnunet_ext.training.engine.label_free import TERMS
from tests.workplace import (
    DATASET,
    FEW_STEPS,
    Workplace,
    error_line,
    kill_when,
    prepared_slices,
    prepared_volumes,
    pretrain,
)

pytestmark = pytest.mark.e2e

RUNS = [(name, "2d") for name in trainers()]
THREE_D = ("RelationDrivenTrainer", "ImageSpaceDATrainer", "VQSemiSupervisedTrainer")
RUNS += [(name, "3d_fullres") for name in THREE_D]


@pytest.fixture(scope="session")
def slices(shared_folder: Path) -> Workplace:
    """2d: see :func:`tests.workplace.prepared_slices`; only its data are used, a test has results
    of its own.
    """
    return prepared_slices(shared_folder / "slices", FEW_STEPS)


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """3d_fullres: see :func:`tests.workplace.prepared_volumes`."""
    return prepared_volumes(tmp_path_factory.mktemp("volumes"), FEW_STEPS)


@pytest.mark.parametrize(("trainer", "configuration"), RUNS)
def test_train_kill_resume_predict_export_import_predict(
    trainer: str, configuration: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = request.getfixturevalue("slices" if configuration == "2d" else "volumes")
    whole_run(trainer, configuration, Workplace(tmp_path, data))


def test_in_fresh_interpreters_with_workers(slices: Workplace, tmp_path: Path) -> None:
    """As a user runs it: nothing is imported before, nnU-Net's loaders and pools have processes of
    their own.
    """
    whole_run("PlainTrainer", "2d", Workplace(tmp_path, slices, forked=False))


def whole_run(trainer: str, configuration: str, place: Workplace) -> None:
    """From the plans to predictions by an imported model; the killed training ends as one that was
    not.
    """
    train = ("nnUNetv2_train", 120, configuration, 0, "-tr", trainer, "-device", "cpu")
    which = ("-d", 120, "-c", configuration, "-f", 0, "-tr", trainer)
    fold = place.fold(DATASET, trainer, configuration)
    begin_and_kill(place, train, fold)

    resumed = place.run(*train, "--c")
    assert "Epoch 2" in resumed and "Epoch 0" not in resumed
    final = finished(fold)
    assert_complete(final, trainer, configuration, fold)

    place.predict(place.root / "first", *which)
    place.run("nnUNetv2_export_model_to_zip", "-o", place.root / "model.zip", *which)
    elsewhere = Workplace(place.root / "elsewhere", place, place.forked)
    elsewhere.run("nnUNetv2_install_pretrained_model_from_zip", place.root / "model.zip")
    elsewhere.predict(place.root / "second", *which)
    assert_same_predictions(place.root / "first", place.root / "second")

    fold.rename(place.root / "resumed")
    place.run(*train)
    assert_same_training(finished(fold), final)


def begin_and_kill(place: Workplace, train: tuple, fold: Path) -> None:
    """Start the training and kill it after its first epoch; where it asks for a first stage, that
    comes before.
    """
    begun = (fold / "checkpoint_latest.pth").is_file
    training = place.start(*train)
    if not kill_when(training, begun):
        train_first_stage(place, error_line(training))
        assert kill_when(place.start(*train), begun)
    assert begun() and not (fold / "checkpoint_final.pth").exists()


def train_first_stage(place: Workplace, refusal: str) -> None:
    """Follow the advice of a trainer that refuses to start without its first stage."""
    advice = re.search("run (nnUNetv2_train .+?) first", refusal)
    assert advice, refusal
    place.run(*shlex.split(advice[1]), "-device", "cpu")


def finished(fold: Path) -> dict[str, Any]:
    return torch.load(fold / "checkpoint_final.pth", weights_only=False)


def assert_complete(final: dict[str, Any], trainer: str, configuration: str, fold: Path) -> None:
    assert final["current_epoch"] == 3
    assert (fold / "validation" / "summary.json").is_file()
    cls = trainers()[trainer]
    scores = TERMS if cls.scores_without_labels else ()
    for term in ("train_losses", *cls.loss_terms, *scores):
        assert len(final["logging"][term]) == 3 and np.isfinite(final["logging"][term]).all(), term


def assert_same_training(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("train_losses", "val_losses", "mean_fg_dice"):
        assert one["logging"][name] == other["logging"][name]
    for name, value in one["network_weights"].items():
        assert torch.equal(value, other["network_weights"][name]), name


def assert_same_predictions(one: Path, other: Path) -> None:
    first, second = predictions(one), predictions(other)
    assert first and set(first) == set(second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def predictions(folder: Path) -> dict[str, np.ndarray]:
    files = [file for file in folder.iterdir() if file.name.endswith((".png", ".nii.gz"))]
    return {file.name: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files}


def test_every_output_of_a_network_without_decoder_is_trained(
    slices: Workplace, tmp_path: Path
) -> None:
    """By a trainer in a folder of the user's own; nnU-Net's start hooks have been through the
    network.
    """
    place = Workplace(tmp_path, slices)
    folder = Path(__file__).with_name("extra_trainers")
    place.run(
        "nnUNetv2_train",
        120,
        "2d",
        0,
        "-tr",
        "MultiOutputTrainer",
        "-device",
        "cpu",
        nnUNet_extTrainer=str(folder),
    )
    fold = place.fold(DATASET, "MultiOutputTrainer", "2d")
    last = json.loads((fold / "gradients_2.json").read_text())
    assert len(last) == 10 and all(last.values()), last


def test_two_processes_under_torchrun(slices: Workplace, tmp_path: Path) -> None:
    """Labelled and further streams, training and validation are shared; the label-free checkpoint
    predicts.
    """
    place = Workplace(tmp_path, slices)
    pretrain(place, "2d")
    train = Path(sys.executable).parent / "nnUNetv2_ext_train"  # torchrun would look for it in PATH
    command = (train, 120, "2d", "all", "-tr", "RelationDrivenTrainer", "-device", "cpu")
    launch = ("torchrun", "--standalone", "--nproc_per_node", 2, "--no-python", *command)

    output = place.run(*launch)
    assert (
        "]), rank 0" in output and "]), rank 1" in output and "Mean Validation Dice" in output
    )  # cases predicted
    which = (
        "-d",
        120,
        "-c",
        "2d",
        "-f",
        "all",
        "-tr",
        "RelationDrivenTrainer",
        "-chk",
        "checkpoint_labelfree.pth",
    )
    place.predict(tmp_path / "predicted", *which)
    assert predictions(tmp_path / "predicted")

    refused = place.start(*launch, "-num_gpus", 2)
    assert refused.wait() != 0 and "error: torchrun starts the processes" in refused.output


def test_first_stage_ensembles_and_the_best_configuration(
    slices: Workplace, tmp_path: Path
) -> None:
    """What GeneralPretrainTrainer learnt is where RelationDrivenTrainer starts; nnU-Net ensembles
    it with others.
    """
    place = Workplace(tmp_path, slices)
    first_stage = pretrain(place, "2d")
    both = ("PlainTrainer", "RelationDrivenTrainer")
    trained = [
        place.run("nnUNetv2_train", 120, "2d", 3, "-tr", name, "-device", "cpu", "--npz")
        for name in both
    ]
    assert f"These parts start from {first_stage}: decoder, encoder, encoder_general" in trained[1]
    fold = place.fold(DATASET, "RelationDrivenTrainer", "2d", "3")
    for name in (
        "training_terms.csv",
        "training_terms.png",
        "relation_matrices.npz",
        "relation_matrices.png",
    ):
        assert (fold / name).stat().st_size > 0

    output = place.run(
        "nnUNetv2_find_best_configuration", 120, "-tr", *both, "-c", "2d", "-f", 3, "-np", 1
    )
    assert (
        "ensemble___PlainTrainer__nnUNetPlans__2d___RelationDrivenTrainer__nnUNetPlans__2d"
        in output
    )
