"""The step of a training of several networks: its updates, its log and its pictures."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.utilities.helpers import dummy_context

from nnunet_ext.training.configured_trainer import PROPORTION
from nnunet_ext.training.engine import processes
from nnunet_ext.training.engine.averaging import decay_at, update_average
from nnunet_ext.training.engine.batches import to_device
from nnunet_ext.training.engine.diagnostics import (
    NonFiniteLoss,
    case_names,
    gradient_ratio,
    not_finite,
)
from nnunet_ext.training.engine.random_numbers import shared_generator
from nnunet_ext.training.engine.updates import Update, apply_updates
from nnunet_ext.training.resumable_trainer import ResumableTrainer
from nnunet_ext.training.settings.hyperparameters import Count


class MultiNetworkTrainer(ResumableTrainer):
    """A method states its networks and one ``training_step``, which names its losses.

    Without changes it trains as nnU-Net does.
    """

    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation",)
    changeable: ClassVar[tuple[str, ...]] = (*ResumableTrainer.changeable, "draw_every")

    draw_every: Count = 10  # epochs between two figures of a method that draws

    _simultaneous: list[Update] | None = None  # updates that wait for the end of their block
    _pictures: Mapping[str, list[np.ndarray]] = MappingProxyType({})  # of this epoch, by row

    # --- what a method states

    def training_step(self, batch: dict[str, Any]) -> None:
        """Run the method's forward passes, :meth:`update` and :meth:`note`; autocast on CUDA.

        One of the losses is called ``segmentation``: nnU-Net logs it as its training loss.
        """
        output = self.network(batch["data"])
        segmentation = self.loss(output, batch["target"])
        self.update("network", segmentation=segmentation)

    # --- what a step may call

    def update(self, *players: str, **losses: torch.Tensor) -> None:
        """Step the players' optimizers along the gradient of the summed losses, and log each loss.

        No other weights move or get a gradient. The graph of the losses is freed, except in a
        :meth:`simultaneous` block: a further update needs another forward pass, or detached
        tensors.

        Raises:
            NonFiniteLoss: a loss or gradient is NaN or infinite. The weights of this update's
                players have not changed.
            ValueError: a player without optimizer, or a loss that is not declared.
        """
        unknown = set(players) - set(self.updaters)
        if unknown:
            names = ", ".join(unknown)
            existing = ", ".join(self.updaters)
            raise ValueError(f"no optimizer belongs to {names}; there are {existing}")

        self.note(**losses)
        self._losses |= set(losses)
        updaters = [self.updaters[player] for player in players]
        update = Update(updaters, losses)
        waits = self._simultaneous is not None
        with self._autocast(enabled=False):
            update.compute_gradients(keep_graph=waits)
        if self._simultaneous is None:
            self._apply([update])
        else:
            self._simultaneous.append(update)

    @contextmanager
    def simultaneous(self) -> Iterator[None]:
        """Let every :meth:`update` of the block see the same weights: all step when it ends.

        All losses may share one graph. A player takes part in one update of the block.

        Raises:
            NonFiniteLoss: as :meth:`update`; no weights of the block's players have changed.
            ValueError: a block within a block, or a player in several updates of it.
        """
        if self._simultaneous is not None:
            raise ValueError("a simultaneous block cannot contain another one")
        self._simultaneous = []
        try:
            yield
            _require_single_updates(self._simultaneous)
            self._apply(self._simultaneous)
        finally:
            self._simultaneous = None

    def _apply(self, updates: list[Update]) -> None:
        """Step all optimizers, if every loss and gradient is finite."""
        losses: dict[str, torch.Tensor] = {}
        for update in updates:
            losses |= update.losses
        detached = [loss.detach().float() for loss in losses.values()]
        values = torch.stack(detached).tolist()  # waits for the device once
        by_name = dict(zip(losses, values, strict=True))
        self._stop_where_not_finite(by_name)

        with self._autocast(enabled=False):
            try:
                apply_updates(updates, self.iteration)
            except FloatingPointError as error:
                self._stop_where_not_finite({f"gradient of {error}": math.nan})
        torch.clear_autocast_cache()  # it holds the weights from before the step, in half precision

    def follow(self, follower: str, leader: str, decay: float, since: int = 0) -> None:
        """Let an auxiliary network without optimizer follow another one by a moving average.

        Both have the same architecture.

        Args:
            follower: name of the network that changes, such as ``teacher``.
            leader: ``network``, or the name of an auxiliary network.
            decay: factor of the follower's own weights; smaller in the first iterations
                (``averaging.py``).
            since: iteration of the first call, at which the follower becomes equal to the leader.

        Raises:
            ValueError: the follower is not frozen.
        """
        if follower not in self.frozen_networks:
            raise ValueError(
                f"{follower} has an optimizer or no parameters, so it cannot follow {leader}"
            )
        decay_now = decay_at(decay, self.iteration - since)
        average = self.module_of(follower)
        network = self.module_of(leader)
        update_average(average, network, decay_now)

    def note(self, **values: torch.Tensor | float) -> None:
        """Log scalars under their names (``loss_terms`` or ``diagnostics``).

        The value of a step is the mean of its notes; the value of an epoch is the mean of the steps
        that noted any.

        Raises:
            ValueError: a name that is not declared.
        """
        undeclared = set(values) - set(self.step_terms)
        if undeclared:
            names = ", ".join(undeclared)
            raise ValueError(f"{type(self).__name__} declares no loss term or diagnostic {names}")

        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
            self._noted[name].append(value)

    def note_gradient_ratio(self, name: str, loss: torch.Tensor, other: torch.Tensor) -> None:
        """Log the norm of a loss's gradient on the encoder, divided by that of another loss.

        This takes time, so it is done once an epoch.

        Args:
            name: a declared diagnostic.
            loss, other: scalars whose graphs stay usable.
        """
        if not self.starts_epoch:
            return

        loss = loss.float()
        other = other.float()
        scaler = self.grad_scaler
        if scaler is not None:  # else half precision rounds gradients to 0
            loss = scaler.scale(loss)
            other = scaler.scale(other)
        parameters = self.encoder.parameters()
        with self._autocast(enabled=False):
            ratio = gradient_ratio(loss, other, parameters)

        is_overflow = scaler is not None and not torch.isfinite(ratio)
        if not is_overflow:
            self.note(**{name: ratio})

    def draw(self, **rows: tuple[torch.Tensor, ...]) -> None:
        """Draw the first item of each tensor into ``pictures/`` of the fold, a row per name.

        The first process draws one figure every ``draw_every`` epochs and one of the last epoch.
        Values within [0, 1] are drawn in colour; the other pictures of a row share one grey scale.

        Args:
            rows: tensors ``[B, C, *spatial]``, of which the first channel is drawn; of a volume the
                middle slice.
        """
        if not self._draws_now():
            return

        pictures = dict(self._pictures)
        for name, row in rows.items():
            is_drawable = all(map(len, row))
            if is_drawable:
                pictures[name] = list(map(_first_picture, row))
        self._pictures = pictures

    def batch_mean(self, features: torch.Tensor) -> torch.Tensor:
        """Return the mean ``[1, ...]`` of ``[B, ...]`` over the batches of all processes.

        It is float32, with gradient.
        """
        return processes.global_batch_mean(features)

    def share_of_mean(self, count: int | torch.Tensor) -> float | torch.Tensor:
        """Return the factor of a mean over ``count`` own items in the mean over all processes."""
        own_count = torch.as_tensor(count, device=self.device)
        return processes.share_of_mean(own_count)

    def shared_generator(self, purpose: int = 0) -> torch.Generator:
        """Return random numbers (on the CPU) that are the same in every process at this iteration.

        Args:
            purpose: distinguishes several generators of one step; at least 0.
        """
        return shared_generator(self.seed, self.iteration, purpose)

    # --- the step

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run one :meth:`training_step`.

        The entry ``loss`` is the segmentation loss, comparable to plain nnU-Net's.

        Raises:
            NonFiniteLoss: a loss or gradient is NaN or infinite. The saved weights are those before
                the failed update; earlier updates of the step have changed theirs.
        """
        self._noted: dict[str, list[torch.Tensor | float]] = defaultdict(list)
        self._losses: set[str] = set()
        self._batch = batch
        batch = to_device(batch, self.device)
        with self._autocast():
            self.training_step(batch)

        if self.proportion_weight:
            self.note(**{PROPORTION: self.loss.latest})
        if self.averaged_network is not None:
            decay = decay_at(self.average_weights, self.iteration)
            network = self.module_of("network")
            update_average(self.averaged_network, network, decay)

        terms = self._means_of_step()
        losses = {name: terms[name] for name in self._losses}
        self._stop_where_not_finite(losses)
        self._iteration_in_epoch += 1

        output = {"loss": terms.get("segmentation", math.nan)}
        for name in self.step_terms:
            output[name] = terms.get(name, math.nan)
        return output

    def _means_of_step(self) -> dict[str, float]:
        """Return the mean of the step's notes under each name."""
        noted: list[torch.Tensor | float] = []
        for values in self._noted.values():
            noted += values
        numbers = iter(_on_host(noted))

        means = {}
        for name, values in self._noted.items():
            own = list(itertools.islice(numbers, len(values)))
            means[name] = sum(own) / len(own)
        return means

    def _autocast(self, enabled: bool = True) -> AbstractContextManager:
        if self.device.type != "cuda":
            return dummy_context()
        return torch.autocast("cuda", enabled=enabled)

    def _stop_where_not_finite(self, losses: Mapping[str, float]) -> None:
        """Save networks and batch, and stop, if a loss is NaN or infinite."""
        wrong = not_finite(losses)
        if not wrong:
            return

        rank = f"_rank{self.local_rank}" if self.is_ddp else ""
        folder = Path(self.output_folder)
        checkpoint = folder / f"checkpoint_nonfinite{rank}.pth"
        # any rank saves; the epoch is not finished
        with self._as_if(local_rank=0, current_epoch=self.current_epoch - 1):
            self.save_checkpoint(str(checkpoint))
        batch = to_device(self._batch, torch.device("cpu"))
        torch.save(batch, folder / f"batch_nonfinite{rank}.pth")

        values = ", ".join(wrong)
        cases = case_names(self._batch)
        raise NonFiniteLoss(
            f"{values} in epoch {self.current_epoch}, iteration {self.iteration}, cases {cases}; "
            f"networks and batch are saved as {self.output_folder}/*_nonfinite{rank}.pth; look at "
            "these cases, or train again with a lower initial_lr (nnUNetv2_ext_configure --set "
            "initial_lr=...)"
        )

    # --- the log and the pictures

    def on_train_epoch_start(self) -> None:
        """Start as every trainer does, without the pictures of the previous epoch."""
        super().on_train_epoch_start()
        self._pictures = {}

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log nnU-Net's training loss and the mean of every term; write the pictures."""
        segmenting = [output for output in train_outputs if not math.isnan(output["loss"])]
        super().on_train_epoch_end(segmenting or train_outputs)

        columns = {}
        for name in self.step_terms:
            columns[name] = [output[name] for output in train_outputs]
        means = self._epoch_means(columns)
        self.log_terms(means)
        if self._pictures:
            self._write_pictures()

    def _write_pictures(self) -> None:
        from nnunet_ext.training.figures import picture_rows_figure

        name = f"epoch_{self.current_epoch:04d}.png"
        path = Path(self.output_folder, "pictures", name)
        title = f"{type(self).__name__}, epoch {self.current_epoch}"
        try:
            picture_rows_figure(self._pictures, path, title)
        except ValueError as error:  # such as NaN, which is no reason to lose a training
            self.print_to_log_file(f"{name} is not drawn: {error}")

    def _draws_now(self) -> bool:
        """Return whether this is the last step of an epoch to draw, in the first process."""
        last_epoch = self.num_epochs - 1
        last_step = self.num_iterations_per_epoch - 1
        is_last_step = self._iteration_in_epoch == last_step
        is_due = self.current_epoch % self.draw_every == 0
        is_epoch_to_draw = is_due or self.current_epoch == last_epoch
        return is_epoch_to_draw and is_last_step and self.local_rank == 0

    @property
    def starts_epoch(self) -> bool:
        """True in the first step of an epoch, for measurements that take time."""
        return self._iteration_in_epoch == 0

    def _epoch_means(self, values: Mapping[str, list[float]]) -> dict[str, float]:
        """Return the means of all values but NaN over an epoch and all processes; else NaN."""
        rows = []
        for column in values.values():
            numbers = np.asarray(column)
            known = numbers[~np.isnan(numbers)]
            rows.append([known.sum(), len(known)])

        own = torch.tensor(rows, dtype=torch.float32)
        of_all = processes.mean_over_ranks(own.to(self.device))
        sums, counts = of_all.cpu().T
        means = (sums / counts).tolist()
        return dict(zip(values, means, strict=True))


def _require_single_updates(updates: Sequence[Update]) -> None:
    """Check that no player takes part in several updates of a block."""
    seen: set[int] = set()
    for update in updates:
        for updater in update.updaters:
            if id(updater) in seen:
                raise ValueError(
                    "a player takes part in one update of a simultaneous block, not in several"
                )
            seen.add(id(updater))


def _on_host(values: Sequence[torch.Tensor | float]) -> list[float]:
    """Return the values as numbers; waits for the device once."""
    tensors = [value.float() for value in values if isinstance(value, torch.Tensor)]
    if not tensors:
        return list(map(float, values))

    from_device = iter(torch.stack(tensors).tolist())
    numbers = []
    for value in values:
        number = next(from_device) if isinstance(value, torch.Tensor) else value
        numbers.append(number)
    return numbers


def _first_picture(tensor: torch.Tensor) -> np.ndarray:
    """Return the first channel of the first of ``[B, C, *spatial]``, in 3d its middle slice."""
    picture = tensor[0, 0].detach().float().cpu()
    while picture.ndim > 2:
        picture = picture[len(picture) // 2]
    return picture.numpy()
