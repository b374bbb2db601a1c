"""The joined loader, the step and its log."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.training.multi_stream_loader import MultiStreamLoader
from nnunet_ext.training.multi_stream_trainer import WORKERS_VARIABLE, MultiStreamTrainer, without_workers
from tests.miniature_plans import batch, plans, trainer


class TwoTermTrainer(MultiStreamTrainer):
    """Segmentation and the mean square of all logits."""

    loss_terms = ("segmentation", "shrinkage")

    def training_step(self, data: dict[str, Any]) -> None:
        output = self.network(data["data"])
        self.update("network", segmentation=self.loss(output, data["target"]), shrinkage=output[0].square().mean())


class Loader:
    """Counts what it gives."""

    def __init__(self, name: str) -> None:
        self.name, self.drawn, self.thread = name, 0, -1

    def __next__(self) -> dict[str, Any]:
        self.drawn += 1
        return {"data": f"{self.name} {self.drawn}", "keys": []}

    def set_thread_id(self, thread_id: int) -> None:
        self.thread = thread_id


def test_joined_loader_draws_every_stream_once_and_passes_the_thread_on() -> None:
    labelled, general = Loader("labelled"), Loader("general")
    joined = MultiStreamLoader(labelled, {"general": general})
    next(joined)
    assert next(joined) == {"data": "labelled 2", "keys": [], "general": {"data": "general 2", "keys": []}}
    joined.set_thread_id(3)
    assert labelled.thread == general.thread == 3


def test_step_equals_plain_pytorch_and_reports_every_term(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = trainer(TwoTermTrainer, tmp_path, plans())
    data = batch(made)
    output = made.network(data["data"])
    expected = {"segmentation": made.loss(output, data["target"]), "shrinkage": output[0].square().mean()}
    gradients = torch.autograd.grad(sum(expected.values()), made.network.parameters(), allow_unused=True)
    norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
    result = made.train_step(data)
    assert result["loss"] == result["segmentation"] == pytest.approx(expected["segmentation"].item())
    assert result["shrinkage"] == pytest.approx(expected["shrinkage"].item())
    scale = min(1.0, 12 / (norm.item() + 1e-6))
    for parameter, gradient in zip(made.network.parameters(), gradients, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient * scale)


def test_terms_become_one_value_per_epoch_in_log_csv_and_figure(tmp_path: Path) -> None:
    made = trainer(TwoTermTrainer, tmp_path, plans())
    means = []
    for epoch in range(2):
        made.current_epoch = epoch
        made.on_train_epoch_start()
        outputs = [made.train_step(batch(made, seed=seed)) for seed in range(3)]
        made.on_train_epoch_end(outputs)
        means.append(np.mean([output["shrinkage"] for output in outputs]))
    assert made.logger.get_value("shrinkage", None) == pytest.approx(means)
    lines = (Path(made.output_folder) / "training_terms.csv").read_text().splitlines()
    assert lines[0] == "epoch,segmentation,shrinkage" and len(lines) == 3
    assert (Path(made.output_folder) / "training_terms.png").stat().st_size > 1000


def test_a_resumed_run_continues_the_log(tmp_path: Path) -> None:
    made = trainer(TwoTermTrainer, tmp_path / "first", plans())
    made.on_train_epoch_start()
    made.on_train_epoch_end([made.train_step(batch(made))])
    made.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    resumed = trainer(TwoTermTrainer, tmp_path / "second", plans())
    resumed.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert resumed.current_epoch == resumed.iteration // resumed.num_iterations_per_epoch == 1
    resumed.on_train_epoch_start()
    resumed.on_train_epoch_end([resumed.train_step(batch(resumed))])
    assert len(resumed.logger.get_value("shrinkage", None)) == 2


def test_settings_in_the_plans_reach_nnunet(tmp_path: Path) -> None:
    settings = {"num_epochs": 3, "num_iterations_per_epoch": 4, "initial_lr": 0.5, "TwoTermTrainer.weight_decay": 0.25}
    made = trainer(TwoTermTrainer, tmp_path, plans(settings=settings))
    assert (made.num_epochs, made.total_iterations) == (3, 12)
    assert made.optimizer.param_groups[0]["lr"] == 0.5 and made.optimizer.param_groups[0]["weight_decay"] == 0.25
    assert made.lr_scheduler.max_steps == 3


def test_distributed_training_is_refused_in_words(tmp_path: Path) -> None:
    made = trainer(TwoTermTrainer, tmp_path, plans())
    made.was_initialized, made.is_ddp = False, True
    with pytest.raises(InputError, match="TwoTermTrainer trains on one GPU in this version; run it with -num_gpus 1"):
        made.initialize()


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
