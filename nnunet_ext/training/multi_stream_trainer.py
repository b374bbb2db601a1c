"""Training on further streams beside the labelled one, and scores on a stream without labels."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_ext.errors import InputError
from nnunet_ext.networks.segmentation import finest
from nnunet_ext.training.engine import label_free, processes
from nnunet_ext.training.engine.random_numbers import seeded_random_numbers
from nnunet_ext.training.multi_network_trainer import MultiNetworkTrainer
from nnunet_ext.training.streams.loader import MultiStreamLoader, WorkerPool
from nnunet_ext.training.streams.location import LESION_LABELS, UNLABELLED_ROLES
from nnunet_ext.training.streams.normalization import Window
from nnunet_ext.training.streams.sampling import StreamDataLoader, check_matches
from nnunet_ext.training.streams.transforms import fill_outside

WORKERS_VARIABLE = "nnUNet_n_proc_DA"
LABEL_FREE_BATCHES = 10  # per epoch
LABELLED = "labelled"  # the role of nnU-Net's own data set
TRAINING, VALIDATION, SCORING = 0, 1, 2  # purposes of batches, part of their random seed


class MultiStreamTrainer(MultiNetworkTrainer):
    """The base of every trainer: a method states its streams, its networks and its step.

    The batch contains the required streams, and ``optional_streams`` if they are configured. It is
    nnU-Net's batch (``data``, ``target``, ``keys``) with one such dict per further stream under its
    role, without ``target`` if the stream has no labels. In the step all tensors are on the device.

    Each of these dicts also has ``forced``, bool ``[B]``: patches that nnU-Net placed on a lesion
    on purpose, which it never does in a stream without labels. A critic of domains should judge
    only ``~batch["forced"]``, or it learns the share of lesion; ``judges_unforced_samples`` ensures
    that every batch has such samples.

    If cases of two streams must match (:meth:`matches`), both are in
    ``without_spatial_augmentation``: their samples are the centres of the cases, with augmented
    intensities.

    If a stream without labels is configured, in use or not, every epoch is scored on it
    (``label_free.py``), unless ``scores_without_labels`` is off.
    """

    optional_streams: ClassVar[tuple[str, ...]] = ()
    # roles; "labelled" is nnU-Net's own data set
    without_spatial_augmentation: ClassVar[tuple[str, ...]] = ()
    judges_unforced_samples: ClassVar[bool] = False
    # False if the network cannot segment the images of a stream without labels
    scores_without_labels: ClassVar[bool] = True

    # of all streams; strong is that of nnUNetTrainerDA5
    augmentation: Literal["nnunet", "strong"] = "nnunet"

    def matches(self, role: str) -> dict[str, list[str]]:
        """Return the cases of a stream that match each labelled case.

        Key of a labelled case -> keys of that stream's cases. One of them is drawn at random for
        each labelled sample, for the same place in the stream's batch. Empty: the stream is drawn
        independently.
        """
        return {}

    # --- loaders

    def roles_in_use(self) -> list[str]:
        """Return the required streams, then the optional ones that are configured."""
        configured = self.plans_entry.streams
        possible = (*self.required_streams, *self.optional_streams)
        return [role for role in possible if role in configured]

    def identity(self) -> dict[str, Any]:
        """Return the identity of every trainer, with the streams that it reads."""
        entry = self.plans_entry
        roles = set(self.roles_in_use())
        if self.scored_role:
            roles.add(self.scored_role)

        normalizations = {}
        for role, normalization in entry.normalizations.items():
            if role in roles:
                normalizations[role] = normalization

        identity = super().identity()
        identity["streams"] = {role: entry.streams[role] for role in roles}
        if normalizations:
            identity["normalizations"] = normalizations
        return identity

    def get_dataloaders(self) -> tuple:
        """Build nnU-Net's loaders; the training loader also draws from the further streams.

        The loaders of all streams share one worker pool.
        """
        workers = get_allowed_n_proc_DA()
        with without_workers():
            training, validation = super().get_dataloaders()
        if self.scored_role:
            self._scored_images = self.stream_loader(self.scored_role, augmented=False)

        # numbers of processes and cached batches as in nnUNetTrainer.get_dataloaders
        training_loader = self._training_loader(training.data_loader, workers)
        training_cache = max(6, workers // 2)
        training_pool = self._in_workers(training_loader, training_cache)

        validation_workers = workers and max(1, workers // 2)
        validation_loader = self._validation_loader(validation.data_loader, validation_workers)
        validation_cache = max(3, workers // 4)
        validation_pool = self._in_workers(validation_loader, validation_cache)
        return training_pool, validation_pool

    def _training_loader(self, nnunet_loader: Any, workers: int) -> MultiStreamLoader:
        """Join nnU-Net's loader of the labelled stream with those of the further ones."""
        labelled = StreamDataLoader.take_over(nnunet_loader)
        if LABELLED in self.without_spatial_augmentation:
            labelled.leave_out_spatial_augmentation()
        if self.judges_unforced_samples and labelled.forces_every_sample():
            raise InputError(
                f"{type(self).__name__} compares labelled samples at random positions, but every "
                f"sample of a batch of {self.batch_size} is forced to show a lesion; lower "
                "oversample_foreground_percent, raise the batch size, or use fewer processes"
            )

        streams = {role: self.stream_loader(role) for role in self.roles_in_use()}
        labelled_keys = list(labelled.indices)
        matches = {}
        for role, stream in streams.items():
            of_role = self.matches(role)
            if of_role:
                check_matches(role, of_role, labelled_keys, list(stream.indices))
                labelled.paired = True
                stream.paired = True
                matches[role] = of_role

        return MultiStreamLoader(
            labelled,
            streams,
            seed=(self.seed, self.local_rank, TRAINING),
            first=self.current_epoch * self.num_iterations_per_epoch,
            workers=workers,
            matches=matches,
        )

    def _validation_loader(self, nnunet_loader: Any, workers: int) -> MultiStreamLoader:
        return MultiStreamLoader(
            StreamDataLoader.take_over(nnunet_loader),
            further={},
            seed=(self.seed, self.local_rank, VALIDATION),
            first=self.current_epoch * self.num_val_iterations_per_epoch,
            workers=workers,
        )

    def _in_workers(
        self, joined: MultiStreamLoader, cached: int
    ) -> SingleThreadedAugmenter | WorkerPool:
        if joined.workers == 0:
            return SingleThreadedAugmenter(joined, None)

        pool = WorkerPool(
            joined,
            None,
            joined.workers,
            cached,
            pin_memory=self.device.type == "cuda",
            wait_time=0.002,
        )
        pool._start()  # now, as nnU-Net does
        return pool

    def stream_loader(self, role: str, augmented: bool = True) -> StreamDataLoader:
        """Build the loader of one further stream.

        Patch size and augmentation are those of the labelled stream.

        Args:
            role: of the stream.
            augmented: as for training; otherwise patches at random positions, not augmented.

        Raises:
            InputError: the stream is not preprocessed for these plans.
        """
        patch_size = self.configuration_manager.patch_size
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        labels = self.plans_manager.get_label_manager({"labels": LESION_LABELS})
        if augmented:
            transforms = self.get_training_transforms(
                patch_size,
                rotation,
                None,
                mirror_axes,
                dummy_2d,
                self.configuration_manager.use_mask_for_norm,
                False,
                labels.foreground_labels,
            )
        else:
            initial_patch_size = patch_size
            transforms = self.get_validation_transforms(
                None, foreground_labels=labels.foreground_labels
            )

        normalization = self.plans_entry.normalizations.get(role)
        if normalization is not None:
            window = Window.parse(normalization)
            fill_outside(transforms, self.num_input_channels, window.outside)

        dataset = self.stream_dataset(role)
        self.print_to_log_file(f"stream {role}: {len(dataset.identifiers)} cases")
        has_labels = role not in UNLABELLED_ROLES
        oversampled = self.oversample_foreground_percent if has_labels else 0.0
        loader = StreamDataLoader(
            dataset,
            self.batch_size,
            initial_patch_size,
            patch_size,
            labels,
            oversample_foreground_percent=oversampled,
            transforms=transforms,
        )
        if augmented and role in self.without_spatial_augmentation:
            loader.leave_out_spatial_augmentation()
        return loader

    # --- augmentation

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:
        """Configure augmentation as nnU-Net or its strong variant does.

        A network that is not trained on mirrored images does not mirror at inference either.
        """
        if self.augmentation == "strong":
            variant = strong_variant()
            settings = variant.configure_rotation_dummyDA_mirroring_and_inital_patch_size(self)
        else:
            settings = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if LABELLED in self.without_spatial_augmentation:
            self.inference_allowed_mirroring_axes = None
        return settings

    def get_training_transforms(self, *arguments: Any, **named: Any) -> BasicTransform:
        """Return the transforms of nnU-Net or its strong variant, for all streams."""
        if self.augmentation == "strong":
            variant = strong_variant()
            return variant.get_training_transforms(*arguments, **named)
        return super().get_training_transforms(*arguments, **named)

    # --- judging without labels

    @property
    def scored_role(self) -> str | None:
        """The stream without labels on which the network is scored every epoch."""
        if not self.scores_without_labels:
            return None
        configured = self.plans_entry.streams
        for role in ("target_domain", "unlabeled"):
            if role in configured:
                return role
        return None

    @property
    def logged_terms(self) -> tuple[str, ...]:
        """Losses, diagnostics, and the label-free scores if there is a stream for them."""
        terms = super().logged_terms
        if self.scored_role:
            return terms + label_free.TERMS
        return terms

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log nnU-Net's pseudo Dice and the label-free scores."""
        super().on_validation_epoch_end(val_outputs)
        if not self.scored_role:
            return

        scores = self._label_free_scores()
        means = self._epoch_means(scores)
        source_dice = self.logger.get_value("mean_fg_dice", step=-1)
        means["source_dice"] = float(source_dice)
        means["score"] = label_free.combined_score(**means)

        logged = {}
        for term in label_free.TERMS:
            name = term.removeprefix("labelfree_")
            logged[term] = means[name]
        self.log_terms(logged)

    def _label_free_scores(self) -> dict[str, list[float]]:
        """Return this process's scores of some batches of the stream without labels."""
        entropies = []
        agreements = []
        batches = math.ceil(LABEL_FREE_BATCHES / processes.world_size())
        with seeded_random_numbers(self.seed, self.local_rank, SCORING, self.current_epoch):
            for _ in range(batches):
                batch = next(self._scored_images)
                images = batch["data"]
                first = self._prediction_of_a_view(images)
                second = self._prediction_of_a_view(images)

                first_entropy = label_free.lesion_entropy(first)
                second_entropy = label_free.lesion_entropy(second)
                entropy = (first_entropy + second_entropy) / 2
                agreement = label_free.agreement(first, second)
                entropies.append(entropy.item())
                agreements.append(agreement.item())
        return {"entropy": entropies, "agreement": agreements}

    def _prediction_of_a_view(self, images: torch.Tensor) -> torch.Tensor:
        """Return the softmax ``[B, classes, *spatial]`` of a random view, flipped back.

        Regions become one class.
        """
        view, flipped = self.random_view(images)
        with self._autocast():
            on_device = view.to(self.device)
            segmentation = self.evaluated_network(on_device)

        logits = self.class_logits(finest(segmentation))
        flipped_back = logits.float().flip(flipped)
        return flipped_back.softmax(1)

    def random_view(self, images: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Return another view of the images and its flipped dimensions, see ``augmented_view``.

        It is mirrored only along axes that nnU-Net mirrors at prediction.
        """
        axes = self.inference_allowed_mirroring_axes or ()
        return label_free.augmented_view(images, axes)

    def class_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits whose softmax is the probability of mutually exclusive classes.

        Regions become one class.

        Args:
            logits: ``[B, heads, *spatial]`` of the segmentation network.
        """
        if not self.label_manager.has_regions:
            return logits
        foreground = logits.amax(1, keepdim=True)
        background = torch.zeros_like(foreground)
        return torch.cat((background, foreground), 1)

    @property
    def class_count(self) -> int:
        """Channels of :meth:`class_logits`."""
        labels = self.label_manager
        if labels.has_regions:
            return 2
        return labels.num_segmentation_heads

    def on_epoch_end(self) -> None:
        """End the epoch as nnU-Net does; keep requested and the best label-free checkpoints."""
        super().on_epoch_end()
        epochs = self.current_epoch  # the ended epoch is already counted
        is_due = epochs % self.save_every == 0
        if self.keep_checkpoints and is_due:
            self._save_ended_epoch(f"checkpoint_epoch_{epochs:04d}.pth")

        if not self.scored_role:
            return
        scores = self.logger.get_value("labelfree_score", step=None)
        if label_free.is_best(scores):
            self.print_to_log_file("New best label-free score")
            self._save_ended_epoch(label_free.CHECKPOINT)

    def _save_ended_epoch(self, name: str) -> None:
        """Save a checkpoint of the epoch that nnU-Net has counted as ended."""
        path = Path(self.output_folder, name)
        with self._as_if(current_epoch=self.current_epoch - 1):
            self.save_checkpoint(str(path))


def strong_variant() -> Any:
    """Return nnU-Net's trainer with strong augmentation; its methods work for every trainer."""
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
        nnUNetTrainerDA5,
    )

    return nnUNetTrainerDA5


@contextmanager
def without_workers() -> Iterator[None]:
    """Let nnU-Net build its loaders without worker processes (``nnUNet_n_proc_DA=0``)."""
    before = os.environ.get(WORKERS_VARIABLE)
    os.environ[WORKERS_VARIABLE] = "0"
    try:
        yield
    finally:
        os.environ.pop(WORKERS_VARIABLE)
        if before is not None:
            os.environ[WORKERS_VARIABLE] = before
