"""Where results are sent, and what an object was answered."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from nnunet_ext.errors import InputError

LONGEST_AE_TITLE = 16
LARGEST_PORT = 65535
AE_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]*[\x21-\x5b\x5d-\x7e])?")


class NotReached(Exception):
    """A destination cannot be reached or is too busy; the same object may succeed later."""


@dataclass(frozen=True)
class Answer:
    """What a destination said of an object; ``text`` is for the log."""

    stored: bool
    text: str


class Connection(ABC):
    """An open way to a destination."""

    @abstractmethod
    def store(self, file: Path) -> Answer:
        """Send an object and return the answer.

        Raises:
            NotReached: there was none, or it asks to try later.
        """


class Destination(ABC):
    """An archive; ``name`` holds no secret and is the same in every run."""

    name: str

    @abstractmethod
    def connected(self, files: list[Path]) -> AbstractContextManager[Connection]:
        """Connect for sending some files.

        Raises:
            NotReached: it does not answer.
        """


def ae_title_of(text: str) -> str:
    """Return an application entity's title.

    Raises:
        InputError: not 1 to 16 characters that DICOM allows.
    """
    if len(text) > LONGEST_AE_TITLE or not AE_TITLE.fullmatch(text):
        raise InputError(
            f"{text!r}: is not an AE title; give 1 to {LONGEST_AE_TITLE} letters, digits or signs"
        )
    return text


def ae_address_of(text: str) -> tuple[str, str, int]:
    """Return title, host and port of ``AET@HOST:PORT``.

    Raises:
        InputError: written otherwise.

    >>> ae_address_of("ARCHIVE@127.0.0.1:4242"), ae_address_of("PACS@[::1]:104")
    (('ARCHIVE', '127.0.0.1', 4242), ('PACS', '::1', 104))
    """
    title, separator, address = text.rpartition("@")
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (separator and colon and host and port.isascii() and port.isdigit()):
        raise InputError(f"{text!r}: is not a DICOM address; write AET@HOST:PORT")
    if not 1 <= int(port) <= LARGEST_PORT:
        raise InputError(f"{text!r}: a port is a number from 1 to {LARGEST_PORT}")
    return ae_title_of(title), host, int(port)


def web_address_of(text: str) -> str:
    """Return the root of a DICOMweb service without a slash at its end.

    Raises:
        InputError: not an address of http or https, or one that holds a password.
    """
    try:
        parts = urlsplit(text)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        is_web = False
    if not is_web:
        raise InputError(f"{text!r}: is not an address; write http://HOST:PORT/dicom-web")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            "--stow: leave user, password and query out of the address; put a token into "
            "nnUNet_ext_stow_token"
        )
    return text.rstrip("/")
