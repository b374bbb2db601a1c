"""Training on further streams beside the labelled one, and scores of one without labels."""

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
TRAINING, VALIDATION, SCORING = 0, 1, 2  # what batches are for: their random numbers follow from it


class MultiStreamTrainer(MultiNetworkTrainer):
    """The base of every trainer: a method states its streams, its networks and its step.

    ``optional_streams`` are joined to the batch where they are configured, beside the required
    ones. A batch is nnU-Net's (``data``, ``target``, ``keys``) with one such dict per further
    stream under its role, without ``target`` where the stream has no labels; in the step all
    tensors are on the device.

    Each of these dicts also has ``forced``, bool ``[B]``: patches that nnU-Net placed on a lesion
    on purpose, which it never does in a stream without labels. A critic of domains judges
    ``~batch["forced"]`` only, or it learns the share of lesion; with ``judges_unforced_samples``
    every batch is sure to have such samples.

    Where cases of two streams must fit (:meth:`matches`), both are in
    ``without_spatial_augmentation``: their samples are the centres of the cases, with augmented
    intensities.

    Where a stream without labels is configured, in use or not, every epoch is judged on it
    (``label_free.py``), unless ``scores_without_labels`` is off.
    """

    optional_streams: ClassVar[tuple[str, ...]] = ()
    # roles; "labelled" is nnU-Net's own data set
    without_spatial_augmentation: ClassVar[tuple[str, ...]] = ()
    judges_unforced_samples: ClassVar[bool] = False
    # False where the network does not segment images of a stream without labels
    scores_without_labels: ClassVar[bool] = True

    # of all streams; strong is that of nnUNetTrainerDA5
    augmentation: Literal["nnunet", "strong"] = "nnunet"

    def matches(self, role: str) -> dict[str, list[str]]:
        """Return the cases of a stream that fit each labelled case.

        Key of a labelled case -> keys of that stream's cases.

        One of them is drawn at random for each labelled sample and stands at the same place of the
        stream's batch. Empty: the stream is drawn by itself.
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

        identity = super().identity()
        identity["streams"] = {role: entry.streams[role] for role in roles}
        normalized = [role for role in entry.normalizations if role in roles]
        if normalized:
            identity["normalizations"] = {role: entry.normalizations[role] for role in normalized}
        return identity

    def get_dataloaders(self) -> tuple:
        """Build nnU-Net's loaders, the training one joined with one of each further stream.

        All share one worker pool.
        """
        workers = get_allowed_n_proc_DA()
        with without_workers():
            training, validation = super().get_dataloaders()
        if self.scored_role:
            self._scored_images = self.stream_loader(self.scored_role, augmented=False)

        # numbers of processes and cached batches as in nnUNetTrainer.get_dataloaders
        training_pool = self._in_workers(
            self._training_loader(training.data_loader, workers), max(6, workers // 2)
        )
        validation_workers = workers and max(1, workers // 2)
        validation_pool = self._in_workers(
            self._validation_loader(validation.data_loader, validation_workers),
            max(3, workers // 4),
        )
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
        matches = {}
        for role, stream in streams.items():
            of_role = self.matches(role)
            if of_role:
                check_matches(role, of_role, list(labelled.indices), list(stream.indices))
                labelled.paired = stream.paired = True
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
            {},
            seed=(self.seed, self.local_rank, VALIDATION),
            first=self.current_epoch * self.num_val_iterations_per_epoch,
            workers=workers,
        )

    def _in_workers(
        self, joined: MultiStreamLoader, cached: int
    ) -> SingleThreadedAugmenter | WorkerPool:
        if joined.workers == 0:
            return SingleThreadedAugmenter(joined, None)

        pin_memory = self.device.type == "cuda"
        pool = WorkerPool(
            joined, None, joined.workers, cached, pin_memory=pin_memory, wait_time=0.002
        )
        pool._start()  # now, as nnU-Net does
        return pool

    def stream_loader(self, role: str, augmented: bool = True) -> StreamDataLoader:
        """Build the loader of one further stream.

        Patch size and augmentation are those of the labelled stream.

        Args:
            role: the stream's.
            augmented: as for training; otherwise patches at random positions, as they are.

        Raises:
            InputError: the stream is not preprocessed for these plans.
        """
        patch_size = self.configuration_manager.patch_size
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        labels = self.plans_manager.get_label_manager({"labels": LESION_LABELS})
        transforms = self.get_validation_transforms(
            None, foreground_labels=labels.foreground_labels
        )
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
        normalization = self.plans_entry.normalizations.get(role)
        if normalization is not None:
            fill_outside(transforms, self.num_input_channels, Window.parse(normalization).outside)

        dataset = self.stream_dataset(role)
        self.print_to_log_file(f"stream {role}: {len(dataset.identifiers)} cases")
        has_labels = role not in UNLABELLED_ROLES
        loader = StreamDataLoader(
            dataset,
            self.batch_size,
            initial_patch_size if augmented else patch_size,
            patch_size,
            labels,
            oversample_foreground_percent=self.oversample_foreground_percent if has_labels else 0.0,
            transforms=transforms,
        )
        if augmented and role in self.without_spatial_augmentation:
            loader.leave_out_spatial_augmentation()
        return loader

    # --- augmentation

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:
        """Configure augmentation as nnU-Net or its strong variant does.

        A network that never saw mirrored images is not tested on any.
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
        """As nnU-Net or its strong variant, for labelled and further streams; same arguments."""
        if self.augmentation == "strong":
            return strong_variant().get_training_transforms(*arguments, **named)
        return super().get_training_transforms(*arguments, **named)

    # --- judging without labels

    @property
    def scored_role(self) -> str | None:
        """The stream without labels on which the network is judged every epoch."""
        if not self.scores_without_labels:
            return None
        configured = self.plans_entry.streams
        for role in ("target_domain", "unlabeled"):
            if role in configured:
                return role
        return None

    @property
    def logged_terms(self) -> tuple[str, ...]:
        """Losses, diagnostics, and the label-free scores where a stream allows them."""
        terms = super().logged_terms
        return terms + label_free.TERMS if self.scored_role else terms

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log nnU-Net's pseudo Dice and the label-free scores."""
        super().on_validation_epoch_end(val_outputs)
        if not self.scored_role:
            return

        means = self._epoch_means(self._label_free_scores())
        means["source_dice"] = float(self.logger.get_value("mean_fg_dice", step=-1))
        means["score"] = label_free.combined_score(**means)
        self.log_terms({term: means[term.removeprefix("labelfree_")] for term in label_free.TERMS})

    def _label_free_scores(self) -> dict[str, list[float]]:
        """Return scores of some batches of the stream without labels, shared by all processes."""
        scores: dict[str, list[float]] = {"entropy": [], "agreement": []}
        batches = math.ceil(LABEL_FREE_BATCHES / processes.world_size())
        with seeded_random_numbers(self.seed, self.local_rank, SCORING, self.current_epoch):
            for _ in range(batches):
                images = next(self._scored_images)["data"]
                first = self._prediction_of_a_view(images)
                second = self._prediction_of_a_view(images)

                entropy = (label_free.lesion_entropy(first) + label_free.lesion_entropy(second)) / 2
                scores["entropy"].append(entropy.item())
                scores["agreement"].append(label_free.agreement(first, second).item())
        return scores

    def _prediction_of_a_view(self, images: torch.Tensor) -> torch.Tensor:
        """Return the prediction of a random view, turned back.

        It is a softmax ``[B, classes, *spatial]``; regions become one class.
        """
        axes = self.inference_allowed_mirroring_axes or ()
        view, flipped = label_free.augmented_view(images, axes)
        with self._autocast():
            logits = finest(self.evaluated_network(view.to(self.device)))
        return self.class_logits(logits).float().flip(flipped).softmax(1)

    def class_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits whose softmax are probabilities of classes that exclude each other.

        Regions become one class.

        Args:
            logits: ``[B, heads, *spatial]`` of the segmentation network.
        """
        if not self.label_manager.has_regions:
            return logits
        whole = logits.amax(1, keepdim=True)
        return torch.cat((torch.zeros_like(whole), whole), 1)

    @property
    def class_count(self) -> int:
        """Channels of :meth:`class_logits`."""
        return 2 if self.label_manager.has_regions else self.label_manager.num_segmentation_heads

    def on_epoch_end(self) -> None:
        """End the epoch as nnU-Net does, and keep further checkpoints.

        These are the one that the label-free scores prefer, and others on request.
        """
        super().on_epoch_end()
        epochs = self.current_epoch  # the one that ends is counted already
        if self.keep_checkpoints and epochs % self.save_every == 0:
            self._save_ended_epoch(f"checkpoint_epoch_{epochs:04d}.pth")

        if self.scored_role:
            scores = self.logger.get_value("labelfree_score", step=None)
            if label_free.is_best(scores):
                self.print_to_log_file("New best label-free score")
                self._save_ended_epoch(label_free.CHECKPOINT)

    def _save_ended_epoch(self, name: str) -> None:
        """Save a checkpoint of the epoch that nnU-Net has counted as ended."""
        with self._as_if(current_epoch=self.current_epoch - 1):
            self.save_checkpoint(str(Path(self.output_folder, name)))


def strong_variant() -> Any:
    """nnU-Net's trainer with strong augmentation; its methods serve every trainer."""
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
        nnUNetTrainerDA5,
    )

    return nnUNetTrainerDA5


@contextmanager
def without_workers() -> Iterator[None]:
    """Let nnU-Net build its loaders without starting worker processes.

    ``nnUNet_n_proc_DA`` is 0 temporarily.
    """
    before = os.environ.get(WORKERS_VARIABLE)
    os.environ[WORKERS_VARIABLE] = "0"
    try:
        yield
    finally:
        os.environ.pop(WORKERS_VARIABLE)
        if before is not None:
            os.environ[WORKERS_VARIABLE] = before
