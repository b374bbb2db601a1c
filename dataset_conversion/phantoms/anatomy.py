"""Generated chest CT: what :mod:`dataset_conversion.phantoms.slice_downloads` writes. No patient's
data is in it.

Arrays are (slice, row, column), slice 0 uppermost, row 0 anterior, column 0 the patient's right, as
a radiologist looks at them. Positions are in units of half the field of view, from -1 to 1, with z
from -1 (apex) to 1 (diaphragm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

AIR_HU, FAT_HU, MUSCLE_HU, BLOOD_HU, BONE_HU, LUNG_HU = -1000.0, -100.0, 45.0, 55.0, 450.0, -850.0
FINEST_VESSEL = 0.006  # radius; thinner ones fade into the noise
SHARPNESS = 60.0  # edges fade over about 1/60 of half the field of view


@dataclass
class Thorax:
    """Arrays (slice, row, column): ``hu``, share of aerated ``lung`` (0..1), and positions ``z``,
    ``y``, ``x``.
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
    """Gaussian random field of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(generator.standard_normal(shape), sigma_voxel, mode="wrap")
    return (field - field.mean()) / max(field.std(), 1e-9)


def thorax(generator: np.random.Generator, shape: tuple[int, int, int], z: np.ndarray) -> Thorax:
    """A chest without disease.

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
    texture = 25 * smooth_noise(generator, shape, (1, 0.02 * shape[1], 0.02 * shape[2]))
    body.lung = np.clip(1.6 * lung, 0, 1) * (
        body.hu < -300
    )  # up to the edge, where voxels hold both
    body.hu += body.lung * (
        70 * (body.y + 0.1) + texture
    )  # lower lung parts are denser, by gravity
    _fissures(body, generator)
    _vessels(body, generator)
    return body


def scanned(generator: np.random.Generator, hu: np.ndarray, noise_hu: float = 22.0) -> np.ndarray:
    """What a scanner makes of it: blur, at times along one direction as by breathing, and noise of
    short range.
    """
    blurred = ndimage.gaussian_filter(hu, (0, 0.45, 0.45))
    if generator.random() < 0.35:
        blurred = ndimage.gaussian_filter1d(blurred, generator.uniform(0.6, 1.3), axis=1)
    return np.clip(
        blurred + noise_hu * smooth_noise(generator, hu.shape, (0, 0.6, 0.6)), -1024, 1500
    )


def _grid(generator: np.random.Generator, shape: tuple[int, int, int], z: np.ndarray) -> Thorax:
    """Empty air, with the patient a little turned, shifted and of another build each time."""
    height = shape[1] / shape[2]
    rows, columns = np.meshgrid(
        np.linspace(-height, height, shape[1]), np.linspace(-1, 1, shape[2]), indexing="ij"
    )
    angle, zoom = generator.normal(0, 0.04), generator.uniform(1.0, 1.12)
    dy, dx = generator.normal(0, 0.025, 2)
    x = zoom * (np.cos(angle) * (columns - dx) - np.sin(angle) * (rows - dy))
    y = (
        zoom
        * (np.sin(angle) * (columns - dx) + np.cos(angle) * (rows - dy))
        * generator.uniform(0.95, 1.08)
    )
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
    """Share of each voxel inside a (super-)ellipse with these half axes."""
    radius = (np.abs((body.x - x) / width) ** power + np.abs((body.y - y) / height) ** power) ** (
        1 / power
    )
    return _inside((1 - radius) * np.minimum(width, height))


def _inside(distance: np.ndarray) -> np.ndarray:
    """Share inside, from the signed distance to an edge."""
    return 0.5 * (1 + np.tanh(SHARPNESS * distance))


def _trunk(body: Thorax, generator: np.random.Generator) -> None:
    fat = generator.uniform(0.03, 0.08)
    body.blend(_ellipse(body, 0, 0, 0.93, 0.72, 2.5), FAT_HU)
    body.blend(_ellipse(body, 0, 0.01, 0.93 - fat, 0.72 - fat, 2.4), MUSCLE_HU)
    for side in (-1, 1):  # fat between the muscles of the shoulder
        body.blend(0.8 * _ellipse(body, side * 0.8, 0.1, 0.03, 0.22), FAT_HU)
    body.blend(_ellipse(body, 0, 0.0, 0.73, 0.535, 2.3), FAT_HU)  # inside of the chest wall
    body.blend(_ellipse(body, 0, 0.0, 0.72, 0.525, 2.3), MUSCLE_HU)


