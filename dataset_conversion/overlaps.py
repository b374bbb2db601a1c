"""Which public data sets share images: training on one and testing on the other measures nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.case_writer import Record
from dataset_conversion.download_folder import sha256_of_file
from dataset_conversion.journal import journals, read_header, read_records


@dataclass(frozen=True)
class Overlap:
    """Two collections with common images; ``certain`` where names or hashes show it, not only counts and sizes."""

    first: str
    second: str
    what: str
    certain: bool = True


OVERLAPS = (
    Overlap("COVID-SemiSeg", "SIRM-slices", "its 98 labelled slices are slices of the SIRM collection"),
    Overlap("COVID-SemiSeg-unlabeled", "COVID-19-CT-Seg", "its slices come from the same 20 volumes"),
    Overlap("SIRM-volumes", "COVID-19-CT-Seg", "the nine have the sizes of Radiopaedia volumes there", certain=False),
    Overlap("Synthetic-COVID-CT", "SIRM-volumes", "its generator was trained on the nine volumes", certain=False),
    Overlap("Synthetic-COVID-CT", "COVID-19-CT-Seg", "its generator was trained on volumes found there", certain=False),
    Overlap("Synthetic-COVID-CT", "COVID-SemiSeg-unlabeled", "its generator saw their volumes", certain=False),
    Overlap("BHSD", "RSNA-ICH", "its scans are scans of the challenge"),
    Overlap("Seg-CQ500", "CQ500", "its scans are a part of it"),
    Overlap("LiTS", "MSD_Liver", "the same scans under another licence (CC-BY-SA 4.0)"),
    Overlap("LiTS", "3D-IRCADb", "volumes 28 to 48 come from there"),
    Overlap("MSD_Liver", "3D-IRCADb", "volumes 28 to 48 come from there"),
    Overlap("NSCLC-PleuralEffusion", "NSCLC-Radiomics", "masks drawn on its scans, by patient id"),
    Overlap("LUNA16", "LIDC-IDRI", "its scans are a part of it"),
)


def overlap_of(first: str, second: str) -> Overlap | None:
    """What two collections share; None: nothing that is known. A collection shares everything with itself."""
    if first == second:
        return Overlap(first, second, "the same data set")
    return next((known for known in OVERLAPS if {known.first, known.second} == {first, second}), None)


def collection_of(folder: Path) -> str | None:
    """The collection that a raw data set was converted from; None where this package did not make it."""
    header = next((header for journal in journals(folder) if (header := read_header(journal))), None)
    return None if header is None else str(header.get("collection", header["converter"]))


def converted_data_sets(raw: Path) -> dict[Path, str]:
    """Data sets below ``nnUNet_raw`` that this package made: folder to collection."""
    folders = sorted(raw.glob("Dataset[0-9][0-9][0-9]_*"))
    return {folder: name for folder in folders if (name := collection_of(folder)) is not None}


def shared_images(first: Path, second: Path) -> str | None:
    """What two raw data sets share, by what is known of them or else by content; None: nothing."""
    names = collection_of(first), collection_of(second)
    if names[0] is None or names[1] is None:
        return _equal_files(first, second)
    known = overlap_of(names[0], names[1])
    if known is not None:
        return f"{second.name} overlaps with {first.name}{'' if known.certain else ', probably'}: {known.what}"
    digests = {digest for own in read_records(first).values() for record in own for digest in _digests(record)}
    copies = [
        record.case for own in read_records(second).values() for record in own if digests.intersection(_digests(record))
    ]
    return f"{second.name} has {len(copies)} images of {first.name}, e.g. {min(copies)}" if copies else None


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
    files = [file for part in ("Tr", "Ts", "Un") for file in (folder / f"images{part}").glob("[!.]*")]
    return {file: file.stat().st_size for file in sorted(files)}


def known_overlaps(folder: Path, collection: str) -> list[str]:
    """One line per other data set beside ``folder`` that shares images with ``collection``."""
    lines = []
    for other, name in converted_data_sets(folder.parent).items():
        overlap = overlap_of(collection, name)
        if other != folder and overlap is not None and overlap.first != overlap.second:
            probably = "" if overlap.certain else ", probably"
            lines.append(f"{other.name} overlaps with {collection}{probably}: {overlap.first}: {overlap.what}")
    return lines


def copies_elsewhere(folder: Path, collection: str, records: Iterable[Record]) -> dict[str, str]:
    """Cases whose image, or a file they were made of, occurs in another data set beside ``folder``.

    Further conversions of the same collection are no finding.

    Returns:
        Case to ``Dataset006_X/case``.
    """
    first_with: dict[str, str] = {}
    for other, name in converted_data_sets(folder.parent).items():
        if other != folder and name != collection:
            for record in (record for own in read_records(other).values() for record in own):
                for digest in _digests(record):
                    first_with.setdefault(digest, f"{other.name}/{record.case}")
    found = {}
    for record in records:
        match = next((first_with[digest] for digest in _digests(record) if digest in first_with), None)
        if match is not None:
            found[record.case] = match
    return found


def _digests(record: Record) -> list[str]:
    """Hashes of the image and of the files it was made of; masks come last there, and empty ones are all alike."""
    sources = list(record.source_sha256.values())
    return [record.image_sha256, *(sources[:1] if set(record.label_voxels) == {"0"} else sources)]
