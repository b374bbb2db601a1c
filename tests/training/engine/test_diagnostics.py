"""What tells a training that is unwell."""

import math

import pytest
import torch

from nnunet_ext.training.engine.diagnostics import (
    case_names,
    codebook_use,
    discriminator_balance,
    not_finite,
)


def test_not_finite_names_each_loss() -> None:
    assert not_finite({"a": 1.0, "b": math.nan, "c": math.inf, "d": -math.inf}) == [
        "b is nan",
        "c is inf",
        "d is -inf",
    ]


def test_case_names_of_all_streams() -> None:
    batch = {
        "keys": ["x", "y"],
        "data": torch.zeros(1),
        "general": {"keys": ["z"], "data": torch.zeros(1)},
    }
    assert case_names(batch) == "x, y; general: z"


def test_discriminator_balance() -> None:
    real, fake = torch.tensor([1.0, 1.0, -1.0, 1.0]), torch.tensor([-1.0, 1.0])
    assert discriminator_balance(real, fake).item() == pytest.approx((0.75 + 0.5) / 2)
    assert discriminator_balance(torch.ones(3), -torch.ones(3)).item() == 1


def test_codebook_use() -> None:
    assert codebook_use(torch.arange(8), 8).item() == pytest.approx(1)
    assert codebook_use(torch.zeros(5, 5, dtype=torch.long), 8).item() == pytest.approx(1 / 8)
    assert codebook_use(torch.tensor([0, 1, 0, 1]), 8).item() == pytest.approx(2 / 8)
