"""One module per public data set. A new module with a concrete ``Converter`` is found by the
command and the tests.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil

from dataset_conversion.converter import Converter
from nnunet_ext.errors import InputError


def converters() -> dict[str, type[Converter]]:
    """Every data set of this package by its publisher's name, sorted."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if (
                isinstance(value, type)
                and issubclass(value, Converter)
                and not inspect.isabstract(value)
            ):
                found[value.name] = value
    return dict(sorted(found.items()))


def converter_named(name: str) -> type[Converter]:
    """The data set of that name; upper and lower case do not matter.

    Raises:
        InputError: unknown; the message lists the names and a close one.
    """
    known = converters()
    by_folded = {key.casefold(): key for key in known}
    if name.casefold() in by_folded:
        return known[by_folded[name.casefold()]]
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    hint = f"did you mean {by_folded[close[0]]}? " if close else ""
    raise InputError(f"{name}: no such data set; {hint}valid are: {', '.join(known)}")
