"""COVID-SemiSeg: single lung-windowed CT slices with COVID-19 infection masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset_conversion.converter import Converter, Inventory, LoadedCase, Part, SourceCase
from dataset_conversion.reading.download_folder import (
    case_id,
    files_by_stem,
    find_folder,
    natural_key,
)
from dataset_conversion.reading.label_values import binary_mask, colour_classes
from dataset_conversion.reading.pictures import read_colours, read_grey
from nnunet_ext.errors import InputError, naming

BINARY = ("infection",)
MULTICLASS = ("ggo", "consolidation")
# Official folders: GT is the reader's mask; Edge and Prior are inputs of the authors' network,
# derived from it.
LABELLED_FOLDERS: dict[tuple[str, ...], dict[Part, str]] = {
    BINARY: {"Tr": "LungInfection-Train/Doctor-label", "Ts": "LungInfection-Test"},
    MULTICLASS: {"Tr": "MultiClassInfection-Train", "Ts": "MultiClassInfection-Test"},
}
# Exactly this folder: Pseudo-label/DataPrepare and Hybrid-label hold copies of its images.
UNLABELED_FOLDER = "LungInfection-Train/Pseudo-label/Imgs"
CLASS_COLOURS = ((0, 0, 0), (128, 0, 0), (0, 128, 0))  # background, ground glass, consolidation
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
MASK_ENDINGS = (".png",)


@dataclass(frozen=True)
class CovidSemiSeg(Converter):
    """50 labelled training slices, 48 test slices, 1600 unlabelled slices of 20 patients.

    Reference: Fan et al. 2020, Inf-Net (the data set's paper).
    """

    labels_wanted: str = "infection"

    name: ClassVar[str] = "COVID-SemiSeg"
    task: ClassVar[str] = "COVID-19 infection, single CT slices"
    licence: ClassVar[str] = "non-commercial use only; not to be passed on"
    download: ClassVar[str] = "https://github.com/DengPingFan/Inf-Net"
    citation: ClassVar[str] = (
        "Fan et al., Inf-Net: Automatic COVID-19 Lung Infection Segmentation from CT Images, "
        "IEEE Transactions on Medical Imaging 39(8), 2020, doi:10.1109/TMI.2020.2996645"
    )
    file_ending = ".png"

    @property
    def collection(self) -> str:
        return f"{self.name}-unlabeled" if self.unlabeled else self.name

    @property
    def folder_name(self) -> str:
        if self.unlabeled:
            return f"{self.name}-unlabeled"

        return f"{self.name}-multiclass" if self._multiclass else self.name

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("lung-window CT",)  # not "CT": grey values 0..255 are no Hounsfield units

    @property
    def labels(self) -> dict[str, int]:
        names = MULTICLASS if self._multiclass else BINARY
        return {name: value for value, name in enumerate(("background", *names))}

    def find_cases(self) -> Inventory:
        found = Inventory()
        if self.unlabeled:
            self._find_unlabelled(found)
            return found

        parts = LABELLED_FOLDERS[MULTICLASS if self._multiclass else BINARY]
        test = find_folder(self.source, f"{parts['Ts']}/Imgs")
        self._pair(self._required(f"{parts['Tr']}/Imgs"), "Tr", found)
        if test is None:
            found.notes.append(f"no {parts['Ts']} in the download, so no imagesTs")
        else:
            self._pair(test, "Ts", found)

        return found

    def _find_unlabelled(self, found: Inventory) -> None:
        images, broken = files_by_stem(self._required(UNLABELED_FOLDER), IMAGE_ENDINGS)
        found.problems.extend(broken.values())
        for stem, image in images.items():
            patient = stem.removeprefix("Data-1_").rpartition("_")[0]
            details = {"patient": patient}
            found.cases.append(SourceCase(case_id(stem), "Un", (image,), details=details))

    @property
    def _multiclass(self) -> bool:
        """Whether the multi-class part is wanted, which has masks and test slices of its own."""
        return any(name in self.labels_wanted.casefold() for name in MULTICLASS)

    def _required(self, relative: str) -> Path:
        folder = find_folder(self.source, relative)
        if folder is None:
            raise InputError(
                f"{self.source}: holds no {relative}; -i names the unpacked download of "
                f"{self.download}"
            )

        return folder

    def _pair(self, image_folder: Path, part: Part, found: Inventory) -> None:
        """Pair images and masks of one folder by name."""
        images, broken_images = files_by_stem(image_folder, IMAGE_ENDINGS)
        masks, broken_masks = files_by_stem(image_folder.with_name("GT"), MASK_ENDINGS)
        broken = broken_images | broken_masks

        found.problems.extend(broken.values())
        for stem in sorted((images.keys() ^ masks.keys()) - broken.keys(), key=natural_key):
            file = images.get(stem) or masks[stem]
            missing = "mask in GT" if stem in images else f"image in {image_folder.name}"
            found.problems.append(
                f"{file}: has no {missing}; unpack the download again or remove the file"
            )

        for stem in images.keys() & masks.keys():
            name = case_id(f"slice_{stem.zfill(3)}")
            # The slices are of more than 40 patients; the download does not say whose.
            found.cases.append(
                SourceCase(name, part, (images[stem],), (masks[stem],), {"patient": ""})
            )

    def read_case(self, case: SourceCase) -> LoadedCase:
        image = read_grey(case.image_files[0])
        label: np.ndarray | None = None
        warnings: tuple[str, ...] = ()
        if case.label_files:
            label, warnings = self._read_mask(case.label_files[0])
        return LoadedCase(
            image[None],
            label,
            intensity_unit="grey values 0..255 of a lung window",
            warnings=warnings,
        )

    def _read_mask(self, file: Path) -> tuple[np.ndarray, tuple[str, ...]]:
        with naming(file):
            if not self._multiclass:
                grey = read_grey(file)
                return binary_mask(grey)

            colours, indices = read_colours(file)
            return colour_classes(colours, indices, CLASS_COLOURS), ()
