"""The XML files of LIDC-IDRI: what up to four readers drew, as masks on the slices they saw.

Reference: Armato et al. 2011 and the collection's annotation rules: an outline runs through the
first pixels *outside* the nodule; a nodule below 3 mm is a single point; an outline with
``inclusion`` FALSE bounds a hole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element

import numpy as np

from nnunet_ext.errors import InputError, first_line

CT_ROOT = "{http://www.nih.gov}LidcReadMessage"
XRAY_ROOT = "{http://www.nih.gov/idri}IdriReadMessage"
NAMESPACE = "{http://www.nih.gov}"
LARGEST_BYTES = 64 << 20  # the largest file of the collection has 2 MB
READERS = 4
Denominator = Literal["all4", "marked"]


@dataclass(frozen=True)
class Outline:
    """One closed outline on one slice.

    ``points`` are (column, row) from 0; a ``hole`` bounds what is excluded; ``z_mm`` is None where
    the file gives no height.
    """

    sop_uid: str
    z_mm: float | None
    hole: bool
    points: tuple[tuple[int, int], ...]

    @property
    def encloses(self) -> bool:
        """Whether it can enclose anything.

        A single point marks a small nodule, or is a stray mark in a large one.
        """
        return len(self.points) >= 3


@dataclass(frozen=True)
class Annotations:
    """One XML file: ``readers[r][n]`` are the outlines of nodule ``n`` of reader ``r``."""

    series_uid: str
    served: str
    readers: tuple[tuple[tuple[Outline, ...], ...], ...]


def read_annotations(path: Path) -> Annotations | None:
    """Read one XML file; ``None`` for a reading of a chest X-ray.

    Entities, external references and document types are refused, whatever they hold.

    Raises:
        InputError: damaged, hostile, or not a file of the collection.
    """
    root = _xml_root(path)
    if root.tag == XRAY_ROOT:
        return None
    if root.tag != CT_ROOT:
        raise InputError(f"{path}: is not an LIDC-IDRI reading (root {root.tag[:60]}); remove it")

    header = root.find(f"{NAMESPACE}ResponseHeader")
    if header is None or not _text(header, "SeriesInstanceUid"):
        raise InputError(f"{path}: names no series; download it again")

    try:
        readers = tuple(map(_nodules, root.findall(f"{NAMESPACE}readingSession")))
    except ValueError as error:
        raise InputError(
            f"{path}: holds an outline that cannot be read: {first_line(error)}; fix the file, "
            f"or download it again"
        ) from error

    if len(readers) > READERS:
        raise InputError(
            f"{path}: has {len(readers)} readers, the collection had {READERS}; download it again"
        )
    served = f"{_text(header, 'DateService')} {_text(header, 'TimeService')}"

    return Annotations(_text(header, "SeriesInstanceUid"), served, readers)


def _xml_root(path: Path) -> Element:
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError, parse

    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise InputError(f"{path}: has {size >> 20} MiB, far more than any file of LIDC-IDRI")

        root: Element = parse(path, forbid_dtd=True).getroot()
    except DefusedXmlException as error:
        raise InputError(
            f"{path}: declares entities or a document type; do not use this copy of the data set"
        ) from error
    except (ParseError, OSError, ValueError, LookupError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as XML ({first_line(error)}); download it again"
        ) from error

    return root


def _nodules(session: Element) -> tuple[tuple[Outline, ...], ...]:
    """Return the nodules of a reader."""
    nodules = session.findall(f"{NAMESPACE}unblindedReadNodule")
    return tuple(tuple(_outlines(nodule)) for nodule in nodules)


def _outlines(nodule: Element) -> Iterator[Outline]:
    for roi in nodule.findall(f"{NAMESPACE}roi"):
        inclusion = _text(roi, "inclusion").upper()
        points = _points(roi)
        if inclusion not in ("TRUE", "FALSE"):
            raise ValueError(f"inclusion is {inclusion or 'absent'}, expected TRUE or FALSE")

        height = float(_text(roi, "imageZposition") or "nan")
        z_mm = height if math.isfinite(height) else None
        sop_uid = _text(roi, "imageSOP_UID")
        if not sop_uid and z_mm is None:
            raise ValueError("it names neither its image nor its height")

        yield Outline(sop_uid, z_mm, inclusion == "FALSE", points)


def _points(roi: Element) -> tuple[tuple[int, int], ...]:
    points = []
    for edge in roi.findall(f"{NAMESPACE}edgeMap"):
        points.append((_whole(edge, "xCoord"), _whole(edge, "yCoord")))

    for point in points:
        if min(point) < 0 or max(point) >= 1 << 16:
            raise ValueError(f"points outside of any image, such as {min(points)}")

    return tuple(points)


def _whole(element: Element, name: str) -> int:
    """Return a pixel's coordinate; some programs write 12.0."""
    value = float(_text(element, name))
    if not value.is_integer():
        raise ValueError(f"{name} is {value:g}, not a pixel")

    return int(value)


