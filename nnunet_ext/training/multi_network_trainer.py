"""The step of a training of several networks: its updates, its log and its pictures."""

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

    As it stands this trains as nnU-Net does.
    """

    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation",)
    changeable: ClassVar[tuple[str, ...]] = (*ResumableTrainer.changeable, "draw_every")

    draw_every: Count = 10  # epochs between two figures of a method that draws

    _simultaneous: list[Update] | None = None  # updates that wait for the end of their block
    _pictures: Mapping[str, list[np.ndarray]] = MappingProxyType({})  # of this epoch, by row

    # --- what a method states

    def training_step(self, batch: dict[str, Any]) -> None:
        """Run the method's forward passes, :meth:`update` and :meth:`note`. Under autocast on CUDA.

        One of the losses is called ``segmentation``: nnU-Net logs it as its training loss.
        """
        self.update("network", segmentation=self.loss(self.network(batch["data"]), batch["target"]))

    # --- what a step may call

    def update(self, *players: str, **losses: torch.Tensor) -> None:
        """Sum the named losses, step the players' optimizers along its gradient and log each loss.

        No other weights move or get a gradient. The graph of the losses is used up, except in a
        :meth:`simultaneous` block; a further update needs a forward pass after this one, or
        detached tensors.

        Raises:
            NonFiniteLoss: a loss or gradient is NaN or infinite. The players of this update have
                not moved.
            ValueError: a player without optimizer, or a loss that is not declared.
        """
        unknown = set(players) - set(self.updaters)
        if unknown:
            raise ValueError(
                f"no optimizer belongs to {', '.join(unknown)}; there are "
                f"{', '.join(self.updaters)}"
            )

        self.note(**losses)
        self._losses |= set(losses)
        updaters = [self.updaters[player] for player in players]
        update = Update(updaters, losses)
        with self._autocast(enabled=False):
            update.compute_gradients(keep_graph=self._simultaneous is not None)
        if self._simultaneous is None:
            self._apply([update])
        else:
            self._simultaneous.append(update)

    @contextmanager
    def simultaneous(self) -> Iterator[None]:
        """Let every :meth:`update` of the block see the same weights.

        Nobody moves before the block ends.

        All losses may share one graph. A player takes part in one update of the block.

        Raises:
            NonFiniteLoss: as :meth:`update`; no player of the block has moved.
            ValueError: a block within a block, or a player in several updates of it.
        """
        if self._simultaneous is not None:
            raise ValueError("a simultaneous block cannot hold another one")
        self._simultaneous = []
        try:
            yield
            updaters = [id(updater) for update in self._simultaneous for updater in update.updaters]
            if len(updaters) > len(set(updaters)):
                raise ValueError(
                    "a player takes part in one update of a simultaneous block, not in several"
                )
            self._apply(self._simultaneous)
        finally:
            self._simultaneous = None

    def _apply(self, updates: list[Update]) -> None:
        losses: dict[str, torch.Tensor] = {}
        for update in updates:
            losses |= update.losses
        detached = [loss.detach().float() for loss in losses.values()]
        values = torch.stack(detached).tolist()  # waits for the device once
        self._stop_where_not_finite(dict(zip(losses, values, strict=True)))

        with self._autocast(enabled=False):
            try:
                apply_updates(updates, self.iteration)
            except FloatingPointError as error:
                self._stop_where_not_finite({f"gradient of {error}": math.nan})
        torch.clear_autocast_cache()  # it holds the weights from before the step, in half precision

    def follow(self, follower: str, leader: str, decay: float, since: int = 0) -> None:
        """Move an auxiliary network without optimizer towards another one, by a moving average.

        Both have the same architecture.

        Args:
            follower: name of the network that moves, such as ``teacher``.
            leader: ``network``, or the name of an auxiliary network.
            decay: share of the follower's own weights that stays; smaller in the first iterations
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
        update_average(self.module_of(follower), self.module_of(leader), decay_now)

    def note(self, **values: torch.Tensor | float) -> None:
        """Log scalars under their names (``loss_terms`` or ``diagnostics``).

        A step's value is the mean of what it noted, an epoch's the mean of the steps that noted
        any.

        Raises:
            ValueError: a name that is not declared.
        """
        undeclared = set(values) - set(self.step_terms)
        if undeclared:
            raise ValueError(
                f"{type(self).__name__} declares no loss term or diagnostic {', '.join(undeclared)}"
            )

        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
            self._noted[name].append(value)

    def note_gradient_ratio(self, name: str, loss: torch.Tensor, other: torch.Tensor) -> None:
        """Log the norm of a loss's gradient on the encoder over another's.

        This costs time, so it is done once an epoch.

        Args:
            name: a declared diagnostic.
            loss, other: scalars whose graphs stay usable.
        """
        if self.starts_epoch:
            self.note(**{name: gradient_ratio(loss, other, self.encoder.parameters())})

    def draw(self, **rows: tuple[torch.Tensor, ...]) -> None:
        """Draw the first item of each tensor into ``pictures/`` of the fold, a row per name.

        One figure every ``draw_every`` epochs and of the last one, by the first process. Values
        within [0, 1] are drawn in colour; the other pictures of a row share one grey scale.

        Args:
            rows: tensors ``[B, C, *spatial]``, of which the first channel is drawn; of a volume the
                middle slice.
        """
        if not self._draws_now():
            return

        pictures = dict(self._pictures)
        for name, row in rows.items():
            is_drawable = all(len(tensor) > 0 for tensor in row)
            if is_drawable:
                pictures[name] = [_first_picture(tensor) for tensor in row]
        self._pictures = pictures

    def batch_mean(self, features: torch.Tensor) -> torch.Tensor:
        """Return the mean of ``[B, ...]`` over the whole batch, that of all processes.

        It is ``[1, ...]`` in float32, with gradient.
        """
        return processes.global_batch_mean(features)

    def share_of_mean(self, count: int | torch.Tensor) -> float | torch.Tensor:
        """Return the factor of a mean over ``count`` own items in the mean over all processes."""
        return processes.share_of_mean(torch.as_tensor(count, device=self.device))

    def shared_generator(self, purpose: int = 0) -> torch.Generator:
        """Return random numbers (on the CPU) that are the same in every process at this iteration.

        Args:
            purpose: tells several generators of one step apart, at least 0.
        """
        return shared_generator(self.seed, self.iteration, purpose)

    # --- the step

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run one :meth:`training_step`.

        The entry ``loss`` is the segmentation loss, comparable to plain nnU-Net's.

        Raises:
            NonFiniteLoss: a loss or gradient is NaN or infinite; the weights are saved as before
                the update that met it. Earlier updates of the step have moved theirs.
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
            update_average(self.averaged_network, self.module_of("network"), decay)

        terms = self._means_of_step()
        self._stop_where_not_finite({name: terms[name] for name in self._losses})
        self._iteration_in_epoch += 1
        output = {name: terms.get(name, math.nan) for name in self.step_terms}
        return {"loss": terms.get("segmentation", math.nan), **output}

    def _means_of_step(self) -> dict[str, float]:
        """Return the mean of what the step noted under each name."""
        noted = [value for values in self._noted.values() for value in values]
        numbers = iter(_on_host(noted))

        means = {}
        for name, values in self._noted.items():
            own = [next(numbers) for _ in values]
            means[name] = sum(own) / len(own)
        return means

    def _autocast(self, enabled: bool = True) -> AbstractContextManager:
        if self.device.type != "cuda":
            return dummy_context()
        return torch.autocast("cuda", enabled=enabled)

    def _stop_where_not_finite(self, losses: Mapping[str, float]) -> None:
        wrong = not_finite(losses)
        if not wrong:
            return

        which = f"_rank{self.local_rank}" if self.is_ddp else ""
        folder = Path(self.output_folder)
        # any rank saves; the epoch is not finished
        with self._as_if(local_rank=0, current_epoch=self.current_epoch - 1):
            self.save_checkpoint(str(folder / f"checkpoint_nonfinite{which}.pth"))
        batch = to_device(self._batch, torch.device("cpu"))
        torch.save(batch, folder / f"batch_nonfinite{which}.pth")
        raise NonFiniteLoss(
            f"{', '.join(wrong)} in epoch {self.current_epoch}, iteration {self.iteration}, cases "
            f"{case_names(self._batch)}; networks and batch are saved as "
            f"{self.output_folder}/*_nonfinite{which}.pth; look at these cases, or train again "
            "with a lower initial_lr (nnUNetv2_ext_configure --set initial_lr=...)"
        )

    # --- the log and the pictures

    def on_train_epoch_start(self) -> None:
        """Start as every trainer does, without pictures of the epoch before."""
        super().on_train_epoch_start()
        self._pictures = {}

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log nnU-Net's training loss and the mean of every term; write the pictures."""
        segmenting = [output for output in train_outputs if not math.isnan(output["loss"])]
        super().on_train_epoch_end(segmenting or train_outputs)

        columns = {}
        for name in self.step_terms:
            columns[name] = [output[name] for output in train_outputs]
        self.log_terms(self._epoch_means(columns))
        if self._pictures:
            self._write_pictures()

    def _write_pictures(self) -> None:
        from nnunet_ext.training.figures import picture_rows_figure

        path = Path(self.output_folder, "pictures", f"epoch_{self.current_epoch:04d}.png")
        title = f"{type(self).__name__}, epoch {self.current_epoch}"
        try:
            picture_rows_figure(self._pictures, path, title)
        except ValueError as error:  # such as NaN: no reason to lose a training
            self.print_to_log_file(f"{path.name} is not drawn: {error}")

    def _draws_now(self) -> bool:
        """Return whether this is the last step of an epoch to draw, in the first process."""
        is_last_epoch = self.current_epoch == self.num_epochs - 1
        due = self.current_epoch % self.draw_every == 0 or is_last_epoch
        last = self._iteration_in_epoch == self.num_iterations_per_epoch - 1
        return due and last and self.local_rank == 0

    @property
    def starts_epoch(self) -> bool:
        """True in the first step of an epoch, when what costs time may be measured."""
        return self._iteration_in_epoch == 0

    def _epoch_means(self, values: Mapping[str, list[float]]) -> dict[str, float]:
        """Return the means over an epoch and all processes of what is not NaN; NaN of nothing."""
        rows = []
        for column in values.values():
            known = np.asarray(column)[~np.isnan(column)]
            rows.append([known.sum(), len(known)])

        own = torch.tensor(rows, dtype=torch.float32)
        sums, counts = processes.mean_over_ranks(own.to(self.device)).cpu().T
        means = (sums / counts).tolist()
        return dict(zip(values, means, strict=True))


def _on_host(values: Sequence[torch.Tensor | float]) -> list[float]:
    """Return the values as numbers; waits for the device once."""
    tensors = [value.float() for value in values if isinstance(value, torch.Tensor)]
    if not tensors:
        return [float(value) for value in values]

    from_device = iter(torch.stack(tensors).tolist())
    numbers = []
    for value in values:
        numbers.append(next(from_device) if isinstance(value, torch.Tensor) else value)
    return numbers


def _first_picture(tensor: torch.Tensor) -> np.ndarray:
    """Return the first channel of the first item of ``[B, C, *spatial]``.

    Of a volume it is the middle slice.
    """
    picture = tensor[0, 0].detach().float().cpu()
    while picture.ndim > 2:
        picture = picture[len(picture) // 2]
    return picture.numpy()
