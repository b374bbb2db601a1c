"""Networks, optimizers and processes of a training, and the checkpoints from which it continues
exactly.
"""

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nnunet_ext.errors import InputError
from nnunet_ext.files.locks import hold_until_the_end
from nnunet_ext.package import made_by
from nnunet_ext.stock.training import TRAINING_LOCK
from nnunet_ext.training.configured_trainer import ConfiguredTrainer, plans_identity
from nnunet_ext.training.engine import cpu, processes
from nnunet_ext.training.engine.averaging import frozen_copy
from nnunet_ext.training.engine.checkpoints import differences, write_checkpoint
from nnunet_ext.training.engine.full_disk import stop_workers, write_errors_in_one_line
from nnunet_ext.training.engine.random_numbers import seed_random_numbers
from nnunet_ext.training.engine.schedules import Schedule, per_epoch, polynomial
from nnunet_ext.training.engine.updates import (
    MAX_GRADIENT_NORM,
    RatesOfEpoch,
    Updater,
    require_separate,
)
from nnunet_ext.training.settings.hyperparameters import Fraction
from nnunet_ext.training.settings.plans_entry import MADE_BY, PLANS_KEY
from nnunet_ext.training.weights.checkpoint_files import read_content

UNUSED_OPTIMIZER = SimpleNamespace(load_state_dict=lambda state: None)


