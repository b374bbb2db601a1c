"""Networks, optimizers and processes of a training, and checkpoints to continue it exactly."""

import io
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
    """Build, share, average, save and restore the networks and optimizers that a method states.

    ``network`` segments: nnU-Net builds, saves and predicts with it. Auxiliary networks are not
    needed for inference. A *player* is a name whose optimizer owns parameters: usually those of the
    network of that name, but also part of them, or those of several networks.
    """

    # decay of the averaged network that is evaluated and saved, e.g. 0.999; 0: no average
    average_weights: Fraction = 0

    _iteration_in_epoch = 0

    # --- what a method states

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Return the networks that only the training needs, by name.

        The name ``network`` is reserved for the network that segments.
        """
        return {}

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return a player's optimizer, and the factor of its learning rate (None: constant).

        Called for ``network`` and every auxiliary network. Without an optimizer, ``(None, None)``,
        the player takes no steps. A network whose parameters no optimizer holds is frozen and stays
        in evaluation mode.

        Args:
            player: name of the network.
            module: the network itself, not its compiled wrapper. ``network`` gets nnU-Net's
                optimizer by default.
        """
        if player != "network":
            raise NotImplementedError(f"{type(self).__name__} gives {player} no optimizer")

        optimizer, _ = super().configure_optimizers()
        per_iteration = polynomial(self.total_iterations)
        schedule = per_epoch(per_iteration, self.num_iterations_per_epoch)
        return optimizer, schedule

    def max_gradient_norm(self, player: str) -> float | None:
        """Return the norm to which a player's gradient is limited, by default nnU-Net's.

        None does not clip.
        """
        return MAX_GRADIENT_NORM

    def clipped_groups(self, player: str) -> list[list[nn.Parameter]]:
        """Return the parameters whose gradient norm is limited together.

        An empty list stands for all parameters of the player.
        """
        return []

    def auxiliary_state(self) -> dict[str, Any]:
        """Return further state of a method that a resume needs, as tensors and plain Python."""
        return {}

    def load_auxiliary_state(self, state: dict[str, Any]) -> None:
        """Restore the state that :meth:`auxiliary_state` returned."""

    # --- networks

    def module_of(self, name: str) -> nn.Module:
        """Return ``network`` or an auxiliary network, without the wrapper of ``torch.compile``."""
        network: Any = self.network
        if name != "network":
            network = self.auxiliary_networks[name]
        return getattr(network, "_orig_mod", network)

    @property
    def encoder(self) -> Any:
        """The encoder of the segmentation network; None if it has none.

        The encoders of nnU-Net and of this package have ``strides`` and ``output_channels``.
        """
        network = self.module_of("network")
        return getattr(network, "encoder", None)

    @property
    def convolution(self) -> type[Any]:
        """The convolution of the plans' dimension, for auxiliary networks."""
        patch_size = self.configuration_manager.patch_size
        return nn.Conv2d if len(patch_size) == 2 else nn.Conv3d

    @property
    def evaluated_network(self) -> nn.Module:
        """The segmentation network that is validated, scored, saved and used for prediction."""
        if self.averaged_network is None:
            return self.network
        return self.averaged_network

    @property
    def iteration(self) -> int:
        """Number of steps since the start of the training.

        It is computed from the epoch, so a resumed run continues it.
        """
        before_this_epoch = self.current_epoch * self.num_iterations_per_epoch
        return before_this_epoch + self._iteration_in_epoch

    @property
    def total_iterations(self) -> int:
        """Number of steps of the whole training."""
        return self.num_epochs * self.num_iterations_per_epoch

    def initialize(self) -> None:
        """Build everything as nnU-Net does, and the auxiliary networks.

        Raises:
            InputError: a configuration that the method is not made for, a batch that the processes
                cannot share evenly, or see :meth:`configure`.
        """
        self.require_trainable(self.plans_manager, self.configuration_name)
        if self.local_rank == 0:
            lock = Path(self.output_folder, TRAINING_LOCK)
            hold_until_the_end(lock, "another training of this fold is running")

        self.configure()
        self.averaged_network: nn.Module | None = None
        if self.is_ddp:
            self._join_processes()
        if self._do_i_compile():
            # several losses of a step may share a compiled graph: a backward pass must not free it
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
            The optimizer that nnU-Net logs and saves, of ``network`` or of the first player that
            has one; and the scheduler that it steps at the start of an epoch, which sets the
            learning rates of all players.
        """
        self.auxiliary_networks: dict[str, nn.Module] = {}
        for name, network in self.build_auxiliary_networks().items():
            self.auxiliary_networks[name] = self._on_device(network)

        self.updaters: dict[str, Updater] = {}
        for player in ("network", *self.auxiliary_networks):
            module = self.module_of(player)
            optimizer, schedule = self.configure_optimizer(player, module)
            if optimizer is None:
                continue
            self.updaters[player] = Updater(
                optimizer,
                scaler=self._new_scaler(),
                schedule=schedule,
                max_norm=self.max_gradient_norm(player),
                clipped_groups=self.clipped_groups(player),
            )

        owned = require_separate(self.updaters)
        self._freeze_others(owned)
        if not self.updaters:
            raise ValueError(f"{type(self).__name__} gives no network an optimizer")

        updaters = list(self.updaters.values())
        scheduler = RatesOfEpoch(updaters, self.num_iterations_per_epoch)
        return updaters[0].optimizer, scheduler

    def _new_scaler(self) -> torch.amp.GradScaler | None:
        """Return the scaler of the next updater: the first one gets nnU-Net's, which it saves."""
        if not self.updaters:
            return self.grad_scaler
        if self.device.type != "cuda":
            return None
        return torch.amp.GradScaler("cuda")

    def _freeze_others(self, owned: set[int]) -> None:
        """Freeze the networks whose parameters no optimizer holds.

        Args:
            owned: identities of the parameters that optimizers hold.
        """
        self.frozen_networks: set[str] = set()
        for name in ("network", *self.auxiliary_networks):
            network = self.module_of(name)
            if _is_unowned(network, owned):
                network.requires_grad_(False)
                network.eval()
                self.frozen_networks.add(name)

    def _on_device(self, network: nn.Module) -> nn.Module:
        on_device = network.to(self.device)
        is_shared = self.is_ddp and self.device.type == "cuda"
        if is_shared:
            return nn.SyncBatchNorm.convert_sync_batchnorm(on_device)
        return on_device

    def on_train_epoch_start(self) -> None:
        """Start the epoch as nnU-Net does, with its own random numbers and count of steps."""
        super().on_train_epoch_start()
        for name in ("network", *self.auxiliary_networks):
            module = self.module_of(name)
            is_trained = name not in self.frozen_networks
            module.train(is_trained)
        self._iteration_in_epoch = 0
        seed_random_numbers(self.seed, self.local_rank, self.current_epoch)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch deep supervision as nnU-Net does, but never on if the setting is off.

        Networks without nnU-Net's decoder are left alone.
        """
        is_on = enabled and self.enable_deep_supervision
        networks = (self.module_of("network"), self.averaged_network)
        for network in networks:
            decoder: Any = getattr(network, "decoder", None)
            if hasattr(decoder, "deep_supervision"):
                decoder.deep_supervision = is_on

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Validate a batch as nnU-Net does, with the evaluated network."""
        with self._as_if(network=self.evaluated_network):
            return super().validation_step(batch)

    def run_training(self) -> None:
        """Train as nnU-Net does.

        Raises:
            InputError: the disk is full.
        """
        with self._write_errors_in_one_line():
            super().run_training()

    def _write_errors_in_one_line(self) -> AbstractContextManager[None]:
        def stop() -> None:
            stop_workers(self.dataloader_train, self.dataloader_val)

        folder = Path(self.output_folder)
        return write_errors_in_one_line(folder, stop)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate as nnU-Net does, with the evaluated network.

        Raises:
            InputError: the disk is full.
        """
        network = self.evaluated_network
        with self._as_if(network=network), self._write_errors_in_one_line():
            super().perform_actual_validation(save_probabilities)

    # --- several processes

    @contextmanager
    def _as_if(self, **attributes: Any) -> Iterator[None]:
        """Run nnU-Net's code with other values of some attributes.

        With ``is_ddp=False`` it does not use DistributedDataParallel, see ``processes.py``.
        """
        before = {name: getattr(self, name) for name in attributes}
        self.__dict__.update(attributes)
        try:
            yield
        finally:
            self.__dict__.update(before)

    def _join_processes(self) -> None:
        size = processes.world_size()
        batch_size = self.configuration_manager.batch_size
        if batch_size % size:
            raise InputError(
                f"{size} processes cannot share batches of {batch_size} evenly; use a number that "
                f"divides {batch_size}, or change batch_size in "
                f"{self.plans_manager.plans_name}.json"
            )

        self.device = processes.process_device()
        if self.device.type != "cpu":
            return
        self.grad_scaler = None
        cores_per_process = cpu.usable_cores() // processes.processes_on_this_machine()
        torch.set_num_threads(max(1, cores_per_process))

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
        """Start as nnU-Net does; all processes get the weights of the first one.

        The averaged network starts from the network's weights.
        """
        super().on_train_start()
        network = self.module_of("network")
        if self.averaged_network is not None and self.iteration == 0:
            weights = network.state_dict()  # perhaps of -pretrained_weights
            self.averaged_network.load_state_dict(weights)
        if self.is_ddp:
            processes.share_weights(network)
            if self.averaged_network is not None:
                processes.share_weights(self.averaged_network)
            for auxiliary in self.auxiliary_networks.values():
                processes.share_weights(auxiliary)
        if self.device.type == "cpu":
            cpu.keep_freed_memory()  # only now: not in the loader's workers

    def on_train_end(self) -> None:
        """End as nnU-Net does, and let memory be freed again."""
        super().on_train_end()
        if self.device.type == "cpu":
            cpu.keep_freed_memory(False)

    # --- checkpoints

    def save_checkpoint(self, filename: str) -> None:
        """Save nnU-Net's checkpoint with the whole state of the training under one more key.

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

        networks = {}
        for name in self._networks_nnunet_does_not_save():
            module = self.module_of(name)
            networks[name] = module.state_dict()
        updaters = {}
        for name, updater in self._updaters_nnunet_does_not_save():
            updaters[name] = updater.state_dict()
        checkpoint[PLANS_KEY] = {
            MADE_BY: made_by(),
            "identity": self.identity(),
            "networks": networks,
            "updaters": updaters,
            "auxiliary": self.auxiliary_state(),
        }
        write_checkpoint(checkpoint, Path(filename))

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Continue a training (``--c``) exactly, or load its network for validation.

        Raises:
            InputError: the checkpoint was written for another network or data set, or, when
                continuing, with other streams or hyperparameters.
        """
        if not self.was_initialized:
            self.initialize()
        state = self._own_state(filename_or_checkpoint)

        optimizer = self.optimizer if self.logger.resume else UNUSED_OPTIMIZER
        with self._as_if(is_ddp=False, network=self.evaluated_network, optimizer=optimizer):
            # this unpickles, but by now the file is known to contain nothing foreign
            super().load_checkpoint(filename_or_checkpoint)
        self.begin_curves(epochs=self.current_epoch)
        if not self.logger.resume:
            return  # validation needs nothing else, and may use other settings

        networks = state["networks"]
        for name in self._networks_nnunet_does_not_save():
            module = self.module_of(name)
            module.load_state_dict(networks[name])
        updaters = state["updaters"]
        for name, updater in self._updaters_nnunet_does_not_save():
            updater.load_state_dict(updaters[name])
        self.load_auxiliary_state(state["auxiliary"])

    def _own_state(self, filename_or_checkpoint: Any) -> dict[str, Any]:
        """Return the state that :meth:`save_checkpoint` added.

        Raises:
            InputError: the checkpoint has no such state, or that of another training.
        """
        checkpoint = filename_or_checkpoint
        if not isinstance(checkpoint, dict):
            checkpoint = read_content(Path(filename_or_checkpoint), "train from the start")
        if PLANS_KEY not in checkpoint:
            raise InputError(
                f"{filename_or_checkpoint} has no state of a training by {type(self).__name__}; "
                "train from the start"
            )

        state: dict[str, Any] = checkpoint[PLANS_KEY]
        before = self._compared(state["identity"])
        now = self._compared(self.identity())
        found = differences(before, now)
        if found:
            changes = "; ".join(found)
            raise InputError(
                f"{filename_or_checkpoint} was written by another training: {changes}. Undo this "
                "change, or train under plans of another name (nnUNetv2_ext_configure -o NAME)"
            )
        return state

    def _networks_nnunet_does_not_save(self) -> list[str]:
        """Return the networks that nnU-Net does not save: all but the evaluated one."""
        auxiliary = list(self.auxiliary_networks)
        if self.averaged_network is None:
            return auxiliary
        return ["network", *auxiliary]

    def _updaters_nnunet_does_not_save(self) -> list[tuple[str, Updater]]:
        others = []
        for name, updater in self.updaters.items():
            if updater.optimizer is not self.optimizer:
                others.append((name, updater))
        return others

    def _compared(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Return the part of an identity that matters now: validation only needs the network."""
        if not self.logger.resume:
            return {name: identity[name] for name in ("trainer", "dataset", "labels", "plans")}

        fixed = self.unchangeable(identity["hyperparameters"])
        return {**identity, "hyperparameters": fixed}

    def identity(self) -> dict[str, Any]:
        """Return the settings that must not change for a checkpoint to be continued."""
        plans = self.plans_manager
        return {
            "trainer": type(self).__name__,
            "dataset": plans.dataset_name,
            "hyperparameters": self.hyperparameters,
            "labels": self.dataset_json["labels"],
            "plans": plans_identity(plans, self.configuration_manager),
        }


def _is_unowned(network: nn.Module, owned: set[int]) -> bool:
    """Return whether no optimizer holds a parameter of the network.

    False for a network without parameters, which may learn in another way.
    """
    own = set(map(id, network.parameters()))
    has_parameters = len(own) > 0
    return has_parameters and own.isdisjoint(owned)
