"""Training on further streams beside the labelled one: their loaders, one step, its update and its log."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.helpers import dummy_context

from nnunet_ext.errors import InputError
from nnunet_ext.training.configured_trainer import ConfiguredTrainer
from nnunet_ext.training.multi_stream_loader import MultiStreamLoader
from nnunet_ext.training.streams import LESION_LABELS

MAX_GRADIENT_NORM = 12.0  # nnU-Net's
WORKERS_VARIABLE = "nnUNet_n_proc_DA"


class MultiStreamTrainer(ConfiguredTrainer):
    """A method states the streams it needs and one ``training_step``, which names its losses to :meth:`update`.

    ``optional_streams`` are joined to the batch where they are configured, beside the required ones. A batch is
    nnU-Net's (``data``, ``target``, ``keys``) with one such dict per further stream under its role; all tensors are on
    the device.
    """

    optional_streams: ClassVar[tuple[str, ...]] = ()

    _iteration_in_epoch = 0

    def training_step(self, batch: dict[str, Any]) -> None:
        """The method: forward passes, then :meth:`update` and :meth:`note`. Runs under autocast on CUDA.

        One of the losses is called ``segmentation``: it is what nnU-Net logs as training loss.
        """
        raise NotImplementedError

    # --- the step ---------------------------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run one :meth:`training_step`; ``loss`` is the segmentation loss, comparable to plain nnU-Net's."""
        self._terms: dict[str, torch.Tensor] = {}
        batch = _to_device(batch, self.device)
        with torch.autocast("cuda") if self.device.type == "cuda" else dummy_context():
            self.training_step(batch)
        self._iteration_in_epoch += 1
        values = torch.stack([value.float() for value in self._terms.values()]).cpu().numpy()  # one wait for the device
        terms = dict(zip(self._terms, values, strict=True))
        return {"loss": terms["segmentation"], **terms}

    def update(self, **losses: torch.Tensor) -> None:
        """Sum the named losses, step the optimizer once and log each loss under its name."""
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=False) if self.device.type == "cuda" else dummy_context():
            if self.grad_scaler is None:
                total.backward()
                self._clip_gradients()
                self.optimizer.step()
            else:
                self.grad_scaler.scale(total).backward()
                self.grad_scaler.unscale_(self.optimizer)
                self._clip_gradients()
                self.grad_scaler.step(self.optimizer)
                self.grad_scaler.update()
        torch.clear_autocast_cache()  # it holds the weights from before the step, in half precision
        self.note(**losses)

    def note(self, **values: torch.Tensor | float) -> None:
        """Log scalars under their names (``loss_terms`` or ``diagnostics``)."""
        self._terms |= {name: torch.as_tensor(value, device=self.device).detach() for name, value in values.items()}

    def _clip_gradients(self) -> None:
        for group in self.clipped_groups():
            torch.nn.utils.clip_grad_norm_(group, MAX_GRADIENT_NORM)

    def clipped_groups(self) -> list[list[torch.nn.Parameter]]:
        """Parameters whose gradient norm is limited together: all of them as in nnU-Net, unless a method says else."""
        return [list(self.network.parameters())]

    @property
    def iteration(self) -> int:
        """Steps done since the start of the training; follows from the epoch, so a resumed run continues it."""
        return self.current_epoch * self.num_iterations_per_epoch + self._iteration_in_epoch

    @property
    def total_iterations(self) -> int:
        """Steps of the whole training."""
        return self.num_epochs * self.num_iterations_per_epoch

    def on_train_epoch_start(self) -> None:
        """As nnU-Net, and the count of steps in this epoch starts anew."""
        super().on_train_epoch_start()
        self._iteration_in_epoch = 0

    # --- the streams ------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build everything, on one device.

        Raises:
            InputError: distributed training, a cascade's stage, or see :meth:`ConfiguredTrainer.initialize`.
        """
        if self.is_ddp:
            raise InputError(f"{type(self).__name__} trains on one GPU in this version; run it with -num_gpus 1")
        if self.is_cascaded:
            raise InputError(f"{type(self).__name__} does not train a cascade's second stage; use 2d or 3d_fullres")
        super().initialize()

    def roles_in_use(self) -> list[str]:
        """Required streams, then the optional ones that are configured."""
        configured = self.ext_configuration.streams
        return [role for role in (*self.required_streams, *self.optional_streams) if role in configured]

    def get_dataloaders(self) -> tuple:
        """nnU-Net's loaders, the training one joined with a loader of each further stream, in one worker pool."""
        workers = get_allowed_n_proc_DA()
        with without_workers():
            training, validation = super().get_dataloaders()
        streams = {role: self.stream_loader(role) for role in self.roles_in_use()}
        joined = MultiStreamLoader(training.data_loader, streams)
        # numbers of processes and cached batches as in nnUNetTrainer.get_dataloaders
        return (
            self._in_workers(joined, workers, max(6, workers // 2)),
            self._in_workers(validation.data_loader, workers and max(1, workers // 2), max(3, workers // 4)),
        )

    def _in_workers(self, loader: Any, workers: int, cached: int) -> Any:
        if workers == 0:
            return SingleThreadedAugmenter(loader, None)
        augmenter = NonDetMultiThreadedAugmenter(
            loader, None, workers, cached, pin_memory=self.device.type == "cuda", wait_time=0.002
        )
        next(augmenter)  # start the processes now, as nnU-Net does
        return augmenter

    def stream_loader(self, role: str) -> nnUNetDataLoader:
        """Batches of one further stream: nnU-Net's loader with the labelled stream's patch size and augmentation.

        Raises:
            InputError: the stream is not preprocessed for these plans.
        """
        patch_size = self.configuration_manager.patch_size
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        labels = self.plans_manager.get_label_manager({"labels": LESION_LABELS})
        transforms = self.get_training_transforms(
            patch_size,
            rotation,
            None,
            mirror_axes,
            dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
            foreground_labels=labels.foreground_labels,
        )
        return nnUNetDataLoader(
            self.stream_dataset(role),
            self.batch_size,
            initial_patch_size,
            patch_size,
            labels,
            oversample_foreground_percent=0.0 if role == "unlabeled" else self.oversample_foreground_percent,
            transforms=transforms,
        )


@contextmanager
def without_workers() -> Iterator[None]:
    """Let nnU-Net build its loaders without starting worker processes: ``nnUNet_n_proc_DA=0`` for the while."""
    before = os.environ.get(WORKERS_VARIABLE)
    os.environ[WORKERS_VARIABLE] = "0"
    try:
        yield
    finally:
        os.environ.pop(WORKERS_VARIABLE)
        if before is not None:
            os.environ[WORKERS_VARIABLE] = before


def _to_device(item: Any, device: torch.device) -> Any:
    """Move every tensor of nested dicts and lists."""
    if isinstance(item, torch.Tensor):
        return item.to(device, non_blocking=True)
    if isinstance(item, dict):
        return {key: _to_device(value, device) for key, value in item.items()}
    if isinstance(item, list):
        return [_to_device(value, device) for value in item]
    return item
