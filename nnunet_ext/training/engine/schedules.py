"""Learning rates and weights as functions of the training's iteration.

They hold no state, so there is nothing to save and restore.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]  # iteration -> factor of the optimizer's initial learning rates


def polynomial(total_iterations: int, exponent: float = 0.9) -> Schedule:
    """Return (1 - iteration / total)^exponent, nnU-Net's PolyLR per iteration, 0 at the end."""
    return lambda iteration: max(0.0, 1.0 - iteration / total_iterations) ** exponent


def linear_decay(start: int, total_iterations: int) -> Schedule:
    """Return 1 until ``start``, then a linear decay to 0 at the end, as in CycleGAN."""
    length = total_iterations - start

    def factor(iteration: int) -> float:
        remaining = total_iterations - iteration
        share = remaining / length
        not_negative = max(0.0, share)
        return min(1.0, not_negative)

    return factor


def step_decay(every: int, factor: float) -> Schedule:
    """Return 1, factor, factor², ...: once more after every ``every`` iterations."""
    return lambda iteration: factor ** (iteration // every)


def one_step(start: int, factor: float) -> Schedule:
    """Return 1 until ``start``, then ``factor``."""
    return lambda iteration: factor if iteration >= start else 1.0


def per_epoch(schedule: Schedule, iterations_per_epoch: int) -> Schedule:
    """Return the same schedule in steps: its value at the first iteration of the epoch."""
    return lambda iteration: schedule(iteration - iteration % iterations_per_epoch)


def gaussian_rampup(
    step: int, total_steps: int, max_weight: float = 0.1, squared: bool = True
) -> float:
    """Return a weight λ that grows to ``max_weight`` at ``total_steps`` and then stays there.

    At step 0 it is ``max_weight * exp(-5)``.

    Args:
        squared: ``exp(-5 (1 - t)²)`` as in Laine & Aila 2017; False gives ``exp(-5 (1 - t))``, as
            the relation-driven paper prints it.

    Raises:
        ValueError: ``total_steps`` below 1.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, not {total_steps}")

    progress = step / total_steps
    progress = max(progress, 0.0)
    progress = min(progress, 1.0)
    remaining = 1.0 - progress
    if squared:
        remaining = remaining**2
    return max_weight * math.exp(-5.0 * remaining)
