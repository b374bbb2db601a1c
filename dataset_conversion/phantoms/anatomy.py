"""Generated chest CT, without any patient's data.

Arrays are (slice, row, column), slice 0 uppermost, row 0 anterior, column 0 the patient's right, as
a radiologist looks at them. Positions are in units of half the field of view, from -1 to 1, with z
from -1 (apex) to 1 (diaphragm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

# Densities of the generated tissues
AIR_HU = -1000.0
FAT_HU = -100.0
MUSCLE_HU = 45.0
BLOOD_HU = 55.0
BONE_HU = 450.0
LUNG_HU = -850.0
MARROW_HU = 220.0
RIB_MARROW_HU = 230.0
AIRWAY_HU = -960.0
NOISE_HU, STRONG_NOISE_HU = 22.0, 50.0  # standard deviations

SIDES = (-1, 1)  # the patient's right and left
FINEST_VESSEL = 0.006  # radius; thinner ones fade into the noise
SHARPNESS = 60.0  # edges fade over about 1/60 of half the field of view


@dataclass(frozen=True)
class Ellipse:
    """An outline that all slices share: centre and half axes.

    A power above 2 makes it squarer. Arrays give every slice an outline of its own.
    """

    x: float | np.ndarray
    y: float | np.ndarray
    width: float | np.ndarray
    height: float | np.ndarray
    power: float = 2

    def on(self, side: int) -> Ellipse:
        """Return the same outline on side -1 or 1 of the patient."""
        return replace(self, x=side * self.x)


# Centre (x, y) and radius, and extent in z (top, bottom), of the vessels beside the heart
MEDIASTINAL_VESSELS = (
    (Ellipse(0.11, 0.26, 0.062, 0.062), -1.0, 1.0),
    (Ellipse(-0.06, -0.24, 0.065, 0.065), -0.6, 0.1),
    (Ellipse(0.04, -0.2, 0.06, 0.06), -0.5, 0.1),
    (Ellipse(-0.1, -0.12, 0.04, 0.04), -1.0, 0.05),  # vena cava
    (Ellipse(0.02, 0.2, 0.03, 0.03), -1.0, 1.0),  # oesophagus
)
SKIN = Ellipse(0, 0, 0.93, 0.72, power=2.5)
SHOULDER_FAT = Ellipse(0.8, 0.1, 0.03, 0.22)  # between the muscles
CHEST_WALL = Ellipse(0, 0, 0.73, 0.535, power=2.3)
CHEST = Ellipse(0, 0, 0.72, 0.525, power=2.3)
MEDIASTINUM = Ellipse(0, -0.02, 0.125, 0.6, power=3)
MEDIASTINAL_FAT = Ellipse(0, -0.2, 0.11, 0.26)
DIAPHRAGM_HEIGHTS = (0.42, 0.24)  # of its domes, right and left

# In the order in which they replace each other
SPINE_AND_STERNUM = (
    (Ellipse(0, 0.385, 0.125, 0.1), BONE_HU + 100),
    (Ellipse(0, -0.585, 0.1, 0.028, power=3), BONE_HU + 100),
    (Ellipse(0, 0.385, 0.125 * 0.82, 0.1 * 0.82), MARROW_HU),
    (Ellipse(0, -0.585, 0.1 * 0.82, 0.028 * 0.82, power=3), MARROW_HU),
    (Ellipse(0, 0.55, 0.025, 0.075), BONE_HU),  # spinous process
    (Ellipse(-0.11, 0.48, 0.09, 0.03), BONE_HU - 80),  # transverse processes
    (Ellipse(0.11, 0.48, 0.09, 0.03), BONE_HU - 80),
    (Ellipse(0, 0.485, 0.05, 0.045), 30.0),  # spinal canal
)


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
        difference = hu - self.hu
        self.hu += share * difference

    def share_inside(self, ellipse: Ellipse) -> np.ndarray:
        """Return the share of each voxel inside an outline."""
        across = (self.x - ellipse.x) / ellipse.width
        along = (self.y - ellipse.y) / ellipse.height
        radius = _radius(across, along, ellipse.power)
        half_axis = np.minimum(ellipse.width, ellipse.height)

        return _inside((1 - radius) * half_axis)

    def draw(self, ellipse: Ellipse, hu: float) -> None:
        """Fill an outline with a tissue."""
        self.blend(self.share_inside(ellipse), hu)


def smooth_noise(
    generator: np.random.Generator, shape: Sequence[int], sigma_voxel: float | Sequence[float]
) -> np.ndarray:
    """Return a Gaussian random field of mean 0 and standard deviation 1."""
    white = generator.standard_normal(shape)
    field = ndimage.gaussian_filter(white, sigma_voxel, mode="wrap")
    mean = field.mean()
    deviation = max(field.std(), 1e-9)

    return (field - mean) / deviation


def noise_in_slices(
    generator: np.random.Generator, shape: Sequence[int], sigma_pixels: float
) -> np.ndarray:
    """Return :func:`smooth_noise` (slice, row, column) that is smooth within each slice alone."""
    sigma_voxel = (0, sigma_pixels, sigma_pixels)
    return smooth_noise(generator, shape, sigma_voxel)


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

    _, rows, columns = shape
    texture_voxels = (1, 0.02 * rows, 0.02 * columns)
    texture = 25 * smooth_noise(generator, shape, texture_voxels)
    gravity = 70 * (body.y + 0.1)  # lower lung parts are denser

    # Up to the edge, where voxels hold both.
    widened = np.clip(1.6 * lung, 0, 1)
    body.lung = widened * (body.hu < -300)
    body.hu += body.lung * (gravity + texture)

    _fissures(body, generator)
    _vessels(body, generator)

    return body


def chest_slice(generator: np.random.Generator, rows: int, columns: int, z: float) -> Thorax:
    """Return a :func:`thorax` of one slice at a position."""
    shape = (1, rows, columns)
    return thorax(generator, shape, np.array([z]))


def scanned(
    generator: np.random.Generator, hu: np.ndarray, noise_hu: float = NOISE_HU
) -> np.ndarray:
    """Return what a scanner makes of it: blur, and noise of short range.

    At times it is also blurred along one direction, as by breathing.
    """
    blurred = ndimage.gaussian_filter(hu, (0, 0.45, 0.45))
    patient_moved = generator.random() < 0.35
    if patient_moved:
        movement_voxels = generator.uniform(0.6, 1.3)
        blurred = ndimage.gaussian_filter1d(blurred, movement_voxels, axis=1)

    noise = noise_in_slices(generator, hu.shape, 0.6)
    noisy = blurred + noise_hu * noise

    return np.clip(noisy, -1024, 1500)


def scanned_int16(
    generator: np.random.Generator, hu: np.ndarray, noise_hu: float = NOISE_HU
) -> np.ndarray:
    """Return :func:`scanned` in whole Hounsfield units, int16."""
    measured = scanned(generator, hu, noise_hu)
    whole = np.round(measured)

    return whole.astype(np.int16)


def windowed(hu: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """Return grey values uint8: 0 at the lower end of a window and below, 255 at the upper."""
    low, high = window_hu
    share = (hu - low) / (high - low)
    grey = 255 * np.clip(share, 0, 1)

    return np.round(grey).astype(np.uint8)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return values turned into shares: one half at 0, and hardly different beyond -40 and 40."""
    limited = np.clip(values, -40, 40)
    return 1 / (1 + np.exp(-limited))


