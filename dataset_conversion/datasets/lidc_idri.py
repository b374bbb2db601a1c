"""LIDC-IDRI: chest CT with nodules drawn by up to four readers."""

from __future__ import annotations

import argparse
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dataset_conversion.converter import Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.dicom_cases import DicomConverter, image_of, volume_of
from dataset_conversion.reading.download_folder import case_id, is_hidden
from dataset_conversion.reading.lidc_annotations import (
    Annotations,
    Denominator,
    Outline,
    consensus,
    read_annotations,
)
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.series import Acquisition, Rules

SAME_SLICE_MM = 0.3  # an outline whose image is unknown lies so near to a slice


@dataclass(frozen=True)
class LidcIdri(DicomConverter):
    """1018 CT of 1010 patients; the label is what a share of the readers agrees on.

    Reference: Armato et al. 2011 (the data set's paper).
    """

    consensus_percent: float = 50.0
    denominator: Denominator = "all4"

    name: ClassVar[str] = "LIDC-IDRI"
    published_id: ClassVar[str] = r"LIDC-IDRI-\d{4}"
    task: ClassVar[str] = "lung nodules of 3 mm and more, chest CT"
    licence: ClassVar[str] = "CC BY 3.0"
    download: ClassVar[str] = "https://www.cancerimagingarchive.net/collection/lidc-idri/"
    citation: ClassVar[str] = (
        "Armato et al., The Lung Image Database Consortium (LIDC) and Image Database Resource "
        "Initiative (IDRI), Medical Physics 38(2), 915-931 (2011), doi:10.1118/1.3528204"
    )

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--consensus",
            dest="consensus_percent",
            type=float,
            default=50.0,
            metavar="PERCENT",
            help="share of the readers that must agree on a voxel; 25 of all4 is the union; "
            "default 50",
        )
        parser.add_argument(
            "--denominator",
            choices=("all4", "marked"),
            default="all4",
            help="share of the four readers of the collection, or of those who marked this "
            "nodule; default all4",
        )

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("CT",)

    @property
    def labels(self) -> dict[str, int]:
        return {"background": 0, "nodule": 1}

    @property
    def rules(self) -> Rules:
        from nnunet_ext.dicom.reading.series import Rules

        # Some scans hold two slices at one place; the annotations belong to the first.
        return Rules(derived=True, repeats="first")

    def recognises(self, slices: Sequence[Slice]) -> bool:
        return super().recognises(slices) or any(map(_is_reading, self.source.rglob("*.xml")))

    def find_cases(self) -> Inventory:
        if not 0 < self.consensus_percent <= 100:
            raise InputError(
                f"--consensus {self.consensus_percent:g}: choose a share above 0, up to 100 percent"
            )

        found = Inventory()
        content = self.scan(found)
        series = self.usable_series(content, found)
        problems_before = len(found.problems)
        files = self._annotation_files(found)

        without = 0
        for name, acquisition in self._named(series):
            label_files = files.get(acquisition.slices[0].series_uid, [])
            if label_files or self.unlabeled:
                found.cases.append(self.series_case(name, acquisition, label_files))
            else:
                without += 1

        if without:
            has_unusable = len(found.problems) > problems_before
            what = "XML file that can be used" if has_unusable else "XML file"
            found.notes.append(f"{without} CT series have no {what} and are left out")

        absent = files.keys() - {item.slices[0].series_uid for item in series}
        if absent:
            found.notes.append(f"{len(absent)} series with an XML file have no CT in the download")

        return found

    def _named(self, series: Sequence[Acquisition]) -> Iterator[tuple[str, Acquisition]]:
        """Yield each series with the id of its case; eight patients were scanned twice."""
        by_patient: dict[str, list[Acquisition]] = defaultdict(list)
        for acquisition in series:
            first = acquisition.slices[0]
            by_patient[first.patient_id].append(acquisition)

        for patient, scans in by_patient.items():
            name = self.public(patient, "patient") or "series"
            if len(scans) == 1:
                yield case_id(name), scans[0]
                continue

            scans.sort(key=lambda item: (item.slices[0].series_uid, item.index))
            for number, acquisition in enumerate(scans, start=1):
                yield case_id(f"{name}-scan{number}"), acquisition

    def _annotation_files(self, found: Inventory) -> dict[str, list[Path]]:
        """Return the XML files of each series; readings of X-rays are ignored."""
        files: dict[str, list[Path]] = defaultdict(list)
        xrays = 0
        for path in self._xml_files():
            try:
                annotations = read_annotations(path)
            except InputError as error:
                found.problems.append(str(error))
                continue

            if annotations is None:
                xrays += 1
            else:
                files[annotations.series_uid].append(path)

        if xrays:
            found.notes.append(f"{xrays} XML files are readings of chest X-rays and are ignored")
        if not files and not found.problems and not self.unlabeled:
            raise InputError(
                f"{self.source}: holds no XML file of a CT reading; unpack LIDC-XML-only.zip of "
                f"{self.download} into it"
            )

        return files

    def _xml_files(self) -> Iterator[Path]:
        for path in sorted(self.source.rglob("*")):
            is_xml = path.suffix.lower() == ".xml" and path.is_file()
            if is_xml and not is_hidden(path.name):
                yield path

    def read_case(self, case: SourceCase) -> LoadedCase:
        from nnunet_ext.dicom.reading.volume import slices_on_grid

        volume = volume_of(case)
        image = image_of(volume)
        if not case.label_files:
            return image

        annotations, warnings = chosen(case.label_files)
        stack = volume.acquisition.stack
        shape = (len(volume.acquisition.slices), stack.rows, stack.columns)
        try:
            places = slices_of_outlines(annotations, volume.acquisition)
            label = consensus(annotations, places, shape, self.consensus_percent, self.denominator)
        except InputError as error:
            raise InputError(f"{case.label_files[0]}: {error}") from error

        if len(annotations.readers) < 4:
            warnings = (*warnings, f"only {len(annotations.readers)} reading sessions")
        agreed = f"consensus {self.consensus_percent:g} % of {self.denominator}"

        return replace(
            image,
            label=slices_on_grid(label, volume.acquisition),
            transforms=(*volume.transforms, agreed),
            warnings=(*volume.warnings, *warnings),
        )


