"""Generated disease in a generated chest: infections as in COVID-19, and solid nodules."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

from dataset_conversion.phantoms.anatomy import Thorax, smooth_noise

GROUND_GLASS_HU = (-700.0, -300.0)
CONSOLIDATION_HU = (-60.0, 50.0)
GROUND_GLASS, CONSOLIDATION = 1, 2


def add_infection(
    body: Thorax, generator: np.random.Generator, extent: Literal["tiny", "usual"] = "usual"
) -> np.ndarray:
    """Add peripheral ground glass of irregular outline, at times with a consolidated core.

    Args:
        body: chest of one slice, changed in place.
        generator: decides number, place, density and outline.
        extent: one faint spot of a few pixels, or one to four lesions.

    Returns:
        (1, row, column) uint8: 0, 1 ground glass, 2 consolidation.
    """
    is_tiny = extent == "tiny"
    shape = body.hu.shape
    label = np.zeros(shape, np.uint8)
    count = 1 if is_tiny else int(generator.integers(1, 5))
    for _ in range(count):
        smallest, largest = (0.035, 0.055) if is_tiny else (0.08, 0.24)
        radius = generator.uniform(smallest, largest)
        outline = _infection_outline(body, generator, radius)
        softness = generator.uniform(0.1, 0.25)
        share = body.lung * _sigmoid(outline / softness)
        patchy = 50 * smooth_noise(generator, shape, (0, 1.5, 1.5))
        density = generator.uniform(*GROUND_GLASS_HU) + patchy
        body.blend(share * (body.hu < density), density)  # vessels stay visible in ground glass
        label[(share > 0.5) & (label == 0)] = GROUND_GLASS

        if not is_tiny and generator.random() < 0.45:
            depth = generator.uniform(0.45, 0.8)
            core = body.lung * _sigmoid((outline - depth) / 0.06)
            body.blend(core, generator.uniform(*CONSOLIDATION_HU))
            label[core > 0.5] = CONSOLIDATION

    return label


def _infection_outline(body: Thorax, generator: np.random.Generator, radius: float) -> np.ndarray:
    """Return a map that is positive inside an ellipse with dents and bulges."""
    _, y, x = _place(body, generator, peripheral=True)
    elongation = generator.uniform(0.65, 1.5)
    down = (body.y - y) * elongation
    across = (body.x - x) / elongation
    distance = np.hypot(down, across) / radius
    pixels = radius * body.hu.shape[1] / 2
    bulge_pixels = 0.35 * pixels
    bulges = 0.33 * smooth_noise(generator, body.hu.shape, (0, bulge_pixels, bulge_pixels))

    return 1.15 - distance + bulges


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
    inside_mm = ndimage.distance_transform_edt(body.lung > 0.5, sampling=spacing)
    places = np.argwhere(inside_mm > min(0.6 * diameter_mm, 0.7 * inside_mm.max()))
    centre = places[generator.integers(len(places))]
    indices = np.moveaxis(np.indices(shape), 0, -1)
    offset_mm = (indices - centre) * spacing
    distance_mm = np.linalg.norm(offset_mm, axis=-1)

    bulge_voxels = [0.3 * diameter_mm / size for size in spacing_mm]
    bulges = 0.12 * smooth_noise(generator, shape, bulge_voxels)
    radius_mm = diameter_mm / 2 * (1 + bulges)
    signed_mm = radius_mm - distance_mm
    if generator.random() < 0.5:
        signed_mm = _with_spicules(generator, signed_mm, offset_mm, distance_mm, diameter_mm)

    share = _sigmoid(signed_mm / 0.5) * (body.lung > 0.05)
    body.blend(share, generator.uniform(-20, 60))

    return (share > 0.5).astype(np.uint8)


def _with_spicules(
    generator: np.random.Generator,
    signed_mm: np.ndarray,
    offset_mm: np.ndarray,
    distance_mm: np.ndarray,
    diameter_mm: float,
) -> np.ndarray:
    """Return the signed distance to a nodule's edge with thin cones that reach beyond the core."""
    for _ in range(9):
        direction = generator.standard_normal(3)
        direction /= np.linalg.norm(direction)
        along = offset_mm @ direction
        across = np.sqrt(np.maximum(distance_mm**2 - along**2, 0))
        width = 0.16 * diameter_mm * (1 - along / (1.1 * diameter_mm))
        cone = np.where(along > 0, width - across, -np.inf)
        signed_mm = np.maximum(signed_mm, cone)

    return signed_mm


def _place(
    body: Thorax, generator: np.random.Generator, peripheral: bool
) -> tuple[float, float, float]:
    """Return a point of the lung (z, y, x); infections prefer the outer and lower parts."""
    inside = ndimage.distance_transform_edt(body.lung[0] > 0.5) / body.hu.shape[1]
    outer = np.exp(-inside / 0.035) if peripheral else 1
    lower = np.exp(1.2 * body.y[0])
    weight = (inside > 0.012) * outer * lower
    weight = weight * (np.abs(body.x[0]) > 0.25)
    index = generator.choice(weight.size, p=(weight / weight.sum()).ravel())
    row, column = np.unravel_index(index, weight.shape)
    z = float(body.z[0, 0, 0])
    y = float(body.y[0, row, column])
    x = float(body.x[0, row, column])

    return z, y, x


def _sigmoid(value: np.ndarray) -> np.ndarray:
    limited = np.clip(value, -40, 40)
    return 1 / (1 + np.exp(-limited))
