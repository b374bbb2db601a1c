"""Receive studies by C-STORE into a folder that a watch answers.

Images of a study go to a folder of its own, called by a keyed name, each whole or not at all.

Reference: DICOM PS3.4, Annex B (Storage Service Class); status codes of table B.2-1.
"""

from __future__ import annotations

import errno
import ipaddress
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.dicom.reading.headers import CT_STORAGE, MR_STORAGE
from nnunet_ext.errors import InputError
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.hospital.exchange.destinations import ae_title_of
from nnunet_ext.hospital.privacy import study_name
from nnunet_ext.keyed_names import keyed_name

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

STORED = 0x0000
OUT_OF_RESOURCES = 0xA700
NOT_OF_ITS_KIND = 0xA900
NOT_UNDERSTOOD = 0xC000
ENHANCED = (f"{CT_STORAGE}.1", f"{MR_STORAGE}.1")
REJECTED_FOR_GOOD, BY_USER, UNKNOWN_CALLER = 0x01, 0x01, 0x03
LARGEST_UNIT_BYTES = 1 << 20  # proposals of 128 kinds of objects take a tenth
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True)
class Limits:
    """What the listener accepts.

    ``callers`` are AE titles and ``addresses`` are hosts or networks; empty: all.
    """

    callers: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    object_bytes: int = 1 << 30
    free_bytes: int = 5 << 30
    associations: int = 20

    def allows(self, address: str) -> bool:
        """Return whether a caller at an address may send."""
        if not self.addresses:
            return True

        try:
            caller = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(caller in ipaddress.ip_network(network) for network in self.addresses)


def network_of(text: str) -> str:
    """Return an address or a network such as ``10.1.0.0/16``.

    Raises:
        InputError: written otherwise.
    """
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise InputError(
            f"{text!r}: is not an address; write one such as 10.1.2.3, or 10.1.0.0/16"
        ) from error


@dataclass
class Listener:
    """A storage provider that writes below ``folder``."""

    folder: Path
    title: str
    limits: Limits = field(default_factory=Limits)
    _received_bytes: dict[Any, int] = field(default_factory=lambda: defaultdict(int))

    @contextmanager
    def listening(self, host: str, port: int) -> Iterator[int]:
        """Listen until the block ends; yields the port, which is a free one for 0.

        Raises:
            InputError: the address cannot be used.
        """
        from pynetdicom import AE, evt

        entity = AE(ae_title=ae_title_of(self.title))
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.limits.callers)
        entity.maximum_associations = self.limits.associations
        entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = LONGEST_PAUSE_S
        for kind in (CT_STORAGE, MR_STORAGE, *ENHANCED):
            entity.add_supported_context(kind, _syntaxes())
        entity.add_supported_context("1.2.840.10008.1.1")  # C-ECHO, by which archives test

        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_DATA_RECV, self._counted),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_C_STORE, self._store),
        ]
        try:
            server: Any = entity.start_server((host, port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise InputError(
                f"{host}:{port}: cannot listen there ({error.strerror}); choose another port"
            ) from error
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()

    def _opened(self, event: Any) -> None:
        """Make a connection end where a unit of the protocol claims to be larger than any.

        The library reads as many bytes as a caller announces, up to 4 GiB, before it looks at them.
        """
        connection = event.assoc.dul.socket
        read = connection.recv

        def read_bounded(count: int) -> bytearray:
            return read(count) if count <= LARGEST_UNIT_BYTES else bytearray()

        connection.recv = read_bounded

    def _requested(self, event: Any) -> None:
        """Reject addresses that may not send; titles are checked by the library."""
        address = str(event.assoc.requestor.address)
        if not self.limits.allows(address):
            _say(f"a caller at {address} is not on the list of those that may send")
            event.assoc.acse.send_reject(REJECTED_FOR_GOOD, BY_USER, UNKNOWN_CALLER)

    def _counted(self, event: Any) -> None:
        """End an association that sends more than an object may have.

        It is ended before the object fills the memory.
        """
        received = self._received_bytes[event.assoc] + len(event.data)
        self._received_bytes[event.assoc] = received
        if received > self.limits.object_bytes:
            self._received_bytes[event.assoc] = 0
            _say(f"an object of more than {self.limits.object_bytes >> 20} MiB was refused")
            event.assoc.abort()

    def _closed(self, event: Any) -> None:
        self._received_bytes.pop(event.assoc, None)

    def _store(self, event: Any) -> int:
        """Write an object; returns the status."""
        self._received_bytes[event.assoc] = 0
        if shutil.disk_usage(self.folder).free < self.limits.free_bytes:
            _say("the disk is nearly full; objects are refused")
            return OUT_OF_RESOURCES

        try:
            content = event.encoded_dataset()
            header = _header_of(content)
        except Exception as error:  # a malformed object may raise anything
            _say(f"an object cannot be read ({type(error).__name__}) and was refused")
            return NOT_UNDERSTOOD
        if header.SOPInstanceUID != event.request.AffectedSOPInstanceUID:
            _say("an object has another UID than its request and was refused")
            return NOT_OF_ITS_KIND

        try:
            self._write(content, header)
        except OSError as error:
            _say(
                f"an object cannot be written ({errno.errorcode.get(error.errno or 0, 'OSError')})"
            )
            return OUT_OF_RESOURCES
        return STORED

    def _write(self, content: bytes, header: Dataset) -> None:
        """Write an object into the folder of its study, unless it is there already."""
        folder = self.folder / study_name(str(header.PatientID or ""), header.StudyInstanceUID)
        file = folder / f"{keyed_name('image', header.SOPInstanceUID)}.dcm"
        if file.is_file() and file.stat().st_size == len(content):
            return

        folder.mkdir(mode=0o700, exist_ok=True)
        with whole_file(file) as unfinished:
            unfinished.write_bytes(content)


def _header_of(content: bytes) -> Dataset:
    """Return what names an object and its study.

    Raises:
        ValueError: it has no UIDs.
    """
    from pydicom import dcmread

    tags = ["PatientID", "StudyInstanceUID", "SOPInstanceUID"]
    header = dcmread(BytesIO(content), specific_tags=tags, stop_before_pixels=True)
    if not header.get("StudyInstanceUID") or not header.get("SOPInstanceUID"):
        raise ValueError("no UIDs")
    header.PatientID = header.get("PatientID", "")
    return header


def _syntaxes() -> Sequence[str]:
    """Return all that the reader of images understands."""
    from pynetdicom import ALL_TRANSFER_SYNTAXES

    video = ("1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.6", "1.2.840.10008.1.2.7")
    return [syntax for syntax in ALL_TRANSFER_SYNTAXES if not syntax.startswith(video)]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