def _lungs(body: Thorax, generator: np.random.Generator) -> np.ndarray:
    """Fill both lungs with aerated tissue; returns their share per voxel."""
    size = 1 - 0.42 * np.clip(-body.z, 0, 1) ** 2.5  # narrow at the apex
    shape = body.hu.shape
    wobble = 0.012 * smooth_noise(generator, shape, (2, 0.06 * shape[1], 0.06 * shape[2]))
    share = np.zeros(shape)
    for side in (-1, 1):
        outline = 1 - (
            np.abs((body.x - side * 0.385) / (0.315 * size)) ** 2.3
            + np.abs(body.y / (0.5 * size)) ** 2.3
        ) ** (1 / 2.3)
        share = np.maximum(share, _inside(outline * 0.3 + wobble))
    base = np.clip((body.z - 0.45) / 0.55, 0, 1)  # domes of the diaphragm rise into the lung bases
    for side, height in ((-1, 0.42), (1, 0.24)):
        dome = _ellipse(body, side * 0.36, -0.1, 0.02 + height * base, 0.02 + height * base)
        share *= 1 - dome * (base > 0)
    share *= 1 - _ellipse(body, 0, -0.02, 0.125, 0.6, 3)  # mediastinum
    body.blend(share, LUNG_HU)
    return share


def _mediastinum(body: Thorax, generator: np.random.Generator) -> None:
    body.blend(_ellipse(body, 0, -0.2, 0.11, 0.26) * (body.hu > -300), FAT_HU)
    swell = np.clip((body.z + 0.15) / 0.35, 0, 1)  # the heart below the great vessels
    heart = _ellipse(body, 0.1, -0.13, 0.05 + 0.27 * swell, 0.05 + 0.24 * swell, 2.2)
    body.blend(heart * (swell > 0), FAT_HU)
    muscle = _ellipse(body, 0.1, -0.13, 0.03 + 0.27 * swell, 0.03 + 0.24 * swell, 2.2)
    body.blend(
        muscle * (swell > 0), BLOOD_HU + 15 * smooth_noise(generator, body.hu.shape, (1, 6, 6))
    )
    vessels = [
        (0.11, 0.26, 0.062, -1.0, 1.0),
        (-0.06, -0.24, 0.065, -0.6, 0.1),
        (0.04, -0.2, 0.06, -0.5, 0.1),
    ]
    vessels += [
        (-0.1, -0.12, 0.04, -1.0, 0.05),
        (0.02, 0.2, 0.03, -1.0, 1.0),
    ]  # vena cava, oesophagus
    for x, y, radius, top, bottom in vessels:
        present = (body.z >= top) & (body.z <= bottom)
        body.blend(_ellipse(body, x, y, radius, radius) * present, BLOOD_HU)
    split = np.clip((body.z + 0.25) / 0.35, 0, 1)  # trachea, then two main bronchi
    for side in (-1, 1):
        tube = _ellipse(body, side * 0.13 * split, 0.03, 0.05 - 0.015 * split, 0.055 - 0.02 * split)
        body.blend(tube * (body.z < 0.1), -960.0)


