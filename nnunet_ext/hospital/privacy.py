"""What of an export may be shown: no path, no text of a header."""

from __future__ import annotations

from nnunet_ext.dicom.reading.rules import Rules
from nnunet_ext.dicom.reading.series import Acquisition, Rejected
from nnunet_ext.errors import InputError
from nnunet_ext.keyed_names import keyed_name

LONGEST_REASON = 200
PLAIN_MODALITIES = frozenset(
    ["CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "SR", "SEG", "PR", "SC"]
)


def shown_reason(error: BaseException | str, *paths: str) -> str:
    """Return the message of an error without the path before it and without brackets.

    Messages of this package begin with the file and quote other libraries, and thus values of
    headers, in brackets only. Of any other error nothing but its kind is shown, because its text
    may quote a header.

    Args:
        error: or its message, as this package writes it.
        paths: of the files that the message may name.
    """
    if not isinstance(error, str | InputError):
        return f"{type(error).__name__} (--keep-names shows it)"
    text = str(error)
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, "")

    before, separator, after = text.partition(": ")
    is_path = not before or "/" in before or "\\" in before
    if separator and is_path:
        text = after
    printable = filter(str.isprintable, _without_brackets(text))
    shown = "".join(printable)
    return shown[:LONGEST_REASON].strip()


def _without_brackets(text: str) -> str:
    """Return a text without what stands in brackets, also where a bracket is never closed.

    >>> _without_brackets("is damaged (a (b) c); copy it (now")
    'is damaged; copy it'
    """
    kept = []
    depth = 0
    for character in text:
        if character == "(":
            depth += 1
        if depth == 0:
            kept.append(character)
        if character == ")":
            depth = max(depth - 1, 0)

    return "".join(kept).replace(" ;", ";").replace(" ,", ",").strip()


def reason_of(rejected: Rejected, rules: Rules) -> str:
    """Return why slices were rejected.

    A modality or kind that only their header names is not repeated.
    """
    first = rejected.slices[0]
    modality = first.modality
    wanted = " or ".join(rules.modalities)
    is_plain = modality in rules.modalities or modality in PLAIN_MODALITIES
    if modality and not is_plain and modality in rejected.reason:
        return f"has another modality than {wanted}"
    if first.sop_class and first.sop_class in rejected.reason:
        return f"is an unknown kind of object, not {wanted}"

    paths = {item.path for item in rejected.slices}
    return shown_reason(rejected.reason, *paths)


def series_name(acquisition: Acquisition) -> str:
    """Return the keyed name of a series, or of one acquisition of it."""
    first = acquisition.slices[0]
    return keyed_name(
        "series", first.patient_id, first.study_uid, first.series_uid, str(acquisition.index)
    )


def study_name(patient_id: str, study_uid: str) -> str:
    """Return the keyed name of a study."""
    return keyed_name("study", patient_id, study_uid)
