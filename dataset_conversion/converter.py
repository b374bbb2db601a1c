"""What a data set declares; everything else is the core's work (:mod:`dataset_conversion.conversion`)."""

from __future__ import annotations

import argparse
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

Part = Literal["Tr", "Ts", "Un"]
"""Training, official test, and unlabelled images: the endings of nnU-Net's folder names."""


@dataclass(frozen=True)
class Case:
    """One case as found in the download; its files are not yet read.

    ``id`` comes from :func:`dataset_conversion.download_folder.case_id`. ``label_files`` is empty where the publisher
    gives no label. ``details`` become columns of conversion.csv.
    """

    id: str
    part: Part
    image_files: tuple[Path, ...]
    label_files: tuple[Path, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """One case in memory.

    ``image`` is (C, *spatial), 3-D (x, y, z) with its affine or 2-D (row, column) without; ``label`` is (*spatial) of
    integers from the declared set, and ``None`` exactly where the case has no label files. Affines are (4, 4), voxel
    index to mm in NIfTI's RAS+ world; the core brings the label onto the image's grid.
    """

    image: np.ndarray
    label: np.ndarray | None
    intensity_unit: str
    affine_mm: np.ndarray | None = None
    label_affine_mm: np.ndarray | None = None
    transforms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass
class Found:
    """What the download holds. ``problems``: one line per case that cannot be converted; ``notes``: worth knowing."""

    cases: list[Case] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Converter(ABC):
    """A data set: class constants say what it is, fields are its command-line options, methods read it.

    A concrete data set is a frozen dataclass in a module of :mod:`dataset_conversion.datasets`. Each field after
    ``source`` is an option: :meth:`add_options` declares an argument with that ``dest``, and a run with other values
    into the same folder is refused. Instances travel to worker processes, so they hold plain values only.
    """

    source: Path

    name: ClassVar[str]
    """As its publisher writes it; what the user types."""
    task: ClassVar[str]
    licence: ClassVar[str]
    download: ClassVar[str]
    """Address where to get it."""
    citation: ClassVar[str]
    release: ClassVar[str | None] = None
    file_ending: ClassVar[Literal[".nii.gz", ".png"]] = ".nii.gz"

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        """Declare the data set's own options, each with the ``dest`` and the default of a field."""
        del parser

    @property
    def settings(self) -> dict[str, Any]:
        """Options that shape the result, by name."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "source"}

    @property
    def folder_name(self) -> str:
        """What follows ``Dataset120_`` unless the user gives ``--name``."""
        return self.name

    @property
    @abstractmethod
    def channel_names(self) -> tuple[str, ...]:
        """Channel names in order; ``CT`` makes nnU-Net normalise as Hounsfield units, so only HU may be called so."""

    @property
    @abstractmethod
    def labels(self) -> dict[str, int]:
        """Label names and values: ``background`` is 0, the others follow without gap."""

    @abstractmethod
    def find_cases(self) -> Found:
        """Find the cases without reading pixels.

        Raises:
            InputError: the folder is not this data set, or an option does not fit it.
        """

    @abstractmethod
    def read_case(self, case: Case) -> Reading:
        """Read one case; called in a worker process.

        Raises:
            InputError: the case is damaged or not as documented; the message names the file.
        """
