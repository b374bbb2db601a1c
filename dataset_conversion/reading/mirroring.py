"""Labels that lie mirrored on their image although both headers agree, told by Hounsfield units.

Headers prove nothing where an array was flipped without its header. But lungs are dark, a lesion in
them is denser than they are, and a liver is soft tissue. A label that would fit its image clearly
better if it were mirrored is mirrored. Everything short of that is undecided: symmetric labels,
images that are not in HU, organs of which nothing is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import numpy as np

from dataset_conversion.reading.volumes import axial_axis, spacing_of
from nnunet_ext.hounsfield import LUNG_BELOW_HU

Axes = tuple[int, ...]
Fits = Callable[[np.ndarray], np.ndarray]
"""Whether voxels (n, 3) hold what a label marks: (n,) of truth values."""

MIRRORED = "label is mirrored"  # how the complaint about a case begins
CONVINCING = 0.6  # share of a label's voxels that must fit where it is mirrored
CLEAR_LEAD = 0.1  # by which the share must exceed the one of the label as it lies; lungs and livers
LESION_LEAD = 0.3  # the same for lesions, which are small, and whose borders are matters of opinion
MOST_POINTS = 50_000  # of a label that are looked at
FEWEST_POINTS = 100  # fewer decide nothing,
SMALLEST_ML = 1.0  # nor does less than this: a vessel may look the same

# Only both lungs together: one alone may be consolidated, and its mirror image dark.
BOTH_LUNGS = (frozenset({"lung"}), frozenset({"lungs"}), frozenset({"left lung", "right lung"}))
LUNG_LESIONS = frozenset(
    {"infection", "ggo", "ground glass", "consolidation", "nodule", "cancer", "lesion"}
)
SMALLEST_LUNG_ML = 100.0  # smaller pieces of air are airways and bowel
COARSE_MM = 4.0  # fine enough to find lungs
NEAR_MM = 10.0  # what lungs enclose to twice this width (vessels, nodules) belongs to them
LESION_ABOVE_MEDIAN_HU = 150.0  # denser than the lung's median
SIDED = ("left lung", "right lung", "liver")
BODY_ABOVE_HU = -300.0  # the patient and the table, not air
LIVER_RANGE_HU = (-50.0, 250.0)  # from fatty to enhanced


def mirrored_axes(
    image_hu: np.ndarray, label: np.ndarray, labels: Mapping[str, int], affine_mm: np.ndarray
) -> Axes:
    """Return the array axes along which a label must be flipped to fit its CT.

    They are empty where it fits, or where nothing is certain.

    Args:
        image_hu: (x, y, z) in HU.
        label: (x, y, z) of integers, on the image's grid.
        labels: value by name; names that nothing is known of are ignored.
        affine_mm: (4, 4), index to mm.
    """
    lungs = cache(lambda: LungRegion(image_hu, affine_mm))
    voxel_ml = float(spacing_of(affine_mm).prod()) / 1000
    for values, fits, lead in _evidence(labels, image_hu, lungs):
        mask = label == values[0]
        for value in values[1:]:
            mask |= label == value
        points = points_of(mask)
        volume_ml = np.count_nonzero(mask) * voxel_ml
        if len(points) < FEWEST_POINTS or volume_ml < SMALLEST_ML:
            continue

        shares = shares_by_mirroring(points, label.shape, fits)
        best, best_share = max(shares.items(), key=lambda item: item[1])
        if best_share >= CONVINCING and shares[()] <= best_share - lead:
            return best

    return ()


def wrong_side(
    image: np.ndarray,
    unit: str,
    label: np.ndarray,
    labels: Mapping[str, int],
    affine_mm: np.ndarray,
) -> str:
    """Return what contradicts the header's left and right; empty where nothing does.

    It may be a left lung on the right, or a liver (in HU) on the left. Image and label may fit each
    other and both be mirrored. That is no proof: one person in 10 000 is built so.
    """
    x_mm = {}
    for name in SIDED:
        if name in labels:
            x_mm[name] = _mean_x_mm(label == labels[name], affine_mm)

    if x_mm.get("left lung", np.nan) > x_mm.get("right lung", np.nan):
        return (
            "by the header the left lung lies on the patient's right: orientation is not "
            "trustworthy"
        )
    if "liver" not in x_mm or unit != "HU":
        return ""

    if x_mm["liver"] < _mean_x_mm(image > BODY_ABOVE_HU, affine_mm):
        return "by the header the liver lies on the patient's left: orientation is not trustworthy"

    return ""


def _mean_x_mm(mask: np.ndarray, affine_mm: np.ndarray) -> float:
    """Return where a mask lies from left to right (RAS).

    It is NaN for an empty one, with which every comparison is False.
    """
    points = points_of(mask)
    if not len(points):
        return np.nan

    centre = points.mean(axis=0)
    to_x_mm = affine_mm[0]

    return float(to_x_mm @ [*centre, 1])


def in_words(axes: Axes, affine_mm: np.ndarray) -> str:
    """Return array axes as directions of the body.

    >>> in_words((0, 2), np.eye(4))
    'left-right and feet-head'
    """
    names = ("left-right", "front-back", "feet-head")
    directions = np.abs(affine_mm[:3, :3]).argmax(axis=0)
    return " and ".join(names[directions[axis]] for axis in axes)


def shares_by_mirroring(
    points: np.ndarray, shape: tuple[int, ...], fits: Fits
) -> dict[Axes, float]:
    """Return the share of a label's voxels (n, 3) that fit, by the axes along which it is mirrored.

    No axes stand for the label as it lies.
    """
    last = np.array(shape) - 1
    shares: dict[Axes, float] = {}
    for count in range(4):
        for axes in itertools.combinations(range(3), count):
            mirrored = points.copy()
            for axis in axes:
                mirrored[:, axis] = last[axis] - points[:, axis]
            is_fitting = fits(mirrored)
            shares[axes] = float(is_fitting.mean())

    return shares


def points_of(mask: np.ndarray) -> np.ndarray:
    """Return the indices (n, 3) of a mask's voxels; of a large one evenly spaced ones."""
    excess = np.count_nonzero(mask) / MOST_POINTS
    step = max(1, int(np.cbrt(excess)))
    coarse = mask[::step, ::step, ::step]

    return np.argwhere(coarse) * step


