"""The relation-driven method on the slices of COVID-SemiSeg, as suites for one and two labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.benchmark.converted import Converted, write_one_slice_per_scan
from nnunet_ext.benchmark.covid_semiseg_data import UNLABELED, FoldsOfSlices
from nnunet_ext.benchmark.general_knowledge import GeneralKnowledge
from nnunet_ext.benchmark.published import PublishedTable
from nnunet_ext.benchmark.suite import Suite

AS_GREY_VALUES = "--slices lesion --window -1250 250"
TUMOURS = Converted(
    "Dataset541_LungTumourSlices",
    f"nnUNetv2_ext_convert MSD -i DOWNLOAD -d 541 --name LungTumourSlices {AS_GREY_VALUES}",
)
EFFUSIONS = Converted(
    "Dataset542_EffusionSlices",
    f"nnUNetv2_ext_convert NSCLC-PleuralEffusion -i DOWNLOAD -d 542 --name EffusionSlices "
    f"{AS_GREY_VALUES}",
)
OTHER_DISEASES = {"Dataset551_OneTumourSlice": TUMOURS, "Dataset552_OneEffusionSlice": EFFUSIONS}
GENERAL_SLICES = 100  # of different scans, as in the paper


@dataclass(frozen=True)
class SlicesOfAllDiseases:
    """Write slices of COVID-SemiSeg in folds, and slices of tumours and effusions."""

    folds: FoldsOfSlices

    def __call__(self, raw: Path) -> None:
        """Write all data sets into nnU-Net's folder of raw data sets.

        Raises:
            InputError: a data set has not been converted, or the user names no download.
        """
        write_one_slice_per_scan(OTHER_DISEASES, raw, GENERAL_SLICES)
        self.folds(raw)


def slices_suite(
    name: str, title: str, folds: FoldsOfSlices, published: tuple[PublishedTable, ...]
) -> Suite:
    """Return a suite whose seed k trains without the k-th fifth of the labelled slices."""
    data = GeneralKnowledge(folds.names, tuple(OTHER_DISEASES), UNLABELED)
    return Suite(
        name=name,
        title=title,
        write_data=SlicesOfAllDiseases(folds),
        test_set=folds.names,
        # nnU-Net's; the paper gives batch and rate, but not how long it trains
        budget={"num_epochs": 1000, "num_iterations_per_epoch": 250},
        batch_size=2,
        fold="all",
        lower="plain",
        profile="infnet",
        rows=data.rows(),
        published=published,
    )