def _is_reading(path: Path) -> bool:
    """Whether a file begins like the reading of a CT."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return b"<LidcReadMessage" in stream.read(1024)


def chosen(files: tuple[Path, ...]) -> tuple[Annotations, tuple[str, ...]]:
    """Return the newest of several readings of one series, and a warning where they differ.

    Six series are described by several files; merging them would give up to 24 readers.
    """
    readings = [(path, read_annotations(path)) for path in files]
    of_ct = [(path, annotations) for path, annotations in readings if annotations is not None]
    path, newest = max(of_ct, key=_age)

    warnings: tuple[str, ...] = ()
    if any(annotations.readers != newest.readers for _, annotations in of_ct):
        warnings = (
            f"{len(files)} different XML files describe this series, {path.name} is the newest",
        )

    return newest, warnings


def _age(reading: tuple[Path, Annotations]) -> tuple[str, int, str]:
    """Return a sort key that puts the newest reading last."""
    path, annotations = reading
    return annotations.served, len(annotations.readers), path.name


def slices_of_outlines(annotations: Annotations, acquisition: Acquisition) -> dict[Outline, int]:
    """Return the index of the slice that each outline was drawn on.

    The UID of its image decides, and only where no slice has that UID its height.

    Raises:
        InputError: an outline lies on no slice.
    """
    # An anonymiser may have given all slices one UID.
    count_of = Counter(item.sop_uid for item in acquisition.slices)
    index_of = {
        item.sop_uid: index
        for index, item in enumerate(acquisition.slices)
        if count_of[item.sop_uid] == 1
    }
    heights_mm = np.array([item.position_mm[2] for item in acquisition.slices])

    places: dict[Outline, int] = {}
    for nodules in annotations.readers:
        for outline in itertools.chain.from_iterable(nodules):
            if not outline.encloses:
                continue

            index = index_of.get(outline.sop_uid)
            places[outline] = _slice_at(outline, heights_mm) if index is None else index

    return places


def _slice_at(outline: Outline, heights_mm: np.ndarray) -> int:
    """Return the slice at the height of an outline whose image is unknown."""
    if outline.z_mm is None:
        raise InputError(
            "an outline names no image of the series, and no height; download the series again"
        )

    nearest = int(np.abs(heights_mm - outline.z_mm).argmin())
    if abs(heights_mm[nearest] - outline.z_mm) > SAME_SLICE_MM:
        raise InputError(
            f"an outline lies at {outline.z_mm:g} mm, where the series has no slice; "
            f"download the series again"
        )

    return nearest
