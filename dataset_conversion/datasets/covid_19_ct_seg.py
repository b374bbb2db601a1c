"""COVID-19-CT-Seg: 20 chest CT with lung and infection masks, ten of them stored as grey values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset_conversion.converter import Converter, Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.download_folder import files_matching
from dataset_conversion.reading.nifti_cases import above_half, paired, read_ct
from dataset_conversion.shaping.choices import windowed
from nnunet_ext.errors import InputError

# In which the publisher stored the Radiopaedia volumes, and advises for the others.
WINDOW_HU = (-1250.0, 250.0)
GREY = "grey values 0..255 of a lung window"
# As Zenodo has them, and as a mirror renamed them:
# radiopaedia_org_covid-19-pneumonia-7_85703_0-dcm.nii
SCAN = r"((?:coronacases|radiopaedia)_[\w-]+)\.nii(?:\.gz)?"
NO_MASK_FOLDER = r"(?!(?:infection|lung|lung_and_infection)_mask$).*"
# Ma et al. 2021, task 1: train on one of these groups, test on the 16 other cases.
GROUPS = (
    ("coronacases_008", "coronacases_007", "radiopaedia_36_86526_0", "radiopaedia_4_85506_1"),
    ("coronacases_009", "coronacases_004", "radiopaedia_14_85914_0", "radiopaedia_7_85703_0"),
    ("coronacases_010", "coronacases_001", "radiopaedia_10_85902_1", "radiopaedia_29_86491_1"),
    ("coronacases_003", "coronacases_005", "radiopaedia_40_86625_0", "radiopaedia_27_86410_0"),
    ("coronacases_002", "radiopaedia_10_85902_3", "coronacases_006", "radiopaedia_29_86490_1"),
)


@dataclass(frozen=True)
class Covid19CTSeg(Converter):
    """20 volumes in grey values 0..255 of one window, or ten of them in HU.

    The window is the default, because nothing else is common to all 20.

    Reference: Ma et al. 2021 (the data set's paper).
    """

    labels_wanted: str = "infection"
    hu_only: bool = False

    name: ClassVar[str] = "COVID-19-CT-Seg"
    task: ClassVar[str] = "COVID-19 infection and lungs, chest CT"
    licence: ClassVar[str] = "CC BY-NC-SA"
    download: ClassVar[str] = "https://zenodo.org/records/3757476"
    citation: ClassVar[str] = (
        "Ma et al., Toward Data-Efficient Learning: A Benchmark for COVID-19 CT Lung and "
        "Infection Segmentation, Medical Physics 48(3), 2021, doi:10.1002/mp.14676"
    )
    label_groups: ClassVar = {"lung": ("left lung", "right lung")}
    splits = ("paper",)
    plausible_hu: ClassVar = {
        "left lung": (-1000.0, -400.0),
        "right lung": (-1000.0, -400.0),
        "infection": (-900.0, 150.0),
    }

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--hu-only",
            action="store_true",
            help="the ten coronacases in HU, without the grey-valued ten",
        )

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("CT",) if self.hu_only else ("lung-window CT",)

    @property
    def labels(self) -> dict[str, int]:
        if self._mask_folder == "infection_mask":
            return {"background": 0, "infection": 1}

        labels = {"background": 0, "left lung": 1, "right lung": 2}
        if self._mask_folder == "lung_and_infection_mask":
            labels["infection"] = 3

        return labels

    @property
    def _mask_folder(self) -> str:
        """The masks that hold what is wanted: infection, lungs, or both."""
        wanted = re.split("[,+]", self.labels_wanted)
        names = {name.strip().casefold() for name in wanted} - {""}
        if names == {"infection"}:
            return "infection_mask"
        if names and "infection" not in names:
            return "lung_mask"

        return "lung_and_infection_mask"

    def plausible(self, unit: str) -> Mapping[str, tuple[float, float]]:
        if unit != GREY:
            return super().plausible(unit)

        low, high = WINDOW_HU
        scale = 255 / (high - low)
        ranges = {}
        for name, (darkest, brightest) in self.plausible_hu.items():
            ranges[name] = (scale * (darkest - low), scale * (brightest - low))

        return ranges

    def find_cases(self) -> Inventory:
        images, problems = self._scans(NO_MASK_FOLDER)
        masks, more = self._scans(self._mask_folder)
        if not images:
            raise InputError(
                f"{self.source}: holds no coronacases_001.nii.gz or such; -i names the unpacked "
                f"download"
            )
        if not masks and not self.unlabeled:
            raise InputError(
                f"{self.source}: holds no {self._mask_folder}; -i names a folder with it and the "
                f"scans"
            )

        if self.hu_only:
            masks = {scan: file for scan, file in masks.items() if scan in images}
        return paired(
            images,
            masks,
            problems + more,
            details=lambda scan: {"patient": _patient(scan)},
            without_label="Un" if self.unlabeled else None,
        )

    def _scans(self, folders: str) -> tuple[dict[str, Path], list[str]]:
        """Return the files in folders of that name, by the scan's name on Zenodo."""
        files, problems = files_matching(self.source, SCAN, folders)
        scans: dict[str, Path] = {}
        for stem, file in files.items():
            scan = re.sub(r"_org_(covid-19-pneumonia-)?", "_", stem).removesuffix("-dcm")
            if scan in scans:
                problems.append(
                    f"{file}: is {scans[scan].name} under another name; remove one of the two"
                )
            elif not self.hu_only or scan.startswith("coronacases"):
                scans[scan] = file
        return scans, problems

    def read_case(self, case: SourceCase) -> LoadedCase:
        to_integers = above_half if self._mask_folder == "infection_mask" else None
        loaded = read_ct(case, to_integers)
        unit = loaded.intensity_unit
        if self.hu_only:
            if unit != "HU":
                raise InputError(f"{case.image_files[0]}: is not in HU; leave out --hu-only")

            return loaded

        warnings, transforms = loaded.warnings, loaded.transforms
        if unit == "HU":
            image = windowed(loaded.image, *WINDOW_HU)
            transforms += (f"window {WINDOW_HU[0]:g} to {WINDOW_HU[1]:g} HU",)
        elif unit == "grey values 0..255":
            image = np.round(loaded.image).astype(np.uint8)
            # They are grey values as published.
            warnings = tuple(warning for warning in warnings if "not HU" not in warning)
        else:
            raise InputError(
                f"{case.image_files[0]}: is neither in HU nor in grey values 0..255; download it "
                f"again"
            )

        return replace(
            loaded, image=image, intensity_unit=GREY, transforms=transforms, warnings=warnings
        )

    def published_folds(
        self, split: str, cases: Collection[str]
    ) -> list[tuple[list[str], list[str]]]:
        folds = []
        for group in GROUPS:
            others = [case for case in cases if case not in group]
            folds.append((list(group), others))

        return folds


def _patient(scan: str) -> str:
    """Return the patient of a scan.

    Scans with one Radiopaedia case number, like 10_85902_1 and 10_85902_3, count as one patient.
    """
    return "_".join(scan.split("_")[:2])
