"""DICOM objects that hold labels: what they call their regions, and what they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.series import Acquisition

LabelKind = Literal["seg", "rtstruct"]


@dataclass(frozen=True)
class LabelObject:
    """A DICOM SEG or RTSTRUCT: names of its regions, and series and images that it refers to."""

    file: Path
    names: tuple[str, ...]
    series: frozenset[str]
    images: frozenset[str]

    def belongs_to(self, acquisition: Acquisition) -> bool:
        """Whether the object was made on this acquisition, by what it says.

        Images decide between the acquisitions of a series.
        """
        uids = {item.sop_uid for item in acquisition.slices}
        if self.images:
            return bool(self.images & uids)

        return acquisition.slices[0].series_uid in self.series


def kind_of(item: Slice) -> LabelKind | None:
    """Return what kind of label object a file is, if any."""
    from nnunet_ext.dicom.labels.places import SEGMENTATIONS, STRUCTURE_SETS

    if item.sop_class in SEGMENTATIONS:
        return "seg"

    return "rtstruct" if item.sop_class in STRUCTURE_SETS else None


def label_objects(items: Iterable[Slice], kind: LabelKind) -> tuple[list[LabelObject], list[str]]:
    """Return the label objects of one kind, and a line for each that cannot be read.

    Their pixels are not read.
    """
    objects, problems = [], []
    for item in items:
        if kind_of(item) != kind:
            continue

        try:
            objects.append(_described(Path(item.path), kind))
        except InputError as error:
            problems.append(str(error))

    return objects, problems


def _described(file: Path, kind: LabelKind) -> LabelObject:
    from nnunet_ext.dicom.labels import contours, segmentations
    from nnunet_ext.dicom.labels.places import SEGMENTATIONS, STRUCTURE_SETS, read_object

    try:
        if kind == "seg":
            data = read_object(file, SEGMENTATIONS, with_pixels=False)
            names = list(segmentations.segment_names(data).values())
            series = segmentations.referenced_series(data)
            images = segmentations.referenced_images(data)
        else:
            data = read_object(file, STRUCTURE_SETS)
            names = contours.region_names(data)
            series = contours.referenced_series(data)
            images = contours.referenced_images(data)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"{file}: lacks what tells its regions ({type(error).__name__}); export it again"
        ) from error

    return LabelObject(file, tuple(names), frozenset(series), frozenset(images))


def masks_of(files: Sequence[Path], acquisition: Acquisition) -> dict[str, np.ndarray]:
    """Return the masks (n, row, column) of all regions of the objects, by their names.

    Raises:
        InputError: an object is damaged or lies elsewhere, or two give different regions of one
            name.
    """
    from nnunet_ext.dicom.labels.contours import masks_of_contours
    from nnunet_ext.dicom.labels.segmentations import masks_of_segmentation
    from nnunet_ext.dicom.reading.headers import read_headers

    result: dict[str, np.ndarray] = {}
    for file in files:
        is_segmentation = kind_of(read_headers(file)[0]) == "seg"
        read_masks = masks_of_segmentation if is_segmentation else masks_of_contours
        masks = read_masks(file, acquisition)
        for name, mask in masks.items():
            if name in result and not np.array_equal(result[name], mask):
                raise InputError(
                    f"{file}: another file gives a different '{name}' for this series; keep one "
                    f"of them"
                )

            result[name] = mask

    return result
