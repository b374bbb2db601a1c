"""Single slices of head CT: which can be read, how thick they are, and those without geometry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dataset_conversion.converter import Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.dicom_cases import DicomCase
from dataset_conversion.reading.haemorrhage_labels import read_slice_mask
from nnunet_ext.errors import InputError
from nnunet_ext.hounsfield import AIR_SHOWS_BELOW_HU, FILL_HU, PADDING_BELOW_HU

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.rules import Rules
    from nnunet_ext.dicom.reading.volume import Volume

SLICES_WITHOUT_PLACE = "no pixel spacing in the file, 1 mm assumed"


@dataclass(frozen=True, kw_only=True)
class LayerCase(DicomCase):
    """A case that is a single image, as thick as the slices of its series are apart."""

    thickness_mm: float


def read_placed_slice(case: SourceCase, rules: Rules) -> Volume:
    """Read one image of the challenge at its place, as a volume of one layer.

    Raises:
        InputError: it is damaged, or of a kind that is not taken.
    """
    from nnunet_ext.dicom.reading.headers import read_headers
    from nnunet_ext.dicom.reading.series import acquisitions_of
    from nnunet_ext.dicom.reading.volume import read_volume

    assert isinstance(case, LayerCase)
    file = case.image_files[0]
    slices = [item._replace(thickness_mm=case.thickness_mm) for item in read_headers(file)]
    accepted, rejected = acquisitions_of(slices, rules)
    if len(accepted) != 1:
        reason = rejected[0].reason if rejected else f"holds {len(accepted)} images"
        raise InputError(f"{file}: {reason}; remove the file")

    return read_volume(accepted[0])


def read_bare_slice(case: SourceCase, types: bool) -> LoadedCase:
    """Read a slice without any geometry, as those of ct-ich are passed on.

    Args:
        case: to read.
        types: masks hold BHSD's types; otherwise anything marked is haemorrhage.

    Raises:
        InputError: a file is damaged, or not a single slice.
    """
    from nnunet_ext.dicom.reading.headers import read_headers
    from nnunet_ext.dicom.reading.pixels import read_pixels

    file = case.image_files[0]
    slices = read_headers(file)
    if len(slices) != 1:
        raise InputError(f"{file}: holds {len(slices)} images, expected one slice")

    values = read_pixels(slices[0]).values.T[:, :, None]
    hu, transforms, remarks = as_hu(values)
    remarks = (SLICES_WITHOUT_PLACE, *remarks)
    place_mm = np.diag([-1.0, -1.0, 1.0, 1.0])
    loaded = LoadedCase(hu[None], None, "HU", place_mm, transforms=transforms, warnings=remarks)
    if not case.label_files:
        return loaded

    label, _, warnings = read_slice_mask(case.label_files[0], types, place_mm)
    if label.ndim == 3:
        raise InputError(
            f"{case.label_files[0]}: is a volume, its image {file.name} a slice without a place"
        )

    return replace(loaded, label=label.T[:, :, None], warnings=(*remarks, *warnings))


def as_hu(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Return values said to be Hounsfield units, with padding set to air.

    Returns:
        The values, what was done to them, and a warning where they seem to be something else.
    """
    is_padding = values < PADDING_BELOW_HU
    transforms = ("padding set to air",) if is_padding.any() else ()
    filled = np.where(is_padding, FILL_HU, values)

    warnings: tuple[str, ...] = ()
    lowest = filled.min(initial=0)
    if lowest >= AIR_SHOWS_BELOW_HU:
        warnings = (f"no value lies below {AIR_SHOWS_BELOW_HU}: perhaps not HU",)

    stored_type: type[np.generic] = np.float32
    largest = np.abs(filled).max(initial=0)
    if filled.dtype.kind == "i" and largest < 1 << 15:
        stored_type = np.int16

    return filled.astype(stored_type), transforms, warnings


def of_one_rescaling(slices: Sequence[Slice], found: Inventory) -> list[Slice]:
    """Return the images without those that lost the rescaling which others of their series state.

    Args:
        slices: to choose from.
        found: receives what was left out.
    """
    from nnunet_ext.dicom.reading.series import series_of

    lost: set[tuple[str, int | None]] = set()
    for members in series_of(slices):
        fullest = max((item.rescaling for item in members), key=len)
        without = [item for item in members if item.rescaling != fullest]
        if not without:
            continue

        for item in without:
            lost.add((item.path, item.frame))
        found.problems.append(
            f"{without[0].path}: and {len(without) - 1} more images of its series state no "
            f"{fullest}, as the others do, so their values are unknown; left out"
        )

    return [item for item in slices if (item.path, item.frame) not in lost]


def steps_of_series_mm(slices: Sequence[Slice]) -> dict[str, float]:
    """Return the typical distance between the slices of each file's series.

    It is 1 mm where the series tells none.
    """
    series: dict[tuple[str, str], list[Slice]] = defaultdict(list)
    for item in slices:
        key = (item.study_uid, item.series_uid)
        series[key].append(item)

    steps_mm: dict[str, float] = {}
    for members in series.values():
        step_mm = _typical_step_mm(members)
        for item in members:
            steps_mm[item.path] = step_mm

    return steps_mm


def _typical_step_mm(slices: Sequence[Slice]) -> float:
    heights_mm = [_height_mm(item) for item in slices]
    places_mm = np.unique(np.round(heights_mm, 2))
    if len(places_mm) < 2:
        return 1.0

    steps_mm = np.diff(places_mm)
    return float(np.median(steps_mm))


def _height_mm(item: Slice) -> float:
    """Return the position along the slice's normal; 0 where the header gives none."""
    if not item.position_mm or not item.orientation:
        return 0.0

    normal = np.cross(item.orientation[:3], item.orientation[3:])
    return float(np.dot(normal, item.position_mm))
