"""Single slices of head CT: which of them can be read, how thick their layers are, and those
without any geometry.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dataset_conversion.converter import Case, Found, Reading
from dataset_conversion.reading.haemorrhage_labels import read_slice_mask
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.rules import Rules
    from nnunet_ext.dicom.reading.volume import Volume

SLICES_WITHOUT_PLACE = "no pixel spacing in the file, 1 mm assumed"


def read_placed_slice(case: Case, rules: Rules) -> Volume:
    """One image of the challenge at its place, as a volume of one layer."""
    from nnunet_ext.dicom.reading.headers import read_headers
    from nnunet_ext.dicom.reading.series import acquisitions_of
    from nnunet_ext.dicom.reading.volume import read_volume

    file = case.image_files[0]
    slices = [
        item._replace(thickness_mm=float(case.details["step_mm"])) for item in read_headers(file)
    ]
    accepted, rejected = acquisitions_of(slices, rules)
    if len(accepted) != 1:
        reason = rejected[0].reason if rejected else f"holds {len(accepted)} images"
        raise InputError(f"{file}: {reason}; remove the file")
    return read_volume(accepted[0])


def read_bare_slice(case: Case, types: bool) -> Reading:
    """A slice without any geometry, as ct-ich's are passed on."""
    from nnunet_ext.dicom.reading.headers import read_headers
    from nnunet_ext.dicom.reading.pixels import read_pixels

    file = case.image_files[0]
    slices = read_headers(file)
    if len(slices) != 1:
        raise InputError(f"{file}: holds {len(slices)} images, expected one slice")
    hu, transforms, remarks = as_hu(read_pixels(slices[0]).values.T[:, :, None])
    remarks = (SLICES_WITHOUT_PLACE, *remarks)
    place_mm = np.diag([-1.0, -1.0, 1.0, 1.0])
    reading = Reading(hu[None], None, "HU", place_mm, transforms=transforms, warnings=remarks)
    if not case.label_files:
        return reading
    label, _, warnings = read_slice_mask(case.label_files[0], types, place_mm)
    if label.ndim == 3:
        raise InputError(
            f"{case.label_files[0]}: is a volume, its image {file.name} a slice without a place"
        )
    return replace(reading, label=label.T[:, :, None], warnings=(*remarks, *warnings))


def as_hu(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Values said to be Hounsfield units, with padding as air; what was done, and a warning if they
    seem not to be.
    """
    from nnunet_ext.dicom.reading.pixels import FILL_HU, PADDING_BELOW_HU
    from nnunet_ext.dicom.reading.volume import AIR_SHOWS_BELOW_HU

    padding = values < PADDING_BELOW_HU
    transforms = ("padding set to air",) if padding.any() else ()
    values = np.where(padding, FILL_HU, values)
    whole = values.dtype.kind == "i" and np.abs(values).max(initial=0) < 1 << 15
    warnings = (
        ()
        if values.min(initial=0) < AIR_SHOWS_BELOW_HU
        else (f"no value lies below {AIR_SHOWS_BELOW_HU}: perhaps not HU",)
    )
    return values.astype(np.int16 if whole else np.float32), transforms, warnings


def of_one_rescaling(slices: list[Slice], found: Found) -> list[Slice]:
    """Images without those whose rescaling is lost: others of their series state one."""
    from nnunet_ext.dicom.reading.series import series_of

    lost: set[tuple[str, int | None]] = set()
    for members in series_of(slices):
        fullest = max((item.rescaling for item in members), key=len)
        without = [item for item in members if item.rescaling != fullest]
        lost.update((item.path, item.frame) for item in without)
        if without:
            found.problems.append(
                f"{without[0].path}: and {len(without) - 1} more images of its series state no "
                f"{fullest}, as "
                "the others do, so their values are unknown; left out"
            )
    return [item for item in slices if (item.path, item.frame) not in lost]


def steps_of_series_mm(slices: list[Slice]) -> dict[str, float]:
    """Typical distance between the slices of each file's series; 1 mm where the series tells
    none.
    """
    series: dict[tuple[str, str], list[Slice]] = defaultdict(list)
    for item in slices:
        series[item.study_uid, item.series_uid].append(item)
    result: dict[str, float] = {}
    for members in series.values():
        places = np.unique(np.round([_height_mm(item) for item in members], 2))
        step_mm = float(np.median(np.diff(places))) if len(places) > 1 else 1.0
        result.update({item.path: step_mm for item in members})
    return result


def _height_mm(item: Slice) -> float:
    """Position along the slice's normal; 0 where the header gives none."""
    if not (item.position_mm and item.orientation):
        return 0.0
    return float(np.dot(np.cross(item.orientation[:3], item.orientation[3:]), item.position_mm))