def _skeleton(body: Thorax, generator: np.random.Generator) -> None:
    for size, hu in ((1.0, BONE_HU + 100), (0.82, 220.0)):  # cortex and marrow
        body.blend(_ellipse(body, 0, 0.385, 0.125 * size, 0.1 * size), hu)
        body.blend(_ellipse(body, 0, -0.585, 0.1 * size, 0.028 * size, 3), hu)
    body.blend(_ellipse(body, 0, 0.55, 0.025, 0.075), BONE_HU)
    for side in (-1, 1):
        body.blend(_ellipse(body, side * 0.11, 0.48, 0.09, 0.03), BONE_HU - 80)
    body.blend(_ellipse(body, 0, 0.485, 0.05, 0.045), 30.0)  # spinal canal
    angle = np.arctan2(body.y / 0.56, body.x / 0.76)
    radius = (np.abs(body.x / 0.765) ** 2.3 + np.abs(body.y / 0.57) ** 2.3) ** (1 / 2.3)
    ring = _inside((0.035 - np.abs(radius - 1)) * 0.7)
    # Ribs slope downwards to the front, so a slice cuts several of them, each at another angle.
    phase = 9 * np.abs(np.abs(angle) - np.pi / 2) + 14 * body.z + generator.uniform(0, 6.28)
    rib = ring * _inside(0.25 * (np.sin(phase) - 0.15)) * (np.abs(body.x) > 0.2)
    body.blend(rib, BONE_HU)
    body.blend(rib * (np.abs(radius - 1) < 0.018), 230.0)
    for side in (-1, 1):  # shoulder blades
        blade = _inside(0.018 - np.abs(body.y - 0.42 + 0.55 * (np.abs(body.x) - 0.55)))
        body.blend(
            blade * (side * body.x > 0.42) * (side * body.x < 0.74) * (body.z < 0.25), BONE_HU
        )


def _fissures(body: Thorax, generator: np.random.Generator) -> None:
    for side in (-1, 1):
        offset, slope, bend = (
            generator.uniform(-0.15, 0.15),
            generator.uniform(-0.35, 0.35),
            generator.uniform(-0.4, 0.4),
        )
        away = side * body.x - 0.4
        surface = offset + 0.45 * body.z + slope * away + bend * away**2
        line = np.exp(-(((body.y - surface) / 0.012) ** 2)) * (side * body.x > 0)
        body.hu += body.lung * line * generator.uniform(50, 130)


def _vessels(body: Thorax, generator: np.random.Generator) -> None:
    """Branching trees from both hila; bronchi run beside the thicker branches."""
    share = np.zeros_like(body.hu)
    for side in (-1, 1):
        root = np.array([0.02, 0.05, side * 0.15])
        for _ in range(11):
            direction = generator.normal(0, 1, 3) * (1.0, 0.9, 0.5) + (0, 0, side * 0.7)
            _branch(
                body,
                share,
                generator,
                root,
                direction / np.linalg.norm(direction),
                generator.uniform(0.02, 0.032),
            )
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
    for _ in range(2 if generator.random() < 0.8 else 1):
        turned = direction + generator.normal(0, 0.42, 3)
        _branch(
            body,
            share,
            generator,
            end,
            turned / np.linalg.norm(turned),
            radius * generator.uniform(0.68, 0.88),
        )


def _draw_tube(
    body: Thorax, share: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float
) -> None:
    """Raise ``share`` to 1 inside a tube of that radius."""
    z_axis = body.z[:, 0, 0]
    thickness = max(radius, 0.5 * abs(z_axis[-1] - z_axis[0]) / max(len(z_axis) - 1, 1), 0.02)
    bottom, top = max(start[0], end[0]) + thickness, min(start[0], end[0]) - thickness
    if z_axis[0] > bottom or z_axis[-1] < top:
        return
    low, high = np.minimum(start, end), np.maximum(start, end)
    slices = np.flatnonzero((z_axis >= top) & (z_axis <= bottom))
    y, x = body.y[0], body.x[0]
    near = (y > low[1] - 0.05) & (y < high[1] + 0.05) & (x > low[2] - 0.05) & (x < high[2] + 0.05)
    rows, columns = np.nonzero(near)
    if not rows.size:
        return
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    line = end - start
    for index in slices:
        depth = np.full(y[box].shape, z_axis[index] - start[0])
        offset = np.stack([depth, y[box] - start[1], x[box] - start[2]], axis=-1)
        along = np.clip(offset @ line / (line @ line), 0, 1)
        gap = offset - along[..., None] * line
        gap[..., 0] *= min(
            1.0, radius / thickness
        )  # a slice of finite thickness catches what passes near it
        inside = 1 / (1 + np.exp((np.linalg.norm(gap, axis=-1) - radius) * 250))
        share[index][box] = np.maximum(share[index][box], inside)
