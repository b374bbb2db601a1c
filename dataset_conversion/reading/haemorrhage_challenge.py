"""The DICOM files of the RSNA haemorrhage challenge as cases: single slices, or whole series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from dataset_conversion.converter import Inventory, LoadedCase, Part, SourceCase
from dataset_conversion.reading.dicom_cases import (
    DicomConverter,
    SeriesCase,
    image_name,
    volume_of,
)
from dataset_conversion.reading.download_folder import case_id, natural_key
from dataset_conversion.reading.haemorrhage_labels import read_slice_mask
from dataset_conversion.reading.haemorrhage_pairs import volume_label
from dataset_conversion.reading.haemorrhage_slices import (
    LayerCase,
    of_one_rescaling,
    read_placed_slice,
    steps_of_series_mm,
)
from dataset_conversion.reading.haemorrhage_table import in_words
from dataset_conversion.reading.nifti_headers import open_volume
from dataset_conversion.reading.volumes import label_place
from nnunet_ext.printable import counted

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.folder_scan import Scan
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.series import Acquisition, Rules

Types = frozenset[str]
WantedType = Literal[
    "any", "none", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural"
]


@dataclass(frozen=True)
class Challenge:
    """What is known of the challenge's images, and which of them are wanted.

    Attributes:
        converter: the data set.
        types: of haemorrhage, by image.
        masks: by the name of the image, or PATIENT_STUDY of the series; None: no masks are used.
        wanted: type of haemorrhage; None: all images.
    """

    converter: DicomConverter
    types: Mapping[str, Types]
    masks: Mapping[str, Path] | None
    wanted: WantedType | None

    def find_slices(self, slices: Sequence[Slice], found: Inventory) -> None:
        """Add a case per image; its layer is as thick as the slices of its series are apart."""
        head_slices = self._of_known_kind(slices, found)
        usable = of_one_rescaling(head_slices, found)
        steps_mm = steps_of_series_mm(usable)

        unknown = without_mask = 0
        for item in usable:
            name = item.sop_uid or image_name(item.path)
            unknown += name not in self.types
            if not self._is_wanted(self.types.get(name)):
                continue

            mask = self._mask_of(name, image_name(item.path))
            if self.masks is not None and mask is None:
                without_mask += 1
                continue

            found.cases.append(self._slice_case(item, name, mask, steps_mm[item.path]))

        if self.types and unknown:
            found.notes.append(
                f"{unknown} images are not in the table (the challenge's test images never are)"
            )
        if without_mask:
            found.notes.append(f"{without_mask} images have no mask and are left out")

    def _of_known_kind(self, slices: Sequence[Slice], found: Inventory) -> list[Slice]:
        from nnunet_ext.dicom.reading.series import other_kind

        known = []
        others: Counter[str] = Counter()
        for item in slices:
            kind = other_kind(item, self.converter.rules)
            if kind:
                others[kind] += 1
            else:
                known.append(item)

        for kind, count in sorted(others.items()):
            found.notes.append(f"{counted(count, 'image')} left out: {kind}")

        return known

    def _slice_case(self, item: Slice, name: str, mask: Path | None, step_mm: float) -> LayerCase:
        details = {
            "patient": self.converter.public(item.patient_id, "patient"),
            "series_uid": self.converter.series_name(item),
            "step_mm": f"{step_mm:g}",
            "haemorrhage": in_words(self.types.get(name)),
        }

        return LayerCase(
            case_id(self.converter.public(name, "image")),
            _part(mask),
            (Path(item.path),),
            _as_files(mask),
            details,
            is_private=self.converter.has_private_patient(item),
            thickness_mm=float(details["step_mm"]),
        )

    def find_series(self, content: Scan, slices: Sequence[Slice], found: Inventory) -> None:
        """Add a case per series whose slices form a volume."""
        usable = self.converter.usable_series(content, found, slices, shared_folders=True)
        by_study: dict[str, list[Acquisition]] = defaultdict(list)
        for acquisition in usable:
            first = acquisition.slices[0]
            study = f"{first.patient_id}_{first.study_uid}"
            by_study[study].append(acquisition)

        without_mask = 0
        for study in sorted(by_study, key=natural_key):
            mask = self._mask_of(study)
            is_missing = self.masks is not None and mask is None
            has_several = len(by_study[study]) > 1
            for number, acquisition in enumerate(by_study[study], start=1):
                types = self._types_of(acquisition)
                if not self._is_wanted(types):
                    continue
                if is_missing:
                    without_mask += 1
                    continue

                suffix = f"-{number}" if has_several else ""
                case = self._series_case(acquisition, suffix, mask, types)
                found.cases.append(case)

        if without_mask:
            found.notes.append(f"{without_mask} series have no mask and are left out")

    def _series_case(
        self, acquisition: Acquisition, suffix: str, mask: Path | None, types: Types | None
    ) -> SeriesCase:
        first = acquisition.slices[0]
        patient = self.converter.public(first.patient_id, "patient")
        study = self.converter.public(first.study_uid or first.series_uid, "study")
        name = "_".join(filter(None, (patient, study))) or "series"

        return self.converter.series_case(
            case_id(name + suffix),
            acquisition,
            _as_files(mask),
            _part(mask),
            haemorrhage=in_words(types),
        )

    def _types_of(self, acquisition: Acquisition) -> Types | None:
        """Return the types that any slice shows; None where the table holds none of the slices."""
        present: Types | None = None
        for item in acquisition.slices:
            types = self.types.get(item.sop_uid)
            if types is not None:
                present = types if present is None else present | types

        return present

    def _is_wanted(self, types: Types | None) -> bool:
        if self.wanted is None:
            return True
        if types is None:
            return False
        if self.wanted == "none":
            return not types

        return self.wanted in types

    def _mask_of(self, *names: str) -> Path | None:
        for name in names:
            if self.masks is not None and name in self.masks:
                return self.masks[name]

        return None


def _part(mask: Path | None) -> Part:
    return "Tr" if mask else "Un"


def _as_files(mask: Path | None) -> tuple[Path, ...]:
    return (mask,) if mask else ()


def read_challenge_case(case: SourceCase, rules: Rules, types: bool) -> LoadedCase:
    """Read a slice or a series of the challenge, with its mask where it has one.

    Args:
        case: a :class:`LayerCase` or a :class:`SeriesCase`.
        rules: which slices are taken.
        types: masks hold BHSD's types; otherwise anything marked is haemorrhage.

    Raises:
        InputError: a file is damaged, or holds other values.
    """
    is_series = isinstance(case, SeriesCase)
    volume = volume_of(case) if is_series else read_placed_slice(case, rules)
    affine_mm = volume.grid.affine_ras_mm

    warnings = volume.warnings
    if volume.voxels.min() == volume.voxels.max():
        warnings = (*warnings, "all voxels have one value")

    label = place_mm = None
    if case.label_files:
        read_mask = _series_label if is_series else _slice_label
        label, place_mm, remarks = read_mask(case.label_files[0], types, affine_mm)
        warnings = (*warnings, *remarks)

    return LoadedCase(
        volume.voxels[None], label, volume.unit, affine_mm, place_mm, volume.transforms, warnings
    )


def _series_label(
    file: Path, types: bool, affine_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Return the mask of a series (x, y, z), its place (:func:`label_place`), and warnings."""
    volume = open_volume(file)
    label, warnings = volume_label(file, volume, types)

    return label, label_place(volume, affine_mm), warnings


def _slice_label(
    file: Path, types: bool, affine_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Return the mask of a slice (x, y, 1), its place or None (on the pixels), and warnings."""
    label, place_mm, warnings = read_slice_mask(file, types, affine_mm)
    if label.ndim == 2:
        label = label.T[:, :, None]

    return label, place_mm, warnings
