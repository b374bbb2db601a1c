"""One module per public data set; the command and the tests find each concrete ``Converter``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil

from dataset_conversion.converter import Converter
from nnunet_ext.errors import InputError


def converters() -> dict[str, type[Converter]]:
    """Return every data set of this package by its publisher's name, sorted."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            is_converter = isinstance(value, type) and issubclass(value, Converter)
            if is_converter and not inspect.isabstract(value):
                found[value.name] = value

    return dict(sorted(found.items()))


def converter_named(name: str) -> type[Converter]:
    """Return the data set of that name; upper and lower case do not matter.

    Raises:
        InputError: unknown; the message lists the names and a close one.
    """
    known = converters()
    spelling = {key.casefold(): key for key in known}
    if name.casefold() in spelling:
        return known[spelling[name.casefold()]]

    close = difflib.get_close_matches(name.casefold(), spelling, n=1)
    hint = f"did you mean {spelling[close[0]]}? " if close else ""
    raise InputError(f"{name}: no such data set; {hint}valid are: {', '.join(known)}")
