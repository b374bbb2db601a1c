"""NSCLC-Radiomics with PleThora: chest CT of lung cancer, with masks of pleural effusions."""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from dataset_conversion.converter import Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.dicom_cases import DicomConverter, image_of, volume_of
from dataset_conversion.reading.download_folder import (
    case_id,
    is_hidden,
    natural_key,
)
from dataset_conversion.reading.mirroring import points_of, shares_by_mirroring
from dataset_conversion.reading.nifti_headers import open_volume
from dataset_conversion.reading.volumes import label_on_image_grid, read_voxels, spatial_axes
from nnunet_ext.errors import InputError
from nnunet_ext.files.checksums import sha256_of_file
from nnunet_ext.hounsfield import LUNG_BELOW_HU

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.series import Acquisition

MASK_NAME = re.compile(
    r"(?P<patient>LUNG1-\d{3})_(?P<kind>effusion|thor_cav)_(?P<reviewer>first|second|primary)_reviewer\.nii(\.gz)?",
    re.IGNORECASE,
)
FLUID_RANGE_HU = (-150, 150)
CLEAR_LEAD = 0.02  # by which the share of fitting voxels must exceed that of any other orientation
Reviewer = Literal["first", "second", "union", "intersection"]
MasksOfPatient = dict[str, dict[str, Path]]
"""Mask files by kind (``effusion``, ``thor_cav``) and reviewer."""

