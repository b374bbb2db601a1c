"""LiTS: abdominal CT with liver and liver tumours."""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset_conversion.converter import Converter, Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.download_folder import files_matching
from dataset_conversion.reading.nifti_cases import paired, read_ct
from dataset_conversion.reading.nifti_headers import open_volume
from nnunet_ext.errors import InputError


@dataclass(frozen=True)
class LiTS(Converter):
    """131 labelled volumes and 70 of the test phase; about 20 of the former lost their voxel size.

    Reference: Bilic et al. 2023 (the data set's paper).
    """

    ircad_spacing_table: str | None = None

    name: ClassVar[str] = "LiTS"
    task: ClassVar[str] = "liver and liver tumours, abdominal CT"
    licence: ClassVar[str] = (
        "CC BY-NC-ND 4.0; the same scans are MSD Task03_Liver under CC-BY-SA 4.0"
    )
    download: ClassVar[str] = "https://competitions.codalab.org/competitions/17094"
    citation: ClassVar[str] = (
        "Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84, "
        "2023, "
        "doi:10.1016/j.media.2022.102680"
    )
    plausible_hu = {"liver": (-20.0, 250.0)}  # noqa: RUF012

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--ircad-spacing-table",
            metavar="CSV",
            help="columns volume,x,y,z: number and voxel size in mm of volumes whose header has "
            "lost it; without it "
            "they are left out",
        )

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("CT",)

    @property
    def labels(self) -> dict[str, int]:
        return {"background": 0, "liver": 1, "tumour": 2}

    def find_cases(self) -> Inventory:
        images, problems = files_matching(self.source, r"volume-(\d+)\.nii(?:\.gz)?")
        labels, more = files_matching(self.source, r"segmentation-(\d+)\.nii(?:\.gz)?")
        tests, still_more = files_matching(self.source, r"test-volume-(\d+)\.nii(?:\.gz)?")
        if not images:
            raise InputError(
                f"{self.source}: holds no volume-N.nii; -i names the unpacked download of LiTS"
            )
        found = paired(
            images, labels, problems + more, name=lambda number: f"volume_{int(number):03d}"
        )
        tested = paired(
            tests, {}, still_more, name=lambda number: f"test_{int(number):03d}", without_label="Ts"
        )
        found.cases += tested.cases
        found.problems += tested.problems
        lost = [
            case.id
            for case in found.cases
            if _lost_spacing(case) and not self._true_spacing_mm(case)
        ]
        if lost:
            found.cases = [case for case in found.cases if case.id not in lost]
            found.notes.append(
                f"{len(lost)} volumes say 1x1x1 mm, their true voxel size is lost, and they are "
                f"left out ({lost[0]} to "
                f"{lost[-1]}); --ircad-spacing-table brings them in"
            )
        return found

    @cached_property
    def _table(self) -> dict[int, tuple[float, ...]]:
        if self.ircad_spacing_table is None:
            return {}
        try:
            with Path(self.ircad_spacing_table).open(encoding="utf-8-sig", newline="") as stream:
                sizes = {(int(row["volume"]), _sizes_mm(row)) for row in csv.DictReader(stream)}
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise InputError(
                f"{self.ircad_spacing_table}: is no table with columns volume,x,y,z ({error}); "
                f"mend it"
            ) from error
        rows = dict(sizes)
        if len(rows) < len(sizes):
            raise InputError(
                f"{self.ircad_spacing_table}: gives one volume several voxel sizes; mend it"
            )
        if any(not 0.1 <= size <= 20 for row in rows.values() for size in row):
            raise InputError(
                f"{self.ircad_spacing_table}: a voxel size lies outside 0.1 to 20 mm; mend it"
            )
        return rows

    def _true_spacing_mm(self, case: SourceCase) -> tuple[float, ...] | None:
        return self._table.get(int(case.id.rpartition("_")[2])) if case.part != "Ts" else None

    def read_case(self, case: SourceCase) -> LoadedCase:
        loaded = read_ct(case)
        spacing_mm = self._true_spacing_mm(case)
        if spacing_mm is None or loaded.affine_mm is None:
            return loaded
        scale = np.diag([*spacing_mm, 1.0])
        label_affine_mm = loaded.label_affine_mm
        if label_affine_mm is not None:
            sizes_only = label_affine_mm.ndim == 1
            label_affine_mm = (
                label_affine_mm * spacing_mm if sizes_only else scale @ label_affine_mm
            )
        return replace(
            loaded,
            affine_mm=scale @ loaded.affine_mm,
            label_affine_mm=label_affine_mm,
            transforms=(*loaded.transforms, "voxel size from table"),
        )


def _sizes_mm(row: dict[str, str]) -> tuple[float, ...]:
    return tuple(float(row[axis]) for axis in "xyz")


def _lost_spacing(case: SourceCase) -> bool:
    try:
        affine_mm = open_volume(case.image_files[0]).affine
    except InputError:
        return False  # reading the case will say so
    return bool(np.array_equal(np.abs(affine_mm[:3, :3]), np.eye(3)))
