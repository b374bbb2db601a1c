"""Steps of optimizers: their own weights only, clipped, scheduled, restored, alone, jointly and at
once.
"""

import copy

import pytest
import torch
from torch import nn

from nnunet_ext.training.engine.averaging import decay_at, frozen_copy, update_average
from nnunet_ext.training.engine.schedules import polynomial
from nnunet_ext.training.engine.updates import (
    MAX_GRADIENT_NORM,
    RatesOfEpoch,
    Update,
    Updater,
    apply_updates,
    require_separate,
)

ONES = torch.ones(3)


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 1, bias=False)


def sgd(*networks: nn.Module, rate: float = 0.1) -> Updater:
    return Updater(torch.optim.SGD([p for network in networks for p in network.parameters()], rate))


def step(loss: torch.Tensor, *updaters: Updater, iteration: int = 0) -> None:
    update = Update(updaters, {"loss": loss})
    update.compute_gradients()
    apply_updates([update], iteration)


def test_a_step_moves_its_own_weights_and_gives_no_one_else_a_gradient() -> None:
    first, second = linear(), linear(1)
    before = [second.weight.clone(), first.weight.clone()]
    (second(ONES) + first(ONES)).sum().backward()  # gradients from elsewhere are not used
    second.weight.grad = None
    step((first(ONES) * second(ONES).detach() + second(ONES)).sum(), sgd(first))
    assert second.weight.grad is None and torch.equal(second.weight, before[0])
    gradient = second(ONES).item()
    torch.testing.assert_close(first.weight, before[1] - 0.1 * gradient)


def test_a_joint_step_is_that_of_every_optimizer_along_one_loss() -> None:
    first, second = linear(), linear(1)
    before = [network.weight.detach().clone() for network in (first, second)]
    step((first(ONES) * second(ONES)).sum(), sgd(first), sgd(second, rate=0.5))
    torch.testing.assert_close(first.weight, before[0] - 0.1 * before[1].sum())
    torch.testing.assert_close(second.weight, before[1] - 0.5 * before[0].sum())


def test_several_updates_on_one_graph_see_the_same_weights() -> None:
    """A game of min and max on the product: each moves along the other's old value."""
    first, second = linear(), linear(1)
    before = [network.weight.detach().clone() for network in (first, second)]
    product = (first(ONES) * second(ONES)).sum()
    updates = [Update([sgd(first)], {"low": product}), Update([sgd(second)], {"high": -product})]
    for update in updates:
        update.compute_gradients(keep_graph=True)
    assert torch.equal(first.weight, before[0])  # nobody has moved yet
    apply_updates(updates, 0)
    torch.testing.assert_close(first.weight, before[0] - 0.1 * before[1].sum())
    torch.testing.assert_close(second.weight, before[1] + 0.1 * before[0].sum())


def test_nobody_moves_where_one_gradient_is_not_finite() -> None:
    first, second = linear(), linear(1)
    before = [network.weight.detach().clone() for network in (first, second)]
    root = (0 * second(ONES)).abs().sqrt().sum()
    updates = [
        Update([sgd(first)], {"fine": first(ONES).sum()}),
        Update([sgd(second)], {"root": root, "other": second(ONES).sum()}),
    ]
    for update in updates:
        update.compute_gradients()
    with pytest.raises(FloatingPointError, match=r"^root \+ other$"):
        apply_updates(updates, 0)
    assert torch.equal(first.weight, before[0]) and torch.equal(second.weight, before[1])


def test_scaled_losses_give_the_same_joint_step_and_an_overflow_gives_none() -> None:
    def joint(scale: float | None) -> tuple[nn.Linear, nn.Linear, torch.amp.GradScaler | None]:
        networks = linear(), linear(1)
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        updaters = [
            Updater(torch.optim.SGD(network.parameters(), 0.1), scaler, max_norm=1.0)
            for network in networks
        ]
        step(100 * (networks[0](ONES) * networks[1](ONES)).sum(), *updaters)
        return *networks, scaler

    plain, scaled, overflowing = joint(None), joint(1024.0), joint(1e38)
    for ours, theirs in zip(scaled[:2], plain[:2], strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight)
    for ours, start in zip(overflowing[:2], (linear(), linear(1)), strict=True):
        assert torch.equal(ours.weight, start.weight)
    assert scaled[2].get_scale() == 1024 and overflowing[2].get_scale() == pytest.approx(0.5e38)


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_a_player_that_no_loss_reaches_stays(scale: float | None) -> None:
    """As the decoder of a phase without reconstruction; a scaler refuses to step an optimizer
    without gradients.
    """
    first, second = linear(), linear(1)
    scalers = [
        None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale) for _ in range(2)
    ]
    updaters = [
        Updater(torch.optim.SGD(network.parameters(), 0.1), scaler, max_norm=limit)
        for network, scaler, limit in zip((first, second), scalers, (None, 12.0), strict=True)
    ]
    before = [network.weight.detach().clone() for network in (first, second)]
    step(first(ONES).sum(), *updaters)
    torch.testing.assert_close(first.weight, before[0] - 0.1)
    assert torch.equal(second.weight, before[1])


