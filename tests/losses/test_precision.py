"""The decorator against autocast: what a loss receives, and in which precision it multiplies."""

import inspect
from typing import NamedTuple

import pytest
import torch

from nnunet_ext.losses.precision import full_precision


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def gram(a: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """A matrix product, which autocast would run in half precision."""
    return scale * (a @ a.T)


def received(*values: object, **named: object) -> list[object]:
    return [*values, *named.values()]


def test_products_are_in_float32_under_autocast() -> None:
    """1 + 2⁻¹⁰ has no bfloat16: the plain product rounds it to 1, the decorated one squares it."""
    a = torch.full((1, 1), 1 + 2.0**-10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, ours = gram(a), full_precision(gram)(a)

    assert plain.dtype == torch.bfloat16 and plain.item() == 1
    assert ours.dtype == torch.float32 and ours.item() == (1 + 2.0**-10) ** 2


def test_autocast_is_back_afterwards_also_after_an_error() -> None:
    @full_precision
    def fails(_: torch.Tensor) -> None:
        raise ValueError("on purpose")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(ValueError, match="on purpose"):
            fails(torch.ones(1))
        assert gram(torch.ones(1, 1)).dtype == torch.bfloat16


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_cast_wherever_it_stands(half: torch.dtype) -> None:
    x = torch.ones(2, dtype=half)
    plain, nested, pair, named = full_precision(received)(x, [x, (x, 3)], Pair(x, x), named=[x])

    assert plain.dtype == torch.float32
    assert nested[0].dtype == nested[1][0].dtype == torch.float32 and nested[1][1] == 3
    assert isinstance(nested, list) and isinstance(nested[1], tuple)
    assert isinstance(pair, Pair) and pair.second.dtype == torch.float32
    assert named[0].dtype == torch.float32


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int16, torch.bool, torch.float32, torch.float64]
)
def test_other_tensors_pass_untouched(dtype: torch.dtype) -> None:
    x = torch.ones(2, dtype=dtype)
    (ours,) = full_precision(received)(x)
    assert ours is x


def test_gradients_flow_back_through_the_cast() -> None:
    x = torch.full((1, 1), 3.0, dtype=torch.bfloat16, requires_grad=True)
    full_precision(gram)(x, scale=0.5).backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16 and x.grad.item() == 3.0  # d (x² / 2) / dx


def test_name_signature_and_documentation_are_kept() -> None:
    ours = full_precision(gram)
    assert ours.__name__ == "gram" and ours.__doc__ == gram.__doc__
    assert inspect.signature(ours) == inspect.signature(gram)
