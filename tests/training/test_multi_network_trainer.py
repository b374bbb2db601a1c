"""The step and its updates, its log, its checkpoints, and what stops it."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.errors import InputError
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training.engine.diagnostics import NonFiniteLoss
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from tests.miniature_plans import batch, plans, trainer
from tests.training.adversarial_trainer import AdversarialTrainer


class TwoTermTrainer(MultiStreamTrainer):
    """Segmentation and the mean square of all logits."""

    loss_terms = ("segmentation", "shrinkage")

    def training_step(self, data: dict[str, Any]) -> None:
        output = self.network(data["data"])
        self.update("network", segmentation=self.loss(output, data["target"]), shrinkage=output[0].square().mean())


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
        made._write_terms()
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


def test_plain_steps_are_nnunets(tmp_path: Path) -> None:
    """The control row of every comparison trains exactly as nnU-Net does."""
    ours = trainer(PlainTrainer, tmp_path / "ours", plans())
    theirs = trainer(nnUNetTrainer, tmp_path / "theirs", plans())
    theirs.network.load_state_dict(ours.network.state_dict())
    for step in range(3):
        data = batch(ours, seed=step)
        assert ours.train_step(data)["loss"] == pytest.approx(float(theirs.train_step(data)["loss"]), rel=1e-5)
    for own, reference in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
        torch.testing.assert_close(own, reference)


# --- several networks -------------------------------------------------------------------------------------------------

TARGET = {"target_domain": ["Dataset998_Other"]}


def adversarial(root: Path, **settings: Any) -> Any:
    made = trainer(AdversarialTrainer, root, plans(streams=TARGET, settings=settings))
    made.on_train_epoch_start()
    return made


def weights(made: Any, player: str) -> list[torch.Tensor]:
    return [value.clone() for value in made.players[player].module.state_dict().values()]


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_each_update_moves_its_player_alone(tmp_path: Path) -> None:
    made = adversarial(tmp_path)
    step, seen = type(made).update, []

    def watched(player: str, **losses: torch.Tensor) -> None:
        before = {name: weights(made, name) for name in made.players}
        step(made, player, **losses)
        for name in made.players:
            assert equal(weights(made, name), before[name]) == (name != player)
        seen.append(player)

    made.update = watched
    made.train_step(batch(made, ("target_domain",)))
    assert seen == ["network", "discriminator"]


def test_adversarial_steps_equal_plain_pytorch(tmp_path: Path) -> None:
    """The classic loop: discriminator frozen while the network learns, then the discriminator on detached maps."""
    made = adversarial(tmp_path)
    network, judge = copy.deepcopy(made.network), copy.deepcopy(made.players["discriminator"].module)
    momentum = torch.optim.SGD(
        network.parameters(), made.initial_lr, momentum=0.99, nesterov=True, weight_decay=made.weight_decay
    )
    adam = torch.optim.Adam(judge.parameters(), 1e-3)
    bce = torch.nn.BCEWithLogitsLoss()
    for index in range(3):
        data = batch(made, ("target_domain",), seed=index)
        judge.requires_grad_(False)
        source, target = network(data["data"]), network(data["target_domain"]["data"])
        fooled = judge(target[0].softmax(1))
        momentum.zero_grad()
        (made.loss(source, data["target"]) + 0.1 * bce(fooled, torch.ones_like(fooled))).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        momentum.step()
        judge.requires_grad_(True)
        real, fake = judge(source[0].detach().softmax(1)), judge(target[0].detach().softmax(1))
        adam.param_groups[0]["lr"] = 1e-3 * (1 - index / made.total_iterations) ** 0.9
        adam.zero_grad()
        (bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))).backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 12)
        adam.step()
        made.train_step(data)
    for ours, theirs in ((made.network, network), (made.players["discriminator"].module, judge)):
        for own, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(own, reference)


def test_a_continued_game_goes_on_with_every_network_optimizer_and_rate(tmp_path: Path) -> None:
    settings = {"num_epochs": 2, "num_iterations_per_epoch": 2}
    made = adversarial(tmp_path / "made", **settings)
    for seed in range(2):
        made.train_step(batch(made, ("target_domain",), seed))
    made.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    twin = trainer(AdversarialTrainer, tmp_path / "twin", plans(streams=TARGET, settings=settings))
    twin.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    made.current_epoch += 1
    for one in (made, twin):
        one.on_train_epoch_start()
        one.result = one.train_step(batch(one, ("target_domain",), seed=5))
    assert made.result == twin.result and twin.iteration == 3
    for player in made.players:
        assert equal(weights(made, player), weights(twin, player))
    rate = twin.players["discriminator"].optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(1e-3 * (1 - 2 / 4) ** 0.9)


def test_checkpoints_of_another_training_are_refused_by_the_difference(tmp_path: Path) -> None:
    path = str(tmp_path / "checkpoint.pth")
    adversarial(tmp_path / "made").save_checkpoint(path)
    changes: dict[str, Any] = {
        "hyperparameters.initial_lr is 0.5, was 0.01": plans(streams=TARGET, settings={"initial_lr": 0.5}),
        "plans.batch_size is 4, was 2": plans(streams=TARGET, batch_size=4),
        r"streams.target_domain is \['Dataset997_Third'\]": plans(streams={"target_domain": ["Dataset997_Third"]}),
    }
    for said, content in changes.items():
        other = trainer(AdversarialTrainer, tmp_path / "other", content)
        other.logger.resume = True
        with pytest.raises(InputError, match=f"checkpoint.pth was written by another training: {said}"):
            other.load_checkpoint(path)
    settings = {"save_every": 1, "num_val_iterations_per_epoch": 1}
    allowed = trainer(AdversarialTrainer, tmp_path / "allowed", plans(streams=TARGET, settings=settings))
    allowed.logger.resume = True
    allowed.load_checkpoint(path)
    stock = torch.load(path, weights_only=False)
    del stock["nnunet_ext"]
    torch.save(stock, path)
    with pytest.raises(InputError, match="has no state of a training by AdversarialTrainer"):
        allowed.load_checkpoint(path)


def test_streams_that_a_trainer_does_not_read_and_newer_settings_do_not_matter(tmp_path: Path) -> None:
    made = trainer(PlainTrainer, tmp_path / "made", plans())
    path = tmp_path / "checkpoint.pth"
    made.save_checkpoint(str(path))
    stored = torch.load(path, weights_only=False)
    del stored["nnunet_ext"]["identity"]["hyperparameters"]["seed"]  # as a version without that setting writes it
    torch.save(stored, path)
    later = trainer(PlainTrainer, tmp_path / "later", plans(streams={"general": ["Dataset998_Other"]}))
    later.logger.resume = True
    later.load_checkpoint(str(path))
    assert later.current_epoch == 1


def test_validation_only_asks_for_the_same_network_and_data(tmp_path: Path) -> None:
    """``--val`` after the plans got other streams and hyperparameters for the next training."""
    path = str(tmp_path / "checkpoint.pth")
    adversarial(tmp_path / "made").save_checkpoint(path)
    streams = {**TARGET, "unlabeled": ["Dataset997_Third"]}
    trainer(
        AdversarialTrainer, tmp_path / "later", plans(streams=streams, settings={"initial_lr": 1.0})
    ).load_checkpoint(path)
    moved = {**plans(streams=TARGET), "dataset_name": "Dataset777_Moved"}
    with pytest.raises(InputError, match="dataset is Dataset777_Moved, was Dataset999_Miniature"):
        trainer(AdversarialTrainer, tmp_path / "moved", moved).load_checkpoint(path)


# --- health -----------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_before_the_weights_are_hurt(tmp_path: Path) -> None:
    made = adversarial(tmp_path)
    data = batch(made, ("target_domain",))
    data["target_domain"]["data"][0] = math.nan
    before = weights(made, "network")
    with pytest.raises(NonFiniteLoss) as raised:
        made.train_step(data)
    for said in ("adversarial is nan in ", "epoch 0, iteration 0", "case_0, case_1; target_domain: target_domain_0"):
        assert said in str(raised.value)
    assert equal(weights(made, "network"), before)
    saved = torch.load(Path(made.output_folder, "checkpoint_nonfinite.pth"), weights_only=False)
    assert equal(list(saved["network_weights"].values()), before)
    kept = torch.load(Path(made.output_folder, "batch_nonfinite.pth"))
    assert kept["target_domain"]["data"].isnan().any() and kept["keys"] == data["keys"]
    assert saved["current_epoch"] == 0


class RootTrainer(MultiStreamTrainer):
    """A finite loss whose gradient is infinite: the root at 0."""

    def training_step(self, batch: dict[str, Any]) -> None:
        self.update("network", segmentation=(0 * self.network(batch["data"])[0]).abs().sum().sqrt())


def test_a_gradient_that_is_no_number_stops_before_the_weights_are_hurt(tmp_path: Path) -> None:
    made = trainer(RootTrainer, tmp_path, plans())
    before = weights(made, "network")
    with pytest.raises(NonFiniteLoss, match="gradient of segmentation is nan in epoch 0, iteration 0"):
        made.train_step(batch(made))
    assert equal(weights(made, "network"), before)


class SometimesTrainer(MultiStreamTrainer):
    """Notes a term every second step, and one that is not declared when asked to."""

    loss_terms = ("segmentation", "rare")
    misspelt = None

    def training_step(self, batch: dict[str, Any]) -> None:
        super().training_step(batch)
        if self.iteration % 2:
            self.note(rare=self.iteration)
        if self.misspelt:
            self.note(misspelt=1.0)


def test_an_epochs_mean_is_that_of_the_steps_that_noted_a_term(tmp_path: Path) -> None:
    made = trainer(SometimesTrainer, tmp_path, plans())
    made.on_train_epoch_start()
    made.on_train_epoch_end([made.train_step(batch(made)) for _ in range(4)])
    assert made.logger.get_value("rare", 0) == 2  # of 1 and 3
    made.misspelt = True
    with pytest.raises(ValueError, match="SometimesTrainer declares no loss term or diagnostic misspelt"):
        made.train_step(batch(made))


def test_the_seed_decides_the_start(tmp_path: Path) -> None:
    first, second, other = (
        trainer(PlainTrainer, tmp_path / str(i), plans(settings={"seed": seed})) for i, seed in enumerate((3, 3, 4))
    )
    assert equal(weights(first, "network"), weights(second, "network"))
    assert not equal(weights(first, "network"), weights(other, "network"))
