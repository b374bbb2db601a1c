"""Medical Segmentation Decathlon (MSD): any of its ten tasks."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataset_conversion.converter import Converter, Inventory, LoadedCase, Part, SourceCase
from dataset_conversion.reading.download_folder import (
    actual_file,
    case_id,
    first_of,
    is_hidden,
    listed_file,
    visible_files,
)
from dataset_conversion.reading.label_values import LabelRenumbering, label_map, rounded_labels
from dataset_conversion.reading.nifti_headers import open_volume, states_orientation
from dataset_conversion.reading.volumes import label_place, read_voxels, spatial_axes
from nnunet_ext.errors import InputError, naming
from nnunet_ext.files.json_files import read_object
from nnunet_ext.hounsfield import AIR_SHOWS_BELOW_HU

ENDINGS = (".nii.gz", ".nii")
# Lung tumours on which Ma et al. 2021, COVID-19 CT segmentation benchmark (doi:10.1002/mp.14676),
# test; they train on the other 51.
LUNG_BENCHMARK_HELD_OUT = (3, 25, 45, 51, 54, 55, 61, 73, 92, 93, 95, 96)


@dataclass(frozen=True)
class MSD(Converter):
    """A task folder with its dataset.json, whatever the folder is called now.

    Reference: Antonelli et al. 2022 (the data set's paper).
    """

    channel: str | None = None
    merge: tuple[str, ...] = ()

    name: ClassVar[str] = "MSD"
    task: ClassVar[str] = (
        "Medical Segmentation Decathlon, any task (Task06_Lung, Task01_BrainTumour)"
    )
    licence: ClassVar[str] = "CC-BY-SA 4.0"
    download: ClassVar[str] = "http://medicaldecathlon.com"
    citation: ClassVar[str] = (
        "Antonelli et al., The Medical Segmentation Decathlon, "
        "Nature Communications 13, 4128 (2022), doi:10.1038/s41467-022-30695-9"
    )

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--channel",
            metavar="NAME",
            help="keep one channel of a 4-D image, by name or number, e.g. FLAIR",
        )
        parser.add_argument(
            "--merge",
            action="append",
            default=[],
            metavar="LABELS=NAME",
            help="make several labels one, by value or name, e.g. 1,2,3=tumour; may be repeated",
        )

    @property
    def collection(self) -> str:
        title = self._list.get("name")
        if not isinstance(title, str) or not title.strip():
            return "MSD"

        return f"MSD_{case_id(title)}"

    @property
    def folder_name(self) -> str:
        return f"{self.collection}-unlabeled" if self.unlabeled else self.collection

    @property
    def release(self) -> str | None:  # type: ignore[override]
        # Task06_Lung is published with the misspelt key.
        release = self._list.get("release") or self._list.get("relase")
        return str(release) if release else None

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("paper",) if self.collection == "MSD_Lung" else ()

    def published_folds(
        self, split: str, cases: Collection[str]
    ) -> list[tuple[list[str], list[str]]]:
        held_out = [f"lung_{number:03d}" for number in LUNG_BENCHMARK_HELD_OUT]
        training = [case for case in cases if case not in held_out]

        return [(training, held_out)]

    @cached_property
    def root(self) -> Path:
        """The task folder: ``source`` itself, or the only folder in it with a dataset.json."""
        if not self.source.is_dir():
            raise InputError(f"{self.source}: no such folder; -i names the unpacked task folder")
        if (self.source / "dataset.json").is_file():
            return self.source
        lists = [file for file in self.source.glob("*/dataset.json") if file.is_file()]
        tasks = sorted(file.parent for file in lists if not is_hidden(file.parent.name))
        if len(tasks) == 1:
            return tasks[0]

        what = "has no dataset.json"
        if tasks:
            names = ", ".join(task.name for task in tasks)
            what = f"holds {len(tasks)} tasks ({names})"
        raise InputError(f"{self.source}: {what}; -i names one unpacked task folder")

    @cached_property
    def _list(self) -> dict[str, Any]:
        file = self.root / "dataset.json"
        content = read_object(file, "unpack the download again")
        shapes = {"modality": dict, "labels": dict, "training": list}
        for key, kind in shapes.items():
            if not isinstance(content.get(key), kind) or not content[key]:
                raise InputError(
                    f"{file}: has no {key!r} or an empty one; -i names a task as published"
                )
        if not isinstance(content.get("test", []), list):
            raise InputError(f"{file}: 'test' is not a list; download it again")

        return content

    @cached_property
    def _channels(self) -> tuple[str, ...]:
        """Published channel names in order."""
        file = self.root / "dataset.json"
        names = _numbered(self._list["modality"], file, "modality")
        if sorted(names) != list(range(len(names))):
            raise InputError(f"{file}: channels are not numbered 0, 1, ...; download it again")

        return tuple(names[index] for index in range(len(names)))

    @cached_property
    def _kept_channel(self) -> int | None:
        """Index of the one channel that is kept; None: all of them."""
        if self.channel is None:
            return None

        wanted = self.channel.casefold()
        names = [name.casefold() for name in self._channels]
        if names.count(wanted) == 1:
            return names.index(wanted)
        if wanted.isascii() and wanted.isdigit() and int(wanted) < len(names):
            return int(wanted)

        valid = ", ".join(f"{index} ({name})" for index, name in enumerate(self._channels))
        raise InputError(f"--channel {self.channel}: no such channel; there are {valid}")

    @property
    def channel_names(self) -> tuple[str, ...]:
        if self._kept_channel is None:
            return self._channels

        return (self._channels[self._kept_channel],)

    @cached_property
    def _label_map(self) -> LabelRenumbering:
        declared = _numbered(self._list["labels"], self.root / "dataset.json", "labels")
        return label_map(declared, self.merge)

    @property
    def labels(self) -> dict[str, int]:
        return self._label_map.names

    def find_cases(self) -> Inventory:
        found = Inventory()
        _ = self.channel_names, self.labels  # wrong options are reported before any case
        listed: set[Path] = set()
        for part, image, label in self._entries():
            if image in listed:
                found.notes.append(f"{image.name} is listed twice in dataset.json")
                continue

            listed.update({image, label} if label else {image})
            try:
                images = (self._as_unpacked(image),)
                labels = (self._as_unpacked(label),) if label else ()
                listed.update((*images, *labels))
                name = case_id(_stem(image))
            except InputError as error:
                found.problems.append(str(error))
                continue

            found.cases.append(SourceCase(name, part, images, labels))

        found.notes.extend(self._unlisted_files(listed))
        found.notes.extend(self._wrong_counts())

        return found

    def _as_unpacked(self, listed: Path) -> Path:
        """Return the file that a list names.

        Some programs unpack it to .nii, or give it nnU-Net's channel number.
        """
        stems = [_stem(listed)]
        if len(self._channels) == 1:
            stems.append(f"{stems[0]}_0000")

        if listed.exists():
            return actual_file(listed)
        for stem, ending in itertools.product(stems, ENDINGS):
            file = listed.with_name(f"{stem}{ending}")
            if file.exists():
                return actual_file(file)

        return actual_file(listed)  # which says that there is none

    def _entries(self) -> Iterator[tuple[Part, Path, Path | None]]:
        """Yield what dataset.json lists: part, image and label file."""
        name = str(self.root / "dataset.json")
        for entry in self._list["training"]:
            if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
                raise InputError(
                    f"{name}: training entry {entry!r} lacks image or label; download it again"
                )

            image = listed_file(self.root, entry["image"], name)
            label = listed_file(self.root, entry["label"], name)
            yield "Tr", image, label

        for entry in self._list.get("test") or []:
            file = entry["image"] if isinstance(entry, dict) else entry
            yield "Ts", listed_file(self.root, file, name), None

    def _unlisted_files(self, listed: set[Path]) -> Iterator[str]:
        """Yield a line per folder that holds files of which dataset.json says nothing."""
        for folder in ("imagesTr", "labelsTr", "imagesTs"):
            if not (self.root / folder).is_dir():
                continue

            files = visible_files(self.root / folder, ENDINGS)
            extra = [file.name for file in files if file not in listed]
            if extra:
                yield (
                    f"{len(extra)} files in {folder} are not in dataset.json and are left "
                    f"out ({first_of(extra, 3)})"
                )

    def _wrong_counts(self) -> Iterator[str]:
        """Yield a line per count in dataset.json that is not that of its entries."""
        for count, entries in (("numTraining", "training"), ("numTest", "test")):
            actual = len(self._list.get(entries) or [])
            if self._list.get(count) not in (None, actual):
                yield f"dataset.json says {count} {self._list[count]} but lists {actual}"

    def read_case(self, case: SourceCase) -> LoadedCase:
        file = case.image_files[0]
        volume = open_volume(file)
        image, transforms = self._read_channels(file, volume)
        warnings: tuple[str, ...] = ()
        unit = "arbitrary"
        if all(name.casefold() == "ct" for name in self._channels):
            has_air = image.min() < AIR_SHOWS_BELOW_HU
            unit = "HU" if has_air else "unknown"
            if not has_air:
                line = f"called CT, but no value lies below {AIR_SHOWS_BELOW_HU}: perhaps not HU"
                warnings = (line,)

        label = label_affine_mm = None
        if case.label_files:
            label_volume = open_volume(case.label_files[0])
            label, more = self._read_label(case.label_files[0], label_volume)
            warnings += more
            label_affine_mm = label_place(label_volume, volume.affine, states_orientation(volume))
            if self._label_map.changes:
                transforms += (f"labels {self._label_map.new_value}",)

        return LoadedCase(
            image,
            label,
            unit,
            volume.affine,
            label_affine_mm,
            transforms,
            warnings,
            as_read=image[0] if len(volume.shape) == 3 else None,
        )

    def _read_channels(self, file: Path, volume: Any) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the image (C, x, y, z) with the wanted channels, and what was done.

        The affine knows no fourth axis, so it needs no change.
        """
        shape, count = volume.shape, len(self._channels)
        if len(shape) == 3 and count == 1:
            return read_voxels(file, volume)[None], ()

        if len(shape) != 4 or shape[3] != count:
            raise InputError(
                f"{file}: has shape {shape}, but dataset.json names {count} channels; download it "
                f"again"
            )

        if self._kept_channel is None:
            return np.moveaxis(read_voxels(file, volume), 3, 0), ()

        channel = read_voxels(file, volume, self._kept_channel)
        return channel[None], (f"channel {self._kept_channel} of {count}",)

    def _read_label(self, file: Path, volume: Any) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the label (x, y, z) with new values, and warnings."""
        stored = read_voxels(file, volume)
        voxels = spatial_axes(file, stored, anywhere=True)
        with naming(file):
            whole, warnings = rounded_labels(voxels)
            return self._label_map(whole), warnings


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")


def _numbered(entries: Mapping[str, Any], file: Path, key: str) -> dict[int, str]:
    """Return entries such as ``{"0": "CT"}`` with integer keys."""
    numbered = {}
    for number, name in entries.items():
        if not number.isascii() or not number.isdigit() or not isinstance(name, str):
            raise InputError(
                f"{file}: {key!r} is not a list of numbers with names; -i names a task as the "
                f"Decathlon publishes it"
            )

        numbered[int(number)] = name.strip()

    if len(numbered) < len(entries):
        raise InputError(
            f"{file}: {key!r} gives one number twice ({', '.join(entries)}); fix the list"
        )

    return numbered
