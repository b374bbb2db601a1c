"""NSCLC-Radiomics with PleThora: chest CT of lung cancer patients, and masks of their pleural
effusions.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from dataset_conversion.converter import Case, Found, Reading
from dataset_conversion.reading.dicom_cases import (
    DicomConverter,
    files_of,
    image_of,
    report_rejected,
    without_damaged,
)
from dataset_conversion.reading.download_folder import (
    case_id,
    is_hidden,
    natural_key,
    sha256_of_file,
)
from dataset_conversion.reading.mirroring import points_of, shares_by_mirroring
from dataset_conversion.reading.nifti_headers import open_volume
from dataset_conversion.reading.volumes import label_on_image_grid, read_voxels, spatial_axes
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.series import Acquisition

MASK_NAME = re.compile(
    r"(LUNG1-\d{3})_(effusion|thor_cav)_(first|second|primary)_reviewer\.nii(\.gz)?", re.IGNORECASE
)
LUNG_HU = -400  # aerated lung lies below
FLUID_HU = (-150, 150)
CLEAR_LEAD = 0.02  # by which the share of fitting voxels must exceed that of any other orientation
Reviewer = Literal["first", "second", "union", "intersection"]

# Ma et al. 2021, COVID-19 CT segmentation benchmark (doi:10.1002/mp.14676): its task of pleural
# effusions, whose text counts 62 and 16.
PAPER_TRAIN = (
    1,
    5,
    8,
    13,
    16,
    18,
    26,
    28,
    42,
    46,
    51,
    53,
    60,
    65,
    68,
    88,
    91,
    93,
    95,
    97,
    104,
    107,
    113,
    115,
    128,
    133,
    143,
    148,
    156,
    170,
    195,
    205,
    242,
    249,
    252,
    253,
    277,
    285,
    286,
    291,
    296,
    299,
    301,
    303,
    307,
    312,
    314,
    325,
    331,
    336,
    340,
    343,
    348,
    361,
    362,
    366,
    367,
    376,
    377,
    381,
    387,
    396,
    416,
)
PAPER_TEST = (2, 24, 35, 38, 50, 117, 149, 168, 177, 186, 196, 229, 320, 418, 420)


@dataclass(frozen=True)
class NsclcPleuralEffusion(DicomConverter):
    """402 CT with a reviewed thoracic cavity, 78 of them with an effusion.

    Reference: Kiser et al. 2020, PleThora (the masks); Aerts et al. 2014, NSCLC-Radiomics (the CT).
    """

    reviewer: Reviewer = "first"
    positives_only: bool = False

    name: ClassVar[str] = "NSCLC-PleuralEffusion"
    published_id: ClassVar[str] = r"LUNG1-\d{3}"
    splits: ClassVar[tuple[str, ...]] = ("paper",)
    task: ClassVar[str] = "pleural effusion, chest CT"
    licence: ClassVar[str] = "CC BY-NC 3.0 (NSCLC-Radiomics and PleThora; see both pages)"
    download: ClassVar[str] = "https://www.cancerimagingarchive.net/analysis-result/plethora/"
    citation: ClassVar[str] = (
        "Kiser et al., PleThora: Pleural effusion and thoracic cavity segmentations in diseased "
        "lungs for benchmarking "
        "chest CT processing pipelines, Medical Physics 47(11), 5941-5952 (2020), "
        "doi:10.1002/mp.14424"
    )

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        DicomConverter.add_options(parser)
        parser.add_argument(
            "--reviewer",
            choices=("first", "second", "union", "intersection"),
            default="first",
            help="whose effusion mask, where there are two; default first",
        )
        parser.add_argument(
            "--positives-only",
            action="store_true",
            help="leave out patients without an effusion; by default their label is empty",
        )

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("CT",)

    @property
    def labels(self) -> dict[str, int]:
        return {"background": 0, "effusion": 1}

    def find_cases(self) -> Found:
        found = Found()
        content = self.scan(found)  # says so where packages are missing
        from nnunet_ext.dicom.reading.series import acquisitions_of

        accepted, rejected = acquisitions_of(content.slices, self.rules)
        accepted = without_damaged(accepted, content, found)
        report_rejected(rejected, found)
        by_patient: dict[str, list[Acquisition]] = defaultdict(list)
        for acquisition in accepted:
            by_patient[acquisition.slices[0].patient_id.upper()].append(acquisition)
        masks = self._masks(found)
        negatives = 0
        for patient in sorted(masks, key=natural_key):
            effusions = self._wanted(masks[patient])
            if not effusions:
                negatives += 1
                if self.positives_only:
                    continue
            files = (*effusions, *masks[patient].get("thor_cav", {}).values())
            try:
                acquisition = _matching(by_patient.get(patient, []), files[0])
            except InputError as error:
                found.problems.append(str(error))
                continue
            found.cases.append(
                Case(
                    case_id(patient),
                    "Tr",
                    files_of(acquisition),
                    files,
                    self.details_of(acquisition),
                )
            )
        if negatives:
            done = "left out" if self.positives_only else "converted with an empty label"
            found.notes.append(
                f"{negatives} patients have a cavity mask but no effusion; they are {done}"
            )
        without = len(by_patient.keys() - masks.keys())
        if without:
            found.notes.append(f"{without} patients have no mask and are left out")
        return found

    def published_folds(
        self, split: str, cases: Collection[str]
    ) -> list[tuple[list[str], list[str]]]:
        train, test = (
            [f"LUNG1-{number:03d}" for number in numbers] for numbers in (PAPER_TRAIN, PAPER_TEST)
        )
        return [(train, test)]

    def _masks(self, found: Found) -> dict[str, dict[str, dict[str, Path]]]:
        """Mask files by patient, kind (``effusion``, ``thor_cav``) and reviewer; two that differ
        are a problem.
        """
        problems: dict[str, str] = {}
        masks: dict[str, dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
        for path in sorted(self.source.rglob("*.nii*")):
            match = MASK_NAME.fullmatch(path.name)
            if match and not is_hidden(path.name) and path.is_file():
                patient, kind, reviewer = (
                    match.group(1).upper(),
                    match.group(2).lower(),
                    match.group(3).lower(),
                )
                first = masks[patient][kind].setdefault(reviewer, path)
                if first != path and sha256_of_file(first) != sha256_of_file(path):
                    problems.setdefault(
                        patient,
                        f"{path}: and {first} are of one reviewer, and differ; remove one of them",
                    )
        found.problems.extend(problems.values())
        masks = {patient: kinds for patient, kinds in masks.items() if patient not in problems}
        if not masks and not problems:
            raise InputError(
                f"{self.source}: holds no LUNG1-*_effusion_*_reviewer.nii.gz; -i names a folder "
                f"with the CT and the "
                f"unpacked Effusions and Thoracic_Cavities of {self.download}"
            )
        return masks

    def _wanted(self, masks: dict[str, dict[str, Path]]) -> tuple[Path, ...]:
        """Effusion files of the chosen reviewer; of the other one where there is only one."""
        effusions = masks.get("effusion", {})
        if self.reviewer in ("union", "intersection"):
            return tuple(effusions[name] for name in sorted(effusions))
        order = (
            ("first", "primary", "second")
            if self.reviewer == "first"
            else ("second", "first", "primary")
        )
        return tuple(effusions[name] for name in order if name in effusions)[:1]

    def read_case(self, case: Case) -> Reading:
        volume = self.read_volume(case)
        if not volume.acquisition.stack.is_grid:
            words = ", ".join(volume.acquisition.remarks)
            raise InputError(
                f"{case.image_files[0].parent}: CT is no regular stack ({words}); remove the case"
            )
        effusions = [file for file in case.label_files if "effusion" in file.name.lower()]
        cavities = [file for file in case.label_files if file not in effusions]
        warnings: list[str] = []
        affine_mm = volume.grid.affine_ras_mm
        if not case.label_files:
            return image_of(volume)
        masks = {}
        for file in case.label_files:
            masks[file], remarks = _on_grid(file, volume.voxels, affine_mm, cavity=file in cavities)
            warnings += remarks
        label = np.zeros(volume.voxels.shape, np.uint8)
        if effusions:
            drawn = np.stack([masks[file] for file in effusions])
            label[drawn.all(axis=0) if self.reviewer == "intersection" else drawn.any(axis=0)] = 1
            if (
                self.reviewer in ("first", "second")
                and f"_{self.reviewer}_" not in effusions[0].name.lower()
            ):
                warnings.append(f"no mask of the {self.reviewer} reviewer, the other one's taken")
        transforms = (*volume.transforms, f"effusion of reviewer: {self.reviewer}")
        return Reading(
            volume.voxels[None],
            label,
            volume.unit,
            affine_mm,
            transforms=transforms,
            warnings=(*volume.warnings, *warnings),
        )


def _matching(acquisitions: list[Acquisition], mask: Path) -> Acquisition:
    """The patient's CT with as many voxels as the mask.

    Raises:
        InputError: none, or several.
    """
    if not acquisitions:
        raise InputError(f"{mask}: has no CT of that patient; download NSCLC-Radiomics, too")
    shape = sorted(open_volume(mask).shape[:3])
    fitting = [
        item
        for item in acquisitions
        if sorted((item.stack.columns, item.stack.rows, len(item.slices))) == shape
    ]
    if len(fitting) != 1:
        sizes = ", ".join(f"{i.stack.columns}x{i.stack.rows}x{len(i.slices)}" for i in acquisitions)
        what = "no CT" if not fitting else f"{len(fitting)} CT"
        raise InputError(
            f"{mask}: {what} of that patient has its size (mask {shape}, CT {sizes}); remove the "
            f"mask"
        )
    return fitting[0]


def _on_grid(
    file: Path, hu: np.ndarray, affine_mm: np.ndarray, cavity: bool
) -> tuple[np.ndarray, list[str]]:
    """A mask (x, y, z) on the CT's grid, proven by what lies under it; and warnings.

    The masks' headers name another orientation than the CT's, and programs disagree on where they
    lie. So the header is followed where it leads to the CT's grid, and the Hounsfield units must
    agree: aerated lung in a cavity, fluid in an effusion, more than in any flipped position. Where
    the header leads elsewhere, they decide alone.

    Raises:
        InputError: no orientation fits clearly.
    """
    volume = open_volume(file)
    values = spatial_axes(file, read_voxels(file, volume), anywhere=True)
    mask = values > 0.5
    uncommon = bool(np.any((values != 0) & (values != 1)))
    warnings = [f"{file.name}: values between 0 and 1, threshold 0.5"] if uncommon else []
    if not mask.any():
        return np.zeros(hu.shape, bool), [*warnings, f"{file.name}: is empty"]
    try:
        placed, _ = label_on_image_grid(mask, volume.affine, hu.shape, affine_mm)
    except InputError:
        if mask.shape != hu.shape:
            raise InputError(
                f"{file}: has shape {mask.shape}, its CT {hu.shape}; remove the case"
            ) from None
        placed = None
    base = mask if placed is None else placed
    shares = shares_by_mirroring(
        points_of(base), base.shape, lambda at: _fits(hu[tuple(at.T)], cavity)
    )
    best = max(shares, key=lambda axes: shares[axes])
    if placed is not None:
        if shares[()] < shares[best] - CLEAR_LEAD:
            raise InputError(
                f"{file}: its header contradicts the CT: flipped along {best} it fits better; "
                f"remove it"
            )
        return placed, warnings
    second = max(share for axes, share in shares.items() if axes != best)
    if shares[best] < second + CLEAR_LEAD:
        raise InputError(
            f"{file}: neither its header nor the CT's values tell how it lies; remove the case"
        )
    return np.flip(base, best), [
        *warnings,
        f"{file.name}: header leads elsewhere, placed by HU (flipped {list(best)})",
    ]


def _fits(hu: np.ndarray, cavity: bool) -> np.ndarray:
    """Whether voxels have the Hounsfield units of what a mask marks."""
    return hu < LUNG_HU if cavity else (hu > FLUID_HU[0]) & (hu < FLUID_HU[1])
