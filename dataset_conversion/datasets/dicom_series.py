"""Any CT or MR series of a DICOM export, with DICOM SEG or RTSTRUCT objects as labels."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dataset_conversion.converter import Inventory, LoadedCase, Part, SourceCase
from dataset_conversion.reading.dicom_cases import DicomConverter, image_of, volume_of
from dataset_conversion.reading.download_folder import case_id, first_of
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
    """Every CT (or MR) series below a folder is a case, with DICOM SEG or RTSTRUCT as labels."""

    label_source: str = ""
    """``--labels``: ``seg``, ``rtstruct`` or ``none``.

    Empty: what the export holds, ``seg`` before ``rtstruct``.
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
        parser.add_argument(
            "--labels",
            dest="label_source",
            choices=LABEL_SOURCES,
            default="",
            help="where labels come from: DICOM SEG, RTSTRUCT, or none (images into imagesUn); "
            "default: what there is, SEG before RTSTRUCT",
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
            "background; repeat it; where labels overlap the later one wins; "
            "default: every name is a label",
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in NOT_TRAVELLING}

    @property
    def folder_name(self) -> str:
        if self.unlabeled or self._source_of_labels is None:
            return f"{self._modality}-unlabeled"

        return self._modality

    @property
    def channel_names(self) -> tuple[str, ...]:
        return (self._modality,)

    @property
    def labels(self) -> dict[str, int]:
        return {name: value for value, name in enumerate(("background", *self._names))}

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
    def _content(self) -> tuple[Scan, Inventory]:
        found = Inventory()
        return self.scan(found), found

    @cached_property
    def _modality(self) -> str:
        """CT or MR."""
        if self.modality:
            return self.modality

        modalities = {item.modality for item in self._content[0].slices}
        present = [name for name in MODALITIES if name in modalities]
        if len(present) > 1:
            raise InputError(
                f"{self.source}: holds CT and MR series; choose with --modality CT or --modality MR"
            )

        return present[0] if present else "CT"

    @cached_property
    def _source_of_labels(self) -> LabelKind | None:
        """``seg`` or ``rtstruct``; None: no labels."""
        if self.label_source not in ("", *LABEL_SOURCES):
            raise InputError(f"--labels {self.label_source}: valid are {', '.join(LABEL_SOURCES)}")

        kinds = {kind_of(item) for item in self._content[0].slices}
        if self.label_source == "none":
            return None

        wanted: tuple[LabelKind, ...] = ("seg", "rtstruct")
        if self.label_source:
            wanted = (self.label_source,)  # type: ignore[assignment]
        for kind in wanted:
            if kind in kinds:
                return kind

        if self.label_source:
            raise InputError(
                f"{self.source}: holds no {self.label_source.upper()} object; choose another "
                f"--labels"
            )

        return None

    @cached_property
    def _objects(self) -> tuple[list[LabelObject], list[str]]:
        """The label objects, and a line for each that cannot be read."""
        kind = self._source_of_labels
        if kind is None:
            return [], []

        return label_objects(self._content[0].slices, kind)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Names of the labels in the order of their values."""
        if self.map:
            labels = dict.fromkeys(label for _, label in self._patterns)
            labels.pop("background", None)
            return tuple(labels)

        spelling: dict[str, str] = {}
        for item in self._objects[0]:
            for name in item.names:
                spelling.setdefault(name.casefold(), name)
        spelling.pop("background", None)

        return tuple(spelling[key] for key in sorted(spelling))

    @cached_property
    def _patterns(self) -> list[tuple[str, str]]:
        """Pattern of a region's name, and the label it becomes."""
        patterns = []
        for entry in self.map:
            pattern, _, label = entry.rpartition("=")
            if not pattern.strip() or not label.strip():
                raise InputError(f"--map {entry}: write NAME=LABEL, e.g. 'GTV*=tumour'")

            patterns.append((pattern.strip().casefold(), label.strip()))

        return patterns

    def find_cases(self) -> Inventory:
        content, noted = self._content
        objects, problems = self._objects
        found = Inventory(problems=[*noted.problems, *problems], notes=list(noted.notes))
        self._require_names(objects)
        wanted = list(filter(self._is_wanted, objects))
        images = [item for item in content.slices if not kind_of(item)]

        without = 0
        used: set[Path] = set()
        for acquisition in self.usable_series(content, found, images):
            files = [item.file for item in wanted if item.belongs_to(acquisition)]
            used.update(files)
            if not files and self._needs_labels:
                without += 1
                continue

            name = self._case_name(acquisition)
            part: Part = "Tr" if files else "Un"
            case = self.series_case(name, acquisition, files, part)
            found.cases.append(case)

        if without:
            found.notes.append(
                f"{without} series have no label and are left out; --unlabeled takes them"
            )
        homeless = sum(item.file not in used for item in wanted)
        if homeless:
            found.notes.append(f"{homeless} label objects refer to no series that is taken")

        return found

    @property
    def _needs_labels(self) -> bool:
        """Whether series without a label are left out."""
        return self._source_of_labels is not None and not self.unlabeled

    def _require_names(self, objects: Sequence[LabelObject]) -> None:
        """Refuse a --map of which an entry meets no region, and labels without a region."""
        distinct: set[str] = set()
        for item in objects:
            distinct.update(item.names)
        names = sorted(distinct, key=str.casefold)
        folded = [name.casefold() for name in names]

        for pattern, _ in self._patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in folded):
                shown = first_of(names, MANY) or "none"
                raise InputError(
                    f"--map {pattern}: no region has that name; the export holds {shown}"
                )

        if self._source_of_labels is not None and objects and not self._names:
            raise InputError(
                f"{self.source}: its label objects name no region; choose --labels none"
            )

    def _is_wanted(self, item: LabelObject) -> bool:
        return any(self._label_of(name) for name in item.names)

    def _label_of(self, name: str) -> str | None:
        """Return the label that a region becomes; None for background."""
        folded = name.casefold()
        if not self.map:
            spelling = {label.casefold(): label for label in self._names}
            return spelling.get(folded)

        for pattern, label in self._patterns:
            if fnmatch.fnmatchcase(folded, pattern):
                return None if label == "background" else label

        return None

    def _case_name(self, acquisition: Acquisition) -> str:
        first = acquisition.slices[0]
        patient = self.public(first.patient_id, "patient") or "patient-unknown"
        series = keyed_name("series", first.series_uid or str(first.path))
        suffix = f"-{acquisition.index}" if acquisition.index > 1 else ""

        return case_id(f"{patient}_{series}{suffix}")

    def read_case(self, case: SourceCase) -> LoadedCase:
        from nnunet_ext.dicom.reading.volume import slices_on_grid

        volume = volume_of(case)
        image = image_of(volume)
        if not case.label_files:
            return image

        masks = masks_of(case.label_files, volume.acquisition)
        stack = volume.acquisition.stack
        label = np.zeros((len(volume.acquisition.slices), stack.rows, stack.columns), np.uint16)
        for value, inside in self._by_value(masks):
            if not self.map:
                self._require_apart(case.label_files[0], label, value, inside)
            label[inside] = value

        warnings = volume.warnings if label.any() else (*volume.warnings, "the label is empty")

        return replace(image, label=slices_on_grid(label, volume.acquisition), warnings=warnings)

    def _require_apart(self, file: Path, label: np.ndarray, value: int, inside: np.ndarray) -> None:
        """Refuse a mask that overlaps with an earlier one, where nothing says which wins."""
        taken = inside & (label > 0)
        if not taken.any():
            return

        names = list(self.labels)
        other = names[int(label[taken][0])]
        raise InputError(
            f"{file}: '{names[value]}' and '{other}' overlap in {int(taken.sum())} voxels; "
            f"say with --map which are wanted, the later one wins"
        )

    def _by_value(self, masks: dict[str, np.ndarray]) -> list[tuple[int, np.ndarray]]:
        """Return the masks by the value of their label, united and in the order of the values."""
        united: dict[int, np.ndarray] = {}
        for name, mask in masks.items():
            label = self._label_of(name)
            if label is None:
                continue

            value = self.labels[label]
            united[value] = united[value] | mask if value in united else mask

        return sorted(united.items(), key=lambda item: item[0])
