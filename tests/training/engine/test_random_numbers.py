"""Random numbers follow from the progress, and the caller's are not touched."""

import random

import numpy as np
import torch

from nnunet_ext.training.engine.random_numbers import (
    seed_random_numbers,
    seeded_random_numbers,
    shared_generator,
)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002  as nnU-Net draws


def test_equal_progress_gives_equal_numbers_and_other_progress_others() -> None:
    drawn = []
    for progress in ((0, 1, 2), (0, 1, 2), (0, 1, 3), (0, 2, 1), (1, 1, 2)):
        seed_random_numbers(*progress)
        drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert all(len({one[source] for one in drawn[1:]}) == 4 for source in range(3))


def test_within_the_block_only() -> None:
    seed_random_numbers(5)
    outside = [draw(), draw()]
    seed_random_numbers(5)
    first = draw()
    with seeded_random_numbers(7):
        inside = draw()
    assert [first, draw()] == outside
    with seeded_random_numbers(7):
        assert draw() == inside


def test_a_shared_generator_follows_from_the_progress_alone() -> None:
    def codes(*progress: int) -> list[int]:
        return torch.randperm(100, generator=shared_generator(*progress)).tolist()

    first = codes(0, 7)
    torch.manual_seed(3)  # each process has random numbers of its own
    assert codes(0, 7) == first != codes(0, 8)
