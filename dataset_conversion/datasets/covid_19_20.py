"""COVID-19-20 challenge: chest CT with COVID-19 lesions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dataset_conversion.converter import Converter, Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.download_folder import files_matching
from dataset_conversion.reading.nifti_cases import above_half, paired, read_ct
from nnunet_ext.errors import InputError

SCAN = r"volume-covid19-A-(\d+(?:_\w+)?)"  # 0047_1 is another scan of patient 0047


@dataclass(frozen=True)
class Covid1920(Converter):
    """199 labelled training volumes, and the 50 of the validation phase in imagesTs.

    The labels of the latter are withheld.

    Reference: Roth et al. 2022 (the challenge's paper).
    """

    name: ClassVar[str] = "COVID-19-20"
    task: ClassVar[str] = "COVID-19 lesions, chest CT"
    licence: ClassVar[str] = "CT CC BY 4.0 (TCIA); labels under the challenge's terms"
    download: ClassVar[str] = "https://covid-segmentation.grand-challenge.org"
    citation: ClassVar[str] = (
        "Roth et al., Rapid Artificial Intelligence Solutions in a Pandemic: The COVID-19-20 Lung "
        "CT Lesion Segmentation Challenge, Medical Image Analysis 82, 2022, "
        "doi:10.1016/j.media.2022.102605"
    )
    plausible_hu = {"infection": (-900.0, 150.0)}  # noqa: RUF012

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("CT",)

    @property
    def labels(self) -> dict[str, int]:
        return {"background": 0, "infection": 1}

    def find_cases(self) -> Inventory:
        images, problems = files_matching(self.source, SCAN + r"_ct\.nii(?:\.gz)?")
        labels, more = files_matching(self.source, SCAN + r"_seg\.nii(?:\.gz)?")
        if not images:
            raise InputError(
                f"{self.source}: holds no volume-covid19-A-NNNN_ct.nii.gz; -i names the unpacked "
                f"COVID-19-20_v2"
            )
        found = paired(
            images,
            labels,
            problems + more,
            name="covid19-A-{}".format,
            without_label="Ts",
            details=lambda scan: {"patient": scan.partition("_")[0]},
        )
        _require_training_labels(found)
        if not any("_v2" in str(image.absolute()) for image in images.values()):
            found.notes.append(
                "no folder is called COVID-19-20_v2: the first release has wrong labels and "
                "double slices"
            )

        return found

    def read_case(self, case: SourceCase) -> LoadedCase:
        return read_ct(case, above_half)


def _require_training_labels(found: Inventory) -> None:
    """Turn training images without label, which would be test cases, into problems."""
    cases = []
    for case in found.cases:
        image = case.image_files[0]
        if case.part == "Ts" and image.parent.name == "Train":
            found.problems.append(f"{image}: has no _seg file beside it; unpack the download again")
        else:
            cases.append(case)

    found.cases = cases
