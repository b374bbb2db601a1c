"""Random numbers that follow from the seed and from how far the training is: a resumed run has the
same ones.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_random_numbers(*progress: int) -> None:
    """Seed Python, NumPy and torch (CPU and GPU) from numbers such as seed, rank and epoch; each at
    least 0.
    """
    torch.manual_seed(_seed_on_cpu(progress))


def shared_generator(*progress: int) -> torch.Generator:
    """Return a generator on the CPU for draws that every process must make alike, such as restarts
    of codes.
    """
    seed = int(np.random.SeedSequence(progress).generate_state(1)[0])
    return torch.Generator().manual_seed(seed)


@contextmanager
def seeded_random_numbers(*progress: int) -> Iterator[None]:
    """Random numbers on the CPU seeded as in :func:`seed_random_numbers` for the while, then as
    before.
    """
    own, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_seed_on_cpu(progress))
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _seed_on_cpu(progress: tuple[int, ...]) -> int:
    """Seed Python and NumPy; returns the seed for torch."""
    own, numpy_seed, torch_seed = (
        int(number) for number in np.random.SeedSequence(progress).generate_state(3)
    )
    random.seed(own)
    np.random.seed(numpy_seed)  # noqa: NPY002  nnU-Net's loaders and batchgenerators draw from it
    return torch_seed
