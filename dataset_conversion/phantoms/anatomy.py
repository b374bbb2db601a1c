"""Generated chest CT, without any patient's data.

Arrays are (slice, row, column), slice 0 uppermost, row 0 anterior, column 0 the patient's right, as
a radiologist looks at them. Positions are in units of half the field of view, from -1 to 1, with z
from -1 (apex) to 1 (diaphragm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# Densities of the generated tissues
AIR_HU = -1000.0
FAT_HU = -100.0
MUSCLE_HU = 45.0
BLOOD_HU = 55.0
BONE_HU = 450.0
LUNG_HU = -850.0

# Centre (x, y), radius, and extent in z (top, bottom) of the vessels beside the heart
MEDIASTINAL_VESSELS = (
    (0.11, 0.26, 0.062, -1.0, 1.0),
    (-0.06, -0.24, 0.065, -0.6, 0.1),
    (0.04, -0.2, 0.06, -0.5, 0.1),
    (-0.1, -0.12, 0.04, -1.0, 0.05),  # vena cava
    (0.02, 0.2, 0.03, -1.0, 1.0),  # oesophagus
)
FINEST_VESSEL = 0.006  # radius; thinner ones fade into the noise
SHARPNESS = 60.0  # edges fade over about 1/60 of half the field of view


@dataclass
class Thorax:
    """A chest, as arrays (slice, row, column).

    ``hu``, share of aerated ``lung`` (0..1), and positions ``z``, ``y``, ``x``.
    """

    hu: np.ndarray
    lung: np.ndarray
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray

    def blend(self, share: np.ndarray, hu: float | np.ndarray) -> None:
        """Replace ``share`` (0..1) of each voxel's content."""
        self.hu += share * (hu - self.hu)