def test_gradient_norms_are_limited_group_by_group() -> None:
    first, second = linear(), linear(1)
    weights = [first.weight, second.weight]
    updater = Updater(
        torch.optim.SGD(weights, 1.0), clipped_groups=[[first.weight], [second.weight]]
    )
    start = [weight.detach().clone() for weight in weights]
    step(1000 * first.weight.sum() + 0.5 * second.weight.sum(), updater)
    moved = [(weight - old).norm().item() for weight, old in zip(weights, start, strict=True)]
    assert moved == pytest.approx([MAX_GRADIENT_NORM, 0.5 * 3**0.5], rel=1e-5)


def test_no_largest_norm_leaves_the_gradient_as_it_is() -> None:
    network = linear()
    start = network.weight.detach().clone()
    step(
        1000 * network.weight.sum(),
        Updater(torch.optim.SGD(network.parameters(), 1.0), max_norm=None),
    )
    assert (network.weight - start).norm().item() == pytest.approx(1000 * 3**0.5, rel=1e-5)


def test_frozen_weights_stay() -> None:
    network = nn.Sequential(nn.Linear(3, 3), linear(1))
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    step(network(ONES).sum(), sgd(network))
    assert torch.equal(network[0].weight, before)


def test_the_learning_rate_follows_the_iteration_not_the_history() -> None:
    network = linear()
    updater = Updater(
        torch.optim.SGD(network.parameters(), 0.5), schedule=polynomial(10, exponent=1.0)
    )
    rates = []
    for iteration in (0, 5, 5, 10):
        step(network(ONES).sum(), updater, iteration=iteration)
        rates.append(updater.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5, 0.25, 0.25, 0.0])
    RatesOfEpoch([updater], iterations_per_epoch=2).step(4)
    assert updater.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * (1 - 8 / 10))


def test_two_owners_of_one_parameter_are_refused() -> None:
    first, second = linear(), linear(1)
    assert require_separate({"a": sgd(first), "b": sgd(second)}) == {
        id(first.weight),
        id(second.weight),
    }
    with pytest.raises(ValueError, match=r"a and b own the same parameter, of shape \[1, 3\]"):
        require_separate({"a": sgd(first), "b": sgd(first, second)})


def test_a_restored_updater_takes_the_same_steps() -> None:
    def made(seed: int) -> tuple[nn.Linear, Updater]:
        network = linear(seed)
        return network, Updater(
            torch.optim.Adam(network.parameters(), 0.1), schedule=polynomial(10)
        )

    def steps(network: nn.Linear, updater: Updater, iterations: range) -> None:
        for iteration in iterations:
            step(
                network(torch.arange(3.0) + iteration).square().sum(), updater, iteration=iteration
            )

    whole, continued = made(0), made(1)
    steps(*whole, range(3))
    continued[0].load_state_dict(copy.deepcopy(whole[0].state_dict()))
    continued[1].load_state_dict(copy.deepcopy(whole[1].state_dict()))
    for network, updater in (whole, continued):
        steps(network, updater, range(3, 6))
    assert torch.equal(whole[0].weight, continued[0].weight)


def test_an_average_starts_as_the_plain_mean_and_copies_buffers() -> None:
    network = nn.BatchNorm1d(1)
    average = frozen_copy(network)
    assert not average.training and not average.weight.requires_grad
    values = [4.0, 1.0, 7.0, 0.0]
    for iteration, value in enumerate(values):
        with torch.no_grad():
            network.weight.fill_(value)
        network.running_mean.fill_(value)
        update_average(average, network, decay_at(0.5, iteration))
        assert average.running_mean.item() == value
        if iteration == 0:
            assert average.weight.item() == 4.0  # nothing of the random start
    # decays 0, 1/2, 1/2, 1/2
    assert average.weight.item() == pytest.approx(((4 + 1) / 2 + 7) / 4 + 0)
    assert decay_at(0.999, 1) == 0.5 and decay_at(0.999, 10**6) == 0.999
