"""Hyperparameters: a trainer's annotated class attributes, which the plans override.

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
        is_finite = math.isfinite(number)
        return is_finite and self.low <= number <= self.high


Weight = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0)]
Width = Annotated[float, Range(1 / 32, 1)]  # factor on the channels; a few are left at least

PRESETS = ("recommended", "paper", "code")
TRUTH = {"true": True, "1": True, "false": False, "0": False}


def declared(trainer: type) -> dict[str, Any]:
    """Return the type hint of every hyperparameter of a trainer class, base classes first."""
    hints = get_type_hints(trainer, include_extras=True)
    hyperparameters = {}
    for name, hint in hints.items():
        is_class_variable = get_origin(hint) is ClassVar
        is_private = name.startswith("_")
        if not is_class_variable and not is_private:
            hyperparameters[name] = hint
    return hyperparameters


def describe(hint: Any) -> str:
    """Return the values that a hint admits, in words."""
    base, bounds = _parts(hint)
    if get_origin(base) is Literal:
        values = ", ".join(map(str, get_args(base)))
        return f"one of {values}"

    names = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "text",
    }
    words = [names[base], *map(str, bounds)]
    return " ".join(words)


def parse(name: str, value: Any, hint: Any) -> Any:
    """Convert a value, text from the command line or JSON from the plans, to the hinted type.

    Raises:
        InputError: an impossible value; the message says which values are possible.
    """
    base, bounds = _parts(hint)
    try:
        parsed = _convert(value, base)
        is_possible = all(parsed in bound for bound in bounds)
    except (ValueError, TypeError, KeyError):
        is_possible = False

    if not is_possible:
        raise InputError(f"{name}={value} is impossible: {name} is {describe(hint)}")
    return parsed


def _parts(hint: Any) -> tuple[Any, list[Range]]:
    """Return the type of a hint, and its annotated ranges."""
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
        word = str(value).lower()
        return TRUTH[word]
    if base is int and isinstance(value, float) and not value.is_integer():
        raise ValueError
    return base(value)


def unknown(name: str, valid: list[str]) -> InputError:
    """Return the error for an unknown hyperparameter, which lists the valid ones."""
    close = difflib.get_close_matches(name, valid, n=1)
    hint = ""
    if close:
        hint = f" (did you mean {close[0]}?)"
    names = ", ".join(valid)
    return InputError(f"unknown hyperparameter {name}{hint}; valid are: {names}")


def resolve(trainer: type, preset: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return every hyperparameter of ``trainer``.

    The default gives way to the preset, to a setting ``name``, and that to ``Trainer.name``.
    Settings that only other trainers declare are ignored: one plans file configures all of them.

    Raises:
        InputError: an impossible value, or an unknown name in this trainer's own scope.
    """
    hints = declared(trainer)
    presets = getattr(trainer, "presets", {})
    values = {name: getattr(trainer, name) for name in hints}
    values |= presets.get(preset, {})
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

    for name, value in values.items():
        values[name] = parse(name, value, hints[name])
    return values