def smooth_noise(
    generator: np.random.Generator, shape: Sequence[int], sigma_voxel: float | Sequence[float]
) -> np.ndarray:
    """Return a Gaussian random field of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(generator.standard_normal(shape), sigma_voxel, mode="wrap")
    return (field - field.mean()) / max(field.std(), 1e-9)


def thorax(generator: np.random.Generator, shape: tuple[int, int, int], z: np.ndarray) -> Thorax:
    """Return a chest without disease.

    Args:
        generator: decides build, posture, vessels.
        shape: (slices, rows, columns).
        z: (slices,), position of each slice, -1..1.
    """
    body = _grid(generator, shape, z)
    _trunk(body, generator)
    lung = _lungs(body, generator)
    _mediastinum(body, generator)
    _skeleton(body, generator)

    texture_voxels = (1, 0.02 * shape[1], 0.02 * shape[2])
    texture = 25 * smooth_noise(generator, shape, texture_voxels)
    gravity = 70 * (body.y + 0.1)  # lower lung parts are denser
    # Up to the edge, where voxels hold both.
    body.lung = np.clip(1.6 * lung, 0, 1) * (body.hu < -300)
    body.hu += body.lung * (gravity + texture)

    _fissures(body, generator)
    _vessels(body, generator)

    return body


def scanned(generator: np.random.Generator, hu: np.ndarray, noise_hu: float = 22.0) -> np.ndarray:
    """Return what a scanner makes of it: blur, and noise of short range.

    At times it is also blurred along one direction, as by breathing.
    """
    blurred = ndimage.gaussian_filter(hu, (0, 0.45, 0.45))
    if generator.random() < 0.35:
        blurred = ndimage.gaussian_filter1d(blurred, generator.uniform(0.6, 1.3), axis=1)
    noise = noise_hu * smooth_noise(generator, hu.shape, (0, 0.6, 0.6))

    return np.clip(blurred + noise, -1024, 1500)


def _grid(generator: np.random.Generator, shape: tuple[int, int, int], z: np.ndarray) -> Thorax:
    """Return empty air, with the patient turned, shifted and of another build each time."""
    height = shape[1] / shape[2]
    row_places = np.linspace(-height, height, shape[1])
    column_places = np.linspace(-1, 1, shape[2])
    rows, columns = np.meshgrid(row_places, column_places, indexing="ij")

    angle = generator.normal(0, 0.04)
    zoom = generator.uniform(1.0, 1.12)
    dy, dx = generator.normal(0, 0.025, 2)
    rows = rows - dy
    columns = columns - dx
    x = zoom * (np.cos(angle) * columns - np.sin(angle) * rows)
    y = zoom * (np.sin(angle) * columns + np.cos(angle) * rows)
    y = y * generator.uniform(0.95, 1.08)

    wide = (len(z), *x.shape)
    return Thorax(
        np.full(wide, AIR_HU),
        np.zeros(wide),
        np.broadcast_to(z[:, None, None], wide),
        np.broadcast_to(y, wide),
        np.broadcast_to(x, wide),
    )


def _ellipse(
    body: Thorax,
    x: float | np.ndarray,
    y: float | np.ndarray,
    width: float | np.ndarray,
    height: float | np.ndarray,
    power: float = 2,
) -> np.ndarray:
    """Return the share of each voxel inside a (super-)ellipse with these half axes."""
    across = np.abs((body.x - x) / width)
    along = np.abs((body.y - y) / height)
    radius = (across**power + along**power) ** (1 / power)

    return _inside((1 - radius) * np.minimum(width, height))


def _inside(distance: np.ndarray) -> np.ndarray:
    """Return the share inside, from the signed distance to an edge."""
    return 0.5 * (1 + np.tanh(SHARPNESS * distance))


def _trunk(body: Thorax, generator: np.random.Generator) -> None:
    fat = generator.uniform(0.03, 0.08)
    skin = _ellipse(body, 0, 0, 0.93, 0.72, 2.5)
    body.blend(skin, FAT_HU)
    muscle = _ellipse(body, 0, 0.01, 0.93 - fat, 0.72 - fat, 2.4)
    body.blend(muscle, MUSCLE_HU)

    for side in (-1, 1):
        between_muscles = _ellipse(body, side * 0.8, 0.1, 0.03, 0.22)  # of the shoulder
        body.blend(0.8 * between_muscles, FAT_HU)

    chest_wall = _ellipse(body, 0, 0.0, 0.73, 0.535, 2.3)
    body.blend(chest_wall, FAT_HU)
    chest = _ellipse(body, 0, 0.0, 0.72, 0.525, 2.3)
    body.blend(chest, MUSCLE_HU)


def _lungs(body: Thorax, generator: np.random.Generator) -> np.ndarray:
    """Fill both lungs with aerated tissue; return their share per voxel."""
    size = 1 - 0.42 * np.clip(-body.z, 0, 1) ** 2.5  # narrow at the apex
    shape = body.hu.shape
    wobble_voxels = (2, 0.06 * shape[1], 0.06 * shape[2])
    wobble = 0.012 * smooth_noise(generator, shape, wobble_voxels)

    share = np.zeros(shape)
    for side in (-1, 1):
        across = np.abs((body.x - side * 0.385) / (0.315 * size))
        along = np.abs(body.y / (0.5 * size))
        outline = 1 - (across**2.3 + along**2.3) ** (1 / 2.3)
        share = np.maximum(share, _inside(outline * 0.3 + wobble))

    base = np.clip((body.z - 0.45) / 0.55, 0, 1)  # domes of the diaphragm rise into the lung bases
    for side, height in ((-1, 0.42), (1, 0.24)):
        radius = 0.02 + height * base
        dome = _ellipse(body, side * 0.36, -0.1, radius, radius)
        share *= 1 - dome * (base > 0)

    mediastinum = _ellipse(body, 0, -0.02, 0.125, 0.6, 3)
    share *= 1 - mediastinum
    body.blend(share, LUNG_HU)

    return share


def _mediastinum(body: Thorax, generator: np.random.Generator) -> None:
    fat = _ellipse(body, 0, -0.2, 0.11, 0.26)
    body.blend(fat * (body.hu > -300), FAT_HU)
    _heart(body, generator)

    for x, y, radius, top, bottom in MEDIASTINAL_VESSELS:
        is_present = (body.z >= top) & (body.z <= bottom)
        vessel = _ellipse(body, x, y, radius, radius)
        body.blend(vessel * is_present, BLOOD_HU)

    split = np.clip((body.z + 0.25) / 0.35, 0, 1)  # trachea, then two main bronchi
    width = 0.05 - 0.015 * split
    height = 0.055 - 0.02 * split
    for side in (-1, 1):
        tube = _ellipse(body, side * 0.13 * split, 0.03, width, height)
        body.blend(tube * (body.z < 0.1), -960.0)


def _heart(body: Thorax, generator: np.random.Generator) -> None:
    swell = np.clip((body.z + 0.15) / 0.35, 0, 1)  # below the great vessels
    is_present = swell > 0
    heart = _ellipse(body, 0.1, -0.13, 0.05 + 0.27 * swell, 0.05 + 0.24 * swell, 2.2)
    body.blend(heart * is_present, FAT_HU)

    muscle = _ellipse(body, 0.1, -0.13, 0.03 + 0.27 * swell, 0.03 + 0.24 * swell, 2.2)
    texture = 15 * smooth_noise(generator, body.hu.shape, (1, 6, 6))
    body.blend(muscle * is_present, BLOOD_HU + texture)


def _skeleton(body: Thorax, generator: np.random.Generator) -> None:
    for size, hu in ((1.0, BONE_HU + 100), (0.82, 220.0)):  # cortex and marrow
        vertebra = _ellipse(body, 0, 0.385, 0.125 * size, 0.1 * size)
        body.blend(vertebra, hu)
        sternum = _ellipse(body, 0, -0.585, 0.1 * size, 0.028 * size, 3)
        body.blend(sternum, hu)

    spinous_process = _ellipse(body, 0, 0.55, 0.025, 0.075)
    body.blend(spinous_process, BONE_HU)
    for side in (-1, 1):
        transverse_process = _ellipse(body, side * 0.11, 0.48, 0.09, 0.03)
        body.blend(transverse_process, BONE_HU - 80)
    spinal_canal = _ellipse(body, 0, 0.485, 0.05, 0.045)
    body.blend(spinal_canal, 30.0)

    _ribs(body, generator)
    _shoulder_blades(body)


def _ribs(body: Thorax, generator: np.random.Generator) -> None:
    """Add ribs that slope downwards to the front.

    So a slice cuts several of them, each at another angle.
    """
    angle = np.arctan2(body.y / 0.56, body.x / 0.76)
    across = np.abs(body.x / 0.765)
    along = np.abs(body.y / 0.57)
    radius = (across**2.3 + along**2.3) ** (1 / 2.3)
    from_wall = np.abs(radius - 1)
    ring = _inside((0.035 - from_wall) * 0.7)

    slope = 9 * np.abs(np.abs(angle) - np.pi / 2)
    phase = slope + 14 * body.z + generator.uniform(0, 6.28)
    rib = ring * _inside(0.25 * (np.sin(phase) - 0.15)) * (np.abs(body.x) > 0.2)
    body.blend(rib, BONE_HU)
    body.blend(rib * (from_wall < 0.018), 230.0)


def _shoulder_blades(body: Thorax) -> None:
    for side in (-1, 1):
        distance = np.abs(body.y - 0.42 + 0.55 * (np.abs(body.x) - 0.55))
        blade = _inside(0.018 - distance)
        outwards = side * body.x
        share = blade * (outwards > 0.42) * (outwards < 0.74) * (body.z < 0.25)
        body.blend(share, BONE_HU)


def _fissures(body: Thorax, generator: np.random.Generator) -> None:
    for side in (-1, 1):
        offset = generator.uniform(-0.15, 0.15)
        slope = generator.uniform(-0.35, 0.35)
        bend = generator.uniform(-0.4, 0.4)
        outwards = side * body.x
        away = outwards - 0.4
        surface = offset + 0.45 * body.z + slope * away + bend * away**2
        distance = (body.y - surface) / 0.012
        line = np.exp(-(distance**2)) * (outwards > 0)
        body.hu += body.lung * line * generator.uniform(50, 130)


def _vessels(body: Thorax, generator: np.random.Generator) -> None:
    """Draw branching trees from both hila."""
    share = np.zeros_like(body.hu)
    for side in (-1, 1):
        root = np.array([0.02, 0.05, side * 0.15])
        for _ in range(11):
            direction = generator.normal(0, 1, 3) * (1.0, 0.9, 0.5) + (0, 0, side * 0.7)
            direction /= np.linalg.norm(direction)
            radius = generator.uniform(0.02, 0.032)
            _branch(body, share, generator, root, direction, radius)

    body.hu += body.lung * share * (30.0 - body.hu)


def _branch(
    body: Thorax,
    share: np.ndarray,
    generator: np.random.Generator,
    start: np.ndarray,
    direction: np.ndarray,
    radius: float,
) -> None:
    """Draw a branch (z, y, x) of a vessel tree and what springs from it."""
    if radius < FINEST_VESSEL:
        return

    end = start + direction * generator.uniform(5, 9) * radius**0.75 * 0.42
    _draw_tube(body, share, start, end, radius)

    branches = 2 if generator.random() < 0.8 else 1
    for _ in range(branches):
        turned = direction + generator.normal(0, 0.42, 3)
        turned /= np.linalg.norm(turned)
        thinner = radius * generator.uniform(0.68, 0.88)
        _branch(body, share, generator, end, turned, thinner)


def _draw_tube(
    body: Thorax, share: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float
) -> None:
    """Raise ``share`` to 1 inside a tube of that radius."""
    z_axis = body.z[:, 0, 0]
    half_slice = 0.5 * abs(z_axis[-1] - z_axis[0]) / max(len(z_axis) - 1, 1)
    thickness = max(radius, half_slice, 0.02)
    low, high = np.minimum(start, end), np.maximum(start, end)
    top, bottom = low[0] - thickness, high[0] + thickness
    slices = np.flatnonzero((z_axis >= top) & (z_axis <= bottom))
    if z_axis[0] > bottom or z_axis[-1] < top:
        return

    y, x = body.y[0], body.x[0]
    near_y = (y > low[1] - 0.05) & (y < high[1] + 0.05)
    near_x = (x > low[2] - 0.05) & (x < high[2] + 0.05)
    rows, columns = np.nonzero(near_y & near_x)
    if not rows.size:
        return

    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    line = end - start
    for index in slices:
        depth = np.full(y[box].shape, z_axis[index] - start[0])
        offset = np.stack([depth, y[box] - start[1], x[box] - start[2]], axis=-1)
        along = np.clip(offset @ line / (line @ line), 0, 1)
        gap = offset - along[..., None] * line
        # A slice of finite thickness catches what passes near it.
        gap[..., 0] *= min(1.0, radius / thickness)
        outside = np.linalg.norm(gap, axis=-1) - radius
        inside = 1 / (1 + np.exp(outside * 250))
        share[index][box] = np.maximum(share[index][box], inside)
