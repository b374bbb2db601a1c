"""Feature-space adversarial adaptation, the baseline of the image-space adaptation paper."""

from typing import Any, ClassVar

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.networks.feature_levels import cumulative_strides, level_at_stride, level_size
from nnunet_ext.networks.feature_unet import FeatureUNet
from nnunet_ext.networks.segmentation import Segmentation
from nnunet_ext.training.domain_critic import DomainCriticTrainer
from nnunet_ext.training.settings.hyperparameters import Count
from nnunet_ext.training.settings.miniature import Miniature


class FeatureSpaceDATrainer(DomainCriticTrainer):
    """A critic tells the domains apart by the encoder's map of one stride; no image is rebuilt.

    Reference: Chen et al., "Unsupervised domain adaptation based COVID-19 CT infection segmentation
    network", section 4.4, "feature space training". The paper does not say which map is judged; see
    docs/image_space_da.md.
    """

    use_when: ClassVar[str] = "you compare with ImageSpaceDATrainer: it aligns features instead"
    miniature: ClassVar[Miniature] = Miniature(settings={"judged_stride": 4})

    judged_stride: Count = 8  # of the judged map, along the most reduced axis

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the plans' U-Net, which also returns its features in training."""
        return FeatureUNet.from_plans(
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )

    def judged_map(self, images: torch.Tensor) -> tuple[Segmentation, torch.Tensor]:
        """Return the segmentation and the encoder's map at ``judged_stride``."""
        output: Any = self.network(images, with_features=True)
        level = self._judged_level()
        return output.segmentation, output.features[level]

    def judged_channels(self) -> int:
        """Return the number of channels of that map."""
        level = self._judged_level()
        return self.encoder.output_channels[level]

    def judged_size(self) -> list[int]:
        """Return the spatial size of that map."""
        patch_size = self.configuration_manager.patch_size
        strides = cumulative_strides(self.encoder.strides, len(patch_size))
        level = self._judged_level()
        size = level_size(patch_size, strides[level])
        return list(size)

    def _judged_level(self) -> int:
        try:
            return level_at_stride(self.encoder.strides, self.judged_stride)
        except InputError as error:
            raise InputError(
                f"judged_stride={self.judged_stride}: {error}; set one of these"
            ) from error
