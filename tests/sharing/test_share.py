"""``nnUNetv2_ext_share``: what is in the zip, who can predict with it, and what stays here."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import nnunetv2
import numpy as np
import pytest
import torch

from nnunet_ext.discovery import SEARCH_VARIABLE
from nnunet_ext.package import made_by
from tests.sharing.conftest import DATASET, PATIENT, train

# Runs without this package: installs the zip with nnU-Net's own function, predicts, and saves.
PREDICT = """
import importlib.util, sys
assert importlib.util.find_spec("nnunet_ext") is None
import numpy as np, torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing.model_import import install_model_from_zip_file

archive, folder, images, output = sys.argv[1:]
if archive:
    install_model_from_zip_file(archive)
predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
predictor.initialize_from_trained_model_folder(folder, None)
_, probabilities = predictor.predict_single_npy_array(
    np.load(images), {"spacing": [2.0, 1.0, 1.0]}, None, None, True
)
np.save(output, probabilities)
"""


@pytest.fixture
def only_nnunet(tmp_path: Path) -> Path:
    """The Python of a new environment that has nnU-Net and not this package."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # path lines do not run the borrowed folders' own .pth files, which bring this package
    borrowed = {str(Path(module.__file__).parents[1]) for module in (np, torch, nnunetv2)}
    (packages / "borrowed.pth").write_text("\n".join(sorted(borrowed)))
    return environment / "bin" / "python"


