"""Trained models as nnU-Net leaves them, with random weights, for prediction without a training."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.miniature_plans import plans

CONFIGURATION = "3d_fullres"


def write_model(
    results: Path,
    *,
    labels: dict[str, Any] | None = None,
    regions_class_order: list[int] | None = None,
    channels: tuple[str, ...] = ("CT",),
    folds: tuple[int, ...] = (0,),
    trainer: str = "nnUNetTrainer",
    patch_size: tuple[int, int, int] = (8, 16, 16),
    features: tuple[int, ...] = (4, 8),
    spacing_mm: tuple[float, float, float] = (2.0, 1.0, 1.0),
) -> Path:
    """Write a model of one configuration; equal arguments give equal weights, each fold has its
    own.

    Returns:
        The folder ``Trainer__Plans__3d_fullres``.
    """
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = results / "Dataset999_Miniature" / f"{trainer}__nnUNetPlans__{CONFIGURATION}"
    dataset_json: dict[str, Any] = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": labels or {"background": 0, "lesion": 1},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    if regions_class_order:
        dataset_json["regions_class_order"] = regions_class_order
    content = plans(3, patch_size, features=features)
    content["image_reader_writer"] = "SimpleITKIO"
    measured = {"mean": 0.0, "std": 300.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
    content["foreground_intensity_properties_per_channel"] = {
        str(index): measured for index in range(len(channels))
    }
    configuration = content["configurations"][CONFIGURATION]
    configuration["spacing"] = list(spacing_mm)
    configuration["normalization_schemes"] = ["CTNormalization"] * len(channels)
    configuration["use_mask_for_norm"] = [False] * len(channels)

    manager = PlansManager(content)
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    builder: Any = recursive_find_trainer_class_by_name(trainer)
    folder.mkdir(parents=True)
    for fold in folds:
        torch.manual_seed(fold)
        settings = manager.get_configuration(CONFIGURATION)
        network = builder.build_network_architecture(manager, settings, len(channels), heads, False)
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": trainer,
            "init_args": {"configuration": CONFIGURATION},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    (folder / "plans.json").write_text(json.dumps(content))
    return folder