def as_grey(values: np.ndarray) -> np.ndarray:
    """Return values as grey values uint8, rounded and limited to 0..255."""
    whole = np.round(values)
    limited = np.clip(whole, 0, 255)

    return limited.astype(np.uint8)


def _grid(generator: np.random.Generator, shape: tuple[int, int, int], z: np.ndarray) -> Thorax:
    """Return empty air, with the patient turned, shifted and of another build each time."""
    _, row_count, column_count = shape
    height = row_count / column_count
    row_places = np.linspace(-height, height, row_count)
    column_places = np.linspace(-1, 1, column_count)
    rows, columns = np.meshgrid(row_places, column_places, indexing="ij")

    angle = generator.normal(0, 0.04)
    cosine = np.cos(angle)
    sine = np.sin(angle)
    zoom = generator.uniform(1.0, 1.12)
    down, right = generator.normal(0, 0.025, 2)
    rows = rows - down
    columns = columns - right
    x = zoom * (cosine * columns - sine * rows)
    y = zoom * (sine * columns + cosine * rows)
    y = y * generator.uniform(0.95, 1.08)

    wide = (len(z), *x.shape)
    return Thorax(
        hu=np.full(wide, AIR_HU),
        lung=np.zeros(wide),
        z=np.broadcast_to(z[:, None, None], wide),
        y=np.broadcast_to(y, wide),
        x=np.broadcast_to(x, wide),
    )


def _radius(across: np.ndarray, along: np.ndarray, power: float) -> np.ndarray:
    """Return the distance from the centre of a (super-)ellipse: 1 on its outline."""
    powers = np.abs(across) ** power + np.abs(along) ** power
    return powers ** (1 / power)


def _inside(distance: np.ndarray) -> np.ndarray:
    """Return the share inside, from the signed distance to an edge."""
    edge = np.tanh(SHARPNESS * distance)
    return 0.5 * (1 + edge)


