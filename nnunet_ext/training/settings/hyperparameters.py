"""Hyperparameters are a trainer's annotated class attributes.

They are typed, have defaults, and are overridden from the plans.

A trainer writes ``target_weight: Weight = 0.1  # lambda_T, eq. 5``; a ``ClassVar`` is not a
hyperparameter.
"""

import difflib
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from nnunet_ext.errors import InputError


@dataclass(frozen=True)
class Range:
    """Inclusive bounds of a number."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"from {self.low:g} to {self.high:g}"

    def __contains__(self, number: float) -> bool:
        return math.isfinite(number) and self.low <= number <= self.high


Weight = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0)]
Width = Annotated[float, Range(1 / 32, 1)]  # share of channels, of which at least a few are left

PRESETS = ("recommended", "paper", "code")


def declared(trainer: type) -> dict[str, Any]:
    """Return the type hint of every hyperparameter of a trainer class, base classes first."""
    hints = get_type_hints(trainer, include_extras=True)
    return {
        name: hint
        for name, hint in hints.items()
        if get_origin(hint) is not ClassVar and not name.startswith("_")
    }


def describe(hint: Any) -> str:
    """Return the values that a hint admits, in words."""
    base, bounds = _parts(hint)
    if get_origin(base) is Literal:
        return "one of " + ", ".join(map(str, get_args(base)))

    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return " ".join([names[base], *map(str, bounds)])


def parse(name: str, value: Any, hint: Any) -> Any:
    """Convert a value to the hinted type and check it.

    It is text from the command line, or JSON from the plans.

    Raises:
        InputError: naming the hyperparameter, the value and what is admitted.
    """
    base, bounds = _parts(hint)
    try:
        parsed = _convert(value, base)
        possible = all(parsed in bound for bound in bounds)
    except (ValueError, TypeError, KeyError):
        possible = False
    if not possible:
        raise InputError(f"{name}={value} is impossible: {name} is {describe(hint)}")
    return parsed


def _parts(hint: Any) -> tuple[Any, list[Range]]:
    """Return the type of a hint, and the ranges that it may be annotated with."""
    if get_origin(hint) is not Annotated:
        return hint, []
    base, *bounds = get_args(hint)
    return base, bounds


def _convert(value: Any, base: Any) -> Any:
    if get_origin(base) is Literal:
        if value not in get_args(base):
            raise ValueError
        return value
    if base is bool:
        return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
    if base is int and isinstance(value, float) and not value.is_integer():
        raise ValueError
    return base(value)


def unknown(name: str, valid: list[str]) -> InputError:
    """Return the refusal of an unknown hyperparameter, which names the valid ones."""
    close = difflib.get_close_matches(name, valid, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return InputError(f"unknown hyperparameter {name}{hint}; valid are: {', '.join(valid)}")


def resolve(trainer: type, preset: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return every hyperparameter of ``trainer``.

    It is its default, then the preset, then ``name`` and ``Trainer.name`` settings.

    Settings that only other trainers declare are skipped: one plans file configures all of them.

    Raises:
        InputError: an impossible value, or an unknown name in this trainer's own scope.
    """
    hints = declared(trainer)
    values = {name: getattr(trainer, name) for name in hints}
    values |= getattr(trainer, "presets", {}).get(preset, {})
    for name, value in settings.items():
        if name in hints:
            values[name] = value

    scope = f"{trainer.__name__}."
    for name, value in settings.items():
        if not name.startswith(scope):
            continue
        plain = name.removeprefix(scope)
        if plain not in hints:
            raise unknown(name, list(hints))
        values[plain] = value
    return {name: parse(name, value, hints[name]) for name, value in values.items()}
