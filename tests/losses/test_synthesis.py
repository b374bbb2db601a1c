"""Losses of a translation against naive loops, their minimum, and whom they pull."""

import itertools

import numpy as np
import pytest
import torch

from nnunet_ext.losses.synthesis import contrast_loss, cycle_loss, identity_loss, lesion_loss


@pytest.mark.parametrize("loss", [cycle_loss, identity_loss])
def test_both_domains_contribute_their_mean_absolute_difference(loss: object) -> None:
    torch.manual_seed(0)
    source, source_again, target, target_again = torch.randn(4, 2, 1, 3, 3)
    expected = 0.0
    for one, other in ((source, source_again), (target, target_again)):
        places = itertools.product(range(2), range(3), range(3))
        differences = [abs(one[b, 0, y, x].item() - other[b, 0, y, x].item()) for b, y, x in places]
        expected += sum(differences) / len(differences)
    assert loss(source, source_again, target, target_again).item() == pytest.approx(expected)  # type: ignore[operator]
    assert loss(source, source, target, target) == 0  # type: ignore[operator]


def test_half_precision_is_computed_in_full() -> None:
    images = [
        torch.full((1, 1, 2, 2), value, dtype=torch.float16) for value in (0.0, 6e4, 0.0, 6e4)
    ]
    assert cycle_loss(*images).item() == pytest.approx(1.2e5, rel=1e-3)


@pytest.mark.parametrize("background", [-5.0, 0.2])  # below all tissue, or among it
def test_the_contrast_loss_is_what_the_correlation_in_the_foreground_lacks_to_one_half(
    background: float,
) -> None:
    """The first column is background: the image's most frequent value, whatever it became."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 1, 5, 4)
    images[0, ..., 0] = images[2, ..., 0] = background
    expected = 0.0
    for one, other in (images[:2], images[2:]):
        for a, b in zip(one.numpy(), other.numpy(), strict=True):
            foreground = a != np.float32(background)
            correlation = np.corrcoef(a[foreground], b[foreground])[0, 1]
            expected += max(0.0, 0.5 - correlation) / 3
    assert contrast_loss(*images).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("slope", "expected"), [(2.0, 0.0), (0.1, 0.0), (-3.0, 3.0), (0.0, 1.0)])
def test_scale_and_offset_of_the_contrast_do_not_matter_but_its_sign_does(
    slope: float, expected: float
) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 1, 6, 6)
    translated = slope * image + 5
    loss = contrast_loss(image, translated, image, translated)
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_a_bright_spot_may_become_dark_once_the_sign_of_the_contrast_is_right() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 1, 8, 8)
    translated = image.clone()
    brightest = image.flatten().argmax()
    translated.view(-1)[brightest] = 0
    translated.requires_grad_()
    contrast_loss(image, translated, image, image).backward()
    assert not translated.grad.any()  # type: ignore[union-attr]


def test_images_of_one_value_pull_nowhere() -> None:
    translated = torch.randn(1, 1, 4, 4, requires_grad=True)
    constant = torch.zeros(1, 1, 4, 4)
    loss = contrast_loss(constant, translated, constant, constant)
    loss.backward()
    assert loss.item() == 1
    assert not translated.grad.any()  # type: ignore[union-attr]


def test_the_contrast_loss_turns_an_inverted_translation() -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 1, 6, 6)
    slope = torch.tensor(-1.0, requires_grad=True)
    noise = 0.1 * torch.randn_like(image)
    contrast_loss(image, slope * image + noise, image, image).backward()
    assert slope.grad is not None
    assert slope.grad < 0  # a larger slope lowers the loss


def test_the_lesion_loss_is_the_sum() -> None:
    assert lesion_loss(torch.tensor(2.0), torch.tensor(0.5)) == 2.5