def _trunk(body: Thorax, generator: np.random.Generator) -> None:
    fat = generator.uniform(0.03, 0.08)
    muscle = Ellipse(
        x=0,
        y=0.01,
        width=SKIN.width - fat,
        height=SKIN.height - fat,
        power=2.4,
    )
    body.draw(SKIN, FAT_HU)
    body.draw(muscle, MUSCLE_HU)

    for side in SIDES:
        between_muscles = body.share_inside(SHOULDER_FAT.on(side))
        body.blend(0.8 * between_muscles, FAT_HU)

    body.draw(CHEST_WALL, FAT_HU)
    body.draw(CHEST, MUSCLE_HU)


def _lungs(body: Thorax, generator: np.random.Generator) -> np.ndarray:
    """Fill both lungs with aerated tissue; return their share per voxel."""
    towards_apex = np.clip(-body.z, 0, 1)
    size = 1 - 0.42 * towards_apex**2.5
    width = 0.315 * size
    height = 0.5 * size
    slices, rows, columns = body.hu.shape
    wobble_voxels = (2, 0.06 * rows, 0.06 * columns)
    wobble = 0.012 * smooth_noise(generator, (slices, rows, columns), wobble_voxels)

    share = np.zeros(body.hu.shape)
    for side in SIDES:
        across = (body.x - side * 0.385) / width
        radius = _radius(across, body.y / height, 2.3)
        outline = (1 - radius) * 0.3
        share = np.maximum(share, _inside(outline + wobble))

    _cut_by_diaphragm(body, share)
    share *= 1 - body.share_inside(MEDIASTINUM)
    body.blend(share, LUNG_HU)

    return share


def _cut_by_diaphragm(body: Thorax, share: np.ndarray) -> None:
    """Take the two domes that rise into the lung bases out of the lungs' share."""
    base = np.clip((body.z - 0.45) / 0.55, 0, 1)
    for side, height in zip(SIDES, DIAPHRAGM_HEIGHTS, strict=True):
        radius = 0.02 + height * base
        dome = Ellipse(
            x=side * 0.36,
            y=-0.1,
            width=radius,
            height=radius,
        )
        inside_dome = body.share_inside(dome) * (base > 0)
        share *= 1 - inside_dome


def _mediastinum(body: Thorax, generator: np.random.Generator) -> None:
    is_tissue = body.hu > -300
    fat = body.share_inside(MEDIASTINAL_FAT)
    body.blend(fat * is_tissue, FAT_HU)
    _heart(body, generator)

    for outline, top, bottom in MEDIASTINAL_VESSELS:
        is_below_top = body.z >= top
        is_present = is_below_top & (body.z <= bottom)
        vessel = body.share_inside(outline)
        body.blend(vessel * is_present, BLOOD_HU)

    _airways(body)


def _airways(body: Thorax) -> None:
    """Add the trachea, which splits into two main bronchi."""
    split = np.clip((body.z + 0.25) / 0.35, 0, 1)
    above_hilum = body.z < 0.1
    for side in SIDES:
        tube = Ellipse(
            x=side * 0.13 * split,
            y=0.03,
            width=0.05 - 0.015 * split,
            height=0.055 - 0.02 * split,
        )
        body.blend(body.share_inside(tube) * above_hilum, AIRWAY_HU)


def _heart(body: Thorax, generator: np.random.Generator) -> None:
    swell = np.clip((body.z + 0.15) / 0.35, 0, 1)  # below the great vessels
    is_present = swell > 0
    outline = Ellipse(
        x=0.1,
        y=-0.13,
        width=0.05 + 0.27 * swell,
        height=0.05 + 0.24 * swell,
        power=2.2,
    )
    body.blend(body.share_inside(outline) * is_present, FAT_HU)

    muscle = replace(
        outline,
        width=0.03 + 0.27 * swell,
        height=0.03 + 0.24 * swell,
    )
    texture = 15 * smooth_noise(generator, body.hu.shape, (1, 6, 6))
    body.blend(body.share_inside(muscle) * is_present, BLOOD_HU + texture)


def _skeleton(body: Thorax, generator: np.random.Generator) -> None:
    for outline, hu in SPINE_AND_STERNUM:
        body.draw(outline, hu)

    _ribs(body, generator)
    _shoulder_blades(body)


def _ribs(body: Thorax, generator: np.random.Generator) -> None:
    """Add ribs that slope downwards to the front.

    So a slice cuts several of them, each at another angle.
    """
    radius = _radius(body.x / 0.765, body.y / 0.57, 2.3)
    from_wall = np.abs(radius - 1)
    ring = _inside((0.035 - from_wall) * 0.7)

    angle = np.arctan2(body.y / 0.56, body.x / 0.76)
    from_front = np.abs(np.abs(angle) - np.pi / 2)
    start = generator.uniform(0, 6.28)
    phase = 9 * from_front + 14 * body.z + start
    height = np.sin(phase) - 0.15

    beside_sternum = np.abs(body.x) > 0.2
    rib = ring * _inside(0.25 * height) * beside_sternum
    is_marrow = from_wall < 0.018
    body.blend(rib, BONE_HU)
    body.blend(rib * is_marrow, RIB_MARROW_HU)


