"""Small plans as nnU-Net's planner writes them, and trainers on them without any data on disk."""

import copy
import os
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.training.streams.location import UNLABELLED_ROLES

DATASET_JSON = {
    "channel_names": {"0": "lung-window CT"},
    "labels": {"background": 0, "infection": 1},
    "numTraining": 10,
    "file_ending": ".png",
}


def architecture(dimension: int, features: list[int], residual: bool = False) -> dict[str, Any]:
    """The ``architecture`` entry of a configuration: nnU-Net's plain or residual encoder U-Net."""
    stages = len(features)
    blocks = (
        {"n_blocks_per_stage": [1] * stages} if residual else {"n_conv_per_stage": [2] * stages}
    )
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet."
        + ("ResidualEncoderUNet" if residual else "PlainConvUNet"),
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": features,
            "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
            "kernel_sizes": [[3] * dimension] * stages,
            "strides": [[1] * dimension] + [[2] * dimension] * (stages - 1),
            **blocks,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(
    dimension: int = 2,
    patch_size: tuple[int, ...] | None = None,
    batch_size: int = 2,
    features: tuple[int, ...] = (4, 8, 16),
    residual: bool = False,
    **nnunet_ext: Any,
) -> dict[str, Any]:
    """Plans with one configuration, ``2d`` or ``3d_fullres``; keywords fill the ``nnunet_ext``
    entry.
    """
    name = "2d" if dimension == 2 else "3d_fullres"
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"nnUNetPlans_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": list(patch_size or (16,) * dimension),
        "spacing": [1.0] * dimension,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": architecture(dimension, list(features), residual),
    }
    for part in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{part}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{part}_kwargs"] = {**resampling, "is_seg": part == "seg"}
    return {
        "dataset_name": "Dataset999_Miniature",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [999.0, 1.0, 1.0],
        "original_median_shape_after_transp": [1, 16, 16],
        "image_reader_writer": "NaturalImage2DIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {name: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "nnunet_ext": nnunet_ext,
    }


def trainer(
    cls: type,
    root: Path,
    plans_dict: dict[str, Any],
    device: str = "cpu",
    dataset_json: dict[str, Any] | None = None,
) -> Any:
    """An initialized trainer whose nnU-Net folders lie below ``root``."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(root / variable)
    (name,) = plans_dict["configurations"]
    identifier = plans_dict["configurations"][name]["data_identifier"]
    folder = root / "nnUNet_preprocessed" / plans_dict["dataset_name"] / identifier
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.b2nd").touch()  # by this nnU-Net tells which class reads the folder
    made = cls(
        {**copy.deepcopy(plans_dict), "continue_training": False},
        name,
        0,
        copy.deepcopy(dataset_json or DATASET_JSON),
        torch.device(device),
    )
    made.initialize()
    return made


def batch(made: Any, roles: tuple[str, ...] = (), seed: int = 0) -> dict[str, Any]:
    """A random batch as the loaders deliver it: half of the labelled pixels are foreground."""
    generator = torch.Generator().manual_seed(seed)
    size, patch_size = made.batch_size, made.configuration_manager.patch_size
    scales = made._get_deep_supervision_scales() or [[1.0] * len(patch_size)]
    shapes = [[round(p * s) for p, s in zip(patch_size, scale, strict=True)] for scale in scales]
    targets = [
        torch.randint(0, 2, (size, 1, *shape), generator=generator).short() for shape in shapes
    ]

    def images() -> torch.Tensor:
        return torch.randn(size, made.num_input_channels, *patch_size, generator=generator)

    target = targets if made.enable_deep_supervision else targets[0]
    labelled: dict[str, Any] = {
        "data": images(),
        "target": target,
        "keys": [f"case_{i}" for i in range(size)],
    }
    labelled["forced"] = torch.arange(size) == size - 1  # as nnU-Net forces the last samples
    for role in roles:
        labelled[role] = {"data": images(), "keys": [f"{role}_{i}" for i in range(size)]}
        if role not in UNLABELLED_ROLES:
            labelled[role]["target"] = targets[0]
    return labelled
