"""Mean teacher: a moving average of the network labels the target domain for the network."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from torch import nn

from nnunet_ext.losses.consistency import confident, pseudo_label_loss, rare_class_weights
from nnunet_ext.networks.segmentation import finest
from nnunet_ext.training.engine.averaging import frozen_copy
from nnunet_ext.training.engine.label_free import augmented_view
from nnunet_ext.training.engine.schedules import Schedule, gaussian_rampup
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import Fraction, Weight
from nnunet_ext.training.streams.loader import MultiStreamLoader


class MeanTeacherTrainer(MultiStreamTrainer):
    """The student learns the teacher's confident labels on another view of the target images.

    The teacher's weights are a moving average of the student's. A pixel whose likeliest class is
    not probable enough is left out of the loss, of its sum and of its count.

    Reference: Tarvainen & Valpola 2017, "Mean teachers are better role models"; confident
    pseudo-labels and rare-class sampling as in Hoyer et al. 2022, "DAFormer", eq. 2-6.
    """

    use_when: ClassVar[str] = (
        "you compare with ImageSpaceDATrainer: it learns from a teacher's confident labels"
    )
    required_streams: ClassVar[tuple[str, ...]] = ("target_domain",)
    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation", "consistency")
    diagnostics: ClassVar[tuple[str, ...]] = ("kept_fraction",)

    consistency_weight: Weight = 1.0  # after the ramp-up
    rampup_fraction: Fraction = 0.4  # of the training, over which the weight grows
    teacher_decay: Fraction = 0.99
    confidence: Fraction = 0.9  # tau; pixels that the teacher is less sure of are left out
    # T of rare-class sampling, 0.01 in DAFormer; 0 draws all labelled cases alike
    rare_class_temperature: Weight = 0

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Build the teacher, equal to the student at first."""
        return {"teacher": frozen_copy(self.module_of("network"))}

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return nnU-Net's optimizer for the student, none for the teacher."""
        if player != "network":
            return None, None
        return super().configure_optimizer(player, module)

    def training_step(self, batch: dict[str, Any]) -> None:
        """Let the teacher label the target images, which the student sees in another view."""
        images = batch["target_domain"]["data"]
        view, flipped = augmented_view(images, self.inference_allowed_mirroring_axes or ())

        # the teacher: labels where its confidence exceeds tau
        with torch.no_grad():
            teacher = self.auxiliary_networks["teacher"]
            taught = self.class_logits(finest(teacher(images))).softmax(1)
        labels = taught.argmax(1)
        kept = confident(taught, self.confidence)

        # the student
        source = self.network(batch["data"])
        student = finest(self.network(view)).flip(flipped)
        consistency = pseudo_label_loss(self.class_logits(student), labels, kept)

        rampup = max(1, round(self.rampup_fraction * self.total_iterations))
        weight = gaussian_rampup(self.iteration, rampup, self.consistency_weight)
        share = self.share_of_mean(kept.sum())
        self.update(
            "network",
            segmentation=self.loss(source, batch["target"]),
            consistency=weight * share * consistency,
        )
        self.follow("teacher", "network", self.teacher_decay)
        self.note(kept_fraction=kept.float().mean())
        self.draw(target=(images, labels[:, None], kept[:, None].float()))

    def _training_loader(self, nnunet_loader: Any, workers: int) -> MultiStreamLoader:
        """Build every trainer's loader, with labelled cases drawn by the classes they show."""
        if self.rare_class_temperature:
            labels = self.label_manager
            classes = labels.foreground_regions if labels.has_regions else labels.foreground_labels
            pixels = class_pixels(nnunet_loader._data, classes)
            probabilities = case_probabilities(pixels, self.rare_class_temperature)
            nnunet_loader.sampling_probabilities = probabilities
        return super()._training_loader(nnunet_loader, workers)


def class_pixels(
    dataset: nnUNetDatasetBlosc2, classes: Sequence[int | tuple[int, ...]]
) -> np.ndarray:
    """Count the pixels of each class in each preprocessed case.

    They are the places that nnU-Net has listed.

    nnU-Net lists 10 000 pixels of a class, or 1 % of them if that is more; larger lesions count as
    that many.

    Args:
        dataset: preprocessed labelled cases.
        classes: foreground labels, or regions.

    Returns:
        ``[cases, 1 + classes]``, the background first: what remains of the case.
    """
    counts = []
    for case in dataset.identifiers:
        image, _, _, properties = dataset.load_case(case)
        foreground = [len(properties["class_locations"][label]) for label in classes]
        background = max(0, math.prod(image.shape[1:]) - sum(foreground))
        counts.append([background, *foreground])
    return np.array(counts)


def case_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probability of each case when a class is drawn first, rare ones more often.

    Then one of the cases that show it is drawn.

    Args:
        pixels: ``[cases, classes]`` numbers of pixels.
        temperature: see :func:`rare_class_weights`.

    Returns:
        ``[cases]``, sum 1.

    Reference: Hoyer et al. 2022, "DAFormer", section 3.3.
    """
    class_weights = rare_class_weights(pixels.sum(axis=0).tolist(), temperature).numpy()
    shows = pixels > 0
    cases_of_class = shows.sum(axis=0).clip(min=1)  # a class without a case has weight 0
    return (shows / cases_of_class) @ class_weights
