"""Generated axial slices of a head: tissues, and lesions of irregular outline in the brain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset_conversion.phantoms.anatomy import smooth_noise

FIELD_OF_VIEW_MM = 220.0
AIR, SCALP, BONE, FLUID, GREY, WHITE, FALX = range(7)
TISSUES = ("air", "scalp", "bone", "fluid", "grey matter", "white matter", "falx")
FLUID_MM = 2.5  # between brain and skull


@dataclass
class Head:
    """One slice; arrays are ``(row, column)``, rows from front to back.

    ``depth_mm`` is the depth below the surface of the brain, negative outside. ``across`` and
    ``along`` are places in the brain's own axes, -1..1 from side to side and from front to back.
    """

    tissue: np.ndarray
    depth_mm: np.ndarray
    across: np.ndarray
    along: np.ndarray
    pixel_mm: float

    @property
    def inside_skull(self) -> np.ndarray:
        """Brain and the fluid around it, bool ``(row, column)``."""
        return self.depth_mm > -FLUID_MM


def head_slice(generator: np.random.Generator, size: int, level: float) -> Head:
    """Return a head without disease.

    Args:
        generator: decides build, posture and folds.
        size: rows and columns.
        level: 0 through the ventricles to 1 near the vertex, where the slice is small.
    """
    head = _placed_head(generator, size, level)
    _brain(head, generator)
    _ventricles(head, generator, level)
    _covers(head, generator)

    return head


def _placed_head(generator: np.random.Generator, size: int, level: float) -> Head:
    """Return an empty head with its axes: shifted, turned and not quite an ellipse."""
    pixel_mm = FIELD_OF_VIEW_MM / size
    middle = (size - 1) / 2
    places_mm = (np.arange(size) - middle) * pixel_mm
    row_mm, column_mm = np.meshgrid(places_mm, places_mm, indexing="ij")
    row_mm = row_mm - generator.normal(0, 4)
    column_mm = column_mm - generator.normal(0, 4)

    angle = np.deg2rad(generator.normal(0, 6))
    cosine = np.cos(angle)
    sine = np.sin(angle)
    turned_column = cosine * column_mm + sine * row_mm
    turned_row = cosine * row_mm - sine * column_mm

    height = 0.75 * level
    scale = np.sqrt(1 - height**2)
    half_width_mm = 64 * scale * generator.uniform(0.94, 1.06)
    half_length_mm = 80 * scale * generator.uniform(0.94, 1.06)
    across = turned_column / half_width_mm
    along = turned_row / half_length_mm

    radius = np.hypot(across, along)
    wobble = 0.02 * smooth_noise(generator, radius.shape, 20 / pixel_mm)
    radius = radius * (1 + wobble)
    depth_mm = (1 - radius) * (half_width_mm + half_length_mm) / 2

    return Head(
        tissue=np.full((size, size), AIR, np.uint8),
        depth_mm=depth_mm,
        across=across,
        along=along,
        pixel_mm=pixel_mm,
    )


def _brain(head: Head, generator: np.random.Generator) -> None:
    """Add grey matter with folds, white matter, grey nuclei, and the falx between the halves."""
    tissue = head.tissue
    folds = smooth_noise(generator, tissue.shape, 5 / head.pixel_mm)
    wobble = smooth_noise(generator, tissue.shape, 4 / head.pixel_mm)
    cortex_mm = np.maximum(6 + 3 * wobble, 2)
    in_brain = head.depth_mm > 0
    tissue[in_brain] = GREY
    tissue[head.depth_mm > cortex_mm] = WHITE

    is_folded = np.abs(folds) < 0.1
    near_surface = head.depth_mm < 14
    tissue[is_folded & near_surface & in_brain] = FLUID

    for side in (-1, 1):
        across = (head.across - 0.32 * side) / 0.13
        along = (head.along + 0.02) / 0.22
        in_nucleus = np.hypot(across, along) < 1
        is_white = tissue == WHITE
        tissue[in_nucleus & is_white] = GREY

    between_halves = np.abs(head.across) < 0.014
    at_either_end = np.abs(head.along) > 0.45
    tissue[between_halves & at_either_end & in_brain] = FALX


def _ventricles(head: Head, generator: np.random.Generator, level: float) -> None:
    """Add two bent ventricles; none near the vertex."""
    below_vertex = 1 - level
    width = 0.1 * below_vertex * generator.uniform(0.7, 1.4)
    half_length = 0.36 * np.sqrt(max(below_vertex, 0))
    length = half_length * generator.uniform(0.85, 1.15)
    if width < 0.02:
        return

    bend = 0.12 + 0.35 * head.along**2
    along = (head.along + 0.03) / length
    is_deep = head.depth_mm > 8
    for side in (-1, 1):
        across = (side * head.across - bend) / width
        in_ventricle = np.hypot(across, along) < 1
        head.tissue[in_ventricle & is_deep] = FLUID


def _covers(head: Head, generator: np.random.Generator) -> None:
    """Add fluid, skull and scalp around the brain, each of varying thickness."""
    slow = 0.7 * smooth_noise(generator, head.tissue.shape, 15 / head.pixel_mm)
    bone_mm = generator.uniform(5.5, 8) + slow
    scalp_mm = generator.uniform(4, 8) + slow
    outside_mm = -head.depth_mm
    skull_mm = FLUID_MM + bone_mm
    skin_mm = skull_mm + scalp_mm

    beyond_fluid = outside_mm >= FLUID_MM
    beyond_skull = outside_mm >= skull_mm
    head.tissue[(outside_mm >= 0) & ~beyond_fluid] = FLUID
    head.tissue[beyond_fluid & ~beyond_skull] = BONE
    head.tissue[beyond_skull & (outside_mm < skin_mm)] = SCALP


@dataclass(frozen=True)
class LesionKind:
    """Lesions of a disease: fewest and most of them, smallest and largest radius in mm."""

    number: tuple[int, int]
    radius_mm: tuple[float, float]


def lesion_outlines(
    head: Head, generator: np.random.Generator, kind: LesionKind
) -> list[np.ndarray]:
    """Return one map per lesion, ``(row, column)``.

    It is 1 in its centre, 0 on its outline and negative outside. An outline is an ellipse with
    dents and bulges; its centre lies in the brain.
    """
    shape = head.tissue.shape
    possible = np.argwhere(head.depth_mm > 8)
    rows_mm, columns_mm = np.indices(shape) * head.pixel_mm
    fewest, most = kind.number
    count = generator.integers(fewest, most + 1)
    outlines = []
    for _ in range(int(count)):
        chosen = generator.integers(len(possible))
        row_mm, column_mm = possible[chosen] * head.pixel_mm
        radius_mm = generator.uniform(*kind.radius_mm)
        elongation = generator.uniform(0.75, 1.35)
        down_mm = (rows_mm - row_mm) * elongation
        right_mm = (columns_mm - column_mm) / elongation
        distance = np.hypot(down_mm, right_mm) / radius_mm

        wobble_pixels = 0.35 * radius_mm / head.pixel_mm
        wobble = 0.2 * smooth_noise(generator, shape, wobble_pixels)
        outlines.append(1 - distance + wobble)

    return outlines


def painted(head: Head, values: Sequence[float]) -> np.ndarray:
    """Return the value of each pixel's tissue, float64 ``(row, column)``.

    The values come in the order of :data:`TISSUES`.
    """
    by_tissue = np.asarray(values, np.float64)
    return by_tissue[head.tissue]
