"""Data sets that users have converted themselves, and parts of them, as suites use them."""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataset_conversion.writing.result_files import PROVENANCE_NAME
from nnunet_ext.errors import InputError
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.stock.files import read_dataset_json
from nnunet_ext.stock.folders import environment_folder

if TYPE_CHECKING:
    from nnunet_ext.training.streams.raw_cases import RawCase

SLICES_SEED = 0  # of the scans and slices that are drawn


@dataclass(frozen=True)
class Converted:
    """A raw data set in the user's ``nnUNet_raw``.

    Args:
        name: of its folder, such as ``Dataset130_MosMed``.
        command: that makes it, with ``DOWNLOAD`` for the folder of the download.
    """

    name: str
    command: str = ""

    @property
    def folder(self) -> Path:
        """Its folder.

        Raises:
            InputError: it has not been converted; says which command makes it.
        """
        theirs = environment_folder("nnUNet_raw") / self.name
        if (theirs / "dataset.json").is_file():
            return theirs.resolve()

        advice = "convert it first (nnUNetv2_ext_convert --list)"
        if self.command:
            advice = f"convert it first: {self.command}"
        raise InputError(f"{theirs}: no such data set; {advice}")

    def cases(self) -> dict[str, RawCase]:
        """Return the labelled training cases by name.

        Raises:
            InputError: it has not been converted, or a file is missing.
        """
        from nnunet_ext.training.streams.raw_cases import labelled_cases

        folder = self.folder
        description = read_dataset_json(folder / "dataset.json", "convert the data set again")
        return {case.name: case for case in labelled_cases(folder, description)}

    def link(self, raw: Path) -> None:
        """Link the whole data set into a folder of raw data sets.

        Raises:
            InputError: it has not been converted.
        """
        (raw / self.name).symlink_to(self.folder)

    def write_part(
        self, folder: Path, training: Collection[str], test: Collection[str] = ()
    ) -> None:
        """Write a raw data set of links to some of the cases.

        Args:
            folder: of the new data set.
            training: cases that become imagesTr and labelsTr.
            test: cases that become imagesTs and labelsTs.

        Raises:
            InputError: it has not been converted, or lacks a case.
        """
        source = self.folder
        cases = self.cases()
        missing = sorted({*training, *test} - cases.keys())
        if missing:
            raise InputError(
                f"{source}: lacks {len(missing)} cases, first {missing[0]}; convert the whole "
                f"download"
            )

        for part, names in (("Tr", training), ("Ts", test)):
            if names:
                _link_cases([cases[name] for name in names], folder, part)
        if (source / PROVENANCE_NAME).is_file():
            shutil.copyfile(source / PROVENANCE_NAME, folder / PROVENANCE_NAME)  # whose cases
        write_dataset_json_of_part(source, folder, len(training))

    def slices_of_scans(self) -> dict[str, list[str]]:
        """Return the cases of each scan, for a data set of single slices.

        Raises:
            InputError: it has not been converted, or nothing says of which scan a slice is.
        """
        table = self.folder / PROVENANCE_NAME
        if not table.is_file():
            raise InputError(f"{table}: no such file; convert the data set again: {self.command}")

        slices: dict[str, list[str]] = defaultdict(list)
        cases = self.cases()
        with table.open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                case = line.get("case", "")
                if case in cases:
                    scan = line.get("volume") or case
                    slices[scan].append(case)
        return dict(slices)


def write_one_slice_per_scan(
    datasets: Mapping[str, Converted], raw: Path, count: int, seed: int = SLICES_SEED
) -> None:
    """Draw scans of all data sets together, and a slice of each.

    Args:
        datasets: of single slices, by the name of the data set that receives the drawn ones.
        raw: folder of raw data sets, into which they are written.
        count: of scans; all if there are fewer.
        seed: of the draw.

    Raises:
        InputError: one has not been converted, or nothing says of which scan a slice is.
    """
    scans: list[tuple[str, Sequence[str]]] = []
    for name, dataset in datasets.items():
        slices_of_scans = dataset.slices_of_scans()
        scans += [(name, slices_of_scans[scan]) for scan in sorted(slices_of_scans)]

    generator = np.random.default_rng(seed)
    drawn: dict[str, list[str]] = defaultdict(list)
    for place in generator.permutation(len(scans))[:count]:
        name, slices = scans[place]
        chosen = generator.integers(len(slices))
        drawn[name].append(slices[chosen])

    for name, dataset in datasets.items():
        dataset.write_part(raw / name, sorted(drawn[name]))


def write_dataset_json_of_part(source: Path, folder: Path, training_cases: int) -> None:
    """Write the ``dataset.json`` of a data set that holds cases of another one.

    Args:
        source: folder of that other one.
        folder: of the new data set, which also gives its name.
        training_cases: in it.
    """
    text = (source / "dataset.json").read_text(encoding="utf-8")
    content = json.loads(text)
    content["name"] = folder.name
    content["numTraining"] = training_cases
    write_json(content, folder / "dataset.json")


def _link_cases(cases: Sequence[RawCase], folder: Path, part: str) -> None:
    images = folder / f"images{part}"
    labels = folder / f"labels{part}"
    images.mkdir(parents=True)
    labels.mkdir()
    for case in cases:
        for image in case.images:
            (images / Path(image).name).symlink_to(image)
        label = str(case.label)
        (labels / Path(label).name).symlink_to(label)
