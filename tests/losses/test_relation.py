"""Relation functions against loops, closed forms, finite differences and invariances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.losses.relation import relation_consistency, relation_matrix


def slow_relation_matrix(features: np.ndarray) -> np.ndarray:
    """Eq. 1-2 entry by entry in float64."""
    batch, channels, *_ = features.shape
    activations = [
        [
            sum(features[b, c].ravel()[i] for b in range(batch)) / batch
            for i in range(features[0, 0].size)
        ]
        for c in range(channels)
    ]
    gram = [
        [sum(p * q for p, q in zip(a, b, strict=True)) for b in activations] for a in activations
    ]
    return np.array([[g / math.sqrt(sum(x * x for x in row)) for g in row] for row in gram])


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 5, 4, 2), (2, 4, 2, 3, 2)])
def test_relation_matrix_equals_the_loops(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(
        relation_matrix(features), slow_relation_matrix(features.numpy()), rtol=1e-4, atol=1e-6
    )


def test_hand_value() -> None:
    features = torch.tensor(
        [[[1.0, 0.0], [1.0, 1.0]]]
    )  # A = [[1, 0], [1, 1]], so A Aᵀ = [[1, 1], [1, 2]]
    expected = [[1 / math.sqrt(2), 1 / math.sqrt(2)], [1 / math.sqrt(5), 2 / math.sqrt(5)]]
    torch.testing.assert_close(relation_matrix(features), torch.tensor(expected))


@settings(max_examples=25)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
def test_invariances(scale: float, seed: int) -> None:
    features = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(seed))
    relation = relation_matrix(features)
    torch.testing.assert_close(relation.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(relation_matrix(scale * features), relation, rtol=1e-4, atol=1e-5)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        relation_matrix(features[:, order]), relation[order][:, order], rtol=1e-4, atol=1e-5
    )
    assert torch.equal(relation_matrix(features.flip(0)), relation)  # order within the batch


def test_averages_over_the_batch_before_relating() -> None:
    features = torch.randn(4, 3, 5)
    torch.testing.assert_close(
        relation_matrix(features), relation_matrix(features.mean(0, keepdim=True))
    )


def test_silent_channel_gives_zeros_and_finite_gradients() -> None:
    features = torch.randn(2, 3, 4)
    features[:, 1] = 0
    features.requires_grad_(True)
    relation = relation_matrix(features)
    relation_consistency(relation, torch.eye(3)).backward()
    assert relation[1].eq(0).all() and features.grad is not None
    assert (
        features.grad[:, 1].eq(0).all() and 0 < features.grad.abs().max() < 10
    )  # dividing by 1e-12 would explode


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_also_under_autocast(dtype: torch.dtype) -> None:
    features = torch.randn(2, 8, 16).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        relation = relation_matrix(features)
    assert relation.dtype == torch.float32
    assert torch.equal(relation, relation_matrix(features.float()))


@pytest.mark.parametrize(
    ("reduction", "divisor"), [("sum", 1), ("row_mean", 3), ("element_mean", 9)]
)
def test_consistency_is_the_squared_frobenius_distance(reduction: str, divisor: int) -> None:
    a, b = torch.eye(3), torch.zeros(3, 3)
    b[0, 1] = 2.0
    assert relation_consistency(a, b, reduction).item() == pytest.approx(
        (3 * 1**2 + 2**2) / divisor
    )


def test_consistency_of_equals_is_zero_and_per_row_it_is_bounded() -> None:
    a, b = (relation_matrix(torch.randn(2, 16, 9)) for _ in range(2))
    assert relation_consistency(a, a) == 0
    assert 0 < relation_consistency(a, b) <= 4  # rows are unit vectors
    assert relation_consistency(a, -a).item() == pytest.approx(4, rel=1e-5)


def test_consistency_refuses_an_unknown_reduction() -> None:
    with pytest.raises(ValueError, match="row_mean, sum, element_mean"):
        relation_consistency(torch.eye(2), torch.eye(2), "mean")


def test_gradients_equal_finite_differences() -> None:
    def distance(features: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return relation_consistency(relation_matrix(features), relation_matrix(other))

    generator = torch.Generator().manual_seed(0)
    features, other = (
        torch.randn(2, 3, 5, dtype=torch.float64, generator=generator) for _ in range(2)
    )
    assert torch.autograd.gradcheck(distance, (features.requires_grad_(), other.requires_grad_()))

    ours = features.detach().float().requires_grad_()
    distance(ours, other.detach().float()).backward()
    distance(features, other).backward()
    torch.testing.assert_close(ours.grad, features.grad.float(), rtol=1e-3, atol=1e-6)
