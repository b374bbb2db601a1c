"""LIDC-IDRI: chest CT with nodules drawn by up to four readers."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dataset_conversion.converter import Case, Found, Reading
from dataset_conversion.reading.dicom_cases import (
    DicomConverter,
    files_of,
    image_of,
    report_rejected,
    without_damaged,
)
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
        "Initiative (IDRI), "
        "Medical Physics 38(2), 915-931 (2011), doi:10.1118/1.3528204"
    )

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        DicomConverter.add_options(parser)
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

    def find_cases(self) -> Found:
        if not 0 < self.consensus_percent <= 100:
            raise InputError(
                f"--consensus {self.consensus_percent:g}: choose a share above 0, up to 100 percent"
            )
        found = Found()
        content = self.scan(found)  # says so where packages are missing
        from nnunet_ext.dicom.reading.series import acquisitions_of

        accepted, rejected = acquisitions_of(content.slices, self.rules)
        accepted = without_damaged(accepted, content, found)
        report_rejected(rejected, found)
        before = len(found.problems)
        files = self._annotation_files(found)
        what = "XML file that can be used" if len(found.problems) > before else "XML file"
        by_patient: dict[str, list[Acquisition]] = defaultdict(list)
        for acquisition in accepted:
            by_patient[acquisition.slices[0].patient_id].append(acquisition)
        without = 0
        for patient, acquisitions in by_patient.items():
            # Eight patients were scanned twice.
            ordered = sorted(acquisitions, key=lambda item: (item.slices[0].series_uid, item.index))
            for number, acquisition in enumerate(ordered, start=1):
                suffix = f"-scan{number}" if len(ordered) > 1 else ""
                first = acquisition.slices[0]
                readings = files.get(first.series_uid)
                if not readings and not self.unlabeled:
                    without += 1
                    continue
                name = case_id(f"{self.public(patient, 'patient') or 'series'}{suffix}")
                details = self.details_of(acquisition)
                found.cases.append(
                    Case(name, "Tr", files_of(acquisition), tuple(readings or ()), details)
                )
        if without:
            found.notes.append(f"{without} CT series have no {what} and are left out")
        absent = len(files.keys() - {item.slices[0].series_uid for item in accepted})
        if absent:
            found.notes.append(f"{absent} series with an XML file have no CT in the download")
        return found

    def _annotation_files(self, found: Found) -> dict[str, list[Path]]:
        """XML files by series; readings of X-rays are passed over."""
        files: dict[str, list[Path]] = defaultdict(list)
        xrays = 0
        for path in sorted(self.source.rglob("*")):
            if path.suffix.lower() != ".xml" or is_hidden(path.name) or not path.is_file():
                continue
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
            found.notes.append(
                f"{xrays} XML files are readings of chest X-rays and are passed over"
            )
        if not files and not found.problems and not self.unlabeled:
            raise InputError(
                f"{self.source}: holds no XML file of a CT reading; unpack LIDC-XML-only.zip of "
                f"{self.download} into it"
            )
        return files

    def read_case(self, case: Case) -> Reading:
        from nnunet_ext.dicom.reading.volume import slices_on_grid

        volume = self.read_volume(case)
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
        return replace(
            image,
            label=slices_on_grid(label, volume.acquisition),
            transforms=(
                *volume.transforms,
                f"consensus {self.consensus_percent:g} % of {self.denominator}",
            ),
            warnings=(*volume.warnings, *warnings),
        )


def _is_reading(path: Path) -> bool:
    """Whether a file begins like the reading of a CT."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return b"<LidcReadMessage" in stream.read(1024)


def chosen(files: tuple[Path, ...]) -> tuple[Annotations, tuple[str, ...]]:
    """The reading that counts of several files for one series: the newest, and a warning where they
    differ.

    Six series are described by several files; merging them would give up to 24 readers.
    """
    readings = [
        (path, reading) for path in files if (reading := read_annotations(path)) is not None
    ]
    path, newest = max(
        readings, key=lambda pair: (pair[1].served, len(pair[1].readers), pair[0].name)
    )
    if any(reading.readers != newest.readers for _, reading in readings):
        return newest, (
            f"{len(files)} different XML files describe this series, {path.name} is the newest",
        )
    return newest, ()


def slices_of_outlines(annotations: Annotations, acquisition: Acquisition) -> dict[Outline, int]:
    """Index of the slice that each outline was drawn on: by image UID, and only without it by
    height.

    Raises:
        InputError: an outline lies on no slice.
    """
    uids = Counter(
        item.sop_uid for item in acquisition.slices
    )  # an anonymiser may give all slices one
    by_uid = {
        item.sop_uid: index
        for index, item in enumerate(acquisition.slices)
        if uids[item.sop_uid] == 1
    }
    heights_mm = np.array([item.position_mm[2] for item in acquisition.slices])
    places: dict[Outline, int] = {}
    drawn = [
        outline for nodules in annotations.readers for outlines in nodules for outline in outlines
    ]
    for outline in (outline for outline in drawn if outline.encloses):
        index = by_uid.get(outline.sop_uid)
        places[outline] = _slice_at(outline, heights_mm) if index is None else index
    return places


def _slice_at(outline: Outline, heights_mm: np.ndarray) -> int:
    """The slice at the height of an outline whose image is unknown."""
    if outline.z_mm is None:
        raise InputError(
            "an outline names no image of the series, and no height; download the series again"
        )
    nearest = int(np.abs(heights_mm - outline.z_mm).argmin())
    if abs(heights_mm[nearest] - outline.z_mm) > SAME_SLICE_MM:
        raise InputError(
            f"an outline lies at {outline.z_mm:g} mm, where the series has no slice; download the "
            f"series again"
        )
    return nearest
