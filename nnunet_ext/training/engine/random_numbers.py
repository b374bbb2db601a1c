"""Random numbers that depend on the seed and on the progress of the training only.

A resumed run thus draws the same numbers.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_random_numbers(*progress: int) -> None:
    """Seed Python, NumPy and torch (CPU and GPU) from numbers such as seed, rank and epoch.

    Each number is at least 0.
    """
    torch_seed = _seed_on_cpu(progress)
    torch.manual_seed(torch_seed)


def shared_generator(*progress: int) -> torch.Generator:
    """Return a generator on the CPU for draws that must be the same in every process."""
    sequence = np.random.SeedSequence(progress)
    (seed,) = sequence.generate_state(1)
    generator = torch.Generator()
    return generator.manual_seed(int(seed))


@contextmanager
def seeded_random_numbers(*progress: int) -> Iterator[None]:
    """Seed random numbers on the CPU as :func:`seed_random_numbers` does, temporarily."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_seed_on_cpu(progress))
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _seed_on_cpu(progress: tuple[int, ...]) -> int:
    """Seed Python and NumPy; return the seed for torch."""
    sequence = np.random.SeedSequence(progress)
    seeds = sequence.generate_state(3)
    python_seed, numpy_seed, torch_seed = map(int, seeds)
    random.seed(python_seed)
    np.random.seed(numpy_seed)  # noqa: NPY002  nnU-Net's loaders and batchgenerators draw from it
    return torch_seed
