"""nCoVSegNet: attention and losses weighted towards borders, from transferred weights."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.networks.ncovsegnet import COARSEST_STRIDE, Design, EcaKernel, NCoVSegNet
from nnunet_ext.training.engine.schedules import Schedule, one_step, per_epoch
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import Fraction, Weight, Width
from nnunet_ext.training.settings.miniature import Miniature
from nnunet_ext.training.settings.plans_entry import PlansEntry
from nnunet_ext.training.structure_loss import StructureLoss, resized
from nnunet_ext.training.weights.matching_names import MisfitError
from nnunet_ext.training.weights.transfer import Origin, fill_network

RATES = (0.75, 1.0, 1.25)  # of the patch's edges
DECAY = 0.1
RESNET50 = (
    "give the file of a ResNet-50 (nnUNetv2_ext_pretrained --timm resnet50.tv_in1k -o FILE), with "
    "width=1"
)
# of a plain ResNet: channel attention, and a counter that nothing uses
MAY_LACK = (".se.", "num_batches_tracked")


class NCoVSegNetTrainer(MultiStreamTrainer):
    """Trains nCoVSegNet on every batch at three sizes, with four supervised outputs.

    Stage one of the transfer is the backbone's file, ``backbone_weights``. Stage two is a training
    on another data set, from whose result this one starts by nnU-Net's ``-pretrained_weights``,
    segmentation head included.

    Reference: Liu et al., "COVID-19 lung infection segmentation with a novel two-stage cross-domain
    transfer learning framework", Medical Image Analysis 74, 2021, eq. 1-8. Readings:
    docs/ncovsegnet.md.
    """

    use_when: ClassVar[str] = (
        "you have few labels, and weights from ImageNet or nodules to start from"
    )
    configurations: ClassVar[tuple[str, ...]] = ("2d",)
    diagnostics: ClassVar[tuple[str, ...]] = ("bce", "dice")  # their sum is the segmentation loss
    changeable: ClassVar[tuple[str, ...]] = (*MultiStreamTrainer.changeable, "backbone_weights")
    file_settings: ClassVar[dict[str, tuple[str, ...]]] = {"backbone_weights": ("random",)}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"num_epochs": 100, "boundary_gamma": 1.0, "clip_gradients": False},
        "code": {
            "num_epochs": 99,
            "decay_after": 49 / 99,  # the code counts from 1 and divides from epoch 50 on
            "decay_every_epoch": True,
            "count_padding": True,
            "legacy_unweighted_bce": True,
            "clip_gradients": False,
        },
    }
    miniature: ClassVar[Miniature] = Miniature(
        edge=96, settings={"width": 1 / 16, "rates": "random"}
    )

    backbone_weights: str = "random"  # or the file of a ResNet-50
    width: Width = 1.0  # factor on the paper's channels, backbone included
    eca_kernel: EcaKernel = "3"
    use_eca: bool = True
    use_gca: bool = True
    use_daf: bool = True
    use_deep_supervision: bool = True  # of the network's own outputs, eq. 5

    rates: Literal["all", "random"] = "all"  # a step at each of 0.75, 1 and 1.25, or at one of them
    boundary_gamma: Weight = 5.0  # gamma of the pixel weights; eq. 6 and 8 have 1
    count_padding: bool = False  # the weights treat the outside of the patch as background
    legacy_unweighted_bce: bool = False  # as the authors' code computes it

    initial_lr: Weight = 1e-4
    weight_decay: Weight = 0.0
    # part of the training after which the rate is divided by ten: 50 of the paper's 100 epochs
    decay_after: Fraction = 0.5
    # divide it again in every epoch from then on, as in the authors' code
    decay_every_epoch: bool = False
    clip_gradients: bool = True  # to nnU-Net's norm
    enable_deep_supervision: bool = False  # nnU-Net's

    _continues_a_run = False

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network that the plans' settings describe, with random weights."""
        values = NCoVSegNetTrainer.hyperparameters_in(plans_manager)
        settings = {name: values[name] for name in Design.__dataclass_fields__}
        design = Design(**settings)

        entry = PlansEntry.from_plans(plans_manager.plans)
        has_background = not entry.regions
        logits = num_output_channels - has_background
        return NCoVSegNet(num_input_channels, logits, has_background, design)

    def configure(self) -> None:
        """Configure as every trainer does.

        Raises:
            InputError: see the base; nnU-Net's deep supervision; the proportion loss; batches too
                small for batch normalisation.
        """
        super().configure()
        trainer = type(self).__name__
        if self.enable_deep_supervision:
            raise InputError(
                f"{trainer} supervises its own outputs (use_deep_supervision); set "
                f"{trainer}.enable_deep_supervision=false"
            )
        if self.proportion_weight:
            raise InputError(
                f"{trainer} has no proportion loss, because its resized masks are soft; set "
                f"{trainer}.proportion_weight=0"
            )

        patch_size = self.configuration_manager.patch_size
        smallest = size_at(min(RATES), patch_size)
        values_per_channel = self.configuration_manager.batch_size * _pixels(smallest)
        if values_per_channel < 2:
            height, width = patch_size
            raise InputError(
                f"{trainer}: a batch of one patch of {height} x {width} leaves batch normalisation "
                f"a single value per channel once it is resized to {smallest[0]} x {smallest[1]}; "
                "use a batch of two, or a patch with an edge of at least 64 "
                f"(nnUNetv2_ext_configure -c {self.configuration_name} -o NAME --batch 2)"
            )

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return Adam, whose rate falls once, or in every epoch from then on."""
        optimizer = torch.optim.Adam(
            module.parameters(),
            self.initial_lr,
            weight_decay=self.weight_decay,
        )
        steps = self.num_iterations_per_epoch
        start_epoch = round(self.decay_after * self.num_epochs)
        start = start_epoch * steps
        if not self.decay_every_epoch:
            return optimizer, one_step(start, DECAY)

        def decayed(iteration: int) -> float:
            epochs_since_start = (iteration - start) // steps
            decays = max(0, epochs_since_start + 1)
            return DECAY**decays

        return optimizer, per_epoch(decayed, steps)

    def max_gradient_norm(self, player: str) -> float | None:
        """Return nnU-Net's limit, or none."""
        if not self.clip_gradients:
            return None
        return super().max_gradient_norm(player)

    def _build_loss(self) -> nn.Module:
        """Return weighted cross entropy and Dice of each foreground class against the rest."""
        return StructureLoss(
            self.label_manager,
            self.boundary_gamma,
            self.count_padding,
            unweighted_bce=self.legacy_unweighted_bce,
        )

    def training_step(self, batch: dict[str, Any]) -> None:
        """Make a forward pass and an update at each rate, with images and masks resized alike."""
        full_size = batch["data"].shape[2:]
        full_size_masks = self.loss.masks(batch["target"])
        for rate in self.rates_of_step():
            size = size_at(rate, full_size)
            images = resized(batch["data"], size)
            masks = full_size_masks.resized(size)

            outputs = self.network(images)
            bce, dice = self.loss.terms(outputs, masks)
            # eq. 5 as a mean, which is the same as the sum to Adam
            self.update("network", segmentation=bce + dice)
            self.note(bce=bce, dice=dice)

        finest_logits = self.loss.foreground_logits(outputs[0])
        probability = finest_logits.detach().sigmoid()
        self.draw(segmentation=(images, masks.foreground, probability))

    def rates_of_step(self) -> Sequence[float]:
        """Return all rates, or a random one, which is the same in every process."""
        if self.rates == "all":
            return RATES
        generator = self.shared_generator()
        drawn = torch.randint(len(RATES), (), generator=generator)
        index = int(drawn)
        return [RATES[index]]

    # --- stage one of the transfer

    def initialize(self) -> None:
        """Build everything, then give the backbone its weights.

        Raises:
            InputError: a file that does not fit, or see :meth:`configure`.
        """
        super().initialize()
        if self._continues_a_run:
            return  # the checkpoint contains the backbone

        if self.backbone_weights == "random":
            self.print_to_log_file(
                "The backbone starts with random weights (backbone_weights=random)."
            )
            return

        network: Any = self.module_of("network")
        file = Path(self.backbone_weights).expanduser()
        try:
            origins = fill_network(network.backbone, file, MAY_LACK, readable=RESNET50)
        except MisfitError as error:
            raise InputError(f"{error.reason}; {RESNET50}") from error
        account = account_of(origins)
        self.print_to_log_file(f"The backbone starts from {self.backbone_weights}: {account}")

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Continue a run; its checkpoint contains the backbone, so its file is not read again."""
        self._continues_a_run = True
        super().load_checkpoint(filename_or_checkpoint)


def account_of(origins: list[Origin]) -> str:
    """Return how many tensors are copied, adapted and random, and list the latter two."""
    names: dict[str, list[str]] = {"copied": [], "adapted": [], "random": []}
    for origin in origins:
        name = origin.name
        if origin.how == "adapted":
            name += f" ({origin.adaptation})"
        names[origin.how].append(name)

    counts = [f"{len(group)} {how}" for how, group in names.items()]
    all_counts = ", ".join(counts)
    account = f"{len(origins)} tensors, {all_counts}"
    for how in ("adapted", "random"):
        if names[how]:
            listed = ", ".join(names[how])
            account += f"; {how}: {listed}"
    return account


def _pixels(size: Sequence[int]) -> int:
    """Return the number of pixels of the coarsest map."""
    height, width = size
    rows = math.ceil(height / COARSEST_STRIDE)
    columns = math.ceil(width / COARSEST_STRIDE)
    return rows * columns


def size_at(rate: float, size: Sequence[int]) -> tuple[int, int]:
    """Return the size at a rate in multiples of 32, as in the authors' code; unchanged at 1."""
    height, width = size
    if rate == 1:
        return height, width
    return _rounded(height * rate), _rounded(width * rate)


def _rounded(edge: float) -> int:
    """Return the nearest multiple of 32, at least 32."""
    multiple = round(edge / COARSEST_STRIDE)
    return max(1, multiple) * COARSEST_STRIDE
