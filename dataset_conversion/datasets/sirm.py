"""SIRM and Radiopaedia slices and volumes with COVID-19, published by medicalsegmentation.com."""

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


@dataclass(frozen=True, kw_only=True)
class StackedCase(SourceCase):
    """A case that is one slice of a file: the one at ``index``."""

    index: int


@dataclass(frozen=True)
class SIRM(Converter):
    """100 single slices of more than 40 patients, or nine volumes (``--part volumes``).

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
        return f"{self.collection}-unlabeled" if self.unlabeled else self.collection

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("CT",)

    @property
    def labels(self) -> dict[str, int]:
        return {"background": 0, "ggo": 1, "consolidation": 2, "pleural effusion": 3}

    def find_cases(self) -> Inventory:
        if self.spacing is not None and not all(0.1 <= size <= 20 for size in self.spacing):
            raise InputError(f"--spacing {self.spacing}: voxel sizes lie between 0.1 and 20 mm")

        if self.wanted_part == "volumes":
            return self._find_volumes()

        return self._find_slices()

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

        found.cases += self._slices("Tr", stacks["tr_im"], stacks["tr_mask"])
        if "val_im" in stacks:
            found.cases += self._slices("Ts", stacks["val_im"], None)

        return found

    def _slices(self, part: Part, images: Path, masks: Path | None) -> Iterator[SourceCase]:
        shape = open_volume(images).shape
        if len(shape) != 3 or (masks is not None and open_volume(masks).shape != shape):
            raise InputError(
                f"{images}: and its masks are not stacks of the same slices; download them again"
            )

        prefix = "slice" if part == "Tr" else "val"
        label_files = () if masks is None else (masks,)
        for index in range(shape[2]):
            yield StackedCase(
                f"{prefix}_{index:03d}",
                part,
                (images,),
                label_files,
                # Of more than 40 patients; the download does not say whose a slice is.
                {"slice": str(index), "patient": ""},
                index=index,
            )

    def read_case(self, case: SourceCase) -> LoadedCase:
        loaded = _read_slice(case) if isinstance(case, StackedCase) else read_ct(case)
        if loaded.intensity_unit == "HU":
            loaded = replace(loaded, intensity_unit=PSEUDO_HU)
        if self.spacing is None or loaded.affine_mm is None:
            return replace(loaded, warnings=(*loaded.warnings, SPACING_WARNING))

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
            transforms=(*loaded.transforms, "voxel size as given"),
        )


def _read_slice(case: StackedCase) -> LoadedCase:
    stack, stack_affine_mm = _stack(case.image_files[0])
    image = np.ascontiguousarray(stack[None, :, :, case.index])
    affine_mm = slice_affine(spacing_of(stack_affine_mm)[:2])
    if not case.label_files:
        return LoadedCase(image, None, intensity_unit(image), affine_mm)

    masks, _ = _stack(case.label_files[0])

    return LoadedCase(image, masks[:, :, case.index], intensity_unit(image), affine_mm, affine_mm)


@lru_cache(maxsize=2)  # the images and the masks of the cases that follow each other
def _stack(file: Path) -> tuple[np.ndarray, np.ndarray]:
    return read_volume(file)
