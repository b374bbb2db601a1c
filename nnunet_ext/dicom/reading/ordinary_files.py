"""Where the elements of an ordinary DICOM file lie in its bytes.

Collections hold hundreds of thousands of small files of one make, and pydicom takes several times
as long to turn a header into objects as the disk takes to give it. This module knows only the
encodings that nearly all files have. Whatever is unusual is a ``ValueError`` and left to pydicom,
as is the judgement on damaged files.

Reference: DICOM PS3.5, sections 7.1 and 7.5 (elements, nested sequences); PS3.10, section 7.1 (file
meta information).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

IMPLICIT_LITTLE, EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
PLAIN_SYNTAXES = (IMPLICIT_LITTLE, EXPLICIT_LITTLE)
# JPEG and its relatives, and RLE; their headers are explicit
COMPRESSED_SYNTAXES = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")
META_BEGIN = 132  # after the preamble and DICM
TRANSFER_SYNTAX = 0x00020010

_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_GROUP_OF_DELIMITERS = 0xFFFE
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DELIMITERS = (_ITEM, _ITEM_END, _SEQUENCE_END)
_UNDEFINED = 0xFFFFFFFF
_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHI").unpack_from
_LENGTH = struct.Struct("<I").unpack_from


def ordinary_elements(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield tag, begin and end of the value of each top-level element, file meta information first.

    Sequences of undefined length are skipped. The last value may end beyond a ``content`` that is
    only the beginning of a file.

    Raises:
        ValueError: not an ordinary file.
    """
    begins_like_dicom = content[128:META_BEGIN] == b"DICM"
    if not begins_like_dicom or content[META_BEGIN : META_BEGIN + 8] != b"\2\0\0\0UL\4\0":
        raise ValueError("no file meta information")

    (length,) = _LENGTH(content, META_BEGIN + 8)
    end_of_meta = META_BEGIN + 12 + length
    syntax = ""
    end = META_BEGIN
    for tag, begin, end in _elements(content, META_BEGIN, implicit=False):
        if tag >> 16 != 2 or end > end_of_meta:
            raise ValueError("wrong length of the file meta information")
        if tag == TRANSFER_SYNTAX:
            syntax = content[begin:end].decode("latin-1").strip(" \0")
        yield tag, begin, end
        if end == end_of_meta:
            break

    if end != end_of_meta:
        raise ValueError("wrong length of the file meta information")
    if syntax not in PLAIN_SYNTAXES and not syntax.startswith(COMPRESSED_SYNTAXES):
        raise ValueError("unusual encoding")
    yield from _elements(content, end_of_meta, implicit=syntax == IMPLICIT_LITTLE)


def _elements(content: bytes, position: int, implicit: bool) -> Iterator[tuple[int, int, int]]:
    """Yield tag, begin and end of the value of each element that lies in no sequence."""
    depth = 0  # of sequences of undefined length, whose elements follow as if they were the file's
    element_head = _implicit_head if implicit else _explicit_head
    while position + 12 <= len(content):
        tag, length, position = element_head(content, position)

        if tag >> 16 == _GROUP_OF_DELIMITERS:
            if depth == 0 or tag not in _DELIMITERS:
                raise ValueError("item outside a sequence")
            if tag == _SEQUENCE_END:
                depth -= 1
            if length != _UNDEFINED:
                position += length
        elif length == _UNDEFINED:
            depth += 1
        else:
            if depth == 0:
                yield tag, position, position + length
            position += length


def _implicit_head(content: bytes, position: int) -> tuple[int, int, int]:
    """Return tag, length and begin of the value of the element at a position."""
    group, element, length = _IMPLICIT(content, position)
    tag = group << 16 | element
    begin = position + 8
    return tag, length, begin


def _explicit_head(content: bytes, position: int) -> tuple[int, int, int]:
    """Return the same as :func:`_implicit_head` where the value representation is written."""
    group, element, vr, length = _EXPLICIT(content, position)
    position += 8
    if group == _GROUP_OF_DELIMITERS:
        (length,) = _LENGTH(content, position - 4)
    elif vr in _LONG_VRS:
        (length,) = _LENGTH(content, position)
        position += 4
        if length == _UNDEFINED and vr != b"SQ":
            raise ValueError("value of undefined length")
    elif vr not in _SHORT_VRS:
        raise ValueError("unknown value representation")
    return group << 16 | element, length, position
