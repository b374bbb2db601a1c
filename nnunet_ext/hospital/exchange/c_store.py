"""Send objects by C-STORE, the transfer of the classic DICOM network.

Reference: DICOM PS3.4, Annex B (Storage Service Class); PS3.7, 9.1.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.errors import first_line
from nnunet_ext.hospital.exchange.destinations import (
    Answer,
    Connection,
    Destination,
    NotReached,
    ae_address_of,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


TIMEOUT_S = 30.0
SUCCESS = 0x0000
WARNINGS = (0xB000, 0xB006, 0xB007)  # stored, but with changed or ignored elements
OUT_OF_RESOURCES = range(0xA700, 0xA800)
MOST_CONTEXTS = 128


class CStoreDestination(Destination):
    """An application entity that is called as ``title`` at an address."""

    def __init__(self, address: str, own_title: str = "NNUNET_EXT") -> None:
        """Take ``AET@HOST:PORT``.

        Raises:
            InputError: written otherwise.
        """
        self.title, self.host, self.port = ae_address_of(address)
        self.own_title = own_title
        self.name = f"{self.title}@{self.host}:{self.port}"

    @contextmanager
    def connected(self, files: list[Path]) -> Iterator[Connection]:
        """Open an association for the kinds of some objects."""
        from pynetdicom import AE

        entity = AE(ae_title=self.own_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
        entity.connection_timeout = TIMEOUT_S
        association = entity.associate(
            self.host, self.port, ae_title=self.title, contexts=_contexts_for(files)
        )
        if not association.is_established and not association.rejected_contexts:
            reason = "refuses the association" if association.is_rejected else "does not answer"
            raise NotReached(f"{self.name} {reason}")
        try:
            yield _Association(association, self.name)
        finally:
            if association.is_established:
                association.release()


class _Association(Connection):
    def __init__(self, association: Any, name: str) -> None:
        self.association = association
        self.name = name

    def store(self, file: Path) -> Answer:
        """Send an object; where its compression is not accepted, without compression."""
        from pydicom import dcmread

        data = dcmread(file)
        own_syntax = data.file_meta.TransferSyntaxUID
        accepted = _accepted_syntaxes(self.association, data.SOPClassUID)
        if not accepted:
            return Answer(False, "the destination does not take this kind of object")
        if own_syntax.is_compressed and own_syntax not in accepted:
            data.decompress()

        try:
            status = self.association.send_c_store(data)
        except (ValueError, RuntimeError) as error:
            if not self.association.is_established:
                raise NotReached(f"{self.name} has ended the association") from error
            return Answer(
                False, f"cannot be sent as the destination wants it ({first_line(error)})"
            )
        return _answer_of(status, self.name)


def _contexts_for(files: Sequence[Path]) -> list[Any]:
    """Return what is proposed: each kind in its own compression, and also without any.

    An archive accepts or refuses a context as a whole, so that one that knows no compression takes
    the second one.
    """
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
    from pynetdicom import build_context

    plain = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    wanted: dict[tuple[str, tuple[str, ...]], None] = {}
    for file in files:
        header = dcmread(file, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        kind, syntax = header.SOPClassUID, header.file_meta.TransferSyntaxUID
        if syntax not in plain:
            wanted[kind, (syntax,)] = None
        wanted[kind, tuple(plain)] = None

    contexts = [build_context(kind, list(syntaxes)) for kind, syntaxes in wanted]
    return contexts[:MOST_CONTEXTS]


def _accepted_syntaxes(association: Any, kind: str) -> list[str]:
    found: list[str] = []
    for context in association.accepted_contexts:
        if context.abstract_syntax == kind:
            found += context.transfer_syntax
    return found


def _answer_of(status: Dataset, name: str) -> Answer:
    """Return what a status means.

    Raises:
        NotReached: no answer, or the archive is out of resources.
    """
    if "Status" not in status:
        raise NotReached(f"{name} has not answered")

    code = int(status.Status)
    if code in OUT_OF_RESOURCES:
        raise NotReached(f"{name} is out of resources (0x{code:04X})")
    if code == SUCCESS:
        return Answer(True, "stored (0x0000)")
    if code in WARNINGS:
        return Answer(True, f"stored with changes (0x{code:04X})")
    return Answer(False, f"refused (0x{code:04X})")
