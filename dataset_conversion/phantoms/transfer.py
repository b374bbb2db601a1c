"""Three generated tasks, each closer to the next, for transfer: objects, nodules, infections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dataset_conversion.phantoms.anatomy import (
    as_grey,
    chest_slice,
    scanned,
    smooth_noise,
    windowed,
)
from dataset_conversion.phantoms.domains import LabelledSlice, write_cases, write_dataset_json
from dataset_conversion.phantoms.lesions import add_infection, add_nodule
from nnunet_ext.files.atomic_json import write_json

OBJECTS = "Dataset511_PhantomObjects"
NODULES = "Dataset512_PhantomNodules"
INFECTIONS = "Dataset513_PhantomInfections"
# Of every task's training slices, kept by nnU-Net for its own validation; few, to save time.
N_VALIDATION = 4
FIELD_OF_VIEW_MM = 320.0
LUNG_WINDOW_HU = (-1150.0, 250.0)


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
        dataset = raw / name
        _write_slices(dataset, "Tr", draw, [seed, task, 0], count, size)
        write_dataset_json(dataset, count)
        _write_split(dataset)

    _write_slices(raw / INFECTIONS, "Ts", infected, [seed, 2, 1], n_test, size)


def objects_slice(generator: np.random.Generator, size: int) -> LabelledSlice:
    """Return one to four smooth shapes, of another brightness and texture than around them."""
    shape = (size, size)
    coarse = 30 * smooth_noise(generator, shape, size / 6)
    fine = 12 * smooth_noise(generator, shape, 1.0)
    grey = 110 + coarse + fine
    label = np.zeros(shape, np.uint8)
    count = generator.integers(1, 5)
    for _ in range(int(count)):
        is_inside = _object(generator, size)
        sign = generator.choice((-1, 1))
        step = sign * generator.uniform(25, 70)
        texture_pixels = generator.uniform(0.5, 2)
        texture = 10 * smooth_noise(generator, shape, texture_pixels)
        grey[is_inside] += step + texture[is_inside]
        label[is_inside] = 1

    return as_grey(grey), label


def _object(generator: np.random.Generator, size: int) -> np.ndarray:
    """Return the mask of a disc with dents and bulges."""
    shape = (size, size)
    rows, columns = np.indices(shape)
    row, column = generator.uniform(0.1, 0.9, 2) * size
    radius = generator.uniform(0.05, 0.2) * size
    distance = np.hypot(rows - row, columns - column) / radius
    wobble = 0.3 * smooth_noise(generator, shape, radius / 2)

    return 1 - distance + wobble > 0


def nodule_slice(generator: np.random.Generator, size: int) -> LabelledSlice:
    """Return a chest slice through a solid nodule of 15 to 40 mm."""
    level = generator.uniform(-0.5, 0.6)
    body = chest_slice(generator, size, size, level)
    pixel_mm = FIELD_OF_VIEW_MM / size
    spacing_mm = (pixel_mm, pixel_mm, pixel_mm)
    diameter_mm = generator.uniform(15, 40)
    label = add_nodule(body, generator, spacing_mm, diameter_mm)
    hu = scanned(generator, body.hu)
    grey = windowed(hu[0], LUNG_WINDOW_HU)

    return grey, label[0]


def infected(generator: np.random.Generator, size: int) -> LabelledSlice:
    """Return a chest slice with ground glass, at times with a core; both are one label."""
    level = generator.uniform(-0.5, 0.7)
    body = chest_slice(generator, size, size, level)
    infection = add_infection(body, generator)
    hu = scanned(generator, body.hu)
    grey = windowed(hu[0], LUNG_WINDOW_HU)
    is_infected = infection[0] > 0

    return grey, is_infected.astype(np.uint8)


def _write_slices(
    dataset: Path,
    part: str,
    draw: Callable[[np.random.Generator, int], LabelledSlice],
    seed: list[int],
    count: int,
    size: int,
) -> None:
    slices = []
    for number in range(count):
        generator = np.random.default_rng([*seed, number])
        slices.append(draw(generator, size))

    prefix = part.lower()
    write_cases(dataset, part, prefix, slices)


def _write_split(dataset: Path) -> None:
    labels = dataset / "labelsTr"
    cases = sorted(path.stem for path in labels.iterdir())
    split = {
        "train": cases[:-N_VALIDATION],
        "val": cases[-N_VALIDATION:],
    }
    write_json([split], dataset / "splits_final.json")
