"""Training several networks: the step and its updates, several processes, checkpoints that continue exactly."""

import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.utilities.helpers import dummy_context
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nnunet_ext.errors import InputError
from nnunet_ext.training.configured_trainer import ConfiguredTrainer
from nnunet_ext.training.engine import cpu, processes
from nnunet_ext.training.engine.checkpoints import differences
from nnunet_ext.training.engine.diagnostics import NonFiniteLoss, case_names, not_finite
from nnunet_ext.training.engine.random_numbers import seed_random_numbers
from nnunet_ext.training.engine.schedules import Schedule
from nnunet_ext.training.engine.updates import Player
from nnunet_ext.training.settings.plans_entry import PLANS_KEY


class MultiNetworkTrainer(ConfiguredTrainer):
    """A method states its networks and one ``training_step``, which names its losses.

    The segmentation network is the player ``network``, as nnU-Net builds, saves and predicts with it; auxiliary
    networks, which inference does not need, are further players. As it stands this trains as nnU-Net does.
    """

    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation",)

    _iteration_in_epoch = 0

    # --- what a method states ---------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any]) -> None:
        """The method: forward passes, :meth:`update` and :meth:`note`. Runs under autocast on CUDA.

        One of the losses is called ``segmentation``: it is what nnU-Net logs as training loss.
        """
        self.update("network", segmentation=self.loss(self.network(batch["data"]), batch["target"]))

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Networks that only training needs, by the name of their player; ``network`` is the segmenting one's."""
        return {}

    def configure_auxiliary_optimizer(
        self, name: str, network: nn.Module
    ) -> tuple[torch.optim.Optimizer, Schedule | None]:
        """An auxiliary network's optimizer, and the factor of its learning rate per iteration (None: constant)."""
        raise NotImplementedError(f"{type(self).__name__} gives {name} no optimizer")

    def learning_rate_schedule(self) -> Schedule | None:
        """Factor of the segmentation network's learning rate per iteration; None leaves it to nnU-Net, per epoch."""
        return None

    def clipped_groups(self) -> list[list[nn.Parameter]]:
        """Parameters of the segmentation network whose gradient norm is limited together: all, as in nnU-Net."""
        return [list(self.network.parameters())]

    def auxiliary_state(self) -> dict[str, Any]:
        """What else a method must keep over a resume, tensors and plain Python (see :meth:`load_auxiliary_state`)."""
        return {}

    def load_auxiliary_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`auxiliary_state` gave."""

    # --- the step ---------------------------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run one :meth:`training_step`; ``loss`` is the segmentation loss, comparable to plain nnU-Net's.

        Raises:
            NonFiniteLoss: a loss or gradient is NaN or infinite; the player's weights are saved as before its step,
                which a gradient scaler skips.
        """
        self._terms: dict[str, torch.Tensor | float] = {}
        self._losses: set[str] = set()
        self._batch = batch
        batch = _to_device(batch, self.device)
        with torch.autocast("cuda") if self.device.type == "cuda" else dummy_context():
            self.training_step(batch)
        tensors = {name: value for name, value in self._terms.items() if isinstance(value, torch.Tensor)}
        values = torch.stack([value.float() for value in tensors.values()]).tolist()  # one wait for the device
        terms = {**self._terms, **dict(zip(tensors, values, strict=True))}
        self._stop_where_not_finite({name: terms[name] for name in self._losses})
        self._iteration_in_epoch += 1
        return {"loss": terms["segmentation"], **{name: terms.get(name, math.nan) for name in self.step_terms}}

    def update(self, player: str, **losses: torch.Tensor) -> None:
        """Sum the named losses, step that player's optimizer (its weights change, no other's) and log each loss.

        The graph of the losses is used up; a further player needs a forward pass after this, or detached tensors.
        """
        if self.grad_scaler is None:  # which skips such a step, and to look here would wait for the GPU
            self._stop_where_not_finite({name: loss.item() for name, loss in losses.items()})
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        with torch.autocast("cuda", enabled=False) if self.device.type == "cuda" else dummy_context():
            try:
                self.players[player].step(total, self.iteration)
            except FloatingPointError:
                self._stop_where_not_finite({f"gradient of {' + '.join(losses)}": math.nan})
        torch.clear_autocast_cache()  # it holds the weights from before the step, in half precision
        self._losses |= set(losses)
        self.note(**losses)

    def note(self, **values: torch.Tensor | float) -> None:
        """Log scalars under their names (``loss_terms`` or ``diagnostics``); an epoch's mean is that of the steps
        that gave one.

        Raises:
            ValueError: a name that is not declared.
        """
        undeclared = set(values) - set(self.step_terms)
        if undeclared:
            raise ValueError(f"{type(self).__name__} declares no loss term or diagnostic {', '.join(undeclared)}")
        for name, value in values.items():
            self._terms[name] = value.detach() if isinstance(value, torch.Tensor) else value

    def batch_mean(self, features: torch.Tensor) -> torch.Tensor:
        """Mean of ``[B, ...]`` over the whole batch, that of all processes: ``[1, ...]``, float32, with gradient."""
        return processes.global_batch_mean(features)

    @property
    def iteration(self) -> int:
        """Steps done since the start of the training; follows from the epoch, so a resumed run continues it."""
        return self.current_epoch * self.num_iterations_per_epoch + self._iteration_in_epoch

    @property
    def total_iterations(self) -> int:
        """Steps of the whole training."""
        return self.num_epochs * self.num_iterations_per_epoch

    def _stop_where_not_finite(self, losses: Mapping[str, float]) -> None:
        wrong = not_finite(losses)
        if not wrong:
            return
        which = f"_rank{self.local_rank}" if self.is_ddp else ""
        state, data = (Path(self.output_folder, f"{what}_nonfinite{which}.pth") for what in ("checkpoint", "batch"))
        with self._as_if(local_rank=0, current_epoch=self.current_epoch - 1):  # any rank; the epoch is not finished
            self.save_checkpoint(str(state))
        torch.save(_to_device(self._batch, torch.device("cpu")), data)
        raise NonFiniteLoss(
            f"{', '.join(wrong)} in epoch {self.current_epoch}, iteration {self.iteration}, cases "
            f"{case_names(self._batch)}; networks and batch are saved as {self.output_folder}/*_nonfinite{which}.pth; "
            "look at these cases, or train anew with a lower initial_lr (nnUNetv2_ext_configure --set initial_lr=...)"
        )

    # --- building ---------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build everything as nnU-Net does, then the auxiliary networks.

        Raises:
            InputError: a cascade's stage, a batch that the processes cannot share evenly, or see :meth:`configure`.
        """
        if self.is_cascaded:
            raise InputError(f"{type(self).__name__} does not train a cascade's second stage; use 2d or 3d_fullres")
        self.configure()
        if self.is_ddp:
            self._join_processes()
        seed_random_numbers(self.seed)
        with self._as_if(is_ddp=False):
            super().initialize()
        if self.is_ddp:
            self._share_batch()
        if self.device.type == "cpu":
            cpu.activate_out_of_place(self.network)
        self.players = {
            "network": Player(
                self.network, self.optimizer, self.grad_scaler, self.learning_rate_schedule(), self.clipped_groups()
            )
        }
        for name, network in self.build_auxiliary_networks().items():
            network = network.to(self.device)
            if self.is_ddp and self.device.type == "cuda":
                network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            optimizer, schedule = self.configure_auxiliary_optimizer(name, network)
            scaler = torch.amp.GradScaler("cuda") if self.device.type == "cuda" else None
            self.players[name] = Player(network, optimizer, scaler, schedule)

    def on_train_epoch_start(self) -> None:
        """As nnU-Net; random numbers and the count of steps start anew with every epoch."""
        super().on_train_epoch_start()
        for player in self.players.values():
            player.module.train()
        self._iteration_in_epoch = 0
        seed_random_numbers(self.seed, self.local_rank, self.current_epoch)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log nnU-Net's training loss and the mean of every term."""
        super().on_train_epoch_end(train_outputs)
        self.log_terms(self._epoch_means({n: [output[n] for output in train_outputs] for n in self.step_terms}))

    @property
    def step_terms(self) -> tuple[str, ...]:
        """What a step may note."""
        return self.loss_terms + self.diagnostics

    def _epoch_means(self, values: Mapping[str, list[float]]) -> dict[str, float]:
        """Means over an epoch and all processes, of what is no NaN; of nothing: NaN."""
        columns = [np.asarray(column)[~np.isnan(column)] for column in values.values()]
        own = torch.tensor([[column.sum(), len(column)] for column in columns], dtype=torch.float32)
        sums, counts = processes.mean_over_ranks(own.to(self.device)).cpu().T
        return dict(zip(values, (sums / counts).tolist(), strict=True))

    # --- several processes ------------------------------------------------------------------------------------------

    @contextmanager
    def _as_if(self, **attributes: Any) -> Iterator[None]:
        """Run nnU-Net's code with other values of some attributes.

        With ``is_ddp=False`` it does without its DistributedDataParallel, see ``processes.py``.
        """
        before = {name: getattr(self, name) for name in attributes}
        self.__dict__.update(attributes)
        try:
            yield
        finally:
            self.__dict__.update(before)

    def _join_processes(self) -> None:
        size, batch_size = processes.world_size(), self.configuration_manager.batch_size
        if batch_size % size:
            raise InputError(
                f"{size} processes cannot share batches of {batch_size} evenly; use as many as divide {batch_size}, or "
                f"change batch_size in {self.plans_manager.plans_name}.json"
            )
        self.device = processes.process_device()
        if self.device.type == "cpu":
            self.grad_scaler = None
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", size))))

    def _share_batch(self) -> None:
        self._set_batch_size_and_oversample()
        for module in self.loss.modules():
            if hasattr(module, "ddp"):
                module.ddp = True  # nnU-Net's batch Dice: of the batches of all processes
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # in place
        elif any(isinstance(module, _BatchNorm) for module in self.network.modules()):
            raise InputError("batch normalisation is not shared by processes on the CPU; train with one process")

    def on_train_start(self) -> None:
        """As nnU-Net; all processes start from the first one's weights."""
        super().on_train_start()
        if self.is_ddp:
            for player in self.players.values():
                processes.share_weights(player.module)
        if self.device.type == "cpu":
            cpu.keep_freed_memory()  # from here on: not in the loader's workers

    def on_train_end(self) -> None:
        """As nnU-Net."""
        super().on_train_end()
        if self.device.type == "cpu":
            cpu.keep_freed_memory(False)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """As nnU-Net, whose network is wrapped when several processes train."""
        with self._as_if(is_ddp=False):
            super().set_deep_supervision_enabled(enabled)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """As nnU-Net, with the whole state of the training under one more key.

        A kill while writing leaves the previous checkpoint readable.
        """
        buffer = io.BytesIO()
        with self._as_if(is_ddp=False):
            super().save_checkpoint(buffer)
        if buffer.tell() == 0:
            return  # not the first process, or checkpoints are disabled
        buffer.seek(0)
        checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)
        del buffer
        checkpoint[PLANS_KEY] = {
            "identity": self.identity(),
            "iteration": self.iteration,
            "players": {name: player.state_dict() for name, player in self.players.items() if name != "network"},
            "auxiliary": self.auxiliary_state(),
        }
        unfinished = Path(f"{filename}.unfinished")
        with unfinished.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(filename)

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Continue a training (``--c``), every network and schedule of it, or load it for validation.

        Raises:
            InputError: the checkpoint was written for another network or data set, or, when continuing, with other
                streams or hyperparameters.
        """
        if not self.was_initialized:
            self.initialize()
        checkpoint = torch.load(filename_or_checkpoint, map_location="cpu", weights_only=False)
        if PLANS_KEY not in checkpoint:
            raise InputError(
                f"{filename_or_checkpoint} has no state of a training by {type(self).__name__}; train anew"
            )
        state = checkpoint[PLANS_KEY]
        found = differences(self._compared(state["identity"]), self._compared(self.identity()))
        if found:
            raise InputError(
                f"{filename_or_checkpoint} was written by another training: {'; '.join(found)}. Set this back, or "
                "train anew under plans of another name (nnUNetv2_ext_configure -o NAME)"
            )
        with self._as_if(is_ddp=False):
            super().load_checkpoint(filename_or_checkpoint)
        for name, player in self.players.items():
            if name != "network":
                player.load_state_dict(state["players"][name])
        self.load_auxiliary_state(state["auxiliary"])

    def _compared(self, identity: dict[str, Any]) -> dict[str, Any]:
        """The part of an identity that matters now: validation only needs the network."""
        if not self.logger.resume:
            return {name: identity[name] for name in ("trainer", "dataset", "labels", "plans")}
        defaults = {name: getattr(type(self), name) for name in self.hyperparameters}  # a setting may be newer
        known = {**defaults, **identity["hyperparameters"]}
        return {**identity, "hyperparameters": {n: value for n, value in known.items() if n not in self.changeable}}

    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be continued."""
        plans = self.plans_manager
        return {
            "trainer": type(self).__name__,
            "dataset": plans.dataset_name,
            "hyperparameters": self.hyperparameters,
            "labels": self.dataset_json["labels"],
            "plans": {
                "transpose_forward": plans.transpose_forward,
                "foreground_intensity_properties": plans.foreground_intensity_properties_per_channel,
                **self.configuration_manager.configuration,
            },
        }


def _to_device(item: Any, device: torch.device) -> Any:
    """Move every tensor of nested dicts and lists."""
    if isinstance(item, torch.Tensor):
        return item.to(device, non_blocking=True)
    if isinstance(item, dict):
        return {key: _to_device(value, device) for key, value in item.items()}
    if isinstance(item, list):
        return [_to_device(value, device) for value in item]
    return item
