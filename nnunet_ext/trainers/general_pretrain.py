"""First stage of the relation-driven method: a network for lesions in general."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.crossval_split import generate_crossval_split
from tqdm import tqdm

from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.training.engine import processes
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.streams.location import LESION_LABELS

FOLDS = 5  # nnU-Net's


class GeneralPretrainTrainer(MultiStreamTrainer):
    """Trains the planned single-encoder U-Net on the general stream, X^n.

    The plans are those of the labelled data set. The labels of all general data sets are merged to
    lesion. ``fold all`` trains on every case; folds 0-4 hold out a fifth for nnU-Net's pseudo Dice,
    the 80/20 split of the paper.

    Reference: Zhang et al., "Exploiting Shared Knowledge from Non-COVID Lesions ...", section
    IV-B.1; that the general encoder is pre-trained is a reading, see docs/relation_driven.md.
    """

    use_when: ClassVar[str] = "you train RelationDrivenTrainer: its first stage"
    required_streams: ClassVar[tuple[str, ...]] = ("general",)
    segments_labelled_data: ClassVar[bool] = False  # it validates on the general stream

    def initialize(self) -> None:
        """Replace the labelled data set's labels with lesion, then build as nnU-Net does."""
        self.dataset_json: dict = {**self.dataset_json, "labels": LESION_LABELS}
        self.dataset_json.pop("regions_class_order", None)
        self.label_manager = self.plans_manager.get_label_manager(self.dataset_json)
        super().initialize()

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return training and validation keys of the general stream."""
        keys = self.stream_keys("general")
        if self.fold == "all" or len(keys) < FOLDS:
            return keys, keys

        splits = generate_crossval_split(keys, seed=12345, n_splits=FOLDS)  # nnU-Net's seed
        fold = int(self.fold) % FOLDS
        split = splits[fold]
        return split["train"], split["val"]

    def get_tr_and_val_datasets(self) -> tuple[nnUNetDatasetBlosc2, nnUNetDatasetBlosc2]:
        """Return the general stream in place of the labelled one."""
        training_keys, validation_keys = self.do_split()
        training = self.stream_dataset("general", training_keys)
        validation = self.stream_dataset("general", validation_keys)
        return training, validation

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Write the Dice of the held-out general cases to ``validation/summary.json``.

        It is measured on the plans' grid. nnU-Net's own validation would predict the labelled data
        set, which is not this network's task.
        """
        _, validation_keys = self.do_split()
        own_keys = validation_keys[self.local_rank :: processes.world_size()]

        self.set_deep_supervision_enabled(False)
        self.evaluated_network.eval()
        dices = self._dices(own_keys)
        self.set_deep_supervision_enabled(True)

        dices = processes.union_over_ranks(dices)
        if self.local_rank == 0:
            self._write_summary(dices)

    def _dices(self, keys: list[str]) -> dict[str, float]:
        """Predict preprocessed general cases and return the Dice of the lesions in each."""
        from nnunet_ext.evaluation.metrics.overlap import dice

        predictor = nnUNetPredictor(
            perform_everything_on_device=self.device.type == "cuda", device=self.device
        )
        predictor.manual_initialization(
            self.evaluated_network,
            self.plans_manager,
            self.configuration_manager,
            None,
            self.dataset_json,
            type(self).__name__,
            self.inference_allowed_mirroring_axes,
        )

        cases = self.stream_dataset("general", keys)
        is_quiet = self.local_rank != 0
        dices = {}
        for key in tqdm(cases.identifiers, "general validation", disable=is_quiet):
            data, reference, *_ = cases.load_case(key)
            image = torch.from_numpy(data[:])
            logits = predictor.predict_sliding_window_return_logits(image)
            prediction = logits.argmax(0).cpu().numpy()
            dices[key] = dice(prediction == 1, reference[0] == 1)
        return dices

    def _write_summary(self, dices: dict[str, float]) -> None:
        """Write the file that nnU-Net's own validation would write."""
        values = list(dices.values())
        mean_dice = float(np.nanmean(values))
        per_case = []
        for key, value in dices.items():
            metrics = {"1": {"Dice": value}}
            per_case.append({"prediction_file": key, "metrics": metrics})

        mean = {"Dice": mean_dice}
        summary = {
            "foreground_mean": mean,
            "mean": {"1": mean},
            "metric_per_case": per_case,
        }

        folder = Path(self.output_folder, "validation")
        folder.mkdir(exist_ok=True)
        write_json(summary, folder / "summary.json")
        self.print_to_log_file(
            f"General validation: mean Dice {mean_dice:.4f} of {len(dices)} cases"
        )
