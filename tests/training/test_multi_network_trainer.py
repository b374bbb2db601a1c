"""The step and its updates, its log, its checkpoints, and what stops it."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.errors import InputError
from nnunet_ext.networks.segmentation import finest
from nnunet_ext.stock.training import TRAINING_LOCK
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training import multi_stream_trainer
from nnunet_ext.training.engine.diagnostics import NonFiniteLoss
from nnunet_ext.training.engine.random_numbers import shared_generator
from nnunet_ext.training.engine.schedules import step_decay
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from tests.another_process import holding
from tests.half_precision import under_autocast
from tests.miniature_plans import batch, plans, trainer
from tests.training.adversarial_trainer import (
    AdversarialTrainer,
    AlternatingTrainer,
    ReconstructingTrainer,
)


class TwoTermTrainer(MultiStreamTrainer):
    """Segmentation and the mean square of all logits."""

    loss_terms = ("segmentation", "shrinkage")

    def training_step(self, data: dict[str, Any]) -> None:
        output = self.network(data["data"])
        self.update(
            "network",
            segmentation=self.loss(output, data["target"]),
            shrinkage=output[0].square().mean(),
        )


def test_step_equals_plain_pytorch_and_reports_every_term(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = trainer(TwoTermTrainer, tmp_path, plans())
    data = batch(made)
    output = made.network(data["data"])
    expected = {
        "segmentation": made.loss(output, data["target"]),
        "shrinkage": output[0].square().mean(),
    }
    gradients = torch.autograd.grad(
        sum(expected.values()), made.network.parameters(), allow_unused=True
    )
    norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
    result = made.train_step(data)
    assert (
        result["loss"] == result["segmentation"] == pytest.approx(expected["segmentation"].item())
    )
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
    resumed.logger.resume = True
    resumed.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert resumed.current_epoch == resumed.iteration // resumed.num_iterations_per_epoch == 1
    resumed.on_train_epoch_start()
    resumed.on_train_epoch_end([resumed.train_step(batch(resumed))])
    assert len(resumed.logger.get_value("shrinkage", None)) == 2


def test_a_term_that_the_checkpoint_does_not_know_begins_where_the_run_continues(
    tmp_path: Path,
) -> None:
    made = trainer(TwoTermTrainer, tmp_path / "first", plans())
    made.on_train_epoch_start()
    made.on_train_epoch_end([made.train_step(batch(made))])
    path = tmp_path / "checkpoint.pth"
    made.save_checkpoint(str(path))

    # as a version without that term writes it
    stored = torch.load(path, weights_only=False)
    del stored["logging"]["shrinkage"]
    torch.save(stored, path)

    resumed = trainer(TwoTermTrainer, tmp_path / "second", plans())
    resumed.logger.resume = True
    resumed.load_checkpoint(str(path))
    resumed.on_train_epoch_start()
    step = resumed.train_step(batch(resumed))
    resumed.on_train_epoch_end([step])
    resumed._write_terms()

    curve = resumed.logger.get_value("shrinkage", None)
    assert curve == pytest.approx([math.nan, step["shrinkage"]], nan_ok=True)


def test_settings_in_the_plans_reach_nnunet(tmp_path: Path) -> None:
    settings = {
        "num_epochs": 3,
        "num_iterations_per_epoch": 4,
        "initial_lr": 0.5,
        "TwoTermTrainer.weight_decay": 0.25,
    }
    made = trainer(TwoTermTrainer, tmp_path, plans(settings=settings))
    assert (made.num_epochs, made.total_iterations) == (3, 12)
    assert (
        made.optimizer.param_groups[0]["lr"] == 0.5
        and made.optimizer.param_groups[0]["weight_decay"] == 0.25
    )


def test_plain_steps_are_nnunets(tmp_path: Path) -> None:
    """The control row of every comparison trains exactly as nnU-Net does."""
    ours = trainer(PlainTrainer, tmp_path / "ours", plans())
    theirs = trainer(nnUNetTrainer, tmp_path / "theirs", plans())
    theirs.network.load_state_dict(ours.network.state_dict())
    for step in range(3):
        data = batch(ours, seed=step)
        assert ours.train_step(data)["loss"] == pytest.approx(
            float(theirs.train_step(data)["loss"]), rel=1e-5
        )
    for own, reference in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
        torch.testing.assert_close(own, reference)


# --- several networks

TARGET = {"target_domain": ["Dataset998_Other"]}


def adversarial(root: Path, cls: type = AdversarialTrainer, **settings: Any) -> Any:
    made = trainer(cls, root, plans(streams=TARGET, settings=settings))
    made.on_train_epoch_start()
    return made


def weights(made: Any, network: str) -> list[torch.Tensor]:
    return [value.clone() for value in made.module_of(network).state_dict().values()]


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_each_update_moves_its_player_alone(tmp_path: Path) -> None:
    made = adversarial(tmp_path, AlternatingTrainer)
    step, seen = type(made).update, []

    def watched(player: str, **losses: torch.Tensor) -> None:
        before = {name: weights(made, name) for name in made.updaters}
        step(made, player, **losses)
        for name in made.updaters:
            assert equal(weights(made, name), before[name]) == (name != player)
        seen.append(player)

    made.update = watched
    made.train_step(batch(made, ("target_domain",)))
    assert seen == ["network", "discriminator"]


@pytest.mark.parametrize("cls", [AdversarialTrainer, AlternatingTrainer])
def test_adversarial_steps_equal_plain_pytorch(cls: type, tmp_path: Path) -> None:
    """A loop written out; the discriminator judges the weights from before the step, or those from
    after it.
    """
    made = adversarial(tmp_path, cls)
    network, judge = (
        copy.deepcopy(made.network),
        copy.deepcopy(made.auxiliary_networks["discriminator"]),
    )
    momentum = torch.optim.SGD(
        network.parameters(),
        made.initial_lr,
        momentum=0.99,
        nesterov=True,
        weight_decay=made.weight_decay,
    )
    adam = torch.optim.Adam(judge.parameters(), 1e-3)
    bce = torch.nn.BCEWithLogitsLoss()
    for index in range(3):
        data = batch(made, ("target_domain",), seed=index)
        judge_before = copy.deepcopy(judge).requires_grad_(False)
        source, target = network(data["data"]), network(data["target_domain"]["data"])
        fooled = judge_before(target[0].softmax(1))
        momentum.zero_grad()
        (made.loss(source, data["target"]) + 0.1 * bce(fooled, torch.ones_like(fooled))).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        momentum.step()
        real, fake = judge(source[0].detach().softmax(1)), judge(target[0].detach().softmax(1))
        adam.param_groups[0]["lr"] = 1e-3 * (1 - index / made.total_iterations) ** 0.9
        adam.zero_grad()
        (bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))).backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 12)
        adam.step()
        made.train_step(data)
    for ours, theirs in (
        (made.network, network),
        (made.auxiliary_networks["discriminator"], judge),
    ):
        for own, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(own, reference)


def test_a_continued_game_goes_on_with_every_network_optimizer_and_rate(tmp_path: Path) -> None:
    settings = {"num_epochs": 2, "num_iterations_per_epoch": 2}
    made = adversarial(tmp_path / "made", **settings)
    for seed in range(2):
        made.train_step(batch(made, ("target_domain",), seed))
    made.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    twin = trainer(AdversarialTrainer, tmp_path / "twin", plans(streams=TARGET, settings=settings))
    twin.logger.resume = True
    twin.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    made.current_epoch += 1
    for one in (made, twin):
        one.on_train_epoch_start()
        one.result = one.train_step(batch(one, ("target_domain",), seed=5))
    assert made.result == twin.result and twin.iteration == 3
    for player in made.updaters:
        assert equal(weights(made, player), weights(twin, player))
    rate = twin.updaters["discriminator"].optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(1e-3 * (1 - 2 / 4) ** 0.9)


def test_checkpoints_of_another_training_are_refused_by_the_difference(tmp_path: Path) -> None:
    path = str(tmp_path / "checkpoint.pth")
    adversarial(tmp_path / "made").save_checkpoint(path)
    changes: dict[str, Any] = {
        "hyperparameters.initial_lr is 0.5, was 0.01": plans(
            streams=TARGET, settings={"initial_lr": 0.5}
        ),
        "plans.batch_size is 4, was 2": plans(streams=TARGET, batch_size=4),
        r"streams.target_domain is \['Dataset997_Third'\]": plans(
            streams={"target_domain": ["Dataset997_Third"]}
        ),
    }
    for said, content in changes.items():
        other = trainer(AdversarialTrainer, tmp_path / "other", content)
        other.logger.resume = True
        with pytest.raises(
            InputError, match=f"checkpoint.pth was written by another training: {said}"
        ):
            other.load_checkpoint(path)
    settings = {"save_every": 1, "num_val_iterations_per_epoch": 1}
    allowed = trainer(
        AdversarialTrainer, tmp_path / "allowed", plans(streams=TARGET, settings=settings)
    )
    allowed.logger.resume = True
    allowed.load_checkpoint(path)
    stock = torch.load(path, weights_only=False)
    del stock["nnunet_ext"]
    torch.save(stock, path)
    with pytest.raises(InputError, match="has no state of a training by AdversarialTrainer"):
        allowed.load_checkpoint(path)


def test_streams_that_a_trainer_does_not_read_and_newer_settings_do_not_matter(
    tmp_path: Path,
) -> None:
    made = trainer(PlainTrainer, tmp_path / "made", plans())
    path = tmp_path / "checkpoint.pth"
    made.save_checkpoint(str(path))
    stored = torch.load(path, weights_only=False)
    del stored["nnunet_ext"]["identity"]["hyperparameters"][
        "seed"
    ]  # as a version without that setting writes it
    torch.save(stored, path)
    later = trainer(
        PlainTrainer, tmp_path / "later", plans(streams={"general": ["Dataset998_Other"]})
    )
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


# --- one backward for two players, frozen and following networks, the averaged network


def reconstructing(root: Path, **settings: Any) -> Any:
    made = trainer(ReconstructingTrainer, root, plans(settings={"draw_every": 2, **settings}))
    made.on_train_epoch_start()
    return made


def test_a_joint_step_equals_plain_pytorch_and_the_teacher_follows(tmp_path: Path) -> None:
    made = reconstructing(tmp_path)
    network, decoder, frozen, teacher = (
        copy.deepcopy(made.module_of(name)) for name in ("network", "decoder", "frozen", "teacher")
    )
    momentum = torch.optim.SGD(
        network.parameters(),
        made.initial_lr,
        momentum=0.99,
        nesterov=True,
        weight_decay=made.weight_decay,
    )
    adam = torch.optim.Adam(decoder.parameters(), 1e-3)
    for index in range(3):
        data = batch(made, seed=index)
        output = network(data["data"])
        image = decoder(output[0])
        loss = made.loss(output, data["target"]) + (image - frozen(data["data"])).square().mean()
        loss = loss + (image - teacher(output[0]).detach()).square().mean()
        momentum.zero_grad(), adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 12)
        momentum.step(), adam.step()
        keep = min(0.9, 1 - 1 / (index + 1))
        with torch.no_grad():
            for own, other in zip(teacher.parameters(), decoder.parameters(), strict=True):
                own.copy_(keep * own + (1 - keep) * other)
        if index == 1:
            decoder.bias.data.normal_(generator=shared_generator(made.seed, 1))
        made.train_step(data)
    for name, expected in {
        "network": network,
        "decoder": decoder,
        "frozen": frozen,
        "teacher": teacher,
    }.items():
        for own, reference in zip(
            made.module_of(name).parameters(), expected.parameters(), strict=True
        ):
            torch.testing.assert_close(own, reference)


def test_networks_that_nobody_steps_are_frozen_and_never_put_into_training_mode(
    tmp_path: Path,
) -> None:
    made = reconstructing(tmp_path)
    assert set(made.updaters) == {"network", "decoder"} and made.frozen_networks == {
        "frozen",
        "teacher",
    }
    for name in ("network", "decoder", "frozen", "teacher"):
        module = made.module_of(name)
        trained = name in made.updaters
        assert module.training == trained
        assert all(parameter.requires_grad == trained for parameter in module.parameters())


class PartlyOwnedTrainer(MultiStreamTrainer):
    """One optimizer holds the encoder of ``network`` and a network beside it, another one the
    decoder.
    """

    loss_terms = ("segmentation", "reconstruction")

    def build_auxiliary_networks(self) -> dict[str, torch.nn.Module]:
        return {"generator": torch.nn.Conv2d(2, 1, 1)}

    def configure_optimizer(self, player: str, module: torch.nn.Module) -> Any:
        encoder = list(self.module_of("network").encoder.parameters())
        if player == "generator":
            return torch.optim.Adam([*encoder, *module.parameters()], 1e-3), None
        held = {id(parameter) for parameter in encoder}
        return torch.optim.SGD([p for p in module.parameters() if id(p) not in held], 0.1), None

    def training_step(self, batch: dict[str, Any]) -> None:
        output = self.network(batch["data"])
        image = self.auxiliary_networks["generator"](output[0])
        with self.simultaneous():
            self.update("network", segmentation=self.loss(output, batch["target"]))
            self.update("generator", reconstruction=(image - batch["data"]).abs().mean())


def test_a_player_owns_parameters_not_a_network(tmp_path: Path) -> None:
    made = trainer(PartlyOwnedTrainer, tmp_path / "made", plans())
    made.on_train_epoch_start()
    assert made.frozen_networks == set()
    data = batch(made)
    output = made.network(data["data"])
    losses = {
        "network": made.loss(output, data["target"]),
        "generator": (made.auxiliary_networks["generator"](output[0]) - data["data"]).abs().mean(),
    }
    expected = {
        player: torch.autograd.grad(
            loss, made.updaters[player].parameters(), retain_graph=True, allow_unused=True
        )
        for player, loss in losses.items()
    }
    made.train_step(data)
    for player, gradients in expected.items():
        for parameter, gradient in zip(made.updaters[player].parameters(), gradients, strict=True):
            if gradient is not None:
                torch.testing.assert_close(parameter.grad, gradient)  # of this player's loss alone
    made.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    twin = trainer(PartlyOwnedTrainer, tmp_path / "twin", plans())
    twin.logger.resume = True
    twin.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    for one in (made, twin):
        one.current_epoch = 1
        one.on_train_epoch_start()
        one.train_step(batch(one, seed=4))
    assert all(equal(weights(made, name), weights(twin, name)) for name in ("network", "generator"))


def test_a_player_takes_part_in_one_update_of_a_block(tmp_path: Path) -> None:
    class GreedyTrainer(PlainTrainer):
        def training_step(self, batch: dict[str, Any]) -> None:
            output = self.network(batch["data"])
            with self.simultaneous():
                for _ in range(2):
                    self.update("network", segmentation=self.loss(output, batch["target"]))

    made = trainer(GreedyTrainer, tmp_path, plans())
    with pytest.raises(ValueError, match="one update of a simultaneous block"):
        made.train_step(batch(made))


def test_the_averaged_network_is_validated_saved_and_continued(tmp_path: Path) -> None:
    settings = {"average_weights": 0.5, "num_epochs": 3, "num_iterations_per_epoch": 2}
    made = reconstructing(tmp_path / "made", **settings)
    mean: list[torch.Tensor] = []
    for index in range(2):
        made.train_step(batch(made, seed=index))
        now = [parameter.detach().clone() for parameter in made.network.parameters()]
        mean = [(a + b) / 2 for a, b in zip(mean or now, now, strict=True)]  # decay 0, then 1/2
    for own, expected in zip(made.averaged_network.parameters(), mean, strict=True):
        torch.testing.assert_close(own, expected)

    made.on_validation_epoch_start()
    data = batch(made, seed=9)
    with torch.no_grad():
        expected_loss = made.loss(made.averaged_network(data["data"]), data["target"])
        assert made.validation_step(data)["loss"] == pytest.approx(expected_loss.item())

    path = tmp_path / "checkpoint.pth"
    made.save_checkpoint(str(path))
    saved = torch.load(path, weights_only=False)
    assert equal(
        list(saved["network_weights"].values()), list(made.averaged_network.state_dict().values())
    )
    twin = trainer(
        ReconstructingTrainer, tmp_path / "twin", plans(settings={"draw_every": 2, **settings})
    )
    twin.logger.resume = True
    twin.load_checkpoint(str(path))
    for one in (made, twin):
        one.current_epoch = 1
        one.on_train_epoch_start()
        one.result = one.train_step(batch(one, seed=5))
    assert made.result == twin.result
    for name in ("network", "decoder", "frozen", "teacher"):
        assert equal(weights(made, name), weights(twin, name)), name
    assert equal(list(made.averaged_network.parameters()), list(twin.averaged_network.parameters()))

    for decay in (0, 0.9):  # validation with other settings
        judge = trainer(
            ReconstructingTrainer, tmp_path / "judge", plans(settings={"average_weights": decay})
        )
        judge.load_checkpoint(str(path))
        assert equal(
            list(judge.evaluated_network.state_dict().values()),
            list(saved["network_weights"].values()),
        )


def test_the_averaged_network_is_what_predicts_and_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Caught(Exception):
        pass

    made = reconstructing(tmp_path, average_weights=0.5)
    data = batch(made)
    for _ in range(2):
        made.train_step(data)
    handed: list[Any] = []

    def manual_initialization(self: Any, network: torch.nn.Module, *_: Any) -> None:
        handed.append(network)
        raise Caught

    monkeypatch.setattr(nnUNetPredictor, "manual_initialization", manual_initialization)
    with pytest.raises(Caught):
        made.perform_actual_validation()
    assert handed == [made.averaged_network] and made.network is not made.averaged_network

    view = finest(made.averaged_network(data["data"])).softmax(1)
    monkeypatch.setattr(
        multi_stream_trainer.label_free, "augmented_view", lambda images, axes: (images, [])
    )
    torch.testing.assert_close(made._prediction_of_a_view(data["data"]), view)


def test_a_following_network_starts_equal_to_its_leader_whenever_that_is(tmp_path: Path) -> None:
    made = reconstructing(tmp_path)
    made.current_epoch = 3
    for since in (made.iteration, made.iteration - 1):
        made.follow("teacher", "decoder", 0.99, since)
        own, leader = (next(made.module_of(name).parameters()) for name in ("teacher", "decoder"))
        assert torch.equal(own, leader) == (since == made.iteration)
        with torch.no_grad():
            next(made.module_of("decoder").parameters()).add_(1)
    with pytest.raises(ValueError, match="decoder has an optimizer or no parameters"):
        made.follow("decoder", "teacher", 0.9)


def test_mistakes_of_an_author_are_named_before_anything_moves(tmp_path: Path) -> None:
    made = trainer(TwoTermTrainer, tmp_path, plans())
    made.training_step = lambda data: made.update(
        "segmenter", segmentation=made.network(data["data"])[0].mean()
    )
    with pytest.raises(ValueError, match="no optimizer belongs to segmenter; there are network"):
        made.train_step(batch(made))
    before = weights(made, "network")
    made.training_step = lambda data: made.update(
        "network", misspelt=made.network(data["data"])[0].mean()
    )
    with pytest.raises(ValueError, match="declares no loss term or diagnostic misspelt"):
        made.train_step(batch(made))
    assert equal(weights(made, "network"), before)


def test_a_step_under_autocast_sees_the_weights_after_the_step_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast keeps weights in half precision for as long as its block lasts."""
    made = trainer(TwiceTrainer, tmp_path, plans(settings={"initial_lr": 0.5}))
    under_autocast(made, monkeypatch, torch.bfloat16)
    made.train_step(batch(made))
    first, second = (value.item() for value in made._noted["segmentation"])
    assert first != second


