"""A network that is trained: with its optimizer, its gradient scaler and its learning rate."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nnunet_ext.training.engine.processes import average_gradients
from nnunet_ext.training.engine.schedules import Schedule

MAX_GRADIENT_NORM = 12.0  # nnU-Net's


@dataclass(repr=False)  # nnU-Net writes every attribute of a trainer as text
class Player:
    """One side of a game of several networks; :meth:`step` changes its weights and no other's.

    Args:
        module: the network.
        optimizer: steps all parameters that this player owns.
        scaler: scales losses in half precision; one per player, since each skips and grows on its own.
        schedule: factor of the optimizer's initial learning rates per iteration; None leaves them alone.
        clipped: parameters whose gradient norm is limited together; all of them unless given.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    schedule: Schedule | None = None
    clipped: list[list[nn.Parameter]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.initial_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.clipped = self.clipped or [self.parameters()]

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer holds."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def step(self, loss: torch.Tensor, iteration: int) -> None:
        """Gradients of this player's parameters alone, averaged over all processes, clipped; then the optimizer.

        Raises:
            FloatingPointError: a gradient is NaN or infinite and there is no scaler to skip the step; nothing moved.
        """
        if self.schedule is not None:
            for group, rate in zip(self.optimizer.param_groups, self.initial_rates, strict=True):
                group["lr"] = rate * self.schedule(iteration)
        self.optimizer.zero_grad(set_to_none=True)
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if self.scaler is None:
            loss.backward(inputs=parameters)
            average_gradients(parameters)
            self._clip()
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward(inputs=parameters)
            average_gradients(parameters)  # an overflow of one rank thus reaches all of them
            self.scaler.unscale_(self.optimizer)
            self._clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _clip(self) -> None:
        norms = [nn.utils.clip_grad_norm_(group, MAX_GRADIENT_NORM) for group in self.clipped]
        if self.scaler is None and not all(norm.isfinite() for norm in norms):
            raise FloatingPointError

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer and scaler; the learning rate follows from the iteration."""
        return {
            "network": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.module.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
