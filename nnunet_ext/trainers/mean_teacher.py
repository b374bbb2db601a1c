"""Mean teacher: a moving average of the network labels the target domain for it."""

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
from nnunet_ext.training.engine.schedules import Schedule, gaussian_rampup
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import Fraction, Weight
from nnunet_ext.training.streams.loader import MultiStreamLoader


class MeanTeacherTrainer(MultiStreamTrainer):
    """The student learns the teacher's confident labels on another view of the target images.

    The teacher's weights are a moving average of the student's. A pixel whose likeliest class is
    not probable enough is left out of the loss, of both its sum and its count.

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
    # T of rare-class sampling, 0.01 in DAFormer; 0 draws all labelled cases with equal probability
    rare_class_temperature: Weight = 0

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Build the teacher, at first a copy of the student."""
        student = self.module_of("network")
        return {"teacher": frozen_copy(student)}

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
        view, flipped = self.random_view(images)

        # the teacher: labels where its confidence exceeds tau
        teacher = self.auxiliary_networks["teacher"]
        with torch.no_grad():
            taught = finest(teacher(images))
            probabilities = self.class_logits(taught).softmax(1)
        labels = probabilities.argmax(1)
        kept = confident(probabilities, self.confidence)

        # the student, whose prediction is flipped back
        source = self.network(batch["data"])
        student = finest(self.network(view)).flip(flipped)
        logits = self.class_logits(student)
        consistency = pseudo_label_loss(logits, labels, kept)

        share = self.share_of_mean(kept.sum())
        self.update(
            "network",
            segmentation=self.loss(source, batch["target"]),
            consistency=self._consistency_weight_now() * share * consistency,
        )
        self.follow("teacher", "network", self.teacher_decay)

        kept_pixels = kept.float()
        self.note(kept_fraction=kept_pixels.mean())
        self.draw(target=(images, labels[:, None], kept_pixels[:, None]))

    def _consistency_weight_now(self) -> float:
        """Return the weight of the consistency at this iteration."""
        rampup_iterations = round(self.rampup_fraction * self.total_iterations)
        return gaussian_rampup(
            self.iteration,
            max(1, rampup_iterations),
            self.consistency_weight,
        )

    def _training_loader(self, nnunet_loader: Any, workers: int) -> MultiStreamLoader:
        """Build the loader; on request, cases with rare classes are drawn more often."""
        if self.rare_class_temperature:
            labels = self.label_manager
            classes = labels.foreground_labels
            if labels.has_regions:
                classes = labels.foreground_regions
            pixels = class_pixels(nnunet_loader._data, classes)
            nnunet_loader.sampling_probabilities = case_probabilities(
                pixels, self.rare_class_temperature
            )
        return super()._training_loader(nnunet_loader, workers)


def class_pixels(
    dataset: nnUNetDatasetBlosc2, classes: Sequence[int | tuple[int, ...]]
) -> np.ndarray:
    """Count the pixels of each class in each preprocessed case, as far as nnU-Net has listed them.

    nnU-Net lists 10 000 pixels of a class, or 1 % of them if that is more; larger lesions count as
    that many.

    Args:
        dataset: preprocessed labelled cases.
        classes: foreground labels, or regions.

    Returns:
        ``[cases, 1 + classes]``; the background, the rest of the case, comes first.
    """
    counts = []
    for case in dataset.identifiers:
        image, _, _, properties = dataset.load_case(case)
        locations = properties["class_locations"]
        foreground = [len(locations[label]) for label in classes]
        pixels = math.prod(image.shape[1:])
        background = max(0, pixels - sum(foreground))
        counts.append([background, *foreground])
    return np.array(counts)


def case_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probability of each case if a class is drawn first, rare ones more often.

    One of the cases that show this class is drawn afterwards.

    Args:
        pixels: ``[cases, classes]`` numbers of pixels.
        temperature: see :func:`rare_class_weights`.

    Returns:
        ``[cases]``, sum 1.

    Reference: Hoyer et al. 2022, "DAFormer", section 3.3.
    """
    pixels_of_classes = pixels.sum(axis=0).tolist()
    class_weights = rare_class_weights(pixels_of_classes, temperature)
    shows_class = pixels > 0
    cases_of_class = shows_class.sum(axis=0)
    within_class = shows_class / cases_of_class.clip(min=1)  # a class without a case has weight 0
    return within_class @ class_weights.numpy()
