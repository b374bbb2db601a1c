"""Every trainer through stock nnU-Net commands: plan, train, kill, resume, predict, zip out and in, predict again."""

import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_ext.commands.configure import trainers
from nnunet_ext.training.engine.label_free import TERMS
from tests.miniature_raw import write_raw
from tests.workplace import Workplace, kill_when, prepared_slices, pretrain_once

pytestmark = pytest.mark.e2e
SETTINGS = ["num_epochs=4", "num_iterations_per_epoch=3", "num_val_iterations_per_epoch=1", "save_every=1"]
RUNS = [(name, "2d") for name in trainers()]
RUNS.append(("RelationDrivenTrainer", "3d_fullres"))


@pytest.fixture(scope="session")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """2d: see :func:`tests.workplace.prepared_slices`."""
    return prepared_slices(tmp_path_factory.mktemp("slices"), SETTINGS)


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """3d_fullres: tiny volumes, written directly."""
    place = Workplace(tmp_path_factory.mktemp("volumes"))
    raw = place.folders["nnUNet_raw"]
    write_raw(raw, "Dataset120_Infection", 5, (16, 32, 32))
    write_raw(raw, "Dataset006_Lung", 2, (16, 32, 32), seed=1)
    place.run("nnUNetv2_plan_and_preprocess", "-d", 120, "-c", "3d_fullres", "-np", 1)
    place.run("nnUNetv2_ext_configure", "-d", 120, "--general", 6, "-np", 1, "--set", *SETTINGS)
    return place


def epoch_of(checkpoint: Path) -> int:
    """Finished epochs; -1 while there is no readable checkpoint."""
    try:
        return torch.load(checkpoint, weights_only=False)["current_epoch"] if checkpoint.is_file() else -1
    except (RuntimeError, EOFError, OSError):
        return -1


def read(folder: Path) -> dict[str, np.ndarray]:
    files = [file for file in folder.iterdir() if file.name.endswith((".png", ".nii.gz"))]
    return {file.name: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files}


@pytest.mark.parametrize(("trainer", "configuration"), RUNS)
def test_train_kill_resume_predict_export_import_predict(
    trainer: str, configuration: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place: Workplace = request.getfixturevalue("slices" if configuration == "2d" else "volumes")
    fold = place.fold("Dataset120_Infection", trainer, configuration)
    train = ("nnUNetv2_train", 120, configuration, 0, "-tr", trainer, "-device", "cpu")
    if trainer == "RelationDrivenTrainer":
        refused, _ = (process := place.start(*train)).communicate(timeout=300)
        assert process.returncode != 0
        assert refused.splitlines()[-1].startswith("error: ") and "Traceback" not in refused
        assert f"run nnUNetv2_train Dataset120_Infection {configuration} all -tr GeneralPretrainTrainer" in refused
        pretrain_once(place, configuration)

    kill_when(place.start(*train), lambda: epoch_of(fold / "checkpoint_latest.pth") >= 1)
    assert not (fold / "checkpoint_final.pth").exists()
    resumed = place.run(*train, "--c")
    assert "Epoch 3" in resumed and "Epoch 0" not in resumed
    final = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert final["current_epoch"] == 4
    assert (fold / "validation" / "summary.json").is_file()
    for term in ("train_losses", *trainers()[trainer].loss_terms, *(TERMS if configuration == "2d" else ())):
        assert np.isfinite(final["logging"][term]).all() and len(final["logging"][term]) == 4

    raw = place.folders["nnUNet_raw"] / "Dataset120_Infection"
    images = raw / ("imagesTs" if (raw / "imagesTs").is_dir() else "imagesTr")
    identity = ("-d", 120, "-c", configuration, "-f", 0, "-tr", trainer)
    predict = ("-i", images, "-device", "cpu", "-npp", 1, "-nps", 1, "--disable_tta", *identity)
    place.run("nnUNetv2_predict", "-o", tmp_path / "first", *predict)
    place.run("nnUNetv2_export_model_to_zip", "-o", tmp_path / "model.zip", *identity)
    elsewhere = Workplace(tmp_path / "elsewhere")
    elsewhere.run("nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip")
    elsewhere.run("nnUNetv2_predict", "-o", tmp_path / "second", *predict)
    first, second = read(tmp_path / "first"), read(tmp_path / "second")
    assert first and set(first) == set(second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])

    fold.rename(tmp_path / "resumed")  # and once more without the kill
    place.run(*train)
    uninterrupted = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    for name in ("train_losses", "val_losses", "mean_fg_dice"):
        assert uninterrupted["logging"][name] == final["logging"][name]
    for name, value in uninterrupted["network_weights"].items():
        assert torch.equal(value, final["network_weights"][name]), name


def test_two_processes_under_torchrun(slices: Workplace, tmp_path: Path) -> None:
    """Labelled and further streams, training and validation are shared; the label-free checkpoint predicts."""
    pretrain_once(slices, "2d")
    train = Path(sys.executable).parent / "nnUNetv2_ext_train"  # torchrun would look for it in PATH
    command = (train, 120, "2d", "all", "-tr", "RelationDrivenTrainer", "-device", "cpu")
    output = slices.run("torchrun", "--nproc_per_node", 2, "--no-python", *command)
    assert "]), rank 0" in output and "]), rank 1" in output and "Mean Validation Dice" in output  # cases predicted
    predict = ("-i", slices.folders["nnUNet_raw"] / "Dataset120_Infection" / "imagesTs", "-d", 120, "-c", "2d")
    which = ("-f", "all", "-tr", "RelationDrivenTrainer", "-chk", "checkpoint_labelfree.pth", "-device", "cpu")
    slices.run("nnUNetv2_predict", "-o", tmp_path, *predict, *which, "-npp", 1, "-nps", 1, "--disable_tta")
    assert read(tmp_path)
    refused, _ = (
        process := slices.start("torchrun", "--nproc_per_node", 2, "--no-python", *command, "-num_gpus", 2)
    ).communicate(timeout=300)
    assert process.returncode != 0 and "error: torchrun starts the processes" in refused


def test_ensembles_and_the_best_configuration_are_nnunets(slices: Workplace) -> None:
    pretrain_once(slices, "2d")
    both = ("PlainTrainer", "RelationDrivenTrainer")
    for trainer in both:
        slices.run("nnUNetv2_train", 120, "2d", 3, "-tr", trainer, "-device", "cpu", "--npz", nnUNet_n_proc_DA="0")
    output = slices.run("nnUNetv2_find_best_configuration", 120, "-tr", *both, "-c", "2d", "-f", 3, "-np", 1)
    assert "ensemble___PlainTrainer__nnUNetPlans__2d___RelationDrivenTrainer__nnUNetPlans__2d" in output


def test_pretrained_encoder_reaches_the_dual_network(slices: Workplace) -> None:
    """What GeneralPretrainTrainer learnt is where RelationDrivenTrainer says it starts."""
    pretrain_once(slices, "2d")
    output = slices.run(
        "nnUNetv2_train", 120, "2d", 1, "-tr", "RelationDrivenTrainer", "-device", "cpu", nnUNet_n_proc_DA="0"
    )
    checkpoint = slices.fold("Dataset120_Infection", "GeneralPretrainTrainer", "2d", "all") / "checkpoint_final.pth"
    assert f"The general encoder starts from {checkpoint}" in output
    fold = slices.fold("Dataset120_Infection", "RelationDrivenTrainer", "2d", "1")
    for name in ("training_terms.csv", "training_terms.png", "relation_matrices.npz", "relation_matrices.png"):
        assert (fold / name).stat().st_size > 0
