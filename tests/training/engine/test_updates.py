"""One player's step: its own weights only, clipped, scheduled, restored."""

import copy

import pytest
import torch
from torch import nn

from nnunet_ext.training.engine.schedules import linear_decay, per_epoch, polynomial
from nnunet_ext.training.engine.updates import MAX_GRADIENT_NORM, Player


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 1, bias=False)


def test_a_step_moves_its_own_weights_and_gives_no_one_else_a_gradient() -> None:
    first, second = linear(), linear(1)
    player = Player(first, torch.optim.SGD(first.parameters(), 0.1))
    before = [second.weight.clone(), first.weight.clone()]
    (second(torch.ones(3)) + first(torch.ones(3))).sum().backward()  # gradients from elsewhere are not used
    second.weight.grad = None
    player.step((first(torch.ones(3)) * second(torch.ones(3)).detach() + second(torch.ones(3))).sum(), 0)
    assert second.weight.grad is None and torch.equal(second.weight, before[0])
    gradient = second(torch.ones(3)).item()
    torch.testing.assert_close(first.weight, before[1] - 0.1 * gradient)


def test_gradient_norms_are_limited_group_by_group() -> None:
    first, second = linear(), linear(1)
    weights = [first.weight, second.weight]
    player = Player(first, torch.optim.SGD(weights, 1.0), clipped=[[first.weight], [second.weight]])
    start = [weight.detach().clone() for weight in weights]
    player.step(1000 * first.weight.sum() + 0.5 * second.weight.sum(), 0)
    moved = [(weight - old).norm().item() for weight, old in zip(weights, start, strict=True)]
    assert moved == pytest.approx([MAX_GRADIENT_NORM, 0.5 * 3**0.5], rel=1e-5)


def test_frozen_weights_stay() -> None:
    network = nn.Sequential(linear(), linear(1))
    network[0] = nn.Linear(3, 3)
    network[0].requires_grad_(False)
    player = Player(network, torch.optim.SGD(network.parameters(), 0.1))
    before = network[0].weight.clone()
    player.step(network(torch.ones(3)).sum(), 0)
    assert torch.equal(network[0].weight, before)


def test_the_learning_rate_follows_the_iteration_not_the_history() -> None:
    network = linear()
    player = Player(network, torch.optim.SGD(network.parameters(), 0.5), schedule=polynomial(10, exponent=1.0))
    rates = []
    for iteration in (0, 5, 5, 10):
        player.step(network(torch.ones(3)).sum(), iteration)
        rates.append(player.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5, 0.25, 0.25, 0.0])


def test_schedules() -> None:
    assert [polynomial(4, 2.0)(i) for i in (0, 2, 4, 9)] == pytest.approx([1, 0.25, 0, 0])
    assert [linear_decay(2, 6)(i) for i in (0, 2, 3, 6, 9)] == pytest.approx([1, 1, 0.75, 0, 0])
    assert [per_epoch(polynomial(6, 1.0), 3)(i) for i in range(6)] == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5])


def test_a_restored_player_takes_the_same_steps() -> None:
    def made(seed: int) -> Player:
        network = linear(seed)
        return Player(network, torch.optim.Adam(network.parameters(), 0.1), schedule=polynomial(10))

    def steps(player: Player, iterations: range) -> None:
        for iteration in iterations:
            player.step(player.module(torch.arange(3.0) + iteration).square().sum(), iteration)

    whole = made(0)
    steps(whole, range(3))
    continued = made(1)
    continued.load_state_dict(copy.deepcopy(whole.state_dict()))
    for player in (whole, continued):
        steps(player, range(3, 6))
    assert torch.equal(whole.module.weight, continued.module.weight)
