"""Structure losses: closed forms, loops over pixels, borders, perfect and empty masks."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from nnunet_ext.losses.structure import (
    boundary_weight,
    legacy_unweighted_bce,
    weighted_bce,
    weighted_dice,
)


def scene(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and a mask with a rectangle in each image and channel."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64)
    mask = torch.zeros(shape, dtype=torch.float64)
    mask[..., 3:9, 4:11] = 1
    return logits, mask


@pytest.mark.parametrize("count_padding", [False, True])
def test_weights_equal_loops_over_windows(count_padding: bool) -> None:
    mask = (torch.rand(1, 2, 9, 12, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    window, gamma = 5, 3.0
    weight = boundary_weight(mask, window, gamma, count_padding)
    for channel, y, x in np.ndindex(2, 9, 12):
        total = count = 0.0
        for j in range(y - 2, y + 3):
            for i in range(x - 2, x + 3):
                inside = 0 <= j < 9 and 0 <= i < 12
                total += mask[0, channel, j, i].item() if inside else 0.0
                count += inside or count_padding
        expected = 1 + gamma * abs(total / count - mask[0, channel, y, x].item())
        assert weight[0, channel, y, x].item() == pytest.approx(expected)


@pytest.mark.parametrize("count_padding", [False, True])
def test_weights_leave_out_what_does_not_count(count_padding: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    mask = (torch.rand(1, 2, 9, 12, generator=generator) < 0.3).double()
    counted = (torch.rand(1, 1, 9, 12, generator=generator) < 0.7).double()
    weight = boundary_weight(mask, 5, 3.0, count_padding, counted)
    for channel, y, x in np.ndindex(2, 9, 12):
        if not counted[0, 0, y, x]:
            continue
        total = count = 0.0
        for j in range(y - 2, y + 3):
            for i in range(x - 2, x + 3):
                inside = 0 <= j < 9 and 0 <= i < 12
                known = counted[0, 0, j, i].item() if inside else float(count_padding)
                total += known * mask[0, channel, j, i].item() if inside else 0.0
                count += known
        expected = 1 + 3.0 * abs(total / count - mask[0, channel, y, x].item())
        assert weight[0, channel, y, x].item() == pytest.approx(expected)


def test_weight_of_a_half_plane() -> None:
    """The last of 50 foreground columns sees 16 foreground and 15 background columns of its window
    of 31.
    """
    mask = torch.zeros(1, 1, 80, 100, dtype=torch.float64)
    mask[..., :50] = 1
    weight = boundary_weight(mask)[0, 0, 40]
    assert weight[49].item() == pytest.approx(1 + 5 * 15 / 31)
    assert weight[50].item() == pytest.approx(1 + 5 * 15 / 31)
    assert weight[49 - 14].item() == pytest.approx(1 + 5 * 1 / 31)
    assert weight[49 - 15].item() == pytest.approx(1) and weight[0].item() == pytest.approx(1)


def test_only_counted_padding_gives_a_full_mask_a_border() -> None:
    full = torch.ones(1, 1, 64, 64)
    torch.testing.assert_close(boundary_weight(full), full)
    corner = boundary_weight(full, count_padding=True)[0, 0, 0, 0].item()
    assert corner == pytest.approx(
        1 + 5 * (1 - 16**2 / 31**2)
    )  # 0.73, as methods of the authors' code have it


def test_losses_equal_sums_over_pixels() -> None:
    logits, mask = scene(2, 3, 16, 16)
    weight = boundary_weight(mask, 7)
    bces, dices = [], []
    for image, channel in np.ndindex(2, 3):
        z, g, w = (tensor[image, channel].numpy() for tensor in (logits, mask, weight))
        p = 1 / (1 + np.exp(-z))
        bces.append((w * -(g * np.log(p) + (1 - g) * np.log(1 - p))).sum() / w.sum())
        dices.append(1 - (2 * (w * p * g).sum() + 1) / ((w * (p + g)).sum() + 1))
    assert weighted_bce(logits, mask, weight).item() == pytest.approx(np.mean(bces))
    assert weighted_dice(logits, mask, weight).item() == pytest.approx(np.mean(dices))


def test_closed_forms() -> None:
    """Indecision, p = 1/2, costs log 2 whatever the weights; of n weighted pixels half are
    foreground.
    """
    half = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]], dtype=torch.float64)
    weight = torch.full_like(mask, 3.0)
    assert weighted_bce(half, mask, weight).item() == pytest.approx(math.log(2))
    intersection, union = 3 * 2 / 2, 3 * (4 / 2 + 2)
    assert weighted_dice(half, mask, weight).item() == pytest.approx(
        1 - (2 * intersection + 1) / (union + 1)
    )


def test_an_error_at_the_border_costs_more_than_one_inside() -> None:
    """The window of a pixel of the outermost foreground column holds 15 background columns of
    31.
    """
    mask = torch.zeros(1, 1, 96, 96, dtype=torch.float64)
    mask[..., 16:80, 16:80] = 1
    weight = boundary_weight(mask)
    perfect = torch.where(mask > 0, 40.0, -40.0).double()
    at_border, inside = perfect.clone(), perfect.clone()
    at_border[..., 48, 16] *= -1
    inside[..., 48, 48] *= -1
    ratio = weighted_bce(at_border, mask, weight) / weighted_bce(inside, mask, weight)
    assert ratio.item() == pytest.approx(1 + 5 * 15 / 31)
    assert weighted_dice(at_border, mask, weight) > weighted_dice(inside, mask, weight)
    everywhere = torch.ones_like(mask)
    torch.testing.assert_close(
        legacy_unweighted_bce(at_border, mask, everywhere),
        legacy_unweighted_bce(inside, mask, everywhere),
    )


@pytest.mark.parametrize("filled", [0.0, 1.0, 0.5])
def test_a_perfect_prediction_costs_nothing(filled: float) -> None:
    """Also of an empty and of a full mask."""
    mask = (torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(1)) < filled).float()
    logits = torch.where(mask > 0, 200.0, -200.0).requires_grad_()
    weight = boundary_weight(mask)
    bce, dice = weighted_bce(logits, mask, weight), weighted_dice(logits, mask, weight)
    assert bce.item() == pytest.approx(0, abs=1e-6) and dice.item() == pytest.approx(0, abs=1e-6)
    (bce + dice).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_empty_masks_are_finite_and_teach_background() -> None:
    mask = torch.zeros(2, 2, 32, 32)
    logits = torch.zeros_like(mask, requires_grad=True)
    loss = weighted_bce(logits, mask, boundary_weight(mask)) + weighted_dice(
        logits, mask, boundary_weight(mask)
    )
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and (logits.grad > 0).all()


def test_pixels_of_weight_zero_take_no_part() -> None:
    logits, mask = scene(1, 1, 16, 16)
    weight = boundary_weight(mask, 7)
    weight[..., :4, :] = 0
    changed = logits.clone()
    changed[..., :4, :] += 5
    for loss in (weighted_bce, weighted_dice, legacy_unweighted_bce):
        torch.testing.assert_close(loss(logits, mask, weight), loss(changed, mask, weight))
        assert loss(logits, mask, torch.zeros_like(weight)).item() == 0


def test_the_legacy_loss_is_what_the_deprecated_argument_gives() -> None:
    """The authors weigh a map that PyTorch already averaged; the weights then cancel."""
    logits, mask = scene(2, 1, 16, 16)
    weight = boundary_weight(mask, 31, 5.0, count_padding=True)
    averaged = functional.binary_cross_entropy_with_logits(logits, mask, reduce="none")  # type: ignore[arg-type]
    authors = ((weight * averaged).sum((2, 3)) / weight.sum((2, 3))).mean()
    ours = legacy_unweighted_bce(logits, mask, torch.ones_like(mask))
    torch.testing.assert_close(ours, authors)
    assert abs(ours - weighted_bce(logits, mask, weight)) > 1e-3


def test_gradients_equal_finite_differences() -> None:
    logits, mask = scene(1, 2, 12, 12)
    weight = boundary_weight(mask, 7)
    for loss in (weighted_bce, weighted_dice):
        assert torch.autograd.gradcheck(
            lambda z, loss=loss: loss(z, mask, weight), logits.requires_grad_()
        )
