"""Critics' losses: closed forms, an independent reference in NumPy, gradients, autocast."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from nnunet_ext.losses.adversarial import FOUR_WAY_CLASSES, four_way, real_fake, source_target


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("shape", [(2, 1, 3, 4), (1, 1, 2, 3, 2), (5,)])
def test_binary_cross_entropy_is_the_log_of_the_sigmoid(real: bool, shape: tuple[int, ...]) -> None:
    logits = random_logits(*shape)
    probability = 1 / (1 + np.exp(-logits.numpy()))
    expected = -np.log(probability if real else 1 - probability).mean()
    assert real_fake(logits, real).item() == pytest.approx(expected)
    assert source_target(logits, source=real).item() == pytest.approx(expected)


def test_hand_values_of_the_two_kinds() -> None:
    logits = torch.tensor([0.0, math.log(3.0)])  # probabilities 1/2 and 3/4
    assert real_fake(logits, True).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert real_fake(logits, False).item() == pytest.approx((math.log(2) + math.log(4)) / 2)

    scores = torch.tensor([0.25, 2.0])
    assert real_fake(scores, True, kind="lsgan").item() == pytest.approx((0.75**2 + 1.0**2) / 2)
    assert real_fake(scores, False, kind="lsgan").item() == pytest.approx((0.25**2 + 2.0**2) / 2)


def test_turning_the_logits_round_turns_the_label_round() -> None:
    logits = random_logits(2, 1, 4, 4)
    torch.testing.assert_close(real_fake(logits, True), real_fake(-logits, False))
    torch.testing.assert_close(source_target(logits, True), source_target(-logits, False))


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="bce, lsgan"):
        real_fake(torch.zeros(1), True, kind="wgan")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (1, 4, 2, 3, 2)])
@pytest.mark.parametrize(("label", "name"), enumerate(FOUR_WAY_CLASSES))
def test_four_way_is_the_log_of_one_softmax_channel(
    label: int, name: tuple[str, bool], shape: tuple[int, ...]
) -> None:
    logits = random_logits(*shape)
    exponentials = np.exp(logits.numpy())
    probability = exponentials[:, label] / exponentials.sum(axis=1)
    assert four_way(logits, *name).item() == pytest.approx(-np.log(probability).mean())


def test_four_way_order_and_a_hand_value() -> None:
    """Odds 1 : 2 : 3 : 4 for source-real, source-fake, target-real, target-fake."""
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0]).log().reshape(1, 4, 1, 1)
    assert four_way(logits, "source", real=True).item() == pytest.approx(math.log(10 / 1))
    assert four_way(logits, "source", real=False).item() == pytest.approx(math.log(10 / 2))
    assert four_way(logits, "target", real=True).item() == pytest.approx(math.log(10 / 3))
    assert four_way(logits, "target", real=False).item() == pytest.approx(math.log(10 / 4))


def test_swapping_domains_is_swapping_two_pairs_of_channels() -> None:
    logits = random_logits(2, 4, 3, 3)
    swapped = logits[:, [2, 3, 0, 1]]
    for real in (True, False):
        torch.testing.assert_close(
            four_way(logits, "source", real), four_way(swapped, "target", real)
        )


def test_four_way_does_not_depend_on_a_shift_or_on_the_size_of_the_map() -> None:
    logits = random_logits(2, 4, 3, 3)
    loss = four_way(logits, "target", True)
    torch.testing.assert_close(four_way(logits + 7, "target", True), loss)
    torch.testing.assert_close(four_way(logits.repeat(1, 1, 2, 3), "target", True), loss)


@pytest.mark.parametrize("loss", [real_fake, source_target])
def test_a_critic_that_cannot_tell_pays_log_of_the_number_of_classes(
    loss: Callable[..., torch.Tensor],
) -> None:
    assert loss(torch.zeros(3, 1, 2), True).item() == pytest.approx(math.log(2))
    assert four_way(torch.zeros(3, 4, 2), "source", True).item() == pytest.approx(math.log(4))


def test_four_way_refuses_other_maps_and_domains() -> None:
    with pytest.raises(ValueError, match="4 classes, not 2"):
        four_way(torch.zeros(1, 2, 3, 3), "source", True)
    with pytest.raises(ValueError, match="source, target, not 'general'"):
        four_way(torch.zeros(1, 4, 3, 3), "general", True)  # type: ignore[arg-type]


def test_gradients_equal_finite_differences() -> None:
    binary, four = (
        random_logits(2, 1, 2, 2).requires_grad_(),
        random_logits(1, 4, 2, 2).requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda x: real_fake(x, True, "bce"), binary)
    assert torch.autograd.gradcheck(lambda x: real_fake(x, False, "lsgan"), binary)
    assert torch.autograd.gradcheck(lambda x: source_target(x, False), binary)
    assert torch.autograd.gradcheck(lambda x: four_way(x, "target", False), four)


def test_gradient_is_softmax_minus_label() -> None:
    logits = random_logits(2, 4, 3, 3).requires_grad_()
    four_way(logits, "target", True).backward()
    label = torch.zeros_like(logits)
    label[:, 2] = 1
    torch.testing.assert_close(logits.grad, (logits.softmax(1) - label).detach() / (2 * 3 * 3))


def test_confident_and_wrong_critics_give_finite_losses() -> None:
    sure = torch.full((1, 1, 2, 2), 1e4, requires_grad=True)
    loss = real_fake(sure, False)
    loss.backward()
    assert loss.item() == 1e4 and sure.grad is not None and sure.grad.isfinite().all()
    extreme = torch.tensor([1e4, 0, 0, 0]).reshape(1, 4, 1)
    assert four_way(extreme, "target", True).item() == 1e4


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_float32_under_autocast(half: torch.dtype) -> None:
    logits = random_logits(2, 4, 3, 3).to(half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [
            real_fake(logits, True),
            real_fake(logits, True, kind="lsgan"),
            source_target(logits, True),
            four_way(logits, "source", True),
        ]
    exact = logits.float()
    expected = [
        real_fake(exact, True),
        real_fake(exact, True, kind="lsgan"),
        source_target(exact, True),
        four_way(exact, "source", True),
    ]
    assert all(loss.dtype == torch.float32 for loss in losses)
    assert losses == expected
