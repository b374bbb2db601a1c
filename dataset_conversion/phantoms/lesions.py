"""Generated disease in a generated chest: infections as in COVID-19, and solid nodules."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

from dataset_conversion.phantoms.anatomy import Thorax, noise_in_slices, sigmoid, smooth_noise

GROUND_GLASS_HU = (-700.0, -300.0)
FAINT_HU = (-760.0, -530.0)  # of ground glass that is hardly denser than the lung
CONSOLIDATION_HU = (-60.0, 50.0)
GROUND_GLASS, CONSOLIDATION = 1, 2
TINY_RADII = (0.035, 0.055)  # shares of half the field of view
USUAL_RADII = (0.08, 0.24)


def add_infection(
    body: Thorax,
    generator: np.random.Generator,
    extent: Literal["tiny", "usual"] = "usual",
    is_faint: bool = False,
) -> np.ndarray:
    """Add peripheral ground glass of irregular outline, at times with a consolidated core.

    Args:
        body: chest of one slice, changed in place.
        generator: decides number, place, density and outline.
        extent: one spot of a few pixels, or one to four lesions.
        is_faint: hardly denser than the lung, and nowhere consolidated.

    Returns:
        (1, row, column) uint8: 0, 1 ground glass, 2 consolidation.
    """
    label = np.zeros(body.hu.shape, np.uint8)
    is_tiny = extent == "tiny"
    count = 1 if is_tiny else int(generator.integers(1, 5))
    radii = TINY_RADII if is_tiny else USUAL_RADII
    density_hu = FAINT_HU if is_faint else GROUND_GLASS_HU
    may_consolidate = not is_tiny and not is_faint
    for _ in range(count):
        radius = generator.uniform(*radii)
        outline = _infection_outline(body, generator, radius)
        is_lesion = _add_ground_glass(body, generator, outline, density_hu)
        label[is_lesion & (label == 0)] = GROUND_GLASS

        if may_consolidate and generator.random() < 0.45:
            is_core = _add_consolidation(body, generator, outline)
            label[is_core] = CONSOLIDATION

    return label


def _add_ground_glass(
    body: Thorax,
    generator: np.random.Generator,
    outline: np.ndarray,
    density_hu: tuple[float, float],
) -> np.ndarray:
    """Blend in ground glass; return where it fills most of a voxel."""
    softness = generator.uniform(0.1, 0.25)
    share = body.lung * sigmoid(outline / softness)
    patches = 50 * noise_in_slices(generator, body.hu.shape, 1.5)
    density = generator.uniform(*density_hu) + patches
    is_denser = body.hu < density  # vessels stay visible in ground glass
    body.blend(share * is_denser, density)

    return share > 0.5


def _add_consolidation(
    body: Thorax, generator: np.random.Generator, outline: np.ndarray
) -> np.ndarray:
    """Blend a dense core into a lesion; return where it fills most of a voxel."""
    depth = generator.uniform(0.45, 0.8)
    inside_core = (outline - depth) / 0.06
    share = body.lung * sigmoid(inside_core)
    density = generator.uniform(*CONSOLIDATION_HU)
    body.blend(share, density)

    return share > 0.5


def _infection_outline(body: Thorax, generator: np.random.Generator, radius: float) -> np.ndarray:
    """Return a map that is positive inside an ellipse with dents and bulges."""
    y, x = _peripheral_place(body, generator)
    elongation = generator.uniform(0.65, 1.5)
    down = (body.y - y) * elongation
    across = (body.x - x) / elongation
    distance = np.hypot(down, across) / radius

    shape = body.hu.shape
    radius_pixels = radius * shape[1] / 2
    bulges = noise_in_slices(generator, shape, 0.35 * radius_pixels)

    return 1.15 - distance + 0.33 * bulges


def add_nodule(
    body: Thorax,
    generator: np.random.Generator,
    spacing_mm: tuple[float, float, float],
    diameter_mm: float,
) -> np.ndarray:
    """Add a solid nodule, round or spiculated, well inside a lung.

    Args:
        body: chest of several slices, changed in place.
        generator: decides place and outline.
        spacing_mm: (slice, row, column).
        diameter_mm: of the core, without spicules.

    Returns:
        (slice, row, column) uint8: 1 in the nodule.
    """
    shape = body.hu.shape
    spacing = np.array(spacing_mm)
    centre = _place_inside(body, generator, spacing, diameter_mm)
    indices = np.moveaxis(np.indices(shape), 0, -1)
    offset_mm = (indices - centre) * spacing
    distance_mm = np.linalg.norm(offset_mm, axis=-1)

    bulge_voxels = 0.3 * diameter_mm / spacing
    bulges = 0.12 * smooth_noise(generator, shape, bulge_voxels.tolist())
    radius_mm = diameter_mm / 2 * (1 + bulges)
    signed_mm = radius_mm - distance_mm
    is_spiculated = generator.random() < 0.5
    if is_spiculated:
        signed_mm = _with_spicules(generator, signed_mm, offset_mm, distance_mm, diameter_mm)

    in_lung = body.lung > 0.05
    share = sigmoid(signed_mm / 0.5) * in_lung
    density_hu = generator.uniform(-20, 60)
    body.blend(share, density_hu)
    is_nodule = share > 0.5

    return is_nodule.astype(np.uint8)


def _place_inside(
    body: Thorax, generator: np.random.Generator, spacing_mm: np.ndarray, diameter_mm: float
) -> np.ndarray:
    """Return a voxel (slice, row, column) of a lung that is not too close to its surface."""
    inside_mm = ndimage.distance_transform_edt(body.lung > 0.5, sampling=spacing_mm)
    deepest_mm = inside_mm.max()
    least_mm = min(0.6 * diameter_mm, 0.7 * deepest_mm)
    places = np.argwhere(inside_mm > least_mm)
    chosen = generator.integers(len(places))

    return places[chosen]


def _with_spicules(
    generator: np.random.Generator,
    signed_mm: np.ndarray,
    offset_mm: np.ndarray,
    distance_mm: np.ndarray,
    diameter_mm: float,
) -> np.ndarray:
    """Return the signed distance to a nodule's edge with thin cones that reach beyond the core."""
    length_mm = 1.1 * diameter_mm
    for _ in range(9):
        direction = generator.standard_normal(3)
        direction /= np.linalg.norm(direction)
        along = offset_mm @ direction
        squares = distance_mm**2 - along**2
        across = np.sqrt(np.maximum(squares, 0))
        taper = 1 - along / length_mm
        width = 0.16 * diameter_mm * taper
        is_forward = along > 0
        cone = np.where(is_forward, width - across, -np.inf)
        signed_mm = np.maximum(signed_mm, cone)

    return signed_mm


def _peripheral_place(body: Thorax, generator: np.random.Generator) -> tuple[float, float]:
    """Return a point (y, x) of the lung in one slice, mostly in its outer and lower parts."""
    lung = body.lung[0] > 0.5
    y, x = body.y[0], body.x[0]
    inside = ndimage.distance_transform_edt(lung) / body.hu.shape[1]
    outer = np.exp(-inside / 0.035)
    lower = np.exp(1.2 * y)
    within_lung = inside > 0.012
    beside_mediastinum = np.abs(x) > 0.25
    weight = within_lung * outer * lower
    weight = weight * beside_mediastinum

    probability = weight / weight.sum()
    index = generator.choice(weight.size, p=probability.ravel())
    row, column = np.unravel_index(index, weight.shape)

    return float(y[row, column]), float(x[row, column])
