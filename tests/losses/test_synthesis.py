"""Losses of a translation against naive loops, their minimum, and whom they pull."""

import itertools

import pytest
import torch

from nnunet_ext.losses.synthesis import cycle_loss, identity_loss, lesion_loss


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


def test_the_lesion_loss_is_the_sum() -> None:
    assert lesion_loss(torch.tensor(2.0), torch.tensor(0.5)) == 2.5