def _text(element: Element, name: str) -> str:
    return (element.findtext(f"{NAMESPACE}{name}") or "").strip()


def interior(points: Sequence[tuple[int, int]], shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels (row, column) inside an outline, without the outline's own pixels.

    Raises:
        InputError: the outline leaves the image.
    """
    from skimage.draw import polygon

    columns, rows = np.array(points).T
    if rows.max() >= shape[0] or columns.max() >= shape[1]:
        raise InputError(
            f"an outline reaches row {rows.max()}, column {columns.max()} of an image of {shape}"
        )

    mask = np.zeros(shape, bool)
    mask[polygon(rows, columns, shape)] = True
    mask[rows, columns] = False

    return mask


def nodule_layers(
    outlines: Sequence[Outline], slice_of_outline: Mapping[Outline, int], shape: tuple[int, int]
) -> dict[int, np.ndarray]:
    """Return one reader's nodule: the interiors, less the holes together with their outlines.

    Args:
        outlines: of the nodule.
        slice_of_outline: index of the slice of each outline that encloses anything.
        shape: (rows, columns).

    Returns:
        Mask (row, column) by slice index.
    """
    layers: dict[int, np.ndarray] = {}
    for outline in sorted(outlines, key=lambda outline: outline.hole):
        if not outline.encloses:
            continue

        inside = interior(outline.points, shape)
        layer = layers.setdefault(slice_of_outline[outline], np.zeros(shape, bool))
        if outline.hole:
            columns, rows = np.array(outline.points).T
            inside[rows, columns] = True
            layer &= ~inside
        else:
            layer |= inside

    return layers


def consensus(
    annotations: Annotations,
    slice_of_outline: Mapping[Outline, int],
    shape: tuple[int, int, int],
    percent: float,
    denominator: Denominator,
) -> np.ndarray:
    """Return the voxels that at least ``percent`` of the readers take for nodule.

    ``all4``: of the collection's four readers, so one who drew nothing counts as a vote against.
    ``marked``: of those readers who drew anything in the connected piece (26 neighbours) of the
    union of all readers' nodules.

    Returns:
        (n, row, column) uint8 0..1.
    """
    # A bit per reader: large scans leave no room for a mask of each.
    drawn_by = np.zeros(shape, np.uint8)
    for reader, nodules in enumerate(annotations.readers):
        for outlines in nodules:
            for index, layer in nodule_layers(outlines, slice_of_outline, shape[1:]).items():
                drawn_by[index][layer] |= 1 << reader

    # numpy searches truth values ten times as fast as numbers.
    places = np.flatnonzero(drawn_by > 0)
    bits = drawn_by.reshape(-1)[places, None]
    readers = (bits >> np.arange(READERS)) & 1  # (place, reader)
    voters = np.full(len(places), READERS)
    if denominator == "marked":
        voters = _readers_of_piece(drawn_by, places, readers)

    label = np.zeros(drawn_by.size, np.uint8)
    is_nodule = readers.sum(axis=1) >= voters * percent / 100 - 1e-9
    label[places[is_nodule]] = 1

    return label.reshape(shape)


def _readers_of_piece(drawn_by: np.ndarray, places: np.ndarray, readers: np.ndarray) -> np.ndarray:
    """Return, by place, how many readers drew in the connected piece around it."""
    from scipy import ndimage

    with_diagonals = np.ones((3, 3, 3))
    labels, _ = ndimage.label(drawn_by, with_diagonals)
    pieces = labels.reshape(-1)[places]
    count = pieces.max(initial=0) + 1
    has_drawn = np.zeros((count, READERS), bool)
    for reader in range(READERS):
        is_of_reader = readers[:, reader] == 1
        its_pieces = pieces[is_of_reader]
        has_drawn[its_pieces, reader] = True

    counts: np.ndarray = has_drawn.sum(axis=1)

    return counts[pieces]
