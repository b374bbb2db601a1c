"""Labels that lie mirrored on their image although both headers agree: what the Hounsfield units
say of them.

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
DARK_HU = -400.0
SMALLEST_LUNG_ML = 100.0  # smaller pieces of air are airways and bowel
COARSE_MM = 4.0  # fine enough to find lungs
NEAR_MM = (
    10.0  # what lungs enclose to twice this width (vessels, nodules at the pleura) belongs to them
)
DENSER_HU = 150.0  # than the lung's median, as lesions are
SIDED = ("left lung", "right lung", "liver")
BODY_HU = -300.0  # of the patient and the table, not of air
LIVER_HU = (-50.0, 250.0)  # from fatty to enhanced


def mirrored_axes(
    image_hu: np.ndarray, label: np.ndarray, labels: Mapping[str, int], affine_mm: np.ndarray
) -> Axes:
    """Array axes along which a label must be flipped to fit its CT; empty where it fits, or where
    nothing is certain.

    Args:
        image_hu: (x, y, z) in HU.
        label: (x, y, z) of integers, on the image's grid.
        labels: value by name; names that nothing is known of are passed over.
        affine_mm: (4, 4), index to mm.
    """
    lungs = cache(lambda: LungRegion(image_hu, affine_mm))
    voxel_ml = float(spacing_of(affine_mm).prod()) / 1000
    for values, fits, lead in _evidence(labels, image_hu, lungs):
        mask = label == values[0]
        for value in values[1:]:
            mask |= label == value
        points = points_of(mask)
        if len(points) < FEWEST_POINTS or np.count_nonzero(mask) * voxel_ml < SMALLEST_ML:
            continue
        shares = shares_by_mirroring(points, label.shape, fits)
        best = max(shares, key=lambda axes: shares[axes])
        if shares[best] >= CONVINCING and shares[()] <= shares[best] - lead:
            return best
    return ()


def wrong_side(
    image: np.ndarray,
    unit: str,
    label: np.ndarray,
    labels: Mapping[str, int],
    affine_mm: np.ndarray,
) -> str:
    """What contradicts the header's left and right: a left lung on the right, a liver (in HU) on
    the left; else empty.

    Image and label may fit each other and be mirrored both. That is no proof: one person in 10 000
    is built so.
    """
    places_mm = {
        name: _mean_x_mm(label == labels[name], affine_mm) for name in SIDED if name in labels
    }
    if places_mm.get("left lung", np.nan) > places_mm.get("right lung", np.nan):
        return (
            "by the header the left lung lies on the patient's right: orientation is not "
            "trustworthy"
        )
    if (
        "liver" in places_mm
        and unit == "HU"
        and places_mm["liver"] < _mean_x_mm(image > BODY_HU, affine_mm)
    ):
        return "by the header the liver lies on the patient's left: orientation is not trustworthy"
    return ""


def _mean_x_mm(mask: np.ndarray, affine_mm: np.ndarray) -> float:
    """Where a mask lies from left to right (RAS); NaN where it is empty, which no comparison
    takes.
    """
    points = points_of(mask)
    return float(affine_mm[0] @ [*points.mean(axis=0), 1]) if len(points) else np.nan


def in_words(axes: Axes, affine_mm: np.ndarray) -> str:
    """Array axes as directions of the body.

    >>> in_words((0, 2), np.eye(4))
    'left-right and feet-head'
    """
    names = ("left-right", "front-back", "feet-head")
    directions = np.abs(affine_mm[:3, :3]).argmax(axis=0)
    return " and ".join(names[directions[axis]] for axis in axes)


def shares_by_mirroring(
    points: np.ndarray, shape: tuple[int, ...], fits: Fits
) -> dict[Axes, float]:
    """Share of a label's voxels (n, 3) that fit, as the label lies (no axes) and mirrored along one
    axis or several.
    """
    shares = {}
    for axes in (axes for count in range(4) for axes in itertools.combinations(range(3), count)):
        mirrored = points.copy()
        for axis in axes:
            mirrored[:, axis] = shape[axis] - 1 - points[:, axis]
        shares[axes] = float(fits(mirrored).mean())
    return shares


def points_of(mask: np.ndarray) -> np.ndarray:
    """Indices (n, 3) of a mask's voxels; of a large one evenly spaced ones."""
    step = max(1, int(np.cbrt(np.count_nonzero(mask) / MOST_POINTS)))
    return np.argwhere(mask[::step, ::step, ::step]) * step


def _evidence(
    labels: Mapping[str, int], image_hu: np.ndarray, lungs: Callable[[], LungRegion]
) -> Iterator[tuple[list[int], Fits, float]]:
    """Label values that stand for something known, whether voxels hold that, and the lead that is
    clear.
    """
    known = {name.casefold().replace("_", " "): value for name, value in labels.items()}
    for names in BOTH_LUNGS:
        if names <= known.keys():
            yield [known[name] for name in names], lambda at: lungs().holds(at), CLEAR_LEAD
    if "liver" in known:
        low, high = LIVER_HU
        yield (
            [known["liver"]],
            lambda at: (low < image_hu[tuple(at.T)]) & (image_hu[tuple(at.T)] < high),
            CLEAR_LEAD,
        )
    lesions = [value for name, value in known.items() if LUNG_LESIONS.issuperset(name.split("+"))]
    if lesions:
        yield lesions, lambda at: lungs().holds_lesion(at), LESION_LEAD


class LungRegion:
    """Both lungs of a chest CT on a coarse grid: large dark pieces that do not reach the sides of
    the picture.
    """

    def __init__(self, image_hu: np.ndarray, affine_mm: np.ndarray) -> None:
        from scipy import ndimage

        self.image_hu = image_hu
        spacing_mm = spacing_of(affine_mm)
        self.steps = np.maximum(1, np.round(COARSE_MM / spacing_mm)).astype(int)
        coarse = image_hu[tuple(slice(None, None, step) for step in self.steps)]
        sizes_mm = spacing_mm * self.steps
        pieces, count = ndimage.label(coarse < DARK_HU)
        volumes_ml = np.bincount(pieces.ravel(), minlength=count + 1) * sizes_mm.prod() / 1000
        wanted = volumes_ml >= SMALLEST_LUNG_ML
        sides = [axis for axis in range(3) if axis != axial_axis(affine_mm)]
        outside = [np.unique(np.take(pieces, (0, -1), axis)) for axis in sides]
        wanted[[0, *np.concatenate(outside)]] = False
        self.voxels = wanted[pieces]
        self.median_hu = float(np.median(coarse[self.voxels])) if self.voxels.any() else 0.0
        for box in ndimage.find_objects(self.voxels.astype(np.uint8)):
            margins = np.ceil(2 * NEAR_MM / sizes_mm).astype(int)
            place = tuple(
                slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, margins, strict=True)
            )
            dark = self.voxels[place]
            wide = ndimage.distance_transform_edt(~dark, sizes_mm) <= NEAR_MM
            closed = ndimage.distance_transform_edt(wide, sizes_mm) > NEAR_MM
            self.voxels[place] = ndimage.binary_fill_holes(dark | closed)

    def holds(self, at: np.ndarray) -> np.ndarray:
        """Whether voxels (n, 3) lie in the lungs."""
        inside: np.ndarray = self.voxels[tuple((at // self.steps).T)]
        return inside

    def holds_lesion(self, at: np.ndarray) -> np.ndarray:
        """Whether voxels (n, 3) lie in the lungs and are denser than these mostly are."""
        dense: np.ndarray = self.image_hu[tuple(at.T)] > self.median_hu + DENSER_HU
        return dense & self.holds(at)
