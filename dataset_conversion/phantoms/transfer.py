"""Three generated tasks, each closer to the next, for transfer: objects, nodules, infections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dataset_conversion.phantoms.anatomy import scanned, smooth_noise, thorax
from dataset_conversion.phantoms.domains import write_cases, write_dataset_json
from dataset_conversion.phantoms.lesions import add_infection, add_nodule
from nnunet_ext.files.atomic_json import write_json

OBJECTS = "Dataset511_PhantomObjects"
NODULES = "Dataset512_PhantomNodules"
INFECTIONS = "Dataset513_PhantomInfections"
# Of every task's training slices, kept by nnU-Net for its own validation; few, to save time.
N_VALIDATION = 4
FIELD_OF_VIEW_MM = 320.0
LUNG_WINDOW_HU = (-1150.0, 250.0)

Slice = tuple[np.ndarray, np.ndarray]
"""Grey values (row, column), uint8, and label 0 or 1."""


def write_transfer_tasks(
    raw: Path,
    *,
    seed: int = 0,
    n_objects: int = 160,
    n_nodules: int = 160,
    n_infections: int = 20,
    n_test: int = 40,
    size: int = 64,
) -> None:
    """Write three raw data sets: two with many labelled slices, the infections with few and a test.

    Args:
        raw: nnU-Net's folder of raw data sets.
        seed: of everything; equal arguments give equal files.
        n_objects: textured pictures with objects of another texture; no anatomy.
        n_nodules: chest slices with a solid nodule.
        n_infections: chest slices with infections. Of each of the three, the last four validate.
        n_test: chest slices with infections, in imagesTs and labelsTs.
        size: width and height in pixels.
    """
    tasks = (
        (OBJECTS, objects_slice, n_objects),
        (NODULES, nodule_slice, n_nodules),
        (INFECTIONS, infected, n_infections),
    )
    for task, (name, draw, count) in enumerate(tasks):
        _write_slices(raw / name, "Tr", draw, [seed, task, 0], count, size)
        write_dataset_json(raw / name, count)
        _write_split(raw / name)

    _write_slices(raw / INFECTIONS, "Ts", infected, [seed, 2, 1], n_test, size)


def objects_slice(generator: np.random.Generator, size: int) -> Slice:
    """Return one to four smooth shapes, of another brightness and texture than around them."""
    shape = (size, size)
    coarse = 30 * smooth_noise(generator, shape, size / 6)
    fine = 12 * smooth_noise(generator, shape, 1.0)
    grey = 110 + coarse + fine
    rows, columns = np.indices(shape)
    label = np.zeros(shape, np.uint8)
    for _ in range(int(generator.integers(1, 5))):
        row, column = generator.uniform(0.1, 0.9, 2) * size
        radius = generator.uniform(0.05, 0.2) * size
        distance = np.hypot(rows - row, columns - column) / radius
        wobble = 0.3 * smooth_noise(generator, shape, radius / 2)
        is_inside = 1 - distance + wobble > 0

        step = generator.choice((-1, 1)) * generator.uniform(25, 70)
        texture = smooth_noise(generator, shape, generator.uniform(0.5, 2))
        grey[is_inside] += step + 10 * texture[is_inside]
        label[is_inside] = 1

    return np.clip(np.round(grey), 0, 255).astype(np.uint8), label


def nodule_slice(generator: np.random.Generator, size: int) -> Slice:
    """Return a chest slice through a solid nodule of 15 to 40 mm."""
    level = generator.uniform(-0.5, 0.6)
    body = thorax(generator, (1, size, size), np.array([level]))
    pixel_mm = FIELD_OF_VIEW_MM / size
    diameter_mm = generator.uniform(15, 40)
    label = add_nodule(body, generator, (pixel_mm, pixel_mm, pixel_mm), diameter_mm)
    hu = scanned(generator, body.hu)

    return _windowed(hu[0]), label[0]


def infected(generator: np.random.Generator, size: int) -> Slice:
    """Return a chest slice with ground glass, at times with a core; both are one label."""
    level = generator.uniform(-0.5, 0.7)
    body = thorax(generator, (1, size, size), np.array([level]))
    label = add_infection(body, generator)
    hu = scanned(generator, body.hu)

    return _windowed(hu[0]), (label[0] > 0).astype(np.uint8)


def _windowed(hu: np.ndarray) -> np.ndarray:
    low, high = LUNG_WINDOW_HU
    share = np.clip((hu - low) / (high - low), 0, 1)

    return np.round(255 * share).astype(np.uint8)


def _write_slices(
    dataset: Path,
    part: str,
    draw: Callable[[np.random.Generator, int], Slice],
    seed: list[int],
    count: int,
    size: int,
) -> None:
    slices = []
    for number in range(count):
        generator = np.random.default_rng([*seed, number])
        slices.append(draw(generator, size))
    write_cases(dataset, part, part.lower(), slices)


def _write_split(dataset: Path) -> None:
    cases = sorted(path.stem for path in (dataset / "labelsTr").iterdir())
    split = [{"train": cases[:-N_VALIDATION], "val": cases[-N_VALIDATION:]}]
    write_json(split, dataset / "splits_final.json")