def test_epochs_whose_steps_segment_only_sometimes_keep_their_loss(tmp_path: Path) -> None:
    class SometimesSegmentingTrainer(TwoTermTrainer):
        def training_step(self, data: dict[str, Any]) -> None:
            if self.iteration % 2:
                super().training_step(data)

    made = trainer(SometimesSegmentingTrainer, tmp_path, plans())
    made.on_train_epoch_start()
    outputs = [made.train_step(batch(made, seed=seed)) for seed in range(4)]
    made.on_train_epoch_end(outputs)
    expected = np.mean([outputs[1]["loss"], outputs[3]["loss"]])
    assert made.logger.get_value("train_losses", 0) == pytest.approx(expected)


def test_pictures_come_in_their_turn_and_at_the_end(tmp_path: Path) -> None:
    made = reconstructing(tmp_path, num_epochs=4, num_iterations_per_epoch=2)
    for epoch in range(4):
        made.current_epoch = epoch
        made.on_train_epoch_start()
        made.on_train_epoch_end([made.train_step(batch(made, seed=seed)) for seed in range(2)])
    drawn = sorted(file.name for file in Path(made.output_folder, "pictures").iterdir())
    assert drawn == ["epoch_0000.png", "epoch_0002.png", "epoch_0003.png"]


def test_a_picture_that_cannot_be_drawn_costs_no_training(tmp_path: Path) -> None:
    made = reconstructing(tmp_path, num_epochs=1, num_iterations_per_epoch=1)
    output = made.train_step(batch(made))
    made._iteration_in_epoch = 0
    made.draw(
        reconstruction=(torch.full((1, 1, 4, 4), math.nan),), nothing=(torch.zeros(0, 1, 4, 4),)
    )
    made.on_train_epoch_end([output])
    log = next(Path(made.output_folder).glob("training_log_*.txt")).read_text()
    assert "epoch_0000.png is not drawn: reconstruction" in log


