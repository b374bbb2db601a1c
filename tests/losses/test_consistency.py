"""Learning from a teacher: loops over the kept pixels, closed forms, gradients, autocast."""

import math

import numpy as np
import pytest
import torch

from nnunet_ext.losses.consistency import (
    class_balanced_pseudo_label_loss,
    confident,
    pseudo_label_loss,
    rare_class_weights,
    soft_consistency,
)

Scene = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def scene(*shape: int, seed: int = 0) -> Scene:
    """Student logits, teacher probabilities and a mask that keeps about half of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    kept = torch.rand(shape[0], *shape[2:], generator=generator) < 0.5
    return student, (2 * teacher).softmax(1), kept


@pytest.mark.parametrize("shape", [(2, 2, 7), (2, 3, 4, 5), (1, 4, 2, 3, 4)])
def test_losses_equal_loops_over_the_kept_pixels(shape: tuple[int, ...]) -> None:
    logits, teacher, kept = scene(*shape)
    labels = teacher.argmax(1)
    entropies, squares = [], []
    for position in np.argwhere(kept.numpy()):
        batch, *pixel = position
        index = (batch, slice(None), *pixel)
        student = np.exp(logits[index].numpy()) / np.exp(logits[index].numpy()).sum()
        entropies.append(-math.log(student[labels[tuple(position)]]))
        squares.append(((student - teacher[index].numpy()) ** 2).mean())

    assert 0 < len(entropies) < kept.numel()
    assert pseudo_label_loss(logits, labels, kept).item() == pytest.approx(np.mean(entropies))
    assert soft_consistency(logits, teacher, kept).item() == pytest.approx(np.mean(squares))


def test_hand_values() -> None:
    logits = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]])  # softmax (3/4, 1/4) and (1/2, 1/2)
    everywhere, first = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    labels = torch.tensor([[0, 1]])
    assert pseudo_label_loss(logits, labels, first).item() == pytest.approx(math.log(4 / 3))
    assert pseudo_label_loss(logits, labels, everywhere).item() == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 2
    )

    teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert soft_consistency(logits, teacher, first).item() == pytest.approx((1 / 4) ** 2)
    assert soft_consistency(logits, teacher, everywhere).item() == pytest.approx(
        ((1 / 4) ** 2 + (1 / 2) ** 2) / 2
    )


def test_rejected_pixels_take_no_part() -> None:
    """Neither their prediction nor their label changes the loss, and they get no gradient, not even
    as background.
    """
    logits, teacher, kept = scene(2, 3, 4, 4)
    labels = teacher.argmax(1)
    logits.requires_grad_()
    others = torch.where(kept, labels, (labels + 1) % 3)
    loss = pseudo_label_loss(logits, labels, kept)
    assert torch.equal(pseudo_label_loss(logits, others, kept), loss)

    (loss + soft_consistency(logits, teacher, kept)).backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(1) > 0
    assert torch.equal(moved, kept)


def test_doubling_the_rejected_area_changes_nothing() -> None:
    logits, teacher, kept = scene(2, 3, 4, 4)
    wider = [torch.cat((x, x), dim=-1) for x in (logits, teacher)]
    mask = torch.cat((kept, torch.zeros_like(kept)), dim=-1)
    torch.testing.assert_close(
        soft_consistency(wider[0], wider[1], mask), soft_consistency(logits, teacher, kept)
    )


def test_nothing_kept_is_zero_and_still_has_a_graph() -> None:
    logits, teacher, kept = scene(1, 2, 3, 3)
    logits.requires_grad_()
    nothing = torch.zeros_like(kept)
    loss = pseudo_label_loss(logits, teacher.argmax(1), nothing) + soft_consistency(
        logits, teacher, nothing
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and logits.grad.eq(0).all()


def test_agreement_is_zero_and_contradiction_two_over_the_classes() -> None:
    everywhere = torch.ones(1, 1, dtype=torch.bool)
    certain = torch.tensor([[[1000.0], [0.0], [0.0], [0.0]]])
    assert soft_consistency(certain, certain.softmax(1), everywhere).item() == 0
    assert soft_consistency(
        certain, certain.flip(1).softmax(1), everywhere
    ).item() == pytest.approx(2 / 4)


def test_confidence_is_the_likeliest_class_above_the_threshold() -> None:
    probabilities = torch.tensor([[[0.2, 0.5, 0.9], [0.8, 0.5, 0.1]]])
    assert confident(probabilities, 0.5).tolist() == [[True, False, True]]
    assert confident(probabilities, 0.0).all()


def test_gradients_equal_finite_differences() -> None:
    logits, teacher, kept = scene(2, 3, 2, 2)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pseudo_label_loss(x, teacher.argmax(1), kept), logits)
    assert torch.autograd.gradcheck(lambda x: soft_consistency(x, teacher, kept), logits)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_float32_under_autocast(half: torch.dtype) -> None:
    logits, teacher, kept = scene(2, 3, 4, 4)
    logits, teacher = logits.to(half), teacher.to(half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hard, soft = (
            pseudo_label_loss(logits, teacher.argmax(1), kept),
            soft_consistency(logits, teacher, kept),
        )

    assert hard.dtype == soft.dtype == torch.float32
    assert torch.equal(hard, pseudo_label_loss(logits.float(), teacher.argmax(1), kept))
    assert torch.equal(soft, soft_consistency(logits.float(), teacher.float(), kept))


def test_rare_classes_are_drawn_more_often() -> None:
    """Frequencies 0.9, 0.09 and 0.01 at temperature 0.5."""
    weights = rare_class_weights([900, 90, 10], temperature=0.5)
    odds = [math.exp(0.1 / 0.5), math.exp(0.91 / 0.5), math.exp(0.99 / 0.5)]
    torch.testing.assert_close(
        weights, torch.tensor([odd / sum(odds) for odd in odds], dtype=torch.float64)
    )


def test_temperature_goes_from_the_rarest_class_to_all_alike() -> None:
    pixels = [900.0, 90.0, 10.0]
    cold, hot = rare_class_weights(pixels, 0.001), rare_class_weights(pixels, 1000.0)
    torch.testing.assert_close(cold, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(hot, torch.full((3,), 1 / 3, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        rare_class_weights([9.0, 0.9, 0.1], 0.5), rare_class_weights(pixels, 0.5)
    )


def test_a_class_that_never_occurs_is_never_drawn() -> None:
    weights = rare_class_weights([50, 0, 50])
    assert weights.tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize(
    ("pixels", "temperature", "message"), [([0, 0], 0.01, "one pixel"), ([1], 0.0, "above 0")]
)
def test_impossible_weights_are_refused(
    pixels: list[float], temperature: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rare_class_weights(pixels, temperature)


def test_each_class_counts_alike_however_many_pixels_it_has() -> None:
    """Ninety pixels of class 0 cost log 2, two of class 1 log 4; class 2 has none that is kept.

    Their mean is 1.5 log 2. Without a kept pixel the loss is 0.
    """
    labels = torch.zeros(1, 100)
    labels[0, 90:] = 1
    labels[0, 95:] = 2
    kept = torch.zeros(1, 100, dtype=torch.bool)
    kept[0, :92] = True
    probabilities = torch.full((1, 3, 100), 0.25)
    probabilities[0, 0, :90] = 0.5
    probabilities[0, 0, 90:] = 0.5
    logits = probabilities.log().requires_grad_()

    loss = class_balanced_pseudo_label_loss(logits, labels, kept)
    assert loss.item() == pytest.approx(1.5 * math.log(2))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[..., 92:].any()

    nothing = torch.zeros_like(kept)
    assert class_balanced_pseudo_label_loss(logits, labels, nothing).item() == 0
