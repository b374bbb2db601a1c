"""Random numbers that follow from the seed and from how far the training is.

A resumed run thus has the same ones.
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
    torch.manual_seed(_seed_on_cpu(progress))


def shared_generator(*progress: int) -> torch.Generator:
    """Return a generator on the CPU for draws that every process must make alike."""
    seed = int(np.random.SeedSequence(progress).generate_state(1)[0])
    return torch.Generator().manual_seed(seed)


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
    """Seed Python and NumPy; returns the seed for torch."""
    seeds = np.random.SeedSequence(progress).generate_state(3)
    python_seed, numpy_seed, torch_seed = map(int, seeds)
    random.seed(python_seed)
    np.random.seed(numpy_seed)  # noqa: NPY002  nnU-Net's loaders and batchgenerators draw from it
    return torch_seed
