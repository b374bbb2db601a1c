"""The two players that tell domains by a map: who learns from what, the domain labels, one step in
plain PyTorch.
"""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from nnunet_ext.trainers.adv_ent import AdvEntTrainer
from nnunet_ext.trainers.feature_space_da import FeatureSpaceDATrainer
from nnunet_ext.training.domain_critic import DomainCriticTrainer
from tests.caught_losses import caught_losses
from tests.half_precision import under_autocast
from tests.miniature_plans import batch, plans, trainer

STREAMS = {"target_domain": ["Dataset998_Other"]}
METHODS = (AdvEntTrainer, FeatureSpaceDATrainer)
every_method = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)


def made_of(cls: type, root: Path, dimension: int = 2, **settings: Any) -> Any:
    small = {"critic_width": 4, "judged_stride": 4, "num_epochs": 2, "num_iterations_per_epoch": 5}
    made = trainer(cls, root, plans(dimension, streams=STREAMS, settings={**small, **settings}))
    made.network.train()
    return made


def vector(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def after_a_step(cls: type, root: Path, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the network and of the critic."""
    made = made_of(cls, root, **settings)
    made.train_step(batch(made, ("target_domain",)))
    return vector(made.network), vector(made.auxiliary_networks["critic"])


def test_a_method_must_say_which_map_is_judged(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="DomainCriticTrainer does not say which map"):
        made_of(DomainCriticTrainer, tmp_path)


@every_method
def test_each_player_follows_its_own_loss_alone(cls: type, tmp_path: Path) -> None:
    """The critic's step does not depend on the adversarial weight, nor the network's on how far the
    critic goes.
    """
    network, critic = after_a_step(cls, tmp_path / "first")
    other_network, same_critic = after_a_step(cls, tmp_path / "weight", adversarial_weight=10.0)
    same_network, other_critic = after_a_step(cls, tmp_path / "rate", critic_lr=0.1)
    assert torch.equal(critic, same_critic) and not torch.equal(network, other_network)
    assert torch.equal(network, same_network) and not torch.equal(critic, other_critic)


@pytest.mark.parametrize(
    ("cls", "reaches_decoder"), [(AdvEntTrainer, True), (FeatureSpaceDATrainer, False)]
)
def test_the_adversarial_loss_reaches_what_makes_the_map(
    cls: type, reaches_decoder: bool, tmp_path: Path
) -> None:
    made = made_of(cls, tmp_path)
    adversarial = caught_losses(made, batch(made, ("target_domain",)))["adversarial"]
    encoder = list(made.network.encoder.parameters())
    head = list(made.network.decoder.seg_layers[-1].parameters())
    for weights, expected in ((encoder, True), (head, reaches_decoder)):
        gradients = torch.autograd.grad(adversarial, weights, retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.any() for gradient in gradients) == expected


@every_method
def test_which_domain_each_loss_asks_for(cls: type, tmp_path: Path) -> None:
    """A critic that answers b everywhere: softplus(-b) for "source", softplus(b) for "target"; d's
    loss is halved.
    """
    made = made_of(cls, tmp_path, adversarial_weight=0.5)
    critic, b = made.auxiliary_networks["critic"], 0.75
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(critic.layers[-1].bias, b)
    as_source, as_target = math.log1p(math.exp(-b)), math.log1p(math.exp(b))
    result = made.train_step(batch(made, ("target_domain",)))
    assert result["adversarial"] == pytest.approx(0.5 * as_source)
    assert result["discriminator"] == pytest.approx((as_source + as_target) / 2)
    assert result["discriminator_balance"] == 0.5  # right on the source, wrong on the target


@every_method
def test_samples_with_forced_lesion_are_not_judged(cls: type, tmp_path: Path) -> None:
    made = made_of(cls, tmp_path)
    data = batch(made, ("target_domain",))
    first = caught_losses(made, data)
    data["data"][1] += torch.randn_like(data["data"][1])
    second = caught_losses(made, data)
    for name in ("adversarial", "discriminator"):
        assert torch.equal(first[name], second[name]), name
    assert first["segmentation"] != second["segmentation"]


def plain_map(
    cls: type, network: Any, images: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The judged map as the papers define it, and the segmentation."""
    features = network.encoder(images)
    logits = network.decoder(features)
    p = logits[0].softmax(1)
    return logits, features[2] if cls is FeatureSpaceDATrainer else -p * p.log() / math.log(2)


@every_method
def test_two_steps_equal_plain_pytorch(cls: type, tmp_path: Path) -> None:
    made = made_of(cls, tmp_path, adversarial_weight=0.5)
    made.current_epoch = 1  # of two epochs of five iterations
    network, critic = copy.deepcopy(made.network), copy.deepcopy(made.auxiliary_networks["critic"])
    sgd = torch.optim.SGD(
        network.parameters(), 0.01 * 0.5**0.9, 0.99, nesterov=True, weight_decay=3e-5
    )
    adam = torch.optim.Adam(critic.parameters(), 1e-4, (0.9, 0.99))
    for iteration in range(2):
        data = batch(made, ("target_domain",), seed=iteration)
        logits, source_map = plain_map(cls, network, data["data"])
        _, target_map = plain_map(cls, network, data["target_domain"]["data"])
        on_source, on_target = critic(source_map[:1]), critic(target_map)

        segmentation = made.loss(logits, data["target"])
        adversarial = 0.5 * functional.softplus(-on_target).mean()
        discriminator = (
            functional.softplus(-on_source).mean() + functional.softplus(on_target).mean()
        ) / 2
        adam.param_groups[0]["lr"] = 1e-4 * (1 - (5 + iteration) / 10) ** 0.9
        for module, loss in ((network, segmentation + adversarial), (critic, discriminator)):
            weights = list(module.parameters())
            gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            nn.utils.clip_grad_norm_(weights, 12)
        sgd.step()
        adam.step()

        result = made.train_step(data)
        assert result["adversarial"] == pytest.approx(adversarial.item())
        assert result["discriminator"] == pytest.approx(discriminator.item())
        assert result["loss"] == pytest.approx(segmentation.item())
    torch.testing.assert_close(vector(made.network), vector(network))
    torch.testing.assert_close(vector(made.auxiliary_networks["critic"]), vector(critic))


def in_half_precision(
    made: DomainCriticTrainer, monkeypatch: pytest.MonkeyPatch, scale: float
) -> torch.amp.GradScaler:
    """Let a trainer train as on CUDA: under float16 autocast, with scaled losses."""
    under_autocast(made, monkeypatch, torch.float16)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    made.grad_scaler = scaler
    made.updaters["network"].scaler = scaler
    return scaler


@every_method
def test_the_gradient_ratio_is_the_same_in_half_precision(
    cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, where gradients of small losses vanish unless they are scaled."""
    small = {"adversarial_weight": 1e-4}
    single = made_of(cls, tmp_path / "single", **small)
    half = made_of(cls, tmp_path / "half", **small)
    in_half_precision(half, monkeypatch, scale=2.0**14)

    data = batch(single, ("target_domain",))
    expected = single.train_step(data)["adversarial_gradient_ratio"]
    found = half.train_step(data)["adversarial_gradient_ratio"]
    assert 0 < expected < 1e-3
    assert found == pytest.approx(expected, rel=0.05)


@every_method
def test_a_gradient_ratio_that_overflows_is_not_noted(
    cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GradScaler starts with a scale that is too large, and skips the first steps."""
    made = made_of(cls, tmp_path)
    scaler = in_half_precision(made, monkeypatch, scale=2.0**40)
    before = vector(made.network)
    result = made.train_step(batch(made, ("target_domain",)))
    assert math.isnan(result["adversarial_gradient_ratio"])
    assert torch.equal(vector(made.network), before)
    assert scaler.get_scale() == 2.0**39


@every_method
@pytest.mark.parametrize("dimension", [2, 3])
def test_the_critic_is_built_for_the_map_it_gets(cls: type, dimension: int, tmp_path: Path) -> None:
    made = made_of(cls, tmp_path, dimension)
    _, judged = made.judged_map(batch(made)["data"])
    assert list(judged.shape[1:]) == [made.judged_channels(), *made.judged_size()]
