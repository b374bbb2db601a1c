"""Updates of weights by one optimizer or by several at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nnunet_ext.training.engine.processes import average_gradients
from nnunet_ext.training.engine.schedules import Schedule

MAX_GRADIENT_NORM = 12.0  # nnU-Net's


@dataclass(repr=False)  # nnU-Net writes every attribute of a trainer as text
class Updater:
    """An optimizer with everything its steps need; it owns the optimizer's parameters.

    Args:
        optimizer: holds parameters of one network, of part of one, or of several.
        scaler: scales losses in half precision; one per optimizer, because each skips steps and
            grows on its own.
        schedule: factor of the optimizer's initial learning rates per iteration; None keeps them
            constant.
        max_norm: largest norm of the gradient; None does not clip.
        clipped_groups: parameters whose gradient norm is limited together; by default all.
    """

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    schedule: Schedule | None = None
    max_norm: float | None = MAX_GRADIENT_NORM
    clipped_groups: list[list[nn.Parameter]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.initial_rates = [group["lr"] for group in self.optimizer.param_groups]
        if not self.clipped_groups:
            self.clipped_groups = [self.parameters()]

    def parameters(self) -> list[nn.Parameter]:
        """Return the optimizer's parameters."""
        held: list[nn.Parameter] = []
        for group in self.optimizer.param_groups:
            held += group["params"]
        return held

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the optimizer's parameters that are not frozen."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def set_learning_rates(self, iteration: int) -> None:
        """Set the rates that the schedule gives for an iteration."""
        if self.schedule is None:
            return

        factor = self.schedule(iteration)
        groups = self.optimizer.param_groups
        for group, rate in zip(groups, self.initial_rates, strict=True):
            group["lr"] = rate * factor

    @property
    def has_gradients(self) -> bool:
        """Whether any of the parameters has a gradient."""
        return any(parameter.grad is not None for parameter in self.parameters())

    def clip_gradients(self) -> bool:
        """Limit the norm of each group's gradient; return whether every gradient is finite."""
        norms = []
        if self.max_norm is not None:
            for group in self.clipped_groups:
                norm = nn.utils.clip_grad_norm_(group, self.max_norm)
                norms.append(norm)
        elif self.scaler is None:
            norm = nn.utils.get_total_norm(self._gradients())
            norms.append(norm)

        if self.scaler is not None:
            return True  # it skips a step whose gradients are not finite
        return all(map(torch.isfinite, norms))

    def _gradients(self) -> list[torch.Tensor]:
        gradients = []
        for parameter in self.parameters():
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        return gradients

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimizer and scaler.

        The learning rate follows from the iteration.
        """
        scaler_state = None
        if self.scaler is not None:
            scaler_state = self.scaler.state_dict()
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler_state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that :meth:`state_dict` returned."""
        optimizer_state = state["optimizer"]
        scaler_state = state["scaler"]
        self.optimizer.load_state_dict(optimizer_state)
        if self.scaler is not None and scaler_state is not None:
            self.scaler.load_state_dict(scaler_state)


class RatesOfEpoch:
    """The scheduler that nnU-Net steps at the start of an epoch to set and log learning rates."""

    def __init__(self, updaters: Sequence[Updater], iterations_per_epoch: int) -> None:
        self.updaters = updaters
        self.iterations_per_epoch = iterations_per_epoch

    def step(self, epoch: int) -> None:
        """Set every learning rate as in the first iteration of an epoch."""
        for updater in self.updaters:
            updater.set_learning_rates(epoch * self.iterations_per_epoch)


def require_separate(updaters: Mapping[str, Updater]) -> set[int]:
    """Check that no parameter has two owners; return the identities of all owned parameters.

    Raises:
        ValueError: two optimizers hold the same parameter.
    """
    owners: dict[int, str] = {}
    for player, updater in updaters.items():
        for parameter in updater.parameters():
            other = owners.setdefault(id(parameter), player)
            if other != player:
                raise ValueError(
                    f"{other} and {player} own the same parameter, of shape {list(parameter.shape)}"
                )
    return set(owners)


@dataclass(frozen=True)
class Update:
    """Losses that share one backward pass, and the optimizers that step along their gradients.

    The first updater's scaler scales the losses; the gradients of all updaters decide whether it
    grows or shrinks.
    """

    updaters: Sequence[Updater]
    losses: Mapping[str, torch.Tensor]

    def compute_gradients(self, keep_graph: bool = False) -> None:
        """Give the updaters' parameters, and no others, the gradients of the summed losses."""
        terms = [loss.float() for loss in self.losses.values()]
        total = torch.stack(terms).sum()
        scaler = self.updaters[0].scaler
        if scaler is not None:
            total = scaler.scale(total)

        for updater in self.updaters:
            updater.optimizer.zero_grad(set_to_none=True)
        parameters = trained_parameters(self.updaters)
        total.backward(inputs=parameters, retain_graph=keep_graph)

    def unscale_gradients(self) -> None:
        """Undo the scaling of the losses."""
        scaler = self.updaters[0].scaler
        if scaler is not None:
            for updater in self.updaters:
                scaler.unscale_(updater.optimizer)

    def step(self, iteration: int) -> None:
        """Step every optimizer, at the learning rate of this iteration."""
        scaler = self.updaters[0].scaler
        for updater in self.updaters:
            updater.set_learning_rates(iteration)
            if not updater.has_gradients:  # a scaler refuses such a step, an optimizer does nothing
                continue
            if scaler is None:
                updater.optimizer.step()
            else:
                scaler.step(updater.optimizer)
        if scaler is not None:
            scaler.update()


def trained_parameters(updaters: Sequence[Updater]) -> list[nn.Parameter]:
    """Return the parameters of several optimizers that are not frozen."""
    parameters: list[nn.Parameter] = []
    for updater in updaters:
        parameters += updater.trained_parameters()
    return parameters


def apply_updates(updates: Sequence[Update], iteration: int) -> None:
    """Average the gradients over all processes, unscale and clip them, then step every optimizer.

    Raises:
        FloatingPointError: a gradient is NaN or infinite and there is no scaler to skip the step;
            the message names the losses it comes from. No weight has changed.
    """
    updaters: list[Updater] = []
    for update in updates:
        updaters += update.updaters

    # before unscaling: an overflow of one process thus reaches all of them
    parameters = trained_parameters(updaters)
    average_gradients(parameters)

    for update in updates:
        update.unscale_gradients()
        are_finite = [updater.clip_gradients() for updater in update.updaters]
        if not all(are_finite):
            losses = " + ".join(update.losses)
            raise FloatingPointError(losses)

    for update in updates:
        update.step(iteration)
