import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunet_ext.evaluation.metrics.surfaces import (
    _element_areas,
    assd,
    hd95,
    surface_dice,
    surface_distances,
)

metrics = pytest.importorskip("monai.metrics")
torch = pytest.importorskip("torch")
SPACING = (5.0, 0.7, 0.8)


def point(*index: int) -> np.ndarray:
    mask = np.zeros((6, 9, 9), bool)
    mask[index] = True
    return mask


def ball(radius_mm: float, spacing: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    return sum(x**2 for x in np.meshgrid(*axes, indexing="ij")) <= radius_mm**2


def border(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Positions in mm of the voxels with a background neighbour by face; outside the array is
    background.
    """
    padded = np.pad(mask, 1)
    voxels = []
    for index in zip(*np.nonzero(padded), strict=True):
        neighbours = [
            padded[tuple(np.add(index, step))]
            for axis in np.eye(mask.ndim, dtype=int)
            for step in (axis, -axis)
        ]
        if not all(neighbours):
            voxels.append(np.multiply(index, spacing))
    return np.array(voxels)


def distances_by_loop(a: np.ndarray, b: np.ndarray) -> list[float]:
    return [min(float(np.linalg.norm(x - y)) for y in b) for x in a]


@pytest.mark.parametrize(
    ("step", "distance"), [((2, 0, 0), 10.0), ((0, 3, 0), 2.1), ((1, 0, 2), math.hypot(5, 1.6))]
)
def test_two_voxels(step: tuple[int, ...], distance: float) -> None:
    first, second = point(2, 4, 4), point(*np.add((2, 4, 4), step))
    assert hd95(first, second, SPACING) == pytest.approx(distance)
    assert assd(first, second, SPACING) == pytest.approx(distance)
    assert surface_dice(first, second, SPACING, distance - 0.01) < 1
    assert surface_dice(first, second, SPACING, distance + 0.01) == 1


def test_concentric_balls() -> None:
    """Radii 12 and 9 mm, 3 mm apart everywhere; voxels of 1 mm blur that by less than one."""
    spacing, shape = (1.0, 1.0, 1.0), (31, 31, 31)
    outer, inner = ball(12, spacing, shape), ball(9, spacing, shape)
    assert hd95(outer, inner, spacing) == pytest.approx(3, abs=0.6)
    assert assd(outer, inner, spacing) == pytest.approx(3, abs=0.3)
    assert (
        surface_dice(outer, inner, spacing, 1.5) == 0
        and surface_dice(outer, inner, spacing, 4) == 1
    )


def test_half_of_both_surfaces_is_near() -> None:
    """A plate of two square sheets against one of them: 2 of its 3 sheets lie at distance 0, the
    third at 20 voxels.
    """
    shape = (60, 40, 40)
    one, two = np.zeros(shape, bool), np.zeros(shape, bool)
    one[10:12, 5:35, 5:35] = two[10:12, 5:35, 5:35] = True
    two[40:42, 5:35, 5:35] = True
    assert surface_dice(two, one, (1, 1, 1), 1.0) == pytest.approx(2 / 3)


@settings(max_examples=25)
@given(
    hnp.arrays(bool, (3, 4, 5)),
    hnp.arrays(bool, (3, 4, 5)),
    st.sampled_from([(1, 1, 1), (5.0, 0.7, 0.8)]),
)
def test_distances_equal_a_loop_over_border_voxels(
    p: np.ndarray, g: np.ndarray, spacing: tuple[float, ...]
) -> None:
    if not (p.any() and g.any()):
        assert all(math.isnan(value) for value in surface_distances(p, g, spacing).values())
        return
    a, b = border(p, spacing), border(g, spacing)
    there, back = distances_by_loop(a, b), distances_by_loop(b, a)
    assert assd(p, g, spacing) == pytest.approx(np.mean(there + back), rel=1e-5)
    assert hd95(p, g, spacing) == pytest.approx(
        max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5
    )


@settings(max_examples=25)
@given(hnp.arrays(bool, (3, 4, 5)), hnp.arrays(bool, (3, 4, 5)), st.floats(0.1, 20))
def test_surface_dice_is_symmetric_and_grows_with_the_tolerance(
    p: np.ndarray, g: np.ndarray, tolerance: float
) -> None:
    value = surface_dice(p, g, SPACING, tolerance)
    if not p.any() and not g.any():
        assert math.isnan(value)
        return
    assert value == pytest.approx(surface_dice(g, p, SPACING, tolerance))
    assert 0 <= value <= surface_dice(p, g, SPACING, 2 * tolerance) <= 1
    if p.any():
        assert surface_dice(p, p, SPACING, 0.0) == 1


def test_pictures_and_masks_that_touch_the_edge() -> None:
    full = np.ones((4, 6))
    assert surface_dice(full, full, (1, 1), 0) == 1 and hd95(full, full, (1, 1)) == 0
    half = np.zeros((4, 6))
    half[:, :3] = 1
    assert hd95(full, half, (1.0, 2.0)) == pytest.approx(
        6
    )  # the rightmost column is three columns of 2 mm away


def test_empty_masks() -> None:
    nothing, something = np.zeros((3, 4, 5)), np.ones((3, 4, 5))
    assert math.isnan(surface_dice(nothing, nothing, SPACING, 3))
    assert (
        surface_dice(something, nothing, SPACING, 3)
        == surface_dice(nothing, something, SPACING, 3)
        == 0
    )
    for metric in (hd95, assd):
        assert math.isnan(metric(something, nothing, SPACING)) and math.isnan(
            metric(nothing, nothing, SPACING)
        )


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, 1, 1)])
def test_spacing_must_fit(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="spacing"):
        hd95(np.ones((2, 2, 2)), np.ones((2, 2, 2)), spacing)


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(5.0, 0.7, 0.8), (1.0, 1.0, 1.0), (0.7, 0.8)]),
    st.floats(0.3, 6),
)
def test_agreement_with_monai(seed: int, spacing: tuple[float, ...], tolerance: float) -> None:
    """MONAI's sub-voxel surface Dice (equal to DeepMind's surface-distance), Hausdorff and mean
    surface distances.
    """
    rng = np.random.default_rng(seed)
    p, g = (
        np.asarray(rng.uniform(size=(6, 7, 8)[-len(spacing) :]) < rng.uniform(0.1, 0.9))
        for _ in range(2)
    )
    p.flat[0] = g.flat[-1] = True
    batch = [torch.from_numpy(mask)[None, None] for mask in (p, g)]
    options = {"include_background": True, "spacing": list(spacing)}
    theirs = metrics.compute_surface_dice(
        *batch, class_thresholds=[tolerance], use_subvoxels=True, **options
    )
    assert surface_dice(p, g, spacing, tolerance) == pytest.approx(theirs.item(), abs=1e-4)
    theirs = metrics.compute_hausdorff_distance(*batch, percentile=95, **options)
    assert hd95(p, g, spacing) == pytest.approx(theirs.item(), rel=1e-4)
    theirs = metrics.compute_average_surface_distance(*batch, symmetric=True, **options)
    assert assd(p, g, spacing) == pytest.approx(theirs.item(), rel=1e-4)


def test_a_distance_of_exactly_the_tolerance_is_within_it() -> None:
    """A box of 4 x 20 x 14 voxels shifted along a row; every surface element is at most the shift
    away.
    """
    for spacing, shift, tolerance in (
        ((2.5, 0.7, 0.7), 1, 0.7),
        ((1.0, 0.6, 0.6), 5, 3.0),
        ((1.0, 0.3, 0.3), 10, 3.0),
    ):
        reference = np.zeros((8, 60, 80), bool)
        reference[2:6, 10:30, 7:21] = True
        moved = np.roll(reference, shift, axis=2)
        assert surface_dice(moved, reference, spacing, tolerance) == 1
        assert surface_dice(moved, reference, spacing, tolerance * 0.99) < 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.8), (0.7, 0.8), (3.0, 1.0)])
def test_areas_of_surface_elements_equal_monai(spacing: tuple[float, ...]) -> None:
    """MONAI numbers the voxels in the reverse order."""
    theirs, kernel = pytest.importorskip("monai.metrics.utils").get_code_to_measure_table(
        list(spacing)
    )
    assert np.ravel(kernel).tolist() == [1 << bit for bit in reversed(range(1 << len(spacing)))]
    bits = 1 << len(spacing)
    reversed_codes = [int(f"{code:0{bits}b}"[::-1], 2) for code in range(1 << bits)]
    np.testing.assert_allclose(
        _element_areas(spacing), np.asarray(theirs)[reversed_codes], rtol=1e-6, atol=1e-6
    )
