"""SIRM and Radiopaedia slices and volumes with COVID-19 findings, as medicalsegmentation.com
published them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from dataset_conversion.converter import Converter, Inventory, LoadedCase, Part, SourceCase
from dataset_conversion.reading.download_folder import files_matching
from dataset_conversion.reading.nifti_cases import (
    ENDING,
    intensity_unit,
    paired,
    read_ct,
    read_volume,
)
from dataset_conversion.reading.nifti_headers import open_volume
from dataset_conversion.reading.volumes import spacing_of
from dataset_conversion.shaping.choices import slice_affine
from nnunet_ext.errors import InputError

PSEUDO_HU = "HU (estimated by the publisher from pictures)"
SPACING_WARNING = "voxel size of the header is not trustworthy"


@dataclass(frozen=True)
class SIRM(Converter):
    """100 single slices of more than 40 patients (``--part slices``), or nine volumes (``--part
    volumes``).

    Reference: medicalsegmentation.com/covid19 (the data set's page).
    """

    labels_wanted: str = "infection"
    wanted_part: Literal["slices", "volumes"] = "slices"
    spacing: tuple[float, ...] | None = None

    name: ClassVar[str] = "SIRM"
    task: ClassVar[str] = "COVID-19 ground glass, consolidation and effusion, CT slices and volumes"
    licence: ClassVar[str] = (
        "CC0 by the publisher of the masks; SIRM's and Radiopaedia's own terms for the images"
    )
    download: ClassVar[str] = "https://figshare.com/articles/dataset/13521488"
    citation: ClassVar[str] = (
        "COVID-19 CT segmentation dataset, medicalsegmentation.com, 2020, "
        "doi:10.6084/m9.figshare.13521488"
    )
    label_groups = {"infection": ("ggo", "consolidation")}  # noqa: RUF012

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--part",
            dest="wanted_part",
            choices=("slices", "volumes"),
            default="slices",
            help="tr_im and val_im, or rp_im; default slices",
        )
        parser.add_argument(
            "--spacing",
            nargs=3,
            type=float,
            metavar=("X", "Y", "Z"),
            help="voxel size in mm in place of the header's",
        )

    @property
    def collection(self) -> str:
        return f"SIRM-{self.wanted_part}"

    @property
    def folder_name(self) -> str:
        return f"SIRM-{self.wanted_part}{'-unlabeled' if self.unlabeled else ''}"

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("CT",)

    @property
    def labels(self) -> dict[str, int]:
        return {"background": 0, "ggo": 1, "consolidation": 2, "pleural effusion": 3}

    def find_cases(self) -> Inventory:
        if self.spacing is not None and not all(0.1 <= size <= 20 for size in self.spacing):
            raise InputError(f"--spacing {self.spacing}: voxel sizes lie between 0.1 and 20 mm")
        return self._find_volumes() if self.wanted_part == "volumes" else self._find_slices()

    def _find_volumes(self) -> Inventory:
        images, problems = files_matching(self.source, rf"(\d){ENDING}", "rp_im")
        masks, more = files_matching(self.source, rf"(\d){ENDING}", "rp_msk")
        if not images:
            raise InputError(
                f"{self.source}: holds no rp_im with 1.nii.gz; -i names the unpacked rp_im and "
                f"rp_msk"
            )
        return paired(images, masks, problems + more, name="volume_{}".format)

    def _find_slices(self) -> Inventory:
        found = Inventory()
        stacks = {}
        for stem in ("tr_im", "tr_mask", "val_im"):
            files, problems = files_matching(self.source, rf"({stem}){ENDING}")
            found.problems += problems
            stacks.update(files)
        if "tr_im" not in stacks or "tr_mask" not in stacks:
            raise InputError(
                f"{self.source}: holds no tr_im.nii.gz with tr_mask.nii.gz; -i names the folder "
                f"with both"
            )
        stems: dict[Part, str] = {"Tr": "tr_im", "Ts": "val_im"}
        for part, stem in stems.items():
            if stem in stacks:
                masks = stacks["tr_mask"] if part == "Tr" else None
                found.cases += self._slices(part, stacks[stem], masks)
        return found

    def _slices(self, part: Part, images: Path, masks: Path | None) -> Iterator[SourceCase]:
        shape = open_volume(images).shape
        if len(shape) != 3 or (masks is not None and open_volume(masks).shape != shape):
            raise InputError(
                f"{images}: and its masks are no stacks of the same slices; download them again"
            )
        prefix = "slice" if part == "Tr" else "val"
        for index in range(shape[2]):
            details = {
                "slice": str(index),
                "patient": "",
            }  # of more than 40, the download does not say whose
            yield SourceCase(
                f"{prefix}_{index:03d}", part, (images,), () if masks is None else (masks,), details
            )

    def read_case(self, case: SourceCase) -> LoadedCase:
        loaded = read_ct(case) if self.wanted_part == "volumes" else _read_slice(case)
        unit = PSEUDO_HU if loaded.intensity_unit == "HU" else loaded.intensity_unit
        if self.spacing is None or loaded.affine_mm is None:
            return replace(
                loaded, intensity_unit=unit, warnings=(*loaded.warnings, SPACING_WARNING)
            )
        scale = np.ones(4)  # of the affine's columns
        axes = loaded.image.ndim - 1
        scale[:axes] = (np.array(self.spacing) / spacing_of(loaded.affine_mm))[:axes]
        label_affine_mm = loaded.label_affine_mm
        if label_affine_mm is not None:
            label_affine_mm = label_affine_mm * scale[: label_affine_mm.shape[-1]]
        return replace(
            loaded,
            affine_mm=loaded.affine_mm * scale,
            label_affine_mm=label_affine_mm,
            intensity_unit=unit,
            transforms=(*loaded.transforms, "voxel size as given"),
        )


def _read_slice(case: SourceCase) -> LoadedCase:
    index = int(case.details["slice"])
    image, affine_mm = _stack(case.image_files[0])
    label = _stack(case.label_files[0])[0][:, :, index] if case.label_files else None
    affine_mm = slice_affine(spacing_of(affine_mm)[:2])
    piece = np.ascontiguousarray(image[None, :, :, index])
    return LoadedCase(
        piece, label, intensity_unit(piece), affine_mm, None if label is None else affine_mm
    )


@lru_cache(maxsize=2)  # the images and the masks of the cases that follow each other
def _stack(file: Path) -> tuple[np.ndarray, np.ndarray]:
    return read_volume(file)
