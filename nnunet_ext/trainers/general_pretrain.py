"""First stage of the relation-driven method: a network for lesions in general."""

from typing import ClassVar

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.streams import LESION_LABELS


class GeneralPretrainTrainer(MultiStreamTrainer):
    """Trains the planned single-encoder U-Net on the general stream, under the labelled data set's plans.

    The labels of all general data sets are merged to lesion. ``fold all`` trains on every case; folds 0-4 hold a
    fifth out for nnU-Net's pseudo Dice, the 80/20 of the paper.

    Reference: Zhang et al., "Exploiting Shared Knowledge from Non-COVID Lesions ...", section IV-B.1; that the
    general encoder is pre-trained is a reading, see docs/relation_driven.md.
    """

    required_streams: ClassVar[tuple[str, ...]] = ("general",)

    def initialize(self) -> None:
        """Replace the labelled data set's labels by lesion, then build as nnU-Net does."""
        self.dataset_json: dict = {**self.dataset_json, "labels": LESION_LABELS}
        self.dataset_json.pop("regions_class_order", None)
        self.label_manager = self.plans_manager.get_label_manager(self.dataset_json)
        super().initialize()

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation keys of the general stream."""
        keys = self.stream_keys("general")
        if self.fold == "all" or len(keys) < 5:
            return keys, keys
        split = generate_crossval_split(keys, seed=12345, n_splits=5)[int(self.fold) % 5]
        return split["train"], split["val"]

    def get_tr_and_val_datasets(self) -> tuple[nnUNetDatasetBlosc2, nnUNetDatasetBlosc2]:
        """The general stream takes the labelled stream's place."""
        training, validation = self.do_split()
        return self.stream_dataset("general", training), self.stream_dataset("general", validation)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing to predict: the labelled data set's cases are not this network's task."""
        self.print_to_log_file(
            "General pre-training is judged by the pseudo Dice in progress.png; no validation cases."
        )
