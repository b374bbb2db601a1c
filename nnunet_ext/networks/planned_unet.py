"""The planned U-Net, for networks that use its encoder and decoder separately."""

from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunet_ext.errors import InputError
from nnunet_ext.networks.segmentation import Segmentation


def planned_unet(
    configuration: ConfigurationManager,
    input_channels: int,
    output_channels: int,
    deep_supervision: bool,
) -> Any:
    """Build the planned network exactly as stock nnU-Net does, initialisation included.

    Raises:
        InputError: the plans' architecture is not a U-Net of nnU-Net's encoder and decoder.
    """
    unet = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        input_channels,
        output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
    decoder = getattr(unet, "decoder", None)
    if not hasattr(unet, "encoder") or not hasattr(decoder, "transpconvs"):
        raise InputError(
            f"the plans use {configuration.network_arch_class_name}, which has no separate "
            "encoder and decoder; plan with nnU-Net's PlainConvUNet or ResidualEncoderUNet "
            "(nnUNetv2_plan_experiment)"
        )
    return unet


def decode(decoder: Any, features: list[torch.Tensor]) -> tuple[Segmentation, torch.Tensor]:
    """Do what nnU-Net's decoder does and keep the map that its finest head reads.

    Args:
        decoder: nnU-Net's.
        features: the encoder's maps ``[B, C, *spatial]``, finest first.

    Returns:
        Logits ``[B, classes, *spatial]``, or a list of them, finest first, when
        ``decoder.deep_supervision``; and the map ``[B, C, *spatial]``.
    """
    *skips, x = features
    skips.reverse()  # coarsest first
    levels = zip(
        decoder.transpconvs,
        skips,
        decoder.stages,
        decoder.seg_layers,
        strict=True,
    )

    outputs = []
    for upsample, skip, stage, head in levels:
        upsampled = upsample(x)
        joined = torch.cat((upsampled, skip), dim=1)
        x = stage(joined)

        is_finest = head is decoder.seg_layers[-1]
        if decoder.deep_supervision or is_finest:
            logits = head(x)
            outputs.append(logits)

    outputs.reverse()  # finest first
    segmentation = outputs if decoder.deep_supervision else outputs[0]
    return segmentation, x