class ResumableTrainer(ConfiguredTrainer):
    """A method states its networks and their optimizers; this builds, shares, averages, saves and
    restores them.

    ``network`` segments: nnU-Net builds, saves and predicts with it. Auxiliary networks are what
    inference does not need. A *player* is a name whose optimizer owns parameters: usually those of
    the network of that name, but also part of it, or of several.
    """

    average_weights: Fraction = (
        0  # decay of the averaged network that is evaluated and saved, e.g. 0.999; 0: none
    )

    _iteration_in_epoch = 0

    # --- what a method states
    # ---------------------------------------------------------------------------------------

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Return networks that only training needs, by name; ``network`` is the segmenting
        one's.
        """
        return {}

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return a player's optimizer and the factor of its learning rate per iteration (None:
        constant).

        Called for ``network`` and every auxiliary network. Without an optimizer, ``(None, None)``,
        the player takes no steps; a network of which no optimizer holds a parameter is frozen and
        stays in evaluation mode.

        Args:
            player: name of the network.
            module: the network itself, not its compiled wrapper. ``network`` gets nnU-Net's
                optimizer by default.
        """
        if player != "network":
            raise NotImplementedError(f"{type(self).__name__} gives {player} no optimizer")
        optimizer, _ = super().configure_optimizers()
        return optimizer, per_epoch(
            polynomial(self.total_iterations), self.num_iterations_per_epoch
        )

    def max_gradient_norm(self, player: str) -> float | None:
        """Return the norm to which a player's gradient is limited, nnU-Net's by default; None does
        not clip.
        """
        return MAX_GRADIENT_NORM

    def clipped_groups(self, player: str) -> list[list[nn.Parameter]]:
        """Return the parameters whose gradient norm is limited together; an empty list stands for
        all of a player.
        """
        return []

    def auxiliary_state(self) -> dict[str, Any]:
        """Return what else a method must keep over a resume, as tensors and plain Python."""
        return {}

    def load_auxiliary_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`auxiliary_state` returned."""

    # --- networks
    # ----------------------------------------------------------------------------------------------

    def module_of(self, name: str) -> nn.Module:
        """Return ``network`` or an auxiliary network, without the wrapper of ``torch.compile``."""
        network = self.network if name == "network" else self.auxiliary_networks[name]
        return getattr(network, "_orig_mod", network)

    @property
    def encoder(self) -> Any:
        """The encoder of nnU-Net's networks and ours, with ``strides`` and ``output_channels``;
        None in others.
        """
        return getattr(self.module_of("network"), "encoder", None)

    @property
    def convolution(self) -> type[Any]:
        """The convolution of the plans' dimension, for auxiliary networks."""
        return nn.Conv2d if len(self.configuration_manager.patch_size) == 2 else nn.Conv3d

    @property
    def evaluated_network(self) -> nn.Module:
        """The segmentation network that is validated, scored, saved and predicted with."""
        return self.network if self.averaged_network is None else self.averaged_network

    @property
    def iteration(self) -> int:
        """Steps done since the start of the training; follows from the epoch, so a resumed run
        continues it.
        """
        return self.current_epoch * self.num_iterations_per_epoch + self._iteration_in_epoch

    @property
    def total_iterations(self) -> int:
        """Steps of the whole training."""
        return self.num_epochs * self.num_iterations_per_epoch

    def initialize(self) -> None:
        """Build everything as nnU-Net does, with the auxiliary networks.

        Raises:
            InputError: a cascade's stage, a batch that the processes cannot share evenly, or see
                :meth:`configure`.
        """
        self.require_single_stage(self.plans_manager, self.configuration_name)
        if self.local_rank == 0:
            hold_until_the_end(
                Path(self.output_folder, TRAINING_LOCK), "another training of this fold is running"
            )
        self.configure()
        self.averaged_network: nn.Module | None = None
        if self.is_ddp:
            self._join_processes()
        if self._do_i_compile():
            # compiled graphs must outlive a backward pass, since several losses of a step may share
            # one
            torch._functorch.config.donated_buffer = False
        seed_random_numbers(self.seed)
        with self._as_if(is_ddp=False):
            super().initialize()

        if self.is_ddp:
            self._share_batch()
        if self.device.type == "cpu":
            cpu.activate_out_of_place(self.network)
        if self.average_weights:
            self.averaged_network = frozen_copy(self.module_of("network"))

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, RatesOfEpoch]:
        """Build the auxiliary networks and every player's optimizer.

        Returns:
            What nnU-Net logs and saves: the optimizer of ``network``, or of the first player that
            has one; and what it calls at the start of an epoch, which sets the learning rates of
            all players.
        """
        self.auxiliary_networks = {
            name: self._on_device(network)
            for name, network in self.build_auxiliary_networks().items()
        }
        self.updaters: dict[str, Updater] = {}
        for player in ("network", *self.auxiliary_networks):
            optimizer, schedule = self.configure_optimizer(player, self.module_of(player))
            if optimizer is None:
                continue
            scaler = torch.amp.GradScaler("cuda") if self.device.type == "cuda" else None
            if not self.updaters:
                scaler = self.grad_scaler  # which nnU-Net saves
            max_norm, groups = self.max_gradient_norm(player), self.clipped_groups(player)
            self.updaters[player] = Updater(optimizer, scaler, schedule, max_norm, groups)

        owned = require_separate(self.updaters)
        networks = {name: self.module_of(name) for name in ("network", *self.auxiliary_networks)}
        self.frozen_networks = {
            name for name, network in networks.items() if _nobody_owns(network, owned)
        }
        for name in self.frozen_networks:
            networks[name].requires_grad_(False).eval()
        if not self.updaters:
            raise ValueError(f"{type(self).__name__} gives no network an optimizer")
        first = next(iter(self.updaters.values()))
        return first.optimizer, RatesOfEpoch(
            list(self.updaters.values()), self.num_iterations_per_epoch
        )

    def _on_device(self, network: nn.Module) -> nn.Module:
        network = network.to(self.device)
        if self.is_ddp and self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return network

    def on_train_epoch_start(self) -> None:
        """As nnU-Net; random numbers and the count of steps start again with every epoch."""
        super().on_train_epoch_start()
        for name in ("network", *self.auxiliary_networks):
            self.module_of(name).train(name not in self.frozen_networks)
        self._iteration_in_epoch = 0
        seed_random_numbers(self.seed, self.local_rank, self.current_epoch)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """As nnU-Net, also for networks without its decoder; never on where the setting says
        off.
        """
        for network in (self.module_of("network"), self.averaged_network):
            decoder = getattr(network, "decoder", None)
            if hasattr(decoder, "deep_supervision"):
                decoder.deep_supervision = enabled and self.enable_deep_supervision  # type: ignore[union-attr]

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As nnU-Net, with the evaluated network."""
        with self._as_if(network=self.evaluated_network):
            return super().validation_step(batch)

    def run_training(self) -> None:
        """As nnU-Net.

        Raises:
            InputError: the disk is full.
        """
        with self._write_errors_in_one_line():
            super().run_training()

    def _write_errors_in_one_line(self) -> AbstractContextManager[None]:
        def stop() -> None:
            stop_workers(self.dataloader_train, self.dataloader_val)

        return write_errors_in_one_line(Path(self.output_folder), stop)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """As nnU-Net, with the evaluated network.

        Raises:
            InputError: the disk is full.
        """
        with self._as_if(network=self.evaluated_network), self._write_errors_in_one_line():
            super().perform_actual_validation(save_probabilities)

    # --- several processes
    # ------------------------------------------------------------------------------------------

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
                f"{size} processes cannot share batches of {batch_size} evenly; use as many as "
                f"divide {batch_size}, or "
                f"change batch_size in {self.plans_manager.plans_name}.json"
            )
        self.device = processes.process_device()
        if self.device.type == "cpu":
            self.grad_scaler = None
            cores = (
                len(os.sched_getaffinity(0))
                if hasattr(os, "sched_getaffinity")
                else os.cpu_count() or 1
            )
            torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", size))))

    def _share_batch(self) -> None:
        self._set_batch_size_and_oversample()
        for module in self.loss.modules():
            if hasattr(module, "ddp"):
                module.ddp = True  # nnU-Net's batch Dice: of the batches of all processes
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # in place
        elif any(isinstance(module, _BatchNorm) for module in self.network.modules()):
            raise InputError(
                "batch normalisation is not shared by processes on the CPU; train with one process"
            )

    def on_train_start(self) -> None:
        """As nnU-Net; all processes start from the first one's weights, and the average from those
        of the network.
        """
        super().on_train_start()
        if self.averaged_network is not None and self.iteration == 0:
            self.averaged_network.load_state_dict(
                self.module_of("network").state_dict()
            )  # -pretrained_weights
        if self.is_ddp:
            for network in (self.network, self.averaged_network, *self.auxiliary_networks.values()):
                if network is not None:
                    processes.share_weights(network)
        if self.device.type == "cpu":
            cpu.keep_freed_memory()  # from here on: not in the loader's workers

    def on_train_end(self) -> None:
        """As nnU-Net, and let memory be freed again."""
        super().on_train_end()
        if self.device.type == "cpu":
            cpu.keep_freed_memory(False)

    # --- checkpoints
    # ----------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """As nnU-Net, with the whole state of the training under one more key.

        A kill while writing leaves the previous checkpoint readable.
        """
        buffer = io.BytesIO()
        with self._as_if(is_ddp=False, network=self.evaluated_network):
            super().save_checkpoint(buffer)
        if buffer.tell() == 0:
            return  # not the first process, or checkpoints are disabled
        buffer.seek(0)
        checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)
        del buffer
        checkpoint[PLANS_KEY] = {
            MADE_BY: made_by(),
            "identity": self.identity(),
            "networks": {
                name: self.module_of(name).state_dict()
                for name in self._networks_nnunet_does_not_save()
            },
            "updaters": {
                name: updater.state_dict()
                for name, updater in self._updaters_nnunet_does_not_save()
            },
            "auxiliary": self.auxiliary_state(),
        }
        write_checkpoint(checkpoint, Path(filename))

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Continue a training (``--c``), every network and schedule of it, or load it for
        validation.

        Raises:
            InputError: the checkpoint was written for another network or data set, or, when
                continuing, with other streams or hyperparameters.
        """
        if not self.was_initialized:
            self.initialize()
        checkpoint = filename_or_checkpoint
        if not isinstance(checkpoint, dict):
            checkpoint = read_content(Path(filename_or_checkpoint), "train from the start")
        if PLANS_KEY not in checkpoint:
            raise InputError(
                f"{filename_or_checkpoint} has no state of a training by {type(self).__name__}; "
                f"train from the start"
            )
        state = checkpoint[PLANS_KEY]
        found = differences(self._compared(state["identity"]), self._compared(self.identity()))
        if found:
            raise InputError(
                f"{filename_or_checkpoint} was written by another training: {'; '.join(found)}. "
                f"Set this back, or "
                "train under plans of another name (nnUNetv2_ext_configure -o NAME)"
            )
        optimizer = self.optimizer if self.logger.resume else UNUSED_OPTIMIZER
        with self._as_if(is_ddp=False, network=self.evaluated_network, optimizer=optimizer):
            super().load_checkpoint(
                filename_or_checkpoint
            )  # unpickles: by now the file holds nothing foreign
        if not self.logger.resume:
            return  # validation needs nothing else, and may come with other settings
        for name in self._networks_nnunet_does_not_save():
            self.module_of(name).load_state_dict(state["networks"][name])
        for name, updater in self._updaters_nnunet_does_not_save():
            updater.load_state_dict(state["updaters"][name])
        self.load_auxiliary_state(state["auxiliary"])

    def _networks_nnunet_does_not_save(self) -> list[str]:
        """Networks that nnU-Net does not save: it saves the evaluated one."""
        trained = [] if self.averaged_network is None else ["network"]
        return [*trained, *self.auxiliary_networks]

    def _updaters_nnunet_does_not_save(self) -> list[tuple[str, Updater]]:
        return [
            (name, updater)
            for name, updater in self.updaters.items()
            if updater.optimizer is not self.optimizer
        ]

    def _compared(self, identity: dict[str, Any]) -> dict[str, Any]:
        """The part of an identity that matters now: validation only needs the network."""
        if not self.logger.resume:
            return {name: identity[name] for name in ("trainer", "dataset", "labels", "plans")}
        return {**identity, "hyperparameters": self.unchangeable(identity["hyperparameters"])}

    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be continued."""
        plans = self.plans_manager
        return {
            "trainer": type(self).__name__,
            "dataset": plans.dataset_name,
            "hyperparameters": self.hyperparameters,
            "labels": self.dataset_json["labels"],
            "plans": plans_identity(plans, self.configuration_manager),
        }


def _nobody_owns(network: nn.Module, owned: set[int]) -> bool:
    """True of a network whose parameters no optimizer holds; one without parameters may learn
    otherwise.
    """
    parameters = list(network.parameters())
    return bool(parameters) and not any(id(parameter) in owned for parameter in parameters)
