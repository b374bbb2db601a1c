"""MosMedData COVID19_1110: chest CT of 1110 patients, 50 of them with masks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dataset_conversion.converter import Converter, Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.download_folder import files_matching
from dataset_conversion.reading.nifti_cases import above_half, paired, read_ct
from nnunet_ext.errors import InputError

# Studies are numbered by severity.
LAST_STUDY = {"CT-0": 254, "CT-1": 938, "CT-2": 1063, "CT-3": 1108, "CT-4": 1110}


@dataclass(frozen=True)
class MosMed(Converter):
    """The 50 studies with masks (0255 to 0304, all of severity CT-1); ``--unlabeled``: the others.

    Reference: Morozov et al. 2020 (the data set's paper).
    """

    name: ClassVar[str] = "MosMed"
    task: ClassVar[str] = "COVID-19 infection, chest CT of 8 mm slice distance"
    licence: ClassVar[str] = "CC BY-NC-ND 3.0: converted data may not be passed on"
    download: ClassVar[str] = "https://mosmed.ai/datasets/covid19_1110"
    citation: ClassVar[str] = (
        "Morozov et al., MosMedData: Chest CT Scans With COVID-19 Related Findings Dataset, 2020, "
        "arXiv:2005.06465"
    )
    plausible_hu = {"infection": (-900.0, 150.0)}  # noqa: RUF012

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("CT",)

    @property
    def labels(self) -> dict[str, int]:
        return {"background": 0, "infection": 1}

    def find_cases(self) -> Inventory:
        images, problems = files_matching(self.source, r"study_(\d{4})\.nii(?:\.gz)?")
        masks, more = files_matching(self.source, r"study_(\d{4})_mask\.nii(?:\.gz)?")
        if not images:
            raise InputError(
                f"{self.source}: holds no study_NNNN.nii.gz; -i names the unpacked download of "
                f"MosMed"
            )
        found = paired(
            images,
            masks,
            problems + more,
            name="study_{}".format,
            without_label="Un",
            details=lambda study: {
                "severity": severity_of(images[study], int(study)),
                "patient": f"study_{study}",
            },
        )
        if not self.unlabeled:
            left_out = sum(case.part == "Un" for case in found.cases)
            found.cases = [case for case in found.cases if case.part == "Tr"]
            if left_out:
                found.notes.append(
                    f"{left_out} studies have no mask and are left out; --unlabeled converts them"
                )

        return found

    def read_case(self, case: SourceCase) -> LoadedCase:
        return read_ct(case, above_half)


def severity_of(image: Path, study: int) -> str:
    """Return ``CT-1`` of ``studies/CT-1/study_0255.nii.gz`` or ``ct1/study_0255.nii.gz``.

    Without such a folder, the publisher's numbering tells it.
    """
    for part in image.parts[::-1]:
        match = re.fullmatch(r"ct-?([0-4])", part, re.IGNORECASE)
        if match:
            return f"CT-{match[1]}"

    for severity, last in LAST_STUDY.items():
        if study <= last:
            return severity

    return ""
