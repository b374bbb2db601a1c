"""Values that several commands take as arguments, checked while they are parsed."""

import argparse


def positive(text: str) -> int:
    """Return a whole number from 1.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def positive_number(text: str) -> float:
    """Return a finite number above 0.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def share(text: str) -> float:
    """Return a share of something, above 0 and at most 1.

    Raises:
        argparse.ArgumentTypeError: it is outside.
    """
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: is not a share above 0 and at most 1")
    return value


def probability(text: str) -> float:
    """Return a probability, from 0 to 1.

    Raises:
        argparse.ArgumentTypeError: it is outside.
    """
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: is not a probability from 0 to 1")
    return value
