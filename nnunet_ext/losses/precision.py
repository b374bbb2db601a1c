"""Losses in single precision, whatever autocast does around them."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
HALF = (torch.float16, torch.bfloat16)


def full_precision(loss: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a loss so that it computes in float32.

    Autocast is off inside, and half-precision tensors are cast.

    Tensors inside lists and tuples are cast too. Integer and boolean tensors stay as they are, and
    so does float64, which serves finite differences.

    >>> @full_precision
    ... def mean(values: torch.Tensor) -> torch.Tensor:
    ...     return values.mean()
    >>> mean(torch.ones(2, dtype=torch.bfloat16))
    tensor(1.)
    """

    @functools.wraps(loss)
    def in_full_precision(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        first = next(_tensors([*args, *kwargs.values()]), None)
        device_type = "cpu" if first is None else first.device.type
        cast_args = [_cast(value) for value in args]
        cast_kwargs = {name: _cast(value) for name, value in kwargs.items()}

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
        return value.float() if value.dtype in HALF else value

    if not isinstance(value, (list, tuple)):
        return value

    items = [_cast(item) for item in value]
    if hasattr(value, "_fields"):  # a NamedTuple takes its items one by one
        return type(value)(*items)
    return type(value)(items)
