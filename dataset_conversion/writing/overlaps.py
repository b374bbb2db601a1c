"""Which public data sets share images, so that one cannot test what was trained on the other."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.reading.raw_files import read_raw_file
from dataset_conversion.reading.volumes import voxels_sha256
from dataset_conversion.writing.case_writer import Record
from dataset_conversion.writing.journal import journals, read_header, read_records
from nnunet_ext.errors import InputError
from nnunet_ext.files.checksums import sha256_of_file


@dataclass(frozen=True)
class Overlap:
    """Two collections with common images.

    ``certain`` is False where only counts and sizes show it, not names or hashes.
    """

    first: str
    second: str
    what: str
    certain: bool = True


SYNTHETIC = "Synthetic-COVID-CT"
CT_SEG = "COVID-19-CT-Seg"
PLEURAL = "NSCLC-PleuralEffusion"

OVERLAPS = (
    Overlap("COVID-SemiSeg", "SIRM-slices", "its 98 labelled slices are SIRM's"),
    Overlap("COVID-SemiSeg-unlabeled", CT_SEG, "its slices come from the same 20 volumes"),
    Overlap("SIRM-volumes", CT_SEG, "the nine have the sizes of Radiopaedia volumes there", False),
    Overlap(SYNTHETIC, "SIRM-volumes", "its generator was trained on the nine volumes", False),
    Overlap(SYNTHETIC, CT_SEG, "its generator was trained on volumes found there", False),
    Overlap(SYNTHETIC, "COVID-SemiSeg-unlabeled", "its generator saw their volumes", False),
    Overlap("BHSD", "RSNA-ICH", "its scans are scans of the challenge"),
    Overlap("Seg-CQ500", "CQ500", "its scans are a part of it"),
    Overlap("LiTS", "MSD_Liver", "the same scans under another licence (CC-BY-SA 4.0)"),
    Overlap("LiTS", "3D-IRCADb", "volumes 28 to 48 come from there"),
    Overlap("MSD_Liver", "3D-IRCADb", "volumes 28 to 48 come from there"),
    Overlap(PLEURAL, "NSCLC-Radiomics", "masks drawn on its scans, by patient id"),
    Overlap("LUNA16", "LIDC-IDRI", "its scans are a part of it"),
)


def overlap_of(first: str, second: str) -> Overlap | None:
    """Return what two collections share; None: nothing that is known.

    A collection shares everything with itself.
    """
    if first == second:
        return Overlap(first, second, "the same data set")

    for known in OVERLAPS:
        if {known.first, known.second} == {first, second}:
            return known

    return None


def collection_of(folder: Path) -> str | None:
    """Return the collection that a raw data set was converted from.

    It is None where this package did not make the data set.
    """
    for journal in journals(folder):
        header = read_header(journal)
        if header:
            return str(header.get("collection", header["converter"]))

    return None


def converted_data_sets(raw: Path) -> dict[Path, str]:
    """Return the data sets below ``nnUNet_raw`` that this package made: folder to collection."""
    found = {}
    for folder in _data_sets(raw):
        name = collection_of(folder)
        if name is not None:
            found[folder] = name

    return found


def _data_sets(raw: Path) -> list[Path]:
    return sorted(raw.glob("Dataset[0-9][0-9][0-9]_*"))


def shared_images(first: Path, second: Path, *, read_files: bool = False) -> str | None:
    """Return what two raw data sets share; None: nothing.

    What is known of them decides, or else their content.

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
    ours = collection_of(first)
    theirs = collection_of(second)
    is_known = ours is not None and theirs is not None
    if not is_known and not read_files:
        return _equal_files(first, second)

    overlap = overlap_of(ours, theirs) if ours and theirs else None
    if overlap is not None:
        probably = "" if overlap.certain else ", probably"
        return f"{second.name} overlaps with {first.name}{probably}: {overlap.what}"

    digests = image_digests(first)
    others = image_digests(second)
    copies = {others[digest] for digest in digests.keys() & others.keys()}
    if not copies:
        return None

    return f"{second.name} has {len(copies)} images of {first.name}, e.g. {min(copies)}"


