"""Which public data sets share images: training on one and testing on the other measures
nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.reading.download_folder import sha256_of_file
from dataset_conversion.reading.raw_files import read_raw_file
from dataset_conversion.reading.volumes import voxels_sha256
from dataset_conversion.writing.case_writer import Record
from dataset_conversion.writing.journal import journals, read_header, read_records
from nnunet_ext.errors import InputError


@dataclass(frozen=True)
class Overlap:
    """Two collections with common images; ``certain`` where names or hashes show it, not only
    counts and sizes.
    """

    first: str
    second: str
    what: str
    certain: bool = True


OVERLAPS = (
    Overlap(
        "COVID-SemiSeg", "SIRM-slices", "its 98 labelled slices are slices of the SIRM collection"
    ),
    Overlap(
        "COVID-SemiSeg-unlabeled", "COVID-19-CT-Seg", "its slices come from the same 20 volumes"
    ),
    Overlap(
        "SIRM-volumes",
        "COVID-19-CT-Seg",
        "the nine have the sizes of Radiopaedia volumes there",
        certain=False,
    ),
    Overlap(
        "Synthetic-COVID-CT",
        "SIRM-volumes",
        "its generator was trained on the nine volumes",
        certain=False,
    ),
    Overlap(
        "Synthetic-COVID-CT",
        "COVID-19-CT-Seg",
        "its generator was trained on volumes found there",
        certain=False,
    ),
    Overlap(
        "Synthetic-COVID-CT",
        "COVID-SemiSeg-unlabeled",
        "its generator saw their volumes",
        certain=False,
    ),
    Overlap("BHSD", "RSNA-ICH", "its scans are scans of the challenge"),
    Overlap("Seg-CQ500", "CQ500", "its scans are a part of it"),
    Overlap("LiTS", "MSD_Liver", "the same scans under another licence (CC-BY-SA 4.0)"),
    Overlap("LiTS", "3D-IRCADb", "volumes 28 to 48 come from there"),
    Overlap("MSD_Liver", "3D-IRCADb", "volumes 28 to 48 come from there"),
    Overlap("NSCLC-PleuralEffusion", "NSCLC-Radiomics", "masks drawn on its scans, by patient id"),
    Overlap("LUNA16", "LIDC-IDRI", "its scans are a part of it"),
)


def overlap_of(first: str, second: str) -> Overlap | None:
    """What two collections share; None: nothing that is known. A collection shares everything with
    itself.
    """
    if first == second:
        return Overlap(first, second, "the same data set")
    return next(
        (known for known in OVERLAPS if {known.first, known.second} == {first, second}), None
    )


def collection_of(folder: Path) -> str | None:
    """The collection that a raw data set was converted from; None where this package did not make
    it.
    """
    header = next(
        (header for journal in journals(folder) if (header := read_header(journal))), None
    )
    return None if header is None else str(header.get("collection", header["converter"]))


def converted_data_sets(raw: Path) -> dict[Path, str]:
    """Data sets below ``nnUNet_raw`` that this package made: folder to collection."""
    folders = sorted(raw.glob("Dataset[0-9][0-9][0-9]_*"))
    return {folder: name for folder in folders if (name := collection_of(folder)) is not None}


def shared_images(first: Path, second: Path, *, read_files: bool = False) -> str | None:
    """What two raw data sets share, by what is known of them or else by content; None: nothing.

    Args:
        first: folder of a raw data set.
        second: another.
        read_files: read the images of a data set that this package did not make, to compare voxels;
            otherwise only files that are equal byte by byte are found there, see
            :func:`unknown_origin`.

    Raises:
        InputError: images of such a data set are missing or cannot be read, so that nothing can be
            said.
    """
    names = collection_of(first), collection_of(second)
    known = None if None in names else overlap_of(*map(str, names))
    if known is not None:
        return (
            f"{second.name} overlaps with {first.name}{'' if known.certain else ', probably'}: "
            f"{known.what}"
        )
    if None in names and not read_files:
        return _equal_files(first, second)

    digests = image_digests(first)
    copies = {case for digest, case in image_digests(second).items() if digest in digests}
    return (
        f"{second.name} has {len(copies)} images of {first.name}, e.g. {min(copies)}"
        if copies
        else None
    )


def _equal_files(first: Path, second: Path) -> str | None:
    """What data sets of which this package has no record share, by the bytes of their images."""
    if first == second:
        return None
    images, others = _sized_images(first), _sized_images(second)
    common = set(images.values()) & set(others.values())  # of other sizes they cannot be equal
    by_digest = {sha256_of_file(image): image for image, size in images.items() if size in common}
    copies = {image: sha256_of_file(image) for image, size in others.items() if size in common}
    found = {image: by_digest[digest] for image, digest in copies.items() if digest in by_digest}
    if not found:
        return None

    in_test = sum(image.parent.name == "imagesTs" for image in found.values())
    test = f", {in_test} of them in its test set" if in_test else ""
    return f"{second.name} has {len(found)} images of {first.name}{test}, e.g. {min(found).name}"


def _sized_images(folder: Path) -> dict[Path, int]:
    files = [
        file for part in ("Tr", "Ts", "Un") for file in (folder / f"images{part}").glob("[!.]*")
    ]
    return {file: file.stat().st_size for file in sorted(files)}


def unknown_origin(*folders: Path) -> list[str]:
    """Names of the data sets that this package did not make."""
    return [folder.name for folder in folders if collection_of(folder) is None]


def image_digests(folder: Path) -> dict[str, str]:
    """Hashes of the images of a raw data set, and of the files that hold them, with the case of
    each.

    Raises:
        InputError: this package did not make the data set, and its images are missing or cannot be
            read.
    """
    if collection_of(folder) is not None:
        records = [record for own in read_records(folder).values() for record in own]
        return {digest: record.case for record in records for digest in _digests(record)}

    channels: dict[str, list[Path]] = defaultdict(list)
    for part in ("Tr", "Ts", "Un"):
        for file in sorted((folder / f"images{part}").glob("[!.]*")):
            channels[re.sub(r"_\d{4}$", "", file.name.partition(".")[0])].append(file)
    if not channels:
        raise InputError(
            f"{folder}: shared images are not checked, because it holds no images to compare; "
            f"bring them back, or "
            "leave out --forbid-overlap"
        )
    return {digest: case for case, files in channels.items() for digest in _digests_of_files(files)}


def known_overlaps(folder: Path, collection: str) -> list[str]:
    """One line per other data set beside ``folder`` that shares images with ``collection``."""
    lines = []
    for other, name in converted_data_sets(folder.parent).items():
        overlap = overlap_of(collection, name)
        if other != folder and overlap is not None and overlap.first != overlap.second:
            probably = "" if overlap.certain else ", probably"
            lines.append(
                f"{other.name} overlaps with {collection}{probably}: {overlap.first}: "
                f"{overlap.what}"
            )
    return lines


def copies_elsewhere(
    folder: Path, collection: str, records: Iterable[Record], *, read_files: bool = False
) -> dict[str, str]:
    """Cases whose image, or a file they were made of, occurs in another data set beside ``folder``.

    Further conversions of the same collection are no finding.

    Args:
        folder: of the data set.
        collection: that it was converted from.
        records: of its cases.
        read_files: also compare with data sets that this package did not make, whose images are
            read for it.

    Returns:
        Case to ``Dataset006_X/case``.

    Raises:
        InputError: see :func:`image_digests`.
    """
    first_with: dict[str, str] = {}
    for other in _other_data_sets(folder, collection, read_files):
        for digest, case in image_digests(other).items():
            first_with.setdefault(digest, f"{other.name}/{case}")
    found = {}
    for record in records:
        match = next(
            (first_with[digest] for digest in _digests(record) if digest in first_with), None
        )
        if match is not None:
            found[record.case] = match
    return found


def _other_data_sets(folder: Path, collection: str, with_unknown: bool) -> list[Path]:
    made = converted_data_sets(folder.parent)
    others = sorted(folder.parent.glob("Dataset[0-9][0-9][0-9]_*")) if with_unknown else list(made)
    return [other for other in others if other != folder and made.get(other) != collection]


def _digests_of_files(files: list[Path]) -> list[str]:
    voxels = [voxels_sha256(channel) for file in files for channel in read_raw_file(file).channels]
    return [" ".join(voxels), *map(sha256_of_file, files)]


def _digests(record: Record) -> list[str]:
    """Hashes of the image and of the files it was made of; masks come last there, and empty ones
    are all alike.
    """
    sources = list(record.source_sha256.values())
    return [record.image_sha256, *(sources[:1] if set(record.label_voxels) == {"0"} else sources)]