# --- health


def test_a_loss_that_is_no_number_stops_before_the_weights_are_hurt(tmp_path: Path) -> None:
    made = adversarial(tmp_path)
    data = batch(made, ("target_domain",))
    data["target_domain"]["data"][0] = math.nan
    before = weights(made, "network")
    with pytest.raises(NonFiniteLoss) as raised:
        made.train_step(data)
    for said in (
        "adversarial is nan, discriminator is nan in ",
        "epoch 0, iteration 0",
        "case_0, case_1; target_domain: target_domain_0",
    ):
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
    with pytest.raises(
        NonFiniteLoss, match="gradient of segmentation is nan in epoch 0, iteration 0"
    ):
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
    with pytest.raises(
        ValueError, match="SometimesTrainer declares no loss term or diagnostic misspelt"
    ):
        made.train_step(batch(made))


class TwiceTrainer(MultiStreamTrainer):
    """Several updates of one step note the same term, as a loop over image sizes does."""

    loss_terms = ("segmentation", "later")

    def training_step(self, batch: dict[str, Any]) -> None:
        for _ in range(2):
            super().training_step(batch)


def test_a_term_noted_several_times_is_averaged_and_one_before_its_phase_is_absent(
    tmp_path: Path,
) -> None:
    made = trainer(TwiceTrainer, tmp_path / "twice", plans())
    once = trainer(PlainTrainer, tmp_path / "once", plans())
    data = batch(made)
    first, second = (once.train_step(data)["loss"] for _ in range(2))
    result = made.train_step(data)
    assert result["loss"] == pytest.approx((first + second) / 2) and first != second
    assert math.isnan(result["later"])