def _shoulder_blades(body: Thorax) -> None:
    from_spine = np.abs(body.x)
    slope = 0.55 * (from_spine - 0.55)
    distance = np.abs(body.y - 0.42 + slope)
    blade = _inside(0.018 - distance)
    is_high = body.z < 0.25
    for side in SIDES:
        outwards = side * body.x
        beyond_ribs = outwards > 0.42
        within_trunk = outwards < 0.74
        body.blend(blade * beyond_ribs * within_trunk * is_high, BONE_HU)


def _fissures(body: Thorax, generator: np.random.Generator) -> None:
    for side in SIDES:
        offset = generator.uniform(-0.15, 0.15)
        slope = generator.uniform(-0.35, 0.35)
        bend = generator.uniform(-0.4, 0.4)
        outwards = side * body.x
        away = outwards - 0.4
        surface = offset + 0.45 * body.z + slope * away + bend * away**2
        distance = (body.y - surface) / 0.012
        profile = np.exp(-(distance**2))
        line = profile * (outwards > 0)
        density_hu = generator.uniform(50, 130)
        body.hu += body.lung * line * density_hu


def _vessels(body: Thorax, generator: np.random.Generator) -> None:
    """Draw branching trees from both hila."""
    share = np.zeros_like(body.hu)
    for side in SIDES:
        root = np.array([0.02, 0.05, side * 0.15])
        outwards = (0, 0, side * 0.7)
        for _ in range(11):
            spread = generator.normal(0, 1, 3) * (1.0, 0.9, 0.5)
            direction = _unit(spread + outwards)
            radius = generator.uniform(0.02, 0.032)
            _branch(body, share, generator, root, direction, radius)

    difference = 30.0 - body.hu
    body.hu += body.lung * share * difference


def _unit(vector: np.ndarray) -> np.ndarray:
    """Return the vector of length 1 in the same direction."""
    length = np.linalg.norm(vector)
    return vector / length


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

    reach = direction * generator.uniform(5, 9)
    end = start + reach * radius**0.75 * 0.42
    _draw_tube(body, share, start, end, radius)

    forks = generator.random() < 0.8
    for _ in range(2 if forks else 1):
        turn = generator.normal(0, 0.42, 3)
        turned = _unit(direction + turn)
        thinner = radius * generator.uniform(0.68, 0.88)
        _branch(body, share, generator, end, turned, thinner)


def _draw_tube(
    body: Thorax, share: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float
) -> None:
    """Raise ``share`` to 1 inside a tube of that radius."""
    z_axis = body.z[:, 0, 0]
    first, last = z_axis[0], z_axis[-1]
    steps = max(len(z_axis) - 1, 1)
    half_slice = 0.5 * abs(last - first) / steps
    thickness = max(radius, half_slice, 0.02)

    low = np.minimum(start, end)
    high = np.maximum(start, end)
    top = low[0] - thickness
    bottom = high[0] + thickness
    if first > bottom or last < top:
        return

    y, x = body.y[0], body.x[0]
    is_near = _is_near(y, low[1], high[1]) & _is_near(x, low[2], high[2])
    if not is_near.any():
        return

    (box,) = ndimage.find_objects(is_near.astype(np.uint8))
    line = end - start
    down = y[box] - start[1]
    right = x[box] - start[2]
    # A slice of finite thickness catches what passes near it.
    visible = min(1.0, radius / thickness)
    within = (z_axis >= top) & (z_axis <= bottom)
    for index in np.flatnonzero(within):
        depth = np.full(down.shape, z_axis[index] - start[0])
        offset = np.stack([depth, down, right], axis=-1)
        gap = _from_line(offset, line)
        gap[..., 0] *= visible
        outside = np.linalg.norm(gap, axis=-1) - radius
        inside = 1 / (1 + np.exp(outside * 250))
        drawn = share[index][box]
        np.maximum(drawn, inside, out=drawn)


def _is_near(places: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return where places lie between two bounds, or just beside them."""
    above = places > low - 0.05
    below = places < high + 0.05

    return above & below


def _from_line(offset: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Return the vectors from the nearest point of a line, from offsets (..., 3) to its start."""
    projected = offset @ line / (line @ line)
    along = np.clip(projected, 0, 1)

    return offset - along[..., None] * line
