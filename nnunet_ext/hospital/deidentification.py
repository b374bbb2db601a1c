"""What results repeat of a study, without the patient.

This is the Basic Application Level Confidentiality Profile of PS3.15.

Results take patient, study and references from the headers of their source. Here these headers are
made new: only what a result needs is put in, so that nothing else of an export can travel on,
whatever its tag. That is stricter than the profile, which names the attributes to remove.

Reference: DICOM PS3.15, Annex E, table E.1-1: patient's name and number replaced (Z), dates, times,
accession number, physician and sex empty (Z), UIDs replaced consistently (U), everything else
removed (X), private attributes removed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nnunet_ext.dicom.writing.source import TYPE_2, Source, text_of
from nnunet_ext.keyed_names import keyed_name, read_key

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
WINDOW = ("WindowCenter", "WindowWidth")
PROFILE = ("113100", "DCM", "Basic Application Confidentiality Profile")


def deidentified(source: Source) -> Source:
    """Return a source whose headers hold keyed names and UIDs in place of the patient's.

    Equal UIDs stay equal, in every run with the same key, so that results of one study stay
    together.

    Raises:
        InputError: the key of names cannot be used.
    """
    key = read_key()
    headers = [_header(header, key) for header in source.headers]
    return replace(source, headers=tuple(headers))


def keyed_uid(uid: str, key: bytes) -> str:
    """Return a UID below 2.25 (ISO/IEC 9834-8) that only the owner of the key can trace back."""
    message = f"uid {uid}".encode()
    digest = hmac.new(key, message, hashlib.sha256).digest()
    number = int.from_bytes(digest[:16], "big")
    return f"2.25.{number}"


def _header(original: Dataset, key: bytes) -> Dataset:
    from pydicom.dataset import Dataset

    header = Dataset()
    for name in TYPE_2:
        setattr(header, name, "")
    patient = keyed_name("patient", text_of(original, "PatientID"), key=key)
    header.PatientID = header.PatientName = patient
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = "nnunet_ext, PS3.15 Basic Profile"
    header.DeidentificationMethodCodeSequence = [_code(PROFILE)]

    for name in UIDS:
        uid = text_of(original, name)
        if uid:
            setattr(header, name, keyed_uid(uid, key))

    for name in WINDOW:
        number = _number(original, name)
        if number is not None:
            setattr(header, name, f"{number:g}")

    lossy = text_of(original, "LossyImageCompression")
    if lossy in ("00", "01"):
        header.LossyImageCompression = lossy
    return header


def _code(code: Sequence[str]) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def _number(header: Dataset, name: str) -> float | None:
    """Return the first number of an attribute, whatever else it holds."""
    try:
        value: Any = header.get(name)
        if value is not None and not isinstance(value, str | int | float):
            value = value[0]
        return None if value is None else float(value)
    except (ValueError, TypeError, IndexError, AttributeError):
        return None
