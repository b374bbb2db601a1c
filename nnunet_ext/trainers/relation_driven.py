"""Relation-driven collaborative learning with two encoders."""

import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.losses.relation import Reduction, relation_consistency, relation_matrix
from nnunet_ext.networks.dual_encoder import DualEncoderUNet, RelationFeatures
from nnunet_ext.trainers.general_pretrain import GeneralPretrainTrainer
from nnunet_ext.training.engine.checkpoints import differences
from nnunet_ext.training.engine.schedules import Schedule, gaussian_rampup
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.segmentation_loss import lesion_segmentation_loss
from nnunet_ext.training.settings.hyperparameters import Weight
from nnunet_ext.training.settings.plans_entry import PLANS_KEY
from nnunet_ext.training.weights.checkpoint_files import (
    load_encoder,
    read_content,
    read_weights,
    same_shapes,
)
from nnunet_ext.training.weights.transfer import fill_network

GENERAL_HEAD = "general_head"
LESION_CLASSES = 2  # of the general stream: background, and any lesion
RELATION_MATRICES = "relation_matrices.npz"


class RelationDrivenTrainer(MultiStreamTrainer):
    """A general encoder learns lesions of all diseases, a target encoder those of this disease.

    Algorithm 1: θ_G follows the general relation loss, θ_T the segmentation and the target relation
    loss, θ_D the segmentation. One backward pass of the sum does all that, because the general
    features (network) and R_G(X^c) in eq. 5 are detached.

    Reference: Zhang et al., "Exploiting Shared Knowledge from Non-COVID Lesions for
    Annotation-Efficient COVID-19 CT Lung Infection Segmentation", IEEE JBHI 25(11), 2021, eq. 1-5
    and Algorithm 1. Readings: docs/relation_driven.md.
    """

    use_when: ClassVar[str] = "you have few labels, and labelled lesions of other diseases"
    required_streams: ClassVar[tuple[str, ...]] = ("general",)  # X^n
    optional_streams: ClassVar[tuple[str, ...]] = ("unlabeled",)  # section III-D
    loss_terms: ClassVar[tuple[str, ...]] = (
        "segmentation",
        "general_relation",
        "target_relation",
        "general_segmentation",
    )
    diagnostics: ClassVar[tuple[str, ...]] = (
        "general_relation_weight_now",
        "target_relation_weight_now",
        "general_relation_distance",
        "target_relation_distance",
    )
    changeable: ClassVar[tuple[str, ...]] = (*MultiStreamTrainer.changeable, "general_checkpoint")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "recommended": {"pretrained_part": "network", "general_segmentation_weight": 1.0},
        # eq. 4-5 and the ramp-up as printed
        "paper": {"relation_reduction": "sum", "rampup_squared": False},
        "code": {},  # the authors published none; the closest (SRC-MT) has the defaults below
    }

    file_settings: ClassVar[dict[str, tuple[str, ...]]] = {
        "general_checkpoint": ("pretrained", "random")
    }
    without_first_stage: ClassVar[dict[str, Any]] = {"general_checkpoint": "random"}

    # lambda_G after the ramp-up, eq. 4; 0 freezes the general encoder
    general_relation_weight: Weight = 0.1
    target_relation_weight: Weight = 0.1  # lambda_T after the ramp-up, eq. 5
    relation_reduction: Reduction = "row_mean"  # of ‖R - R'‖² in eq. 4 and 5
    rampup_squared: bool = True  # exp(-5 (1 - t)²); False: exp(-5 (1 - t)), as printed
    # the result of GeneralPretrainTrainer under these plans; or a path, or random
    general_checkpoint: str = "pretrained"
    # of segmenting the general stream, too, by a head of its own, so that its lesions are not
    # forgotten; not in the paper
    general_segmentation_weight: Weight = 0.0
    # what starts from it: the general encoder alone, or target encoder and decoder, too
    pretrained_part: Literal["general_encoder", "network"] = "general_encoder"

    _continues_a_run = False

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the plans' U-Net with a second encoder."""
        return DualEncoderUNet.from_plans(
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )

    @property
    def decoder(self) -> Any:
        """nnU-Net's decoder, θ_D."""
        network: Any = self.module_of("network")
        return network.decoder

    @property
    def segments_general(self) -> bool:
        """Whether the general stream is segmented, too, which needs the general head."""
        return self.general_segmentation_weight > 0

    def build_auxiliary_networks(self) -> dict[str, nn.Module]:
        """Build the head that finds the general stream's lesions, if it is segmented.

        With the target's head, its outlines would follow those of the general lesions.
        """
        if not self.segments_general:
            return {}

        finest = self.decoder.seg_layers[-1]
        general_head = self.convolution(finest.in_channels, LESION_CLASSES, kernel_size=1)
        return {GENERAL_HEAD: general_head}

    def configure_optimizer(
        self, player: str, module: nn.Module
    ) -> tuple[torch.optim.Optimizer | None, Schedule | None]:
        """Return nnU-Net's optimizer, which updates the general head, too."""
        if player == GENERAL_HEAD:
            return None, None

        optimizer, schedule = super().configure_optimizer(player, module)
        assert optimizer is not None  # nnU-Net's
        for general_head in self.auxiliary_networks.values():
            optimizer.add_param_group({"params": general_head.parameters()})
        return optimizer, schedule

    def training_step(self, batch: dict[str, Any]) -> None:
        """Run one iteration of Algorithm 1."""
        labelled = batch["data"]  # X^c
        general = batch["general"]["data"]  # X^n
        unlabeled = None  # X^c without labels, section III-D
        if "unlabeled" in batch:
            unlabeled = batch["unlabeled"]["data"]
        output = self.network(
            labelled,
            general=general,
            unlabeled=unlabeled,
            map_general=self.segments_general,
        )

        lambda_g = self._ramped_up(self.general_relation_weight)
        lambda_t = self._ramped_up(self.target_relation_weight)
        general_distance, target_distance = self.relation_distances(output.features)
        losses = {
            "segmentation": self.loss(output.segmentation, batch["target"]),  # eq. 3
            "general_relation": lambda_g * general_distance,  # eq. 4
            "target_relation": -lambda_t * target_distance,  # eq. 5
        }
        if output.general_map is not None:
            logits = self.auxiliary_networks[GENERAL_HEAD](output.general_map)
            lesions = self.lesion_loss(logits, batch["general"]["target"])
            losses["general_segmentation"] = self.general_segmentation_weight * lesions
        self.update("network", **losses)
        self.note(
            general_relation_weight_now=lambda_g,
            target_relation_weight_now=lambda_t,
            general_relation_distance=general_distance,
            target_relation_distance=target_distance,
        )

    def _ramped_up(self, weight: float) -> float:
        """Return the value of a weight λ at this iteration."""
        return gaussian_rampup(
            self.iteration,
            self.total_iterations,
            weight,
            self.rampup_squared,
        )

    def relation_distances(self, features: RelationFeatures) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ‖R_G(X^n) - R_G(X^c)‖² of eq. 4 and ‖R_G(X^c) - R_T(X^c)‖² of eq. 5.

        Each is the mean over the labelled and the unlabelled X^c.
        """
        r_g_n = self.relation_matrix(features.general_on_general)  # R_G(X^n)
        r_g_c = self.relation_matrix(features.general_on_labelled)  # R_G(X^c)
        r_t_c = self.relation_matrix(features.target_on_labelled)  # R_T(X^c)
        self._relations = {
            "general_on_general": r_g_n.detach(),
            "general_on_labelled": r_g_c.detach(),
            "target_on_labelled": r_t_c.detach(),
        }

        relations = [(r_g_c, r_t_c)]
        if features.general_on_unlabeled is not None and features.target_on_unlabeled is not None:
            r_g_u = self.relation_matrix(features.general_on_unlabeled)
            r_t_u = self.relation_matrix(features.target_on_unlabeled)
            relations.append((r_g_u, r_t_u))

        general_distances = []  # eq. 4
        for r_g, _ in relations:
            distance = relation_consistency(r_g_n, r_g, self.relation_reduction)
            general_distances.append(distance)

        target_distances = []  # eq. 5, from which θ_G gets no gradient
        for r_g, r_t in relations:
            distance = relation_consistency(r_g.detach(), r_t, self.relation_reduction)
            target_distances.append(distance)

        general_distance = torch.stack(general_distances).mean()
        target_distance = torch.stack(target_distances).mean()
        return general_distance, target_distance

    def relation_matrix(self, features: torch.Tensor) -> torch.Tensor:
        """Return R of the whole batch, which is that of all processes together."""
        mean = self.batch_mean(features)
        return relation_matrix(mean)

    def clipped_groups(self, player: str) -> list[list[nn.Parameter]]:
        """Return θ_G and the rest separately, so that neither gradient norm scales the other."""
        theta_g = list(self.network.encoder_general.parameters())
        in_theta_g = set(map(id, theta_g))
        others = []  # θ_T, θ_D, the general head
        for parameter in self.network.parameters():
            if id(parameter) not in in_theta_g:
                others.append(parameter)
        for general_head in self.auxiliary_networks.values():
            others += general_head.parameters()
        return [theta_g, others]

    # --- the initial weights

    def initialize(self) -> None:
        """Build the networks, and give them the weights of the general network.

        Raises:
            InputError: no pre-trained general network, one that does not fit, or one that was
                trained before the configuration changed.
        """
        super().initialize()
        batch_dice = self.configuration_manager.batch_dice
        self.lesion_loss = lesion_segmentation_loss(batch_dice, self.is_ddp)
        if self.general_relation_weight == 0:
            self.network.encoder_general.requires_grad_(False)
        if self._continues_a_run:
            return  # the checkpoint contains all weights

        if self.general_checkpoint == "random":
            self.print_to_log_file(
                "The general encoder starts with random weights (general_checkpoint=random)."
            )
            return

        path = self.general_checkpoint_path()
        if self.general_checkpoint == "pretrained":
            self._require_pretraining_of_these_plans(path)
        load_encoder(self.network.encoder_general, path, self.pretraining_advice())
        if self.pretrained_part == "general_encoder":
            self.print_to_log_file(f"The general encoder starts from {path}")
            return

        filled = self._start_as_general_network(path)
        self.print_to_log_file(f"These parts start from {path}: {', '.join(filled)}")

    def _start_as_general_network(self, checkpoint: Path) -> list[str]:
        """Give every part its counterpart in the general network; return those that have one.

        Heads of regions stay random: their outputs are not those of classes.
        """
        network = self.module_of("network")
        heads = self.decoder.seg_layers
        random_heads = copy.deepcopy(heads.state_dict())
        origins = fill_network(network, checkpoint)
        filled = {origin.part for origin in origins if origin.how != "random"}
        if self.label_manager.has_regions:
            heads.load_state_dict(random_heads)
            filled.discard("heads")

        if self._start_general_head(checkpoint):
            filled.add(GENERAL_HEAD)
        return sorted(filled)

    def _start_general_head(self, checkpoint: Path) -> bool:
        """Give the general head the weights of the finest head, if that has its classes, too."""
        if not self.segments_general:
            return False

        general_head = self.module_of(GENERAL_HEAD)
        finest = len(self.decoder.seg_layers) - 1
        weights = read_weights(checkpoint, self.pretraining_advice())
        filled = same_shapes(weights, f"decoder.seg_layers.{finest}", general_head)
        if len(filled) < len(general_head.state_dict()):
            return False

        general_head.load_state_dict(filled)
        return True

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Continue a run; its checkpoint contains both encoders, so none is read from elsewhere."""
        self._continues_a_run = True
        super().load_checkpoint(filename_or_checkpoint)

    def general_checkpoint_path(self) -> Path:
        """Return the file from which the general encoder starts.

        This is the given file, or the result of ``GeneralPretrainTrainer`` under the same plans and
        configuration.
        """
        if self.general_checkpoint != "pretrained":
            return Path(self.general_checkpoint).expanduser()

        trainer = GeneralPretrainTrainer.__name__
        plans = self.plans_manager.plans_name
        sibling = f"{trainer}__{plans}__{self.configuration_name}"
        results = Path(self.output_folder_base).parent
        return results / sibling / "fold_all" / "checkpoint_final.pth"

    def _require_pretraining_of_these_plans(self, checkpoint: Path) -> None:
        """Check that streams and seed are those of the pre-training."""
        content = read_content(checkpoint, self.pretraining_advice())
        entry = content.get(PLANS_KEY, {})
        before = entry.get("identity", {})
        if not before:
            return  # of stock nnU-Net or an older version

        saved = {
            "general": before["streams"].get("general"),
            "seed": before["hyperparameters"].get("seed"),
        }
        now = {
            "general": self.plans_entry.streams["general"],
            "seed": self.hyperparameters["seed"],
        }
        found = differences(saved, now)
        if found:
            plans = self.plans_manager
            changes = "; ".join(found)
            raise InputError(
                f"{checkpoint}: the plans have changed since this pre-training: {changes}. Train "
                f"{GeneralPretrainTrainer.__name__} again, or use it as it is: "
                f"nnUNetv2_ext_configure -d {plans.dataset_name} -p {plans.plans_name} "
                f"--set general_checkpoint={checkpoint}"
            )

    def pretraining_advice(self) -> str:
        """Return what to do if the general encoder's checkpoint is missing or does not fit."""
        plans = self.plans_manager
        return (
            f"run nnUNetv2_train {plans.dataset_name} {self.configuration_name} all "
            f"-tr {GeneralPretrainTrainer.__name__} -p {plans.plans_name} first, or "
            f"nnUNetv2_ext_configure -d {plans.dataset_name} -p {plans.plans_name} "
            "--set general_checkpoint=PATH|random"
        )

    # --- the relation matrices, for the figures

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log the terms; store the relation matrices of the first epoch and of this one."""
        super().on_train_epoch_end(train_outputs)
        if self.local_rank != 0:
            return

        matrices = {}
        for name, matrix in self._relations.items():
            matrices[name] = matrix.cpu().numpy()
        matrices["epoch"] = np.array(self.current_epoch)

        path = Path(self.output_folder, RELATION_MATRICES)
        first = {}
        if self.current_epoch > 0:
            first = _first_epoch(path)
        if not first:
            first = {f"first_{name}": value for name, value in matrices.items()}

        last = {f"last_{name}": value for name, value in matrices.items()}
        with whole_file(path) as unfinished:
            np.savez_compressed(unfinished, **first, **last)  # type: ignore[arg-type]

    def on_train_end(self) -> None:
        """End as nnU-Net does, and draw the relation matrices."""
        super().on_train_end()
        if self.local_rank == 0:
            draw_relation_matrices(Path(self.output_folder, RELATION_MATRICES))


def _first_epoch(path: Path) -> dict[str, np.ndarray]:
    """Return the stored matrices of the first epoch; none if there is no such file."""
    if not path.is_file():
        return {}

    matrices = {}
    with np.load(path) as stored:
        for name in stored.files:
            if name.startswith("first_"):
                matrices[name] = stored[name]
    return matrices


def draw_relation_matrices(stored: Path) -> Path:
    """Draw a training's ``relation_matrices.npz``, the first epoch above the last.

    Returns:
        The figure.
    """
    from nnunet_ext.training.figures import relation_matrices_figure

    titles = {
        "general_on_general": "$R_G(X^n)$",
        "general_on_labelled": "$R_G(X^c)$",
        "target_on_labelled": "$R_T(X^c)$",
    }
    rows = {}
    with np.load(stored) as kept:
        for when in ("first", "last"):
            matrices = {title: kept[f"{when}_{name}"] for name, title in titles.items()}
            epoch = kept[f"{when}_epoch"]
            rows[f"epoch {epoch}"] = matrices

    figure = stored.with_suffix(".png")
    title = "feature relations of general (G) and target (T) encoder"
    relation_matrices_figure(rows, figure, title)
    return figure