def _evidence(
    labels: Mapping[str, int], image_hu: np.ndarray, lungs: Callable[[], LungRegion]
) -> Iterator[tuple[list[int], Fits, float]]:
    """Yield label values that stand for something known.

    With them come whether voxels hold that, and the lead in fitting voxels that is clear.
    """
    known = {name.casefold().replace("_", " "): value for name, value in labels.items()}
    for names in BOTH_LUNGS:
        if names <= known.keys():
            yield [known[name] for name in names], lambda at: lungs().holds(at), CLEAR_LEAD

    if "liver" in known:
        yield [known["liver"]], lambda at: _is_liver(image_hu[tuple(at.T)]), CLEAR_LEAD

    lesions = [value for name, value in known.items() if LUNG_LESIONS.issuperset(name.split("+"))]
    if lesions:
        yield lesions, lambda at: lungs().holds_lesion(at), LESION_LEAD


def _is_liver(hu: np.ndarray) -> np.ndarray:
    low, high = LIVER_RANGE_HU
    return (low < hu) & (hu < high)


class LungRegion:
    """Both lungs of a chest CT: large dark pieces that do not reach the sides of the picture.

    ``voxels`` is a mask on a coarse grid, every so many ``steps`` of the image.
    """

    def __init__(self, image_hu: np.ndarray, affine_mm: np.ndarray) -> None:
        self.image_hu = image_hu
        spacing_mm = spacing_of(affine_mm)
        whole_steps = np.round(COARSE_MM / spacing_mm)
        self.steps = np.maximum(1, whole_steps).astype(int)
        every_step = tuple(slice(None, None, step) for step in self.steps)
        coarse_hu = image_hu[every_step]
        sizes_mm = spacing_mm * self.steps

        self.voxels = _dark_pieces(coarse_hu, sizes_mm, axial_axis(affine_mm))
        self.median_hu = 0.0
        if self.voxels.any():
            lung_hu = coarse_hu[self.voxels]
            self.median_hu = float(np.median(lung_hu))
        _fill_gaps(self.voxels, sizes_mm)

    def holds(self, at: np.ndarray) -> np.ndarray:
        """Whether voxels (n, 3) lie in the lungs."""
        inside: np.ndarray = self.voxels[tuple((at // self.steps).T)]
        return inside

    def holds_lesion(self, at: np.ndarray) -> np.ndarray:
        """Whether voxels (n, 3) lie in the lungs and are denser than these mostly are."""
        hu = self.image_hu[tuple(at.T)]
        is_dense: np.ndarray = hu > self.median_hu + LESION_ABOVE_MEDIAN_HU

        return is_dense & self.holds(at)


def _dark_pieces(hu: np.ndarray, sizes_mm: np.ndarray, axial: int) -> np.ndarray:
    """Return the large dark pieces that do not reach the sides of the axial slices, as a mask."""
    from scipy import ndimage

    pieces, count = ndimage.label(hu < LUNG_BELOW_HU)
    volumes_ml = np.bincount(pieces.ravel(), minlength=count + 1) * sizes_mm.prod() / 1000
    is_wanted = volumes_ml >= SMALLEST_LUNG_ML
    is_wanted[0] = False
    for axis in range(3):
        if axis != axial:
            at_sides = np.take(pieces, (0, -1), axis)
            is_wanted[np.unique(at_sides)] = False

    wanted: np.ndarray = is_wanted[pieces]

    return wanted


def _fill_gaps(mask: np.ndarray, sizes_mm: np.ndarray) -> None:
    """Add what the mask encloses, in place: a closing, then holes."""
    from scipy import ndimage

    margins = np.ceil(2 * NEAR_MM / sizes_mm).astype(int)
    for box in ndimage.find_objects(mask.astype(np.uint8)):
        place = []
        for part, margin in zip(box, margins, strict=True):
            start = max(0, part.start - margin)
            place.append(slice(start, part.stop + margin))

        around = mask[tuple(place)]
        from_mask_mm = ndimage.distance_transform_edt(~around, sizes_mm)
        wide = from_mask_mm <= NEAR_MM
        from_outside_mm = ndimage.distance_transform_edt(wide, sizes_mm)
        closed = from_outside_mm > NEAR_MM
        around[:] = ndimage.binary_fill_holes(around | closed)
