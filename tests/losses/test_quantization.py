"""Vector quantisation against loops in NumPy, and which term gives whom a gradient."""

import numpy as np
import pytest
import torch

from nnunet_ext.losses.quantization import (
    codebook_loss,
    commitment_loss,
    nearest_codes,
    straight_through,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nearest_by_loops(features: np.ndarray, codebook: np.ndarray) -> list[int]:
    chosen = []
    for feature in features:
        distances = [
            sum((f - c) ** 2 for f, c in zip(feature, code, strict=True)) for code in codebook
        ]
        chosen.append(int(np.argmin(distances)))
    return chosen


@pytest.mark.parametrize(("count", "codes", "channels"), [(50, 7, 3), (1, 5, 1), (20, 1, 4)])
def test_nearest_code_by_loops(count: int, codes: int, channels: int) -> None:
    features, codebook = drawn(count, channels), drawn(codes, channels, seed=1)
    assert nearest_codes(features, codebook).tolist() == nearest_by_loops(
        features.numpy(), codebook.numpy()
    )


def test_the_first_of_equally_near_codes() -> None:
    codebook = torch.tensor([[1.0], [-1.0], [1.0]])
    assert nearest_codes(torch.tensor([[0.0], [0.5], [-0.5]]), codebook).tolist() == [0, 0, 1]


def test_no_graph_and_full_precision() -> None:
    """In half precision 1000 and 1000.3 are the same number."""
    features = torch.tensor([[1000.3]], requires_grad=True)
    codebook = torch.tensor([[1000.0], [1000.3]], requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chosen = nearest_codes(features, codebook)
    assert chosen.tolist() == [1] and not chosen.requires_grad


def test_the_gradient_passes_straight_through() -> None:
    features, codes = drawn(4, 3).requires_grad_(), drawn(4, 3, seed=1).requires_grad_()
    weights = drawn(4, 3, seed=2)
    passed = straight_through(features, codes)
    torch.testing.assert_close(passed, codes)
    (weights * passed).sum().backward()
    assert torch.equal(features.grad, weights)
    assert codes.grad is None


def test_each_term_has_its_own_gradient() -> None:
    """d/de mean (e - f)² = 2 (e - f) / n, and for the commitment the same for f."""
    features, codes = drawn(4, 3).requires_grad_(), drawn(4, 3, seed=1).requires_grad_()
    difference = (codes - features).detach()
    for loss, moved, fixed, sign in (
        (codebook_loss, codes, features, 1),
        (commitment_loss, features, codes, -1),
    ):
        moved.grad = fixed.grad = None
        value = loss(features, codes)
        assert value.item() == pytest.approx((difference.numpy() ** 2).mean())
        value.backward()
        torch.testing.assert_close(moved.grad, sign * 2 * difference / 12)
        assert fixed.grad is None
