"""Entropy against NumPy, closed forms, finite differences and invariances."""

import math

import numpy as np
import pytest
import torch

from nnunet_ext.losses.entropy import entropy_loss, entropy_map, self_information_map


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("shape", [(2, 2, 5), (3, 4, 3, 5), (1, 3, 2, 3, 2)])
def test_maps_equal_numpy_in_bits(shape: tuple[int, ...]) -> None:
    """The public code writes -p log2 p / log2 C; the base cancels."""
    probabilities = random_logits(*shape).softmax(1)
    p = probabilities.numpy()
    expected = -p * np.log2(p) / np.log2(shape[1])

    np.testing.assert_allclose(self_information_map(probabilities), expected)
    np.testing.assert_allclose(entropy_map(probabilities), expected.sum(axis=1))
    assert entropy_map(probabilities).shape == (shape[0], *shape[2:])


def test_loss_is_the_mean_of_the_map() -> None:
    logits = random_logits(2, 3, 4, 4)
    assert entropy_loss(logits).item() == pytest.approx(
        entropy_map(logits.softmax(1)).mean().item()
    )


def test_hand_values() -> None:
    probabilities = torch.tensor([[[1.0, 0.25, 0.5], [0.0, 0.75, 0.5]]])
    quarter = (math.log2(4) + 3 * math.log2(4 / 3)) / 4
    torch.testing.assert_close(entropy_map(probabilities), torch.tensor([[0.0, quarter, 1.0]]))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_indecision_is_one_whatever_the_number_of_classes(classes: int) -> None:
    assert entropy_loss(torch.full((2, classes, 3, 3), 5.0)).item() == pytest.approx(1.0)


def test_largest_self_information_is_at_one_over_e() -> None:
    """-p log p is largest at p = 1/e."""
    p = torch.linspace(0, 1, 1001)
    information = self_information_map(torch.stack((p, 1 - p), dim=1))[:, 0]
    assert information.max().item() <= 1 / (math.e * math.log(2)) * (1 + 1e-6)
    assert p[information.argmax()].item() == pytest.approx(1 / math.e, abs=1e-3)


def test_order_of_classes_and_shift_of_logits_do_not_matter() -> None:
    logits = random_logits(2, 4, 3, 3)
    loss = entropy_loss(logits)
    torch.testing.assert_close(entropy_loss(logits[:, [2, 0, 3, 1]]), loss)
    torch.testing.assert_close(entropy_loss(logits + 11), loss)


def test_gradients_equal_finite_differences() -> None:
    logits = random_logits(2, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(entropy_loss, logits)
    assert torch.autograd.gradcheck(lambda x: self_information_map(x.softmax(1)), logits)


def test_impossible_classes_give_no_nan() -> None:
    """Softmax underflows to exactly 0 here, where log p is infinite."""
    logits = torch.tensor([[300.0, 0.0, 0.0], [1.0, -300.0, 1.0]], requires_grad=True)
    assert logits.softmax(1)[0, 1] == 0
    loss = entropy_loss(logits)
    loss.backward()
    assert loss.item() == pytest.approx((0 + math.log(2) / math.log(3)) / 2)
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, not 1"):
        entropy_loss(torch.zeros(1, 1, 4))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_float32_under_autocast(half: torch.dtype) -> None:
    logits = random_logits(2, 3, 4, 4).to(half)
    probabilities = logits.softmax(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, entropy = entropy_loss(logits), entropy_map(probabilities)

    assert loss.dtype == entropy.dtype == torch.float32
    assert torch.equal(loss, entropy_loss(logits.float()))
    assert torch.equal(entropy, entropy_map(probabilities.float()))
