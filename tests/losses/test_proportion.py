"""Shares of classes: closed forms, finite differences, pixels that take no part."""

import math

import pytest
import torch

from nnunet_ext.losses.proportion import proportion_loss, region_proportion_loss

NORMS = ("l2", "l1", "kl")


def logits_of(probabilities: list[float], pixels: int) -> torch.Tensor:
    """One image whose every pixel has these probabilities: ``[1, C, pixels]``."""
    return torch.tensor(probabilities).log().reshape(1, -1, 1).expand(1, -1, pixels)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("l2", (0.5 - 0.2) ** 2 + (0.25 - 0.3) ** 2 + (0.25 - 0.5) ** 2),
        ("l1", 0.3 + 0.05 + 0.25),
        (
            "kl",
            0.5 * math.log(0.5 / 0.2) + 0.25 * math.log(0.25 / 0.3) + 0.25 * math.log(0.25 / 0.5),
        ),
    ],
)
@pytest.mark.parametrize("with_channel", [False, True])
def test_closed_forms(norm: str, expected: float, with_channel: bool) -> None:
    target = torch.tensor([[0, 0, 1, 2]])
    target = target[:, None] if with_channel else target
    assert proportion_loss(logits_of([0.2, 0.3, 0.5], 4), target, norm).item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("norm", NORMS)
def test_zero_where_shares_agree_wherever_the_pixels_are(norm: str) -> None:
    target = torch.tensor([[0, 0, 0, 1]])
    moved = torch.tensor([[1, 0, 0, 0]])
    logits = 50 * torch.nn.functional.one_hot(moved, 2).movedim(-1, 1).float()
    assert proportion_loss(logits, target, norm).item() == pytest.approx(0, abs=1e-6)


def test_images_are_averaged_not_pooled() -> None:
    """Both images are wrong; their mean shares are right."""
    target = torch.tensor([[0, 0], [1, 1]])
    logits = 50 * torch.nn.functional.one_hot(1 - target, 2).movedim(-1, 1).float()
    assert proportion_loss(logits, target).item() == pytest.approx(2)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spatial", [(3, 2), (2, 2, 2)])
def test_gradient_by_finite_differences(norm: str, spatial: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(
        2, 3, *spatial, generator=generator, dtype=torch.float64, requires_grad=True
    )
    target = torch.randint(0, 3, (2, *spatial), generator=generator)
    valid = torch.rand(2, *spatial, generator=generator) > 0.3
    assert torch.autograd.gradcheck(lambda x: proportion_loss(x, target, norm, valid), logits)
    regions = torch.randint(0, 2, (2, 3, *spatial), generator=generator)
    assert torch.autograd.gradcheck(
        lambda x: region_proportion_loss(x, regions, norm, valid), logits
    )


@pytest.mark.parametrize("norm", NORMS)
def test_pixels_that_are_not_valid_take_no_part(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, generator=generator)
    target = torch.randint(0, 3, (1, 1, 4, 4), generator=generator)
    valid = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    valid[..., :2] = True
    masked = target.masked_fill(~valid, 255)  # an ignore label is no class
    logits.requires_grad_()
    loss = proportion_loss(logits, masked, norm, valid)
    cropped = proportion_loss(logits[..., :2], target[..., :2], norm)
    assert loss.item() == pytest.approx(cropped.item())
    loss.backward()
    assert not logits.grad[..., 2:].any() and logits.grad[..., :2].any()


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_without_valid_pixels_takes_no_part(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, generator=generator, requires_grad=True)
    target = torch.randint(0, 3, (2, 8), generator=generator)
    valid = torch.tensor([[True], [False]]).expand(2, 8)
    alone = proportion_loss(logits[:1], target[:1], norm)
    assert proportion_loss(logits, target, norm, valid).item() == pytest.approx(alone.item())
    nothing = proportion_loss(logits, target, norm, torch.zeros_like(valid))
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()


def test_regions_are_problems_of_two_classes() -> None:
    """True shares 1/4 and 3/4; the sigmoid of 0 is 1/2 everywhere."""
    target = torch.tensor([[[0, 0, 0, 1], [1, 1, 1, 0]]])
    loss = region_proportion_loss(torch.zeros(1, 2, 4), target)
    assert loss.item() == pytest.approx(2 * 2 * 0.25**2)
    plain = proportion_loss(torch.zeros(1, 2, 4), target[:, 0])
    assert region_proportion_loss(torch.zeros(1, 1, 4), target[:, :1]).item() == pytest.approx(
        plain.item()
    )


def test_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm must be one of l2, l1, kl, not 'l3'"):
        proportion_loss(torch.zeros(1, 2, 4), torch.zeros(1, 4, dtype=torch.long), "l3")  # type: ignore[arg-type]