# Numbers of the patients in the task of pleural effusions of Ma et al. 2021, COVID-19 CT
# segmentation benchmark (doi:10.1002/mp.14676), whose text counts 62 and 16.
PAPER_TRAIN = (
    "1 5 8 13 16 18 26 28 42 46 51 53 60 65 68 88 91 93 95 97 104 "
    "107 113 115 128 133 143 148 156 170 195 205 242 249 252 253 277 285 286 291 296 299 "
    "301 303 307 312 314 325 331 336 340 343 348 361 362 366 367 376 377 381 387 396 416"
)
PAPER_TEST = "2 24 35 38 50 117 149 168 177 186 196 229 320 418 420"


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
        "lungs for benchmarking chest CT processing pipelines, "
        "Medical Physics 47(11), 5941-5952 (2020), doi:10.1002/mp.14424"
    )

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
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

    def find_cases(self) -> Inventory:
        found = Inventory()
        content = self.scan(found)
        by_patient: dict[str, list[Acquisition]] = defaultdict(list)
        for acquisition in self.usable_series(content, found):
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

            found.cases.append(self.series_case(case_id(patient), acquisition, files))

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
        return [(_patients(PAPER_TRAIN), _patients(PAPER_TEST))]

    def _masks(self, found: Inventory) -> dict[str, MasksOfPatient]:
        """Return the masks of each patient; two that differ are a problem."""
        problems: dict[str, str] = {}
        masks: dict[str, MasksOfPatient] = defaultdict(lambda: defaultdict(dict))
        for path in sorted(self.source.rglob("*.nii*")):
            match = MASK_NAME.fullmatch(path.name)
            if not match or is_hidden(path.name) or not path.is_file():
                continue

            patient = match["patient"].upper()
            of_kind = masks[patient][match["kind"].lower()]
            first = of_kind.setdefault(match["reviewer"].lower(), path)
            if first != path and sha256_of_file(first) != sha256_of_file(path):
                line = f"{path}: and {first} are of one reviewer, and differ; remove one of them"
                problems.setdefault(patient, line)

        found.problems.extend(problems.values())
        for patient in problems:
            del masks[patient]
        if not masks and not problems:
            raise InputError(
                f"{self.source}: holds no LUNG1-*_effusion_*_reviewer.nii.gz; -i names a folder "
                f"with the CT and the unpacked Effusions and Thoracic_Cavities of {self.download}"
            )

        return masks

    def _wanted(self, masks: MasksOfPatient) -> tuple[Path, ...]:
        """Return the effusion files of the chosen reviewer, or of the only one."""
        effusions = masks.get("effusion", {})
        if self.reviewer in ("union", "intersection"):
            return tuple(effusions[name] for name in sorted(effusions))

        order = ["first", "primary", "second"]
        if self.reviewer == "second":
            order = ["second", "first", "primary"]
        for name in order:
            if name in effusions:
                return (effusions[name],)

        return ()

    def read_case(self, case: SourceCase) -> LoadedCase:
        volume = volume_of(case)
        if not volume.acquisition.stack.is_grid:
            words = ", ".join(volume.acquisition.remarks)
            raise InputError(
                f"{case.image_files[0].parent}: CT is not a regular stack ({words}); "
                f"remove the case"
            )
        if not case.label_files:
            return image_of(volume)

        effusions: list[np.ndarray] = []
        warnings = list(volume.warnings)
        affine_mm = volume.grid.affine_ras_mm
        for file in case.label_files:
            is_effusion = "effusion" in file.name.lower()
            mask, remarks = _on_grid(file, volume.voxels, affine_mm, cavity=not is_effusion)
            warnings += remarks
            if is_effusion:
                effusions.append(mask)

        if effusions and self._is_of_other_reviewer(case):
            warnings.append(f"no mask of the {self.reviewer} reviewer, the other one's taken")

        return LoadedCase(
            volume.voxels[None],
            self._united(effusions, volume.voxels.shape),
            volume.unit,
            affine_mm,
            transforms=(*volume.transforms, f"effusion of reviewer: {self.reviewer}"),
            warnings=tuple(warnings),
        )

    def _is_of_other_reviewer(self, case: SourceCase) -> bool:
        """Whether one reviewer was asked for, and the effusion's mask is another's."""
        names = [file.name.lower() for file in case.label_files]
        effusion = next(name for name in names if "effusion" in name)
        is_one_wanted = self.reviewer in ("first", "second")

        return is_one_wanted and f"_{self.reviewer}_" not in effusion

    def _united(self, effusions: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """Return the label: 1 where all or any of the masks are set."""
        if not effusions:
            return np.zeros(shape, np.uint8)

        drawn = np.stack(effusions)
        united = np.all if self.reviewer == "intersection" else np.any

        return np.asarray(united(drawn, axis=0), np.uint8)


def _patients(numbers: str) -> list[str]:
    return [f"LUNG1-{int(number):03d}" for number in numbers.split()]


def _matching(acquisitions: list[Acquisition], mask: Path) -> Acquisition:
    """Return the patient's CT with as many voxels as the mask.

    Raises:
        InputError: none, or several.
    """
    if not acquisitions:
        raise InputError(f"{mask}: has no CT of that patient; download NSCLC-Radiomics, too")

    shapes = [(item.stack.columns, item.stack.rows, len(item.slices)) for item in acquisitions]
    mask_shape = sorted(open_volume(mask).shape[:3])
    fitting = [
        item
        for item, shape in zip(acquisitions, shapes, strict=True)
        if sorted(shape) == mask_shape
    ]
    if len(fitting) != 1:
        sizes = ", ".join("x".join(map(str, shape)) for shape in shapes)
        what = "no CT" if not fitting else f"{len(fitting)} CT"
        raise InputError(
            f"{mask}: {what} of that patient has its size (mask {mask_shape}, CT {sizes}); "
            f"remove the mask"
        )

    return fitting[0]


def _on_grid(
    file: Path, hu: np.ndarray, affine_mm: np.ndarray, cavity: bool
) -> tuple[np.ndarray, list[str]]:
    """Return a mask (x, y, z) on the CT's grid, proven by what lies under it, and warnings.

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
    warnings = []
    if np.any((values != 0) & (values != 1)):
        warnings.append(f"{file.name}: values between 0 and 1, threshold 0.5")
    if not mask.any():
        return np.zeros(hu.shape, bool), [*warnings, f"{file.name}: is empty"]

    placed = _placed_by_header(file, mask, volume.affine, hu, affine_mm)
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

    warnings.append(f"{file.name}: header leads elsewhere, placed by HU (flipped {list(best)})")

    return np.flip(base, best), warnings


def _placed_by_header(
    file: Path, mask: np.ndarray, place_mm: np.ndarray, hu: np.ndarray, affine_mm: np.ndarray
) -> np.ndarray | None:
    """Return a mask where its header puts it; None where that is not on the CT's grid.

    Raises:
        InputError: nor has it the CT's shape.
    """
    try:
        placed, _ = label_on_image_grid(mask, place_mm, hu.shape, affine_mm)
    except InputError:
        if mask.shape == hu.shape:
            return None
        raise InputError(
            f"{file}: has shape {mask.shape}, its CT {hu.shape}; remove the case"
        ) from None

    return placed


def _fits(hu: np.ndarray, cavity: bool) -> np.ndarray:
    """Whether voxels have the Hounsfield units of what a mask marks."""
    if cavity:
        return hu < LUNG_BELOW_HU

    low, high = FLUID_RANGE_HU
    return (hu > low) & (hu < high)
