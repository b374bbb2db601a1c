"""Learning rates and weights as functions of the training's iteration: nothing to save or to lose
at a resume.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]  # iteration -> factor of the optimizer's initial learning rates


def polynomial(total_iterations: int, exponent: float = 0.9) -> Schedule:
    """(1 - iteration / total)^exponent, 0 at the end: nnU-Net's PolyLR with its exponent, per
    iteration.
    """
    return lambda iteration: max(0.0, 1.0 - iteration / total_iterations) ** exponent


def linear_decay(start: int, total_iterations: int) -> Schedule:
    """1 until ``start``, then linearly to 0 at the end, as CycleGAN's learning rate."""
    return lambda iteration: min(
        1.0, max(0.0, (total_iterations - iteration) / (total_iterations - start))
    )


def step_decay(every: int, factor: float) -> Schedule:
    """``factor`` once more after every ``every`` iterations: 1, factor, factor², ..."""
    return lambda iteration: factor ** (iteration // every)


def one_step(start: int, factor: float) -> Schedule:
    """1 until ``start``, then ``factor``."""
    return lambda iteration: factor if iteration >= start else 1.0


def per_epoch(schedule: Schedule, iterations_per_epoch: int) -> Schedule:
    """The same schedule in steps: its value at the first iteration of the epoch."""
    return lambda iteration: schedule(iteration - iteration % iterations_per_epoch)


def gaussian_rampup(
    step: int, total_steps: int, max_weight: float = 0.1, squared: bool = True
) -> float:
    """Weight λ that grows from ``max_weight * exp(-5)`` at step 0 to ``max_weight`` at
    ``total_steps``, then stays.

    Args:
        squared: ``exp(-5 (1 - t)²)`` as in Laine & Aila 2017; False gives ``exp(-5 (1 - t))``, as
            the relation-driven paper prints it.

    Raises:
        ValueError: ``total_steps`` below 1.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, not {total_steps}")
    remaining = 1.0 - min(max(step / total_steps, 0.0), 1.0)
    return max_weight * math.exp(-5.0 * (remaining**2 if squared else remaining))
