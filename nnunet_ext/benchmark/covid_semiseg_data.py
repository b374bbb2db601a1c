"""COVID-SemiSeg as suites use it: the user's download, converted to small slices, in five folds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.datasets.covid_semiseg import CovidSemiSeg
from dataset_conversion.writing.conversion import convert
from nnunet_ext.benchmark.converted import write_dataset_json_of_part
from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import environment_folder

DOWNLOAD = "COVID_SEMISEG"  # environment variable: folder of the unpacked download
FOLDS = 5
MULTICLASS = tuple(f"Dataset{520 + fold}_CovidSemiSegFold{fold}" for fold in range(FOLDS))
INFECTION = tuple(f"Dataset{530 + fold}_CovidSemiSegInfectionFold{fold}" for fold in range(FOLDS))
UNLABELED = "Dataset525_CovidSemiSegUnlabeled"


@dataclass(frozen=True)
class FoldsOfSlices:
    """Write the labelled slices in five folds, and the unlabelled ones as their own data set.

    Data set k trains on the labelled slices without the k-th fifth. Its test set are the official
    test slices where the download has them, else the k-th fifth.

    Args:
        size: of all slices, width and height in pixels; None: as they are.
        unlabeled: so many, evenly spread over the volumes; None: all.
        names: of the data sets, one per fold.
        labels: as ``nnUNetv2_ext_convert --labels`` takes them.
    """

    size: int | None = 128
    unlabeled: int | None = None
    names: tuple[str, ...] = MULTICLASS
    labels: str = "ggo,consolidation"

    def __call__(self, raw: Path) -> None:
        """Write all data sets into nnU-Net's folder of raw data sets.

        Raises:
            InputError: the user names no download, or a slice of it cannot be converted.
        """
        source = environment_folder(DOWNLOAD)
        scratch = raw / ".converted"
        converter = CovidSemiSeg(source, labels_wanted=self.labels, resize=self.size)
        labelled = converted(converter, scratch / "Dataset001_Labelled")
        for fold, name in enumerate(self.names):
            write_fold(labelled, raw / name, fold)

        converter = CovidSemiSeg(source, unlabeled=True, resize=self.size)
        images = converted(converter, scratch / "Dataset002_Unlabelled")
        write_unlabeled(images, raw / UNLABELED, self.unlabeled)
        shutil.rmtree(scratch)


def converted(converter: CovidSemiSeg, folder: Path) -> Path:
    """Convert a part of the download, and return its folder.

    Raises:
        InputError: a slice cannot be converted.
    """
    summary = convert(converter, folder)
    if summary.problems:
        raise InputError(
            f"{summary.problems[0]} ({len(summary.problems)} slices of the download have such "
            f"problems)"
        )
    return folder


def write_fold(labelled: Path, folder: Path, fold: int) -> None:
    """Write one fold of a converted data set.

    Args:
        labelled: with imagesTr and labelsTr, and imagesTs and labelsTs where the download has test
            slices.
        folder: to write.
        fold: every fifth case, from this one on, is left out of training.
    """
    cases = _names_in(labelled / "labelsTr")
    held_out = cases[fold::FOLDS]
    training = [case for case in cases if case not in held_out]
    _copy_cases(labelled, folder, training, "Tr", "Tr")
    if (labelled / "imagesTs").is_dir():
        official = _names_in(labelled / "labelsTs")
        _copy_cases(labelled, folder, official, "Ts", "Ts")
    else:
        _copy_cases(labelled, folder, held_out, "Tr", "Ts")
    write_dataset_json_of_part(labelled, folder, len(training))


def _names_in(labels: Path) -> list[str]:
    return sorted(path.stem for path in labels.glob("*.png"))


def write_unlabeled(images: Path, folder: Path, count: int | None) -> None:
    """Write all images of a converted data set, or ``count`` at even steps of their order.

    The order is by volume.
    """
    files = sorted((images / "imagesUn").glob("*.png"))
    wanted = len(files)
    if count is not None:
        wanted = min(count, wanted)

    target = folder / "imagesUn"
    target.mkdir(parents=True)
    for index in range(wanted):
        place = index * len(files) // wanted
        file = files[place]
        shutil.copyfile(file, target / file.name)
    write_dataset_json_of_part(images, folder, 0)


def _copy_cases(source: Path, folder: Path, cases: Sequence[str], part: str, new_part: str) -> None:
    for kind, ending in (("images", "_0000.png"), ("labels", ".png")):
        origin = source / f"{kind}{part}"
        target = folder / f"{kind}{new_part}"
        target.mkdir(parents=True)
        for case in cases:
            name = f"{case}{ending}"
            shutil.copyfile(origin / name, target / name)
