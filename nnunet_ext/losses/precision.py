"""Losses in single precision, also under autocast."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
HALF = (torch.float16, torch.bfloat16)


def full_precision(loss: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a loss so that it computes in float32.

    Autocast is off inside. Half-precision tensors are cast, also those in lists and tuples. Integer
    and boolean tensors are left alone, and so is float64, for checks by finite differences.

    >>> @full_precision
    ... def mean(values: torch.Tensor) -> torch.Tensor:
    ...     return values.mean()
    >>> mean(torch.ones(2, dtype=torch.bfloat16))
    tensor(1.)
    """

    @functools.wraps(loss)
    def in_full_precision(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        values = [*args, *kwargs.values()]
        first = next(_tensors(values), None)
        device_type = "cpu" if first is None else first.device.type

        cast_args = _cast(args)
        cast_kwargs = {}
        for name, value in kwargs.items():
            cast_kwargs[name] = _cast(value)

        with torch.autocast(device_type, enabled=False):
            return loss(*cast_args, **cast_kwargs)

    return in_full_precision


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _cast(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        is_half = value.dtype in HALF
        return value.float() if is_half else value

    if not isinstance(value, (list, tuple)):
        return value

    container = type(value)
    items = [_cast(item) for item in value]
    if hasattr(value, "_fields"):  # a NamedTuple takes its items one by one
        return container(*items)
    return container(items)
