"""What a data set declares; all else is done by :mod:`dataset_conversion.writing.conversion`."""

from __future__ import annotations

import argparse
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from nnunet_ext.keyed_names import keyed_name

Part = Literal["Tr", "Ts", "Un"]
"""Training, official test, and unlabelled images: the endings of nnU-Net's folder names."""


@dataclass(frozen=True)
class SourceCase:
    """One case as found in the download; its files are not yet read.

    ``id`` comes from :func:`dataset_conversion.reading.download_folder.case_id`. ``label_files`` is
    empty where the publisher gives no label. ``details`` become columns of conversion.csv.
    """

    id: str
    part: Part
    image_files: tuple[Path, ...]
    label_files: tuple[Path, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedCase:
    """One case in memory.

    ``image`` is (C, *spatial): 3-D (x, y, z) or a slice (x, y) with its affine, or a picture (row,
    column) without. ``label`` is (*spatial) of integers from the declared set, and ``None`` exactly
    where the case has no label files. Affines are (4, 4), voxel index to mm in NIfTI's RAS+ world;
    the core brings the label onto the image's grid. ``label_affine_mm`` is only voxel sizes (3,)
    where no header states an orientation, and None where the label lies on the image's voxels.
    ``as_read`` are the voxels of the only image file; where they are what is written, the file is
    copied.
    """

    image: np.ndarray
    label: np.ndarray | None
    intensity_unit: str
    affine_mm: np.ndarray | None = None
    label_affine_mm: np.ndarray | None = None
    transforms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    as_read: np.ndarray | None = None


@dataclass
class Inventory:
    """What a download holds.

    ``problems`` has one line per case that cannot be converted; ``notes`` are worth knowing.
    """

    cases: list[SourceCase] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Converter(ABC):
    """A data set.

    Class constants say what it is, fields are its command-line options, methods read it. A concrete
    data set is a frozen dataclass in a module of :mod:`dataset_conversion.datasets`. Each field
    after ``source`` is an option, and a run with other values into the same folder is refused. The
    fields here are options of every data set, which the core carries out
    (:mod:`dataset_conversion.shaping.choices`); :meth:`add_options` declares an argument for each
    further one. Instances travel to worker processes, so they hold plain values only.
    """

    source: Path
    labels_wanted: str = ""
    """``--labels``: published labels or groups, separated by commas; empty: all as published."""
    unlabeled: bool = False
    """``--unlabeled``: training images without their labels, into imagesUn."""
    slices: str = ""
    """``--slices``: ``lesion``, ``all``, ``every:N`` or ``FIRST:LAST``; empty: volumes."""
    window: tuple[float, ...] | None = None
    """``--window``: CT in HU to grey values 0..255 of this range."""
    crop: str | None = None
    """``--crop``: ``lungs``, found in the CT; None: whole images."""
    lung_masks: Path | None = None
    """``--lung-masks``: folder with a mask ``CASE.nii.gz`` per volume, to crop to its box."""
    resize: int | None = None
    """``--resize``: slices become this many pixels wide and high; None: as they are."""
    split: str = ""
    """``--split``: one of :attr:`splits` or ``patient:K``; empty: nnU-Net's own folds."""
    patients: Path | None = None
    """``--patients``: CSV with columns case, patient, where the download does not say."""

    name: ClassVar[str]
    """As its publisher writes it; what the user types."""
    task: ClassVar[str]
    licence: ClassVar[str]
    download: ClassVar[str]
    """Address where to get it."""
    citation: ClassVar[str]
    release: ClassVar[str | None] = None
    file_ending: ClassVar[Literal[".nii.gz", ".png"]] = ".nii.gz"
    chooses_labels: ClassVar[bool] = True
    """Whether ``--labels`` chooses among published labels.

    If not, :meth:`add_options` may use it for something else.
    """
    label_groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Names that ``--labels`` takes for several published labels, e.g. infection for ggo."""
    splits: ClassVar[tuple[str, ...]] = ()
    """Published splits that :meth:`published_folds` knows.

    ``official`` is the publisher's, ``paper`` that of others.
    """
    plausible_hu: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Published label to the range of its median in HU, which proves that it lies on its organ."""

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        """Declare the data set's own options, each with the ``dest`` and the default of a field."""
        del parser

    @property
    def settings(self) -> dict[str, Any]:
        """Options that shape the cases, by name; another split needs no new conversion."""
        settings = {}
        for option in dataclasses.fields(self):
            if option.name in ("source", "split", "patients"):
                continue

            value = getattr(self, option.name)
            if isinstance(value, Path):
                # A path may name a patient; its keyed name still tells whether it is the same.
                value = keyed_name("path", str(value))
            settings[option.name] = value

        return settings

    @property
    def collection(self) -> str:
        """The name under which :mod:`dataset_conversion.writing.overlaps` knows the images."""
        return self.name

    @property
    def folder_name(self) -> str:
        """What follows ``Dataset120_`` unless the user gives ``--name``."""
        return f"{self.name}-unlabeled" if self.unlabeled else self.name

    @property
    @abstractmethod
    def channel_names(self) -> tuple[str, ...]:
        """Channel names in order.

        ``CT`` makes nnU-Net normalise as Hounsfield units, so only HU may be called so.
        """

    @property
    @abstractmethod
    def labels(self) -> dict[str, int]:
        """Names and values of the labels that :meth:`read_case` gives.

        ``background`` is 0, and there are no gaps.
        """

    @abstractmethod
    def find_cases(self) -> Inventory:
        """Find the cases without reading pixels.

        Raises:
            InputError: the folder is not this data set, or an option does not fit it.
        """

    @abstractmethod
    def read_case(self, case: SourceCase) -> LoadedCase:
        """Read one case; called in a worker process.

        Raises:
            InputError: the case is damaged or not as documented; the message names the file.
        """

    def is_private(self, case: SourceCase) -> bool:
        """Whether a case's paths and identifiers may be those of a patient.

        They may in data that nobody has published.
        """
        del case
        return False

    def plausible(self, unit: str) -> Mapping[str, tuple[float, float]]:
        """Return the range of each published label's median, in the unit of the case's image.

        It is empty where none is known.
        """
        return self.plausible_hu if unit == "HU" else {}

    def published_folds(
        self, split: str, cases: Collection[str]
    ) -> list[tuple[list[str], list[str]]]:
        """Return training and validation cases of each fold of a split in :attr:`splits`.

        Args:
            split: its name.
            cases: ids of the training cases at hand; others of the publication are left out by the
                core.
        """
        raise NotImplementedError(f"{self.name} declares the split {split} without folds")