def test_the_logged_rate_is_the_used_one_and_nnunets_where_nothing_else_is_said(
    tmp_path: Path,
) -> None:
    class CriticsRateTrainer(PlainTrainer):
        def configure_optimizer(self, player: str, module: torch.nn.Module) -> Any:
            optimizer, _ = super().configure_optimizer(player, module)
            return optimizer, step_decay(6, 0.5)

    settings = {"num_epochs": 4, "num_iterations_per_epoch": 3}
    stock = trainer(nnUNetTrainer, tmp_path / "stock", plans())
    stock.num_epochs = 4
    _, schedule = stock.configure_optimizers()
    ours, other = (
        trainer(cls, tmp_path / "ours", plans(settings=settings))
        for cls in (PlainTrainer, CriticsRateTrainer)
    )
    for epoch in range(4):
        schedule.step(epoch)
        for made in (ours, other):
            made.current_epoch = epoch
            made.on_train_epoch_start()
            made.train_step(batch(made))
            used = made.optimizer.param_groups[0]["lr"]
            assert made.logger.get_value("lrs", epoch) == used
        assert ours.optimizer.param_groups[0]["lr"] == schedule.optimizer.param_groups[0]["lr"]
    assert other.logger.get_value("lrs", None) == pytest.approx([0.01, 0.01, 0.005, 0.005])


def test_the_seed_decides_the_start(tmp_path: Path) -> None:
    first, second, other = (
        trainer(PlainTrainer, tmp_path / str(i), plans(settings={"seed": seed}))
        for i, seed in enumerate((3, 3, 4))
    )
    assert equal(weights(first, "network"), weights(second, "network"))
    assert not equal(weights(first, "network"), weights(other, "network"))


def test_a_fold_that_another_process_trains_is_refused(tmp_path: Path) -> None:
    made = trainer(PlainTrainer, tmp_path, plans())
    again = trainer(PlainTrainer, tmp_path, plans())  # in this process: a training that goes on
    lock = Path(made.output_folder, TRAINING_LOCK)
    assert again.output_folder == made.output_folder and lock.is_file()

    elsewhere = tmp_path / "elsewhere"
    place = elsewhere / lock.relative_to(tmp_path)
    place.parent.mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path; from nnunet_ext.files.locks import held\n"
        f"with held(Path({str(place)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with (
        holding(code) as number,
        pytest.raises(InputError, match=f"another training .*process {number} on"),
    ):
        trainer(PlainTrainer, elsewhere, plans())
    trainer(PlainTrainer, elsewhere, plans())
