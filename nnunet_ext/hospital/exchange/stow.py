"""Send objects to a DICOMweb service, one in a request, so that each has an answer of its own.

Reference: DICOM PS3.18, 10.5 (Store Transaction).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_ext.hospital.exchange.destinations import (
    Answer,
    Connection,
    Destination,
    NotReached,
    web_address_of,
)

TOKEN_VARIABLE = "nnUNet_ext_stow_token"
TIMEOUT_S = 60.0
BUSY = (408, 425, 429)
STORED, STORED_WITH_WARNINGS = 200, 202
WARNING_TAG, FAILURE_TAG = "00081196", "00081197"
REFERENCED, FAILED = "00081199", "00081198"


class StowDestination(Destination):
    """A DICOMweb service, such as ``http://127.0.0.1:8042/dicom-web``."""

    def __init__(self, address: str) -> None:
        """Take the root of the service.

        Raises:
            InputError: not an address.
        """
        self.name = web_address_of(address)

    @contextmanager
    def connected(self, files: list[Path]) -> Iterator[Connection]:
        """Open a session; the token of :data:`TOKEN_VARIABLE` goes with every request."""
        import requests

        with requests.Session() as session:
            session.trust_env = False  # no proxy and no .netrc: patients' images go to this address
            session.headers["Accept"] = "application/dicom+json"
            token = os.environ.get(TOKEN_VARIABLE)
            if token:
                session.headers["Authorization"] = f"Bearer {token}"
            yield _Session(session, self.name)


class _Session(Connection):
    def __init__(self, session: Any, name: str) -> None:
        self.session = session
        self.name = name

    def store(self, file: Path) -> Answer:
        """Send an object in a request of its own."""
        import requests

        boundary = uuid.uuid4().hex
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        before = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = before + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        try:
            response = self.session.post(
                f"{self.name}/studies",
                data=body,
                headers={"Content-Type": kind},
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise NotReached(f"{self.name} does not answer ({type(error).__name__})") from error
        return _answer_of(response.status_code, _content(response), self.name)


def _content(response: Any) -> dict[str, Any]:
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _answer_of(code: int, content: dict[str, Any], name: str) -> Answer:
    """Return what a response means.

    Raises:
        NotReached: the service is busy or broken.
    """
    if code in BUSY or code >= 500:
        raise NotReached(f"{name} is busy or broken (HTTP {code})")

    failure = _reason(content, FAILED, FAILURE_TAG)
    if code in (STORED, STORED_WITH_WARNINGS) and not failure:
        warning = _reason(content, REFERENCED, WARNING_TAG)
        return Answer(True, f"stored (HTTP {code}{warning})")
    return Answer(False, f"refused (HTTP {code}{failure})")


def _reason(content: dict[str, Any], sequence: str, tag: str) -> str:
    """Return the code of the first item of a sequence, as words; empty where there is none.

    A sequence without items means none, too; Orthanc writes it so.
    """
    try:
        item = content[sequence]["Value"][0]
    except (KeyError, IndexError, TypeError):
        return ""
    try:
        (number,) = item[tag]["Value"]
        return f", 0x{int(number):04X}"
    except (KeyError, IndexError, TypeError, ValueError):
        return ", reason unknown" if sequence == FAILED else ""
