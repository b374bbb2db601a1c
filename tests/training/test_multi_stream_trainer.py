"""Further streams: their loaders, and the choice of a checkpoint without labels."""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training.engine import label_free
from nnunet_ext.training.multi_stream_trainer import WORKERS_VARIABLE, without_workers
from tests.miniature_plans import DATASET_JSON, batch, plans, trainer

UNLABELED = {"unlabeled": ["Dataset997_Unlabeled"]}


def one_epoch(made: Any, epoch: int) -> None:
    """A training step and two validation steps, as nnU-Net runs them."""
    made.current_epoch = epoch
    made.on_epoch_start()
    made.on_train_epoch_start()
    made.on_train_epoch_end([made.train_step(batch(made, seed=epoch))])
    with torch.no_grad():
        made.on_validation_epoch_start()
        outputs = [made.validation_step(batch(made, seed=100 + i)) for i in range(2)]
        made.on_validation_epoch_end(outputs)
    made.on_epoch_end()


def test_any_trainer_is_scored_where_a_stream_without_labels_is_configured(tmp_path: Path) -> None:
    made = trainer(PlainTrainer, tmp_path, plans(streams=UNLABELED, settings={"num_epochs": 9}))
    made.inference_allowed_mirroring_axes = (0, 1)
    made._scored_images = ({"data": torch.randn(2, 1, 16, 16)} for _ in itertools.count())
    assert made.roles_in_use() == [] and made.scored_role == "unlabeled"
    for epoch in range(3):
        one_epoch(made, epoch)
    log = made.logger.local_logger.my_fantastic_logging
    for epoch in range(3):
        entropy, agreed, source_dice, score = (log[term][epoch] for term in label_free.TERMS)
        assert 0 <= entropy <= 1 and 0 <= agreed <= 1
        assert source_dice == log["mean_fg_dice"][epoch]
        assert score == pytest.approx(source_dice * agreed * (1 - entropy))
    folder = Path(made.output_folder)
    lines = (folder / "training_terms.csv").read_text().splitlines()
    assert lines[0] == "epoch,segmentation," + ",".join(label_free.TERMS) and len(lines) == 4
    best = max(
        range(3),
        key=lambda epoch: label_free.is_best(log["labelfree_score"][: epoch + 1]) * (epoch + 1),
    )
    kept = torch.load(folder / label_free.CHECKPOINT, weights_only=False)
    assert kept["current_epoch"] == best + 1


def test_without_such_a_stream_nothing_is_scored(tmp_path: Path) -> None:
    made = trainer(PlainTrainer, tmp_path, plans(settings={"num_epochs": 9}))
    one_epoch(made, 0)
    assert not set(label_free.TERMS) & set(made.logger.local_logger.my_fantastic_logging)
    assert not (Path(made.output_folder) / label_free.CHECKPOINT).exists()


def test_checkpoints_are_kept_on_request(tmp_path: Path) -> None:
    settings = {"num_epochs": 9, "save_every": 2, "keep_checkpoints": True}
    made = trainer(PlainTrainer, tmp_path, plans(settings=settings))
    for epoch in range(4):
        one_epoch(made, epoch)
    kept = sorted(Path(made.output_folder).glob("checkpoint_epoch_*.pth"))
    assert [path.name for path in kept] == [
        "checkpoint_epoch_0002.pth",
        "checkpoint_epoch_0004.pth",
    ]
    last = torch.load(kept[1], weights_only=False)
    assert last["current_epoch"] == 4
    for name, value in made.network.state_dict().items():
        assert torch.equal(last["network_weights"][name], value)


def test_the_target_domain_is_scored_before_unlabelled_images(tmp_path: Path) -> None:
    both = {**UNLABELED, "target_domain": ["Dataset996_Other"]}
    assert trainer(PlainTrainer, tmp_path, plans(streams=both)).scored_role == "target_domain"


def test_a_checkpoint_knows_the_normalization_of_its_streams(tmp_path: Path) -> None:
    made = trainer(PlainTrainer, tmp_path, plans(streams=UNLABELED))
    assert made.identity()["streams"] == UNLABELED and "normalizations" not in made.identity()
    own = {
        "unlabeled": "window(0,80)",
        "general": "window(-160,240)",
    }  # no general stream is in use
    windowed = trainer(PlainTrainer, tmp_path, plans(streams=UNLABELED, normalizations=own))
    assert windowed.identity()["normalizations"] == {"unlabeled": "window(0,80)"}


def test_a_network_blind_to_its_input_agrees_and_one_that_mirrors_does_not(tmp_path: Path) -> None:
    made = trainer(PlainTrainer, tmp_path, plans(streams=UNLABELED))
    made.inference_allowed_mirroring_axes = (0, 1)
    half = torch.zeros(1, 1, 16, 16)
    half[..., :8] = 20.0
    answers = {"blind": half.new_zeros(()), "left half": half}
    agreed = {}
    for name, foreground in answers.items():
        made.network = lambda x, f=foreground: torch.cat(
            (torch.zeros_like(x), f - 10 + torch.zeros_like(x)), 1
        )
        made._scored_images = ({"data": torch.randn(2, 1, 16, 16)} for _ in itertools.count())
        agreed[name] = made._label_free_scores()["agreement"]
        assert len(agreed[name]) == 10
    assert np.allclose(agreed["blind"], 1)
    assert min(agreed["left half"]) < 0.01 and max(agreed["left half"]) == pytest.approx(1)


def test_regions_are_scored_as_a_whole(tmp_path: Path) -> None:
    regions = {
        **DATASET_JSON,
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "regions_class_order": [1, 2],
    }
    made = trainer(PlainTrainer, tmp_path, plans(streams=UNLABELED), dataset_json=regions)
    probabilities = made._prediction_of_a_view(torch.randn(2, 1, 16, 16))
    assert probabilities.shape == (2, 2, 16, 16)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 16, 16))


@pytest.mark.parametrize("before", [None, "3"])
def test_building_loaders_without_workers_restores_the_users_number(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WORKERS_VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(WORKERS_VARIABLE, before)
    with pytest.raises(KeyError), without_workers():
        assert os.environ[WORKERS_VARIABLE] == "0"
        raise KeyError
    assert os.environ.get(WORKERS_VARIABLE) == before
