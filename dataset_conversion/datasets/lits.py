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
        "Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), "
        "Medical Image Analysis 84, 2023, doi:10.1016/j.media.2022.102680"
    )
    plausible_hu = {"liver": (-20.0, 250.0)}  # noqa: RUF012

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--ircad-spacing-table",
            metavar="CSV",
            help="columns volume,x,y,z: number and voxel size in mm of volumes whose header has "
            "lost it; without it they are left out",
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

        found = paired(images, labels, problems + more, name=_volume_name)
        tested = paired(tests, {}, still_more, name=_test_name, without_label="Ts")
        found.cases += tested.cases
        found.problems += tested.problems
        self._leave_out_lost(found)

        return found

    def _leave_out_lost(self, found: Inventory) -> None:
        """Leave out volumes whose voxel size neither the header nor the table gives."""
        cases, lost = [], []
        for case in found.cases:
            if _lost_spacing(case) and not self._true_spacing_mm(case):
                lost.append(case.id)
            else:
                cases.append(case)
        if not lost:
            return

        found.cases = cases
        found.notes.append(
            f"{len(lost)} volumes say 1x1x1 mm, their true voxel size is lost, and they are left "
            f"out ({lost[0]} to {lost[-1]}); --ircad-spacing-table brings them in"
        )

    @cached_property
    def _table(self) -> dict[int, tuple[float, ...]]:
        if self.ircad_spacing_table is None:
            return {}

        table = Path(self.ircad_spacing_table)
        try:
            with table.open(encoding="utf-8-sig", newline="") as stream:
                sizes = {(int(row["volume"]), _sizes_mm(row)) for row in csv.DictReader(stream)}
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise InputError(
                f"{table}: is not a table with columns volume,x,y,z ({error}); fix it"
            ) from error

        sizes_of = dict(sizes)
        if len(sizes_of) < len(sizes):
            raise InputError(f"{table}: gives one volume several voxel sizes; fix it")
        for sizes_mm in sizes_of.values():
            if not all(0.1 <= size <= 20 for size in sizes_mm):
                raise InputError(f"{table}: a voxel size lies outside 0.1 to 20 mm; fix it")

        return sizes_of

    def _true_spacing_mm(self, case: SourceCase) -> tuple[float, ...] | None:
        if case.part == "Ts":
            return None

        return self._table.get(int(case.id.rpartition("_")[2]))

    def read_case(self, case: SourceCase) -> LoadedCase:
        loaded = read_ct(case)
        spacing_mm = self._true_spacing_mm(case)
        if spacing_mm is None or loaded.affine_mm is None:
            return loaded

        scale = np.diag([*spacing_mm, 1.0])
        label_affine_mm = loaded.label_affine_mm
        if label_affine_mm is not None:
            is_sizes = label_affine_mm.ndim == 1
            label_affine_mm = label_affine_mm * spacing_mm if is_sizes else scale @ label_affine_mm

        return replace(
            loaded,
            affine_mm=scale @ loaded.affine_mm,
            label_affine_mm=label_affine_mm,
            transforms=(*loaded.transforms, "voxel size from table"),
        )


def _volume_name(number: str) -> str:
    return f"volume_{int(number):03d}"


def _test_name(number: str) -> str:
    return f"test_{int(number):03d}"


def _sizes_mm(row: dict[str, str]) -> tuple[float, ...]:
    return tuple(float(row[axis]) for axis in "xyz")


def _lost_spacing(case: SourceCase) -> bool:
    try:
        affine_mm = open_volume(case.image_files[0]).affine
    except InputError:
        return False  # reading the case will say so
    return bool(np.array_equal(np.abs(affine_mm[:3, :3]), np.eye(3)))