def predicted(python: Path, results: Path, archive: Path | str, folder: Path) -> np.ndarray:
    """Return the probabilities that this environment predicts for one image."""
    images, output = results / "images.npy", results / "probabilities.npy"
    noise = np.random.default_rng(0).normal(0, 300, (1, 12, 24, 24)).astype(np.float32)
    np.save(images, noise)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet", "PYTHON"))}
    command = [str(python), "-c", PREDICT, str(archive), str(folder), str(images), str(output)]
    environment = {**kept, "nnUNet_results": str(results)}
    run = subprocess.run(
        command, env=environment, cwd=results, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return np.load(output)


def content_of(archive: Path, name: str) -> str:
    with zipfile.ZipFile(archive) as file:
        (member,) = [entry for entry in file.namelist() if entry.endswith(name)]
        return file.read(member).decode()


def test_nnunet_alone_predicts_the_same(
    share: Callable[..., str], only_nnunet: Path, tmp_path: Path
) -> None:
    trained = train(tmp_path, "ImageSpaceDATrainer", folds=(0, 1))
    assert "predicts with nnU-Net alone" in share("ImageSpaceDATrainer")

    received = tmp_path / "received"
    received.mkdir()
    installed = received / DATASET / trained.name
    found = predicted(only_nnunet, received, tmp_path / "model.zip", installed)

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained), None)
    assert predictor.trainer_name == "ImageSpaceDATrainer"
    image = np.load(received / "images.npy")
    _, expected = predictor.predict_single_npy_array(
        image, {"spacing": [2.0, 1.0, 1.0]}, None, None, True
    )
    assert found.std() > 0.01  # not a constant
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_another_network_names_what_to_install(share: Callable[..., str], tmp_path: Path) -> None:
    train(tmp_path, "RelationDrivenTrainer")
    printed = share("RelationDrivenTrainer")
    assert "more than nnU-Net: its network has other layers than nnU-Net's" in printed
    requirement = made_by().replace(" ", "==")
    assert f'"{requirement}"' in printed

    card = content_of(tmp_path / "model.zip", "MODEL_CARD.md")
    assert requirement in card and "It needs more than nnU-Net" in card
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        member = f"{DATASET}/RelationDrivenTrainer__nnUNetPlans__3d_fullres/fold_0"
        file.extract(f"{member}/checkpoint_final.pth", tmp_path)
    checkpoint = torch.load(tmp_path / member / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["trainer_name"] == "RelationDrivenTrainer"


def test_a_trainer_of_nnunet_keeps_its_name(share: Callable[..., str], tmp_path: Path) -> None:
    train(tmp_path, "nnUNetTrainer_250epochs")
    assert "predicts with nnU-Net alone" in share("nnUNetTrainer_250epochs")
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        (member,) = [name for name in file.namelist() if name.endswith(".pth")]
        file.extract(member, tmp_path)
    checkpoint = torch.load(tmp_path / member, weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer_250epochs"
    assert set(checkpoint) == {
        "network_weights",
        "trainer_name",
        "init_args",
        "inference_allowed_mirroring_axes",
        "current_epoch",
        "nnunet_ext_shared",
    }


OWN_TRAINERS = """
from torch import nn
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class LongerTrainer(nnUNetTrainer):
    pass


class LargerTrainer(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(*arguments):
        network = nnUNetTrainer.build_network_architecture(*arguments)
        network.more = nn.Linear(1, 1)
        return network


class LouderTrainer(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(*arguments):
        network = nnUNetTrainer.build_network_architecture(*arguments)
        head = network.decoder.seg_layers[-1]
        head.register_forward_hook(lambda module, images, logits: 2 * logits)
        return network
"""


@pytest.mark.parametrize(
    ("trainer", "why"),
    [
        ("LongerTrainer", ""),
        ("LargerTrainer", "its network has other layers than nnU-Net's"),
        ("LouderTrainer", "its network computes something other than nnU-Net's"),
    ],
)
def test_trainers_of_the_users_own(
    trainer: str,
    why: str,
    share: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "users_module.py").write_text(OWN_TRAINERS)
    monkeypatch.setenv(SEARCH_VARIABLE, str(own))
    train(tmp_path, trainer)
    printed = share(trainer)
    if why:
        assert f"{why}; and {trainer} is in no package, the sender passes on its file" in printed
    else:
        assert "predicts with nnU-Net alone" in printed


def test_no_patient_and_no_path_leaves(share: Callable[..., str], tmp_path: Path) -> None:
    train(tmp_path, "FeatureSpaceDATrainer", folds=(0, 1))
    share("FeatureSpaceDATrainer")
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        for member in file.namelist():
            content = file.read(member)
            assert PATIENT.encode() not in content and b"/home/" not in content, member
        assert len(file.namelist()) == 5
    assert "lesions.pth" in content_of(tmp_path / "model.zip", "MODEL_CARD.md")


def test_the_card_tells_data_settings_scores_and_limits(
    share: Callable[..., str], tmp_path: Path
) -> None:
    folder = train(tmp_path, "ImageSpaceDATrainer", folds=(0, 1))
    plans = json.loads((folder / "plans.json").read_text())
    plans["nnunet_ext"]["streams"] = {"target_domain": ["Dataset130_Site"]}
    (folder / "plans.json").write_text(json.dumps(plans))
    raw = tmp_path / "nnUNet_raw" / "Dataset130_Site"
    raw.mkdir()
    (raw / "dataset.json").write_text('{"licence": "data use agreement"}')

    share("ImageSpaceDATrainer", "--note", "Started from weights of X, CC-BY-NC.")
    card = content_of(tmp_path / "model.zip", "MODEL_CARD.md")
    rows = [" ".join(line.split()) for line in card.splitlines()]
    assert "| Dataset999\\_Miniature | labelled | CC-BY 4.0 | a \\| paper |" in rows
    assert "| Dataset130\\_Site | target_domain | data use agreement | not recorded |" in rows
    assert "| seed | 3 |" in rows
    assert "| epochs per fold | 7, 7 |" in rows
    # fold 0: one case with 0.5; fold 1: two cases with mean 0.6
    assert "| fold | cases | lesion |" in rows
    assert f"| all | 3 | {(1 * 0.5 + 2 * 0.6) / 3:.3f} |" in rows
    assert "- Started from weights of X, CC-BY-NC." in rows
    assert "- It was adapted to images like those of Dataset130\\_Site." in rows
    assert "- Channels called CT are in Hounsfield units." in rows


def test_the_card_names_data_sets_with_the_same_images(
    share: Callable[..., str], tmp_path: Path
) -> None:
    from dataset_conversion.writing.journal import start_journal

    train(tmp_path, "nnUNetTrainer")
    raw = tmp_path / "nnUNet_raw" / DATASET
    raw.mkdir()
    start_journal(raw / "conversion.jsonl", {"converter": "LiTS", "settings": {}})
    share("nnUNetTrainer")
    card = content_of(tmp_path / "model.zip", "MODEL_CARD.md")
    assert "- MSD\\_Liver: shares images (LiTS: the same scans" in card
    assert "- 3D-IRCADb: shares images" in card
    assert "not checked" not in card


class Foreign:
    """Pickles as a call of a function."""

    def __reduce__(self) -> tuple:
        return (print, ("the checkpoint ran code",))


def test_hostile_and_damaged_checkpoints_are_refused(
    share: Callable[..., str], tmp_path: Path
) -> None:
    folder = train(tmp_path, "nnUNetTrainer")
    weights = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    network = weights["network_weights"]
    first = next(iter(network))

    cases: list[tuple[dict[str, object], str]] = [
        ({"logging": Foreign()}, "nothing but tensors, numbers and plain Python is read"),
        ({"trainer_name": None}, "lacks the trainer's name, its configuration or weights"),
        ({"network_weights": {}}, "lacks the trainer's name, its configuration or weights"),
        ({"network_weights": {**network, first: network[first][:1]}}, "do not fit the network"),
        ({"network_weights": {**network, first: network[first] / 0}}, "is not finite"),
        ({"inference_allowed_mirroring_axes": ["x"]}, "impossible axes"),
        ({"init_args": {"configuration": "2d"}}, "has no configuration 2d"),
        ({"trainer_name": "NoSuchTrainer"}, "-tr NoSuchTrainer: no such trainer"),
    ]
    for changes, reason in cases:
        torch.save({**weights, **changes}, folder / "fold_0" / "checkpoint_final.pth")
        error = share("nnUNetTrainer", code=1)
        assert reason in error and error.count("\n") == 1, error
        assert "ran code" not in error
        assert not list(tmp_path.glob("*model.zip"))

    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(pickle.dumps([1]))
    assert "checkpoint" in share("nnUNetTrainer", code=1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-c", "2d"], "has no model nnUNetTrainer nnUNetPlans 2d; it has: nnUNetTrainer"),
        (["-p", "other"], "has no model nnUNetTrainer other; it has"),
        (["-f", "3"], "lacks checkpoint_final.pth of fold 3 (has 0)"),
        (["-chk", "checkpoint_best.pth"], "lacks checkpoint_best.pth of any fold"),
        (["-o", "absent/model.zip"], "absent: no such folder"),
    ],
)
def test_wrong_options(
    share: Callable[..., str], tmp_path: Path, options: list[str], reason: str
) -> None:
    train(tmp_path, "nnUNetTrainer")
    assert reason in share("nnUNetTrainer", *options, code=1)


def test_a_file_is_replaced_on_request_alone(share: Callable[..., str], tmp_path: Path) -> None:
    train(tmp_path, "nnUNetTrainer")
    (tmp_path / "model.zip").write_text("mine")
    assert "exists; give another -o, or --overwrite" in share("nnUNetTrainer", code=1)
    assert (tmp_path / "model.zip").read_text() == "mine"
    share("nnUNetTrainer", "--overwrite")
    assert zipfile.is_zipfile(tmp_path / "model.zip")


def test_several_configurations_need_a_choice(share: Callable[..., str], tmp_path: Path) -> None:
    folder = train(tmp_path, "nnUNetTrainer")
    folder.with_name("nnUNetTrainer__nnUNetPlans__2d").mkdir()
    assert "is trained in 2d, 3d_fullres; choose with -c" in share("nnUNetTrainer", code=1)
