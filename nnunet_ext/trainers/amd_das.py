"""Stage 2 of AMD-DAS: segmentation trained on labelled pseudo-CT and aligned with real CT."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.networks.running_statistics import running_statistics
from nnunet_ext.networks.segmentation import Segmentation
from nnunet_ext.networks.vgg_fcn import Segmenter, segmenter_from_plans
from nnunet_ext.synthesis.matched_keys import nearest_pairs
from nnunet_ext.synthesis.matches import NO_MATCHES, digest_of_matches, read_matches
from nnunet_ext.training.domain_critic import DomainCriticTrainer
from nnunet_ext.training.engine.schedules import Schedule
from nnunet_ext.training.settings.hyperparameters import Count, Weight


class AMDDASTrainer(DomainCriticTrainer):
    """A critic judges the hidden map that the classifier reads.

    Batch normalisation treats real CT with the statistics of pseudo-CT.

    The labelled data set is pseudo-CT (``nnUNetv2_ext_synthesize``), or MR for the paper's rows
    without synthesis.

    Reference: Dong et al., "An unsupervised domain adaptation brain CT segmentation method across
    image modalities and diseases", section 3.2, eq. 18-23. Readings: docs/amd_das.md.
    """

    use_when: ClassVar[str] = (
        "labels are of another modality (MR) and disease, and your own CT has none"
    )
    changeable: ClassVar[tuple[str, ...]] = (*DomainCriticTrainer.changeable, "matches_file")
    file_settings: ClassVar[dict[str, tuple[str, ...]]] = {"matches_file": (NO_MATCHES,)}
    _printed: ClassVar[dict[str, Any]] = {
        "num_epochs": 516,  # of 250 iterations: 100 times the 15480 slices, twelve at a time
        "segmentation_loss": "ce",
        "enable_deep_supervision": False,
        "segmenter": "vgg_fcn",
        "optimizer_kind": "sgd",
        "initial_lr": 0.1,
        "oversample_foreground_percent": 0.0,
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "recommended": {"average_weights": 0.999},
        "paper": {**_printed, "critic_lr": 0.01, "paired_batches": True},
        "code": _printed,
    }

    adversarial_weight: Weight = 0.001  # lambda_adv, eq. 19; from the code, the paper does not say
    critic_lr: Weight = 1e-3  # Adam of D_seg; 0.01 in the paper
    segmenter: Segmenter = "plans"  # the planned U-Net, or the paper's network
    vgg_width: Count = 64  # channels of the first block of vgg_fcn
    # of the network; sgd: momentum 0.7, constant, no clipping
    optimizer_kind: Literal["nnunet", "sgd"] = "nnunet"
    # each labelled slice beside a target slice that it matches, as the paper says
    paired_batches: bool = False
    matches_file: str = NO_MATCHES  # of nnUNetv2_ext_match, for paired batches

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the plans' U-Net or VGG-FCN, which also return their hidden map in training."""
        settings = AMDDASTrainer.hyperparameters_in(plans_manager)
        return segmenter_from_plans(
            settings["segmenter"],
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
            vgg_width=settings["vgg_width"],
        )

    def configure(self) -> None:
        """Configure as every trainer does.

        Raises:
            InputError: paired batches without a file of matches, or see the base.
        """
        super().configure()
        if self.paired_batches and self.matches_file == NO_MATCHES:
            raise InputError(
                "paired_batches=true needs pairs: set matches_file to the file of "
                "nnUNetv2_ext_match (nnUNetv2_ext_configure --set matches_file=FILE), or "
                "paired_batches=false"
            )

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return nnU-Net's or the paper's optimizer for the network, Adam for the critic.

        The paper's learning rates are constant.
        """
        if self.optimizer_kind == "nnunet":
            return super().configure_optimizer(player, module)

        weights = module.parameters()
        optimizer: torch.optim.Optimizer
        if player == "network":
            optimizer = torch.optim.SGD(weights, self.initial_lr, momentum=0.7)
        else:
            optimizer = torch.optim.Adam(weights, self.critic_lr, (0.9, 0.99))
        return optimizer, None

    def max_gradient_norm(self, player: str) -> float | None:
        """Return nnU-Net's limit for its optimizer; the paper does not clip."""
        if self.optimizer_kind != "nnunet":
            return None
        return super().max_gradient_norm(player)

    def matches(self, role: str) -> dict[str, list[str]]:
        """Return the target slices to which a labelled slice is nearest, for paired batches."""
        if not self.paired_batches:
            return {}
        found = read_matches(Path(self.matches_file))
        keys = self.stream_keys(role)
        return nearest_pairs(found, keys)

    def identity(self) -> dict[str, Any]:
        """Return the identity of every trainer, with the content of the matches that it uses."""
        identity = super().identity()
        if self.paired_batches:
            identity["matches"] = digest_of_matches(self.matches_file)
        return identity

    # --- the judged map

    def judged_map(self, images: torch.Tensor) -> tuple[Segmentation, torch.Tensor]:
        """Return the segmentation and the hidden map, at full size."""
        output: Any = self.network(images, with_features=True)
        return output.segmentation, output.decoder_map

    def judged_map_of_target(self, images: torch.Tensor) -> torch.Tensor:
        """Return the hidden map of target images, with running statistics of batch normalisation.

        Their own statistics are neither used nor learnt.
        """
        network = self.module_of("network")
        with running_statistics(network):
            return super().judged_map_of_target(images)

    def judged_channels(self) -> int:
        """Return the number of channels that the classifier reads."""
        network: Any = self.module_of("network")
        classifier = network.decoder.seg_layers[-1]
        return classifier.in_channels
