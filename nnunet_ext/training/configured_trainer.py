"""nnU-Net's trainer with settings and streams from the plans, and each loss term in the log."""

import math
from pathlib import Path
from typing import Any, ClassVar, Literal

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.files.private_paths import without_folders
from nnunet_ext.losses.proportion import Norm
from nnunet_ext.package import made_by
from nnunet_ext.training import mlflow_logger
from nnunet_ext.training.segmentation_loss import LossWithProportions
from nnunet_ext.training.settings.hyperparameters import (
    Count,
    Fraction,
    Seed,
    Weight,
    declared,
    resolve,
)
from nnunet_ext.training.settings.miniature import Miniature
from nnunet_ext.training.settings.plans_entry import PlansEntry, record_package, record_regions
from nnunet_ext.training.streams.location import role_root, stream_keys

PROPORTION = "proportion"  # the name of the proportion loss in the log


def plans_identity(plans: PlansManager, configuration: ConfigurationManager) -> dict[str, Any]:
    """Return the part of the plans that decides how a configuration is trained."""
    return {
        "transpose_forward": plans.transpose_forward,
        "foreground_intensity_properties": plans.foreground_intensity_properties_per_channel,
        **configuration.configuration,
    }


class ConfiguredTrainer(nnUNetTrainer):
    """nnU-Net's trainer with hyperparameters from ``nnUNetv2_ext_configure``.

    Annotated class attributes are hyperparameters (see ``hyperparameters.py``). With ``ClassVar``
    attributes a method declares:

    - ``use_when``: one line of advice for ``nnUNetv2_ext_list``.
    - ``configurations``: the dimensions that the method supports.
    - ``required_streams``: roles that must be configured.
    - ``presets``: by name, the values in which a preset differs from the defaults.
    - ``changeable``: hyperparameters that may change when a training is continued.
    - ``file_settings``: hyperparameters that name a file, with the words that may replace it.
    - ``loss_terms`` and ``diagnostics``: additional values to log, one per epoch each, in
      ``training_terms.csv`` and ``.png`` of the fold's folder.
    - ``segments_labelled_data``: False for a first stage that does not validate on the labelled
      data set; comparisons leave it out.
    - ``without_first_stage``: hyperparameters of a training that needs no earlier result, because
      ``-pretrained_weights`` takes its place.
    - ``miniature``: its smallest training.
    """

    use_when: ClassVar[str] = ""
    configurations: ClassVar[tuple[str, ...]] = ("2d", "3d")
    required_streams: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    changeable: ClassVar[tuple[str, ...]] = (
        "save_every",
        "keep_checkpoints",
        "num_val_iterations_per_epoch",
    )
    segments_labelled_data: ClassVar[bool] = True
    without_first_stage: ClassVar[dict[str, Any]] = {}
    file_settings: ClassVar[dict[str, tuple[str, ...]]] = {}
    loss_terms: ClassVar[tuple[str, ...]] = ()
    diagnostics: ClassVar[tuple[str, ...]] = ()
    miniature: ClassVar[Miniature] = Miniature()

    # nnU-Net's own training settings, with its defaults
    num_epochs: Count = 1000
    num_iterations_per_epoch: Count = 250
    num_val_iterations_per_epoch: Count = 50
    initial_lr: Weight = 1e-2
    weight_decay: Weight = 3e-5
    oversample_foreground_percent: Fraction = 0.33
    enable_deep_supervision: bool = True
    segmentation_loss: Literal["ce_dice", "ce"] = "ce_dice"  # nnU-Net's, or cross entropy alone
    # of the loss of class shares (losses/proportion.py) that is added to it; 0: none
    proportion_weight: Weight = 0.0
    proportion_norm: Norm = "l2"
    save_every: Count = 50
    keep_checkpoints: bool = False  # another file every save_every epochs: checkpoint_epoch_0050
    seed: Seed = 0  # of weights, batches and augmentation; exact on the CPU with one loader worker

    @property
    def plans_entry(self) -> PlansEntry:
        """The entry of the plans: streams and hyperparameters."""
        return PlansEntry.from_plans(self.plans_manager.plans)

    @classmethod
    def hyperparameters_in(cls, plans: PlansManager) -> dict[str, Any]:
        """Return every hyperparameter from the plans; networks are built from plans alone."""
        entry = PlansEntry.from_plans(plans.plans)
        return resolve(cls, entry.preset, entry.settings)

    @classmethod
    def require_trainable(cls, plans: PlansManager, configuration: str) -> None:
        """Refuse a configuration that the method is not made for.

        Raises:
            InputError: it has other dimensions, or it is the second stage of a cascade, which reads
                predictions of the first; the message then names the configurations that can be
                trained.
        """
        requested = plans.get_configuration(configuration)
        dimensions = f"{len(requested.patch_size)}d"
        if dimensions not in cls.configurations:
            supported = " and ".join(cls.configurations)
            raise InputError(f"{cls.__name__} trains {supported}, not {configuration}")
        if requested.previous_stage_name is None:
            return

        usable = []
        for name in plans.available_configurations:
            other = plans.get_configuration(name)
            is_single_stage = other.previous_stage_name is None
            dimensions = f"{len(other.patch_size)}d"
            if is_single_stage and dimensions in cls.configurations:
                usable.append(name)
        names = " or ".join(usable)
        raise InputError(
            f"{cls.__name__} does not train {configuration}, a cascade's second stage; use {names}"
        )

    @classmethod
    def unchangeable(cls, hyperparameters: dict[str, Any]) -> dict[str, Any]:
        """Return the hyperparameters of a training that its continuation must share.

        A setting that is newer than the training has its default.
        """
        known = {name: getattr(cls, name) for name in declared(cls)}
        known |= hyperparameters
        for name in cls.changeable:
            known.pop(name, None)
        return known

    def _build_loss(self) -> nn.Module:
        """Return nnU-Net's loss, or its variant without Dice, and the proportion loss on request.

        Raises:
            InputError: cross entropy for labels that are regions, which overlap.
        """
        loss = self._build_loss_without_proportions()
        if not self.proportion_weight:
            return loss

        labels = self.label_manager
        return LossWithProportions(
            loss,
            self.proportion_weight,
            self.proportion_norm,
            labels.has_regions,
            labels.ignore_label,
        )

    def _build_loss_without_proportions(self) -> nn.Module:
        if self.segmentation_loss == "ce_dice":
            return super()._build_loss()
        if self.label_manager.has_regions:
            raise InputError(
                f"{type(self).__name__}: segmentation_loss=ce needs plain labels, this data set "
                "has regions"
            )
        from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import (
            nnUNetTrainerCELoss,
        )

        return nnUNetTrainerCELoss._build_loss(self)

    def configure(self) -> None:
        """Apply the plans' hyperparameters and open a log for every term.

        Raises:
            InputError: an impossible hyperparameter in the plans, a stream that is not configured.
        """
        trainer = type(self).__name__
        entry = self.plans_entry
        self._require_streams(entry)

        self.hyperparameters = resolve(type(self), entry.preset, entry.settings)
        for name, value in self.hyperparameters.items():
            setattr(self, name, value)

        plans = self.plans_manager.plans
        record_regions(plans, self.label_manager.has_regions)
        record_package(plans)
        self.print_to_log_file(f"{trainer} ({entry.preset}): {self.hyperparameters}")

        self.begin_curves(epochs=0)
        if self.local_rank == 0 and mlflow_logger.is_enabled():
            self._log_to_mlflow(entry)

    def _log_to_mlflow(self, entry: PlansEntry) -> None:
        """Pass every logged value on to MLflow, which the user has asked for.

        Raises:
            InputError: MLflow is not installed, or nothing says where it keeps its runs.
        """
        config = {
            "dataset": self.plans_manager.dataset_name,
            "trainer": type(self).__name__,
            "plans": self.plans_manager.plans_name,
            "configuration": self.configuration_name,
            "fold": self.fold,
            "preset": entry.preset,
            "made_by": made_by(),
        }
        for name, value in self.hyperparameters.items():
            config[name] = without_folders(value)
        folder = Path(self.output_folder)
        added = mlflow_logger.mlflow_logger(folder, self.logger.resume, config)
        self.logger.loggers.append(added)

    def on_train_end(self) -> None:
        """As nnU-Net, and mark the run in MLflow as finished."""
        super().on_train_end()
        for logger in self.logger.loggers:
            if isinstance(logger, mlflow_logger.MLflowLogger):
                logger.end()

    def _require_streams(self, entry: PlansEntry) -> None:
        missing = [role for role in self.required_streams if role not in entry.streams]
        if not missing:
            return

        plans = self.plans_manager
        roles = " and a ".join(missing)
        options = " ".join(f"--{role} DATASET_ID" for role in missing)
        raise InputError(
            f"{type(self).__name__} needs a {roles} stream, plans {plans.plans_name} have none; "
            f"run nnUNetv2_ext_configure -d {plans.dataset_name} -p {plans.plans_name} {options}"
        )

    @property
    def logged_terms(self) -> tuple[str, ...]:
        """All names that are logged besides nnU-Net's own, with one value per epoch."""
        return self.step_terms

    @property
    def step_terms(self) -> tuple[str, ...]:
        """The names that a step may note.

        The proportion loss is part of ``segmentation`` and also has its own curve.
        """
        terms = self.loss_terms + self.diagnostics
        if self.proportion_weight:
            return (*terms, PROPORTION)
        return terms

    def begin_curves(self, epochs: int) -> None:
        """Begin the curve of each term that has none, without values for the epochs so far.

        A checkpoint of an earlier version of this package may lack terms.
        """
        curves = self.logger.local_logger.my_fantastic_logging
        for term in self.logged_terms:
            curves.setdefault(term, [math.nan] * epochs)

    def log_terms(self, means: dict[str, float]) -> None:
        """Log the value of each term in this epoch."""
        texts = []
        for term, mean in means.items():
            self.logger.log(term, mean, self.current_epoch)
            texts.append(f"{term} {mean:.5g}")

        if texts:
            line = ", ".join(texts)
            self.print_to_log_file(line)

    def on_epoch_end(self) -> None:
        """Write and draw the terms, then end the epoch as nnU-Net does."""
        if self.logged_terms and self.local_rank == 0:
            self._write_terms()
        super().on_epoch_end()

    def _write_terms(self) -> None:
        import pandas as pd  # only training needs it, not every command that looks a trainer up

        from nnunet_ext.training.figures import loss_curves_figure

        log = self.logger.local_logger.my_fantastic_logging
        curves = {term: log[term] for term in self.logged_terms}
        table = pd.DataFrame(curves)
        table.index.name = "epoch"

        folder = Path(self.output_folder)
        figure = folder / "training_terms.png"
        table.to_csv(folder / "training_terms.csv")
        loss_curves_figure(table, figure, type(self).__name__)

    def stream_dataset(self, role: str, keys: list[str] | None = None) -> nnUNetDatasetBlosc2:
        """Return the cases of a stream, all of them or ``keys``, in the format they were written.

        Raises:
            InputError: the stream is not preprocessed for these plans.
        """
        if keys is None:
            keys = self.stream_keys(role)
        root = role_root(self.preprocessed_dataset_folder_base, role)
        return nnUNetDatasetBlosc2(str(root), keys)

    def stream_keys(self, role: str) -> list[str]:
        """Return the names of all cases of a stream, from all of its data sets."""
        return stream_keys(
            role,
            self.plans_entry.streams[role],
            self.preprocessed_dataset_folder_base,
            self.plans_manager,
            self.configuration_manager,
        )
