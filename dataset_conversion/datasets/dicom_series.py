"""Any CT or MR series of a DICOM export, with DICOM SEG or RTSTRUCT objects as labels."""

from __future__ import annotations

import argparse
import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dataset_conversion.converter import Case, Found, Reading
from dataset_conversion.reading.dicom_cases import (
    DicomConverter,
    files_of,
    image_of,
    report_rejected,
    without_damaged,
)
from dataset_conversion.reading.download_folder import case_id
from dataset_conversion.reading.label_objects import (
    LabelKind,
    LabelObject,
    kind_of,
    label_objects,
    masks_of,
)
from nnunet_ext.errors import InputError
from nnunet_ext.keyed_names import keyed_name

if TYPE_CHECKING:
    from pathlib import Path

    from nnunet_ext.dicom.reading.folder_scan import Scan
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.series import Acquisition, Rules

LABEL_SOURCES = ("seg", "rtstruct", "none")
MODALITIES = ("CT", "MR")
MANY = 12  # names that a message lists
NOT_TRAVELLING = ("_content", "_objects")  # what a worker process does not need


@dataclass(frozen=True)
class DicomSeries(DicomConverter):
    """Every CT (or MR) series below a folder is a case; labels come from DICOM SEG or RTSTRUCT
    objects beside it.
    """

    label_source: str = ""
    """``--labels``: ``seg``, ``rtstruct`` or ``none``; empty: what the export holds, ``seg`` before
    ``rtstruct``.
    """
    modality: str = ""
    map: tuple[str, ...] = ()

    name: ClassVar[str] = "DICOM"
    published_id: ClassVar[str] = r"(?!)"  # no identifier is known to be public
    chooses_labels: ClassVar[bool] = False
    task: ClassVar[str] = "any CT or MR series of a DICOM export, with SEG or RTSTRUCT as labels"
    licence: ClassVar[str] = "as its owner says"
    download: ClassVar[str] = "https://www.dicomstandard.org/"
    citation: ClassVar[str] = "as its owner says"

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        DicomConverter.add_options(parser)
        parser.add_argument(
            "--labels",
            dest="label_source",
            choices=LABEL_SOURCES,
            default="",
            help="where labels come from: DICOM SEG, RTSTRUCT, or none (images into imagesUn); "
            "default: what there is, "
            "SEG before RTSTRUCT",
        )
        parser.add_argument(
            "--modality", choices=MODALITIES, default="", help="default: the only one in the export"
        )
        parser.add_argument(
            "--map",
            action="append",
            default=[],
            metavar="NAME=LABEL",
            help="regions of that name (* stands for any letters) become that label, others "
            "background; repeat it; "
            "where labels overlap the later one wins; default: every name is a label",
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in NOT_TRAVELLING}

    @property
    def folder_name(self) -> str:
        return (
            f"{self._modality}-unlabeled"
            if self.unlabeled or self._source_of_labels is None
            else self._modality
        )

    @property
    def channel_names(self) -> tuple[str, ...]:
        return (self._modality,)

    @property
    def labels(self) -> dict[str, int]:
        return {
            "background": 0,
            **{name: number for number, name in enumerate(self._names, start=1)},
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Also the labels: another export may hold other names, and values would shift."""
        return {**super().settings, "names": list(self._names)}

    @property
    def rules(self) -> Rules:
        from nnunet_ext.dicom.reading.series import Rules

        # Whoever drew on a computed series chose it.
        return Rules(modalities=(self._modality,), derived=self._source_of_labels is not None)

    def recognises(self, slices: Sequence[Slice]) -> bool:
        return False  # any export would do

    @cached_property
    def _content(self) -> tuple[Scan, Found]:
        found = Found()
        return self.scan(found), found

    @cached_property
    def _modality(self) -> str:
        """CT or MR."""
        if self.modality:
            return self.modality
        counts = Counter(item.modality for item in self._content[0].slices)
        present = [name for name in MODALITIES if counts[name]]
        if len(present) > 1:
            raise InputError(
                f"{self.source}: holds CT and MR series; choose with --modality CT or --modality MR"
            )
        return present[0] if present else "CT"

    @cached_property
    def _source_of_labels(self) -> LabelKind | None:
        if self.label_source not in ("", *LABEL_SOURCES):
            raise InputError(f"--labels {self.label_source}: valid are {', '.join(LABEL_SOURCES)}")
        kinds = {kind_of(item) for item in self._content[0].slices}
        if self.label_source == "none":
            return None
        wanted: tuple[LabelKind, ...] = ("seg", "rtstruct")
        if self.label_source:
            wanted = (self.label_source,)  # type: ignore[assignment]
        present = [kind for kind in wanted if kind in kinds]
        if self.label_source and not present:
            raise InputError(
                f"{self.source}: holds no {self.label_source.upper()} object; choose another "
                f"--labels"
            )
        return present[0] if present else None

    @cached_property
    def _objects(self) -> tuple[list[LabelObject], list[str]]:
        kind = self._source_of_labels
        return ([], []) if kind is None else label_objects(self._content[0].slices, kind)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Names of the labels in the order of their values."""
        if self.map:
            return tuple(
                dict.fromkeys(label for _, label in self._patterns if label != "background")
            )
        spelling: dict[str, str] = {}
        for item in self._objects[0]:
            for name in item.names:
                spelling.setdefault(name.casefold(), name)
        return tuple(spelling[key] for key in sorted(spelling) if key != "background")

    @cached_property
    def _patterns(self) -> list[tuple[str, str]]:
        """Pattern of a region's name, and the label it becomes."""
        patterns = []
        for entry in self.map:
            pattern, _, label = (part.strip() for part in entry.rpartition("="))
            if not pattern or not label:
                raise InputError(f"--map {entry}: write NAME=LABEL, e.g. 'GTV*=tumour'")
            patterns.append((pattern.casefold(), label))
        return patterns

    def find_cases(self) -> Found:
        content, noted = self._content
        from nnunet_ext.dicom.reading.series import acquisitions_of

        found = Found(problems=list(noted.problems), notes=list(noted.notes))
        objects, problems = self._objects
        found.problems.extend(problems)
        self._require_names(objects)
        accepted, rejected = acquisitions_of(
            [item for item in content.slices if not kind_of(item)], self.rules
        )
        accepted = without_damaged(accepted, content, found)
        report_rejected(rejected, found)

        without = 0
        used: set[Path] = set()
        for acquisition in accepted:
            labels = [
                item for item in objects if self._is_wanted(item) and item.belongs_to(acquisition)
            ]
            used.update(item.file for item in labels)
            if self._source_of_labels is not None and not labels and not self.unlabeled:
                without += 1
                continue
            files = tuple(item.file for item in labels)
            found.cases.append(
                Case(
                    self._case_name(acquisition),
                    "Tr" if files else "Un",
                    files_of(acquisition),
                    files,
                    self.details_of(acquisition),
                )
            )
        if without:
            found.notes.append(
                f"{without} series have no label and are left out; --unlabeled takes them"
            )
        homeless = sum(item.file not in used and self._is_wanted(item) for item in objects)
        if homeless:
            found.notes.append(f"{homeless} label objects refer to no series that is taken")
        return found

    def _require_names(self, objects: Sequence[LabelObject]) -> None:
        """Refuse a --map of which an entry meets no region, and labels without a region."""
        names = sorted({name for item in objects for name in item.names}, key=str.casefold)
        shown = ", ".join(names[:MANY]) + (", ..." if len(names) > MANY else "")
        for pattern, _ in self._patterns:
            if not any(fnmatch.fnmatchcase(name.casefold(), pattern) for name in names):
                raise InputError(
                    f"--map {pattern}: no region has that name; the export holds {shown or 'none'}"
                )
        if self._source_of_labels is not None and objects and not self._names:
            raise InputError(
                f"{self.source}: its label objects name no region; choose --labels none"
            )

    def _is_wanted(self, item: LabelObject) -> bool:
        return any(self._label_of(name) for name in item.names)

    def _label_of(self, name: str) -> str | None:
        """The label that a region becomes; None for background."""
        if not self.map:
            return next(
                (label for label in self._names if label.casefold() == name.casefold()), None
            )
        for pattern, label in self._patterns:
            if fnmatch.fnmatchcase(name.casefold(), pattern):
                return None if label == "background" else label
        return None

    def _case_name(self, acquisition: Acquisition) -> str:
        first = acquisition.slices[0]
        patient = self.public(first.patient_id, "patient") or "patient-unknown"
        series = keyed_name("series", first.series_uid or str(first.path))
        suffix = f"-{acquisition.index}" if acquisition.index > 1 else ""
        return case_id(f"{patient}_{series}{suffix}")

    def read_case(self, case: Case) -> Reading:
        from nnunet_ext.dicom.reading.volume import slices_on_grid

        volume = self.read_volume(case)
        image = image_of(volume)
        if not case.label_files:
            return image
        stack = volume.acquisition.stack
        label = np.zeros((len(volume.acquisition.slices), stack.rows, stack.columns), np.uint16)
        masks = masks_of(case.label_files, volume.acquisition)
        for value, inside in self._by_value(masks):
            taken = inside & (label > 0)
            if taken.any() and not self.map:
                other = list(self.labels)[int(label[taken][0])]
                raise InputError(
                    f"{case.label_files[0]}: '{list(self.labels)[value]}' and '{other}' overlap "
                    f"in {int(taken.sum())} "
                    "voxels; say with --map which are wanted, the later one wins"
                )
            label[inside] = value
        warnings = volume.warnings if label.any() else (*volume.warnings, "the label is empty")
        return replace(image, label=slices_on_grid(label, volume.acquisition), warnings=warnings)

    def _by_value(self, masks: dict[str, np.ndarray]) -> list[tuple[int, np.ndarray]]:
        """Masks by the value of their label, united and in the order of the values."""
        united: dict[int, np.ndarray] = {}
        for name, mask in masks.items():
            label = self._label_of(name)
            if label is not None:
                value = self.labels[label]
                united[value] = united[value] | mask if value in united else mask
        return sorted(united.items(), key=lambda item: item[0])