def _equal_files(first: Path, second: Path) -> str | None:
    """Return what data sets share of which this package has no record, by the files' bytes."""
    if first == second:
        return None

    copies = _equal_images(first, second)
    if not copies:
        return None

    in_test = sum(image.parent.name == "imagesTs" for image in copies.values())
    test = f", {in_test} of them in its test set" if in_test else ""
    example = min(copies)

    return f"{second.name} has {len(copies)} images of {first.name}{test}, e.g. {example.name}"


def _equal_images(first: Path, second: Path) -> dict[Path, Path]:
    """Return the images of a second data set that are files of the first, with those."""
    images = _sized_images(first)
    others = _sized_images(second)
    common_sizes = set(images.values()) & set(others.values())  # of others they cannot be equal
    by_digest = {}
    for image, size in images.items():
        if size in common_sizes:
            by_digest[sha256_of_file(image)] = image

    copies = {}
    for other, size in others.items():
        if size not in common_sizes:
            continue

        digest = sha256_of_file(other)
        if digest in by_digest:
            copies[other] = by_digest[digest]

    return copies


def _images_below(folder: Path) -> list[Path]:
    """Return the images of a raw data set, part by part."""
    images = []
    for part in ("Tr", "Ts", "Un"):
        images += sorted((folder / f"images{part}").glob("[!.]*"))

    return images


def _sized_images(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_size for file in sorted(_images_below(folder))}


def unknown_origin(*folders: Path) -> list[str]:
    """Return the names of the data sets that this package did not make."""
    return [folder.name for folder in folders if collection_of(folder) is None]


def image_digests(folder: Path) -> dict[str, str]:
    """Return hashes of the images of a raw data set and of their files, with the case of each.

    Raises:
        InputError: this package did not make the data set, and its images are missing or cannot be
            read.
    """
    digests = {}
    if collection_of(folder) is not None:
        for record in itertools.chain.from_iterable(read_records(folder).values()):
            digests.update(dict.fromkeys(_digests(record), record.case))

        return digests

    channels: dict[str, list[Path]] = defaultdict(list)
    for file in _images_below(folder):
        stem = file.name.partition(".")[0]
        channels[re.sub(r"_\d{4}$", "", stem)].append(file)
    if not channels:
        raise InputError(
            f"{folder}: shared images are not checked, because it holds no images to compare; "
            f"bring them back, or leave out --forbid-overlap"
        )

    for case, files in channels.items():
        digests.update(dict.fromkeys(_digests_of_files(files), case))

    return digests


def known_overlaps(folder: Path, collection: str) -> list[str]:
    """Return a line per other data set beside ``folder`` that shares images with a collection."""
    lines = []
    for other, name in converted_data_sets(folder.parent).items():
        overlap = overlap_of(collection, name)
        if other == folder or overlap is None or overlap.first == overlap.second:
            continue

        probably = "" if overlap.certain else ", probably"
        lines.append(
            f"{other.name} overlaps with {collection}{probably}: {overlap.first}: {overlap.what}"
        )

    return lines


def copies_elsewhere(
    folder: Path, collection: str, records: Iterable[Record], *, read_files: bool = False
) -> dict[str, str]:
    """Return the cases whose image, or a file they were made of, occurs in another data set.

    Only data sets beside ``folder`` are looked at. Further conversions of the same collection are
    not reported.

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
        for digest in _digests(record):
            if digest in first_with:
                found[record.case] = first_with[digest]
                break

    return found


def _other_data_sets(folder: Path, collection: str, with_unknown: bool) -> list[Path]:
    made = converted_data_sets(folder.parent)
    candidates = _data_sets(folder.parent) if with_unknown else made
    others = []
    for other in candidates:
        if other != folder and made.get(other) != collection:
            others.append(other)

    return others


def _digests_of_files(files: list[Path]) -> list[str]:
    voxels: list[str] = []
    for file in files:
        raw = read_raw_file(file)
        voxels += map(voxels_sha256, raw.channels)
    of_image = " ".join(voxels)

    return [of_image, *map(sha256_of_file, files)]


def _digests(record: Record) -> list[str]:
    """Return hashes of the image and of the files it was made of.

    Masks come last there; empty ones are all alike, and so are left out.
    """
    sources = list(record.source_sha256.values())
    if set(record.label_voxels) == {"0"}:
        sources = sources[:1]

    return [record.image_sha256, *sources]
