"""``augmentation=strong``: nnU-Net's DA5 for labelled and further streams, in every kind of
training.
"""

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.blank_rectangle import BlankRectangleTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
)

from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training.engine.random_numbers import seeded_random_numbers
from nnunet_ext.training.multi_stream_trainer import WORKERS_VARIABLE, MultiStreamTrainer
from tests.miniature_plans import DATASET_JSON, plans, trainer
from tests.miniature_raw import write_raw
from tests.miniature_streams import drawn, trainer_with_data

STRONG = {"augmentation": "strong"}
PATCHES = [(16, 16), (16, 32), (16, 16, 16), (4, 16, 16)]  # the last is augmented slice by slice
LABELS = {
    "plain": {},
    "regions": {
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "regions_class_order": [1, 2],
    },
    "ignore": {"labels": {"background": 0, "infection": 1, "ignore": 2}},
}


class TwoStreamTrainer(MultiStreamTrainer):
    """Plain training beside a stream without labels."""

    required_streams: ClassVar[tuple[str, ...]] = ("target_domain",)


class UnmovedTrainer(TwoStreamTrainer):
    """The same without spatial augmentation."""

    without_spatial_augmentation: ClassVar[tuple[str, ...]] = ("labelled", "target_domain")


def augmented(made: Any, deep_supervision: bool) -> tuple[torch.Tensor, Any, list[int]]:
    """A random sample of nnU-Net's initial size, transformed as nnU-Net's loader does it; and that
    size.
    """
    rotation, dummy_2d, size, axes = (
        made.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    )
    labels = made.label_manager
    transforms = made.get_training_transforms(
        made.configuration_manager.patch_size,
        rotation,
        made._get_deep_supervision_scales() if deep_supervision else None,
        axes,
        dummy_2d,
        use_mask_for_norm=made.configuration_manager.use_mask_for_norm,
        foreground_labels=labels.foreground_labels,
        regions=labels.foreground_regions if labels.has_regions else None,
        ignore_label=labels.ignore_label,
    )
    with seeded_random_numbers(7):
        image = torch.randn(1, *map(int, size))
        segmentation = torch.randint(-1, 3, (1, *map(int, size))).short()
        sample = transforms(image=image, segmentation=segmentation)
    return sample["image"], sample["segmentation"], list(map(int, size))


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_samples_are_those_of_nnunets_strong_trainer(
    patch: tuple[int, ...], labels: str, deep_supervision: bool, tmp_path: Path
) -> None:
    dataset_json = {**DATASET_JSON, **LABELS[labels]}
    content = plans(len(patch), patch, settings=STRONG)
    made = trainer(PlainTrainer, tmp_path, content, dataset_json=dataset_json)
    theirs = nnUNetTrainerDA5(
        {**content, "continue_training": False},
        made.configuration_name,
        0,
        dataset_json,
        torch.device("cpu"),
    )

    image, segmentation, size = augmented(made, deep_supervision)
    image_theirs, segmentation_theirs, size_theirs = augmented(theirs, deep_supervision)

    assert size == size_theirs and image.shape == (1, *patch)
    assert torch.equal(image, image_theirs)
    levels, levels_theirs = (
        s if deep_supervision else [s] for s in (segmentation, segmentation_theirs)
    )
    assert all(torch.equal(ours, other) for ours, other in zip(levels, levels_theirs, strict=True))
    assert made.inference_allowed_mirroring_axes == tuple(range(len(patch)))


def test_nnunets_own_augmentation_is_another(tmp_path: Path) -> None:
    images = []
    for name, settings in (("nnunet", {}), ("strong", STRONG)):
        made = trainer(PlainTrainer, tmp_path / name, plans(settings=settings))
        assert made.hyperparameters["augmentation"] == name
        images.append(augmented(made, True)[0])
    assert not torch.equal(*images)


def loaders(cls: type, root: Path) -> Any:
    os.environ[WORKERS_VARIABLE] = "0"
    labelled = write_raw(root, "Dataset999_Miniature", 5, (24, 24))
    target = write_raw(root, "Dataset996_Target", 5, (24, 24), labelled=False)
    content = plans(batch_size=4, streams={"target_domain": [target.name]}, settings=STRONG)
    made = trainer_with_data(cls, root, content, labelled, target_domain=target)
    return made.get_dataloaders()[0]


def blanks(loader: Any) -> list[bool]:
    inner = [
        step.transform for step in loader.transforms.transforms if isinstance(step, RandomTransform)
    ]
    return [isinstance(step, BlankRectangleTransform) for step in inner]


@pytest.mark.parametrize("cls", [TwoStreamTrainer, UnmovedTrainer], ids=lambda cls: cls.__name__)
def test_labelled_and_further_streams_are_augmented_alike(cls: type, tmp_path: Path) -> None:
    training = loaders(cls, tmp_path)
    joined = training.data_loader
    for loader in (joined.labelled, joined.further["target_domain"]):
        assert sum(blanks(loader)) == 1
    for batch in drawn(training, 5):
        for images in (batch["data"], batch["target_domain"]["data"]):
            assert images.shape == (4, 1, 16, 16) and images.isfinite().all()


def test_strong_augmentation_without_its_spatial_part_leaves_every_label_in_place(
    tmp_path: Path,
) -> None:
    training = loaders(UnmovedTrainer, tmp_path)
    labels: dict[str, np.ndarray] = {}
    for batch in drawn(training, 20):
        for key, label in zip(batch["keys"], batch["target"][0], strict=True):
            np.testing.assert_array_equal(label, labels.setdefault(key, label))
    assert len(labels) == 5
