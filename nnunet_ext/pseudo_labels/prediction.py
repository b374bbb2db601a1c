"""Predict cases with a trained model of nnU-Net and keep what pseudo-labels need.

A killed prediction goes on.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import load_json

from nnunet_ext.errors import InputError, first_line
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.pseudo_labels.selection import Confidence, Labels, confidence_of
from nnunet_ext.stock.training import Model
from nnunet_ext.training.streams.raw_cases import RawCase

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


@dataclass(frozen=True)
class TrainedModel:
    """A model of nnU-Net whose folds predict together.

    ``nnUNetv2_predict -d -c -tr -p -f -chk`` names it.
    """

    model: Model
    results: Path
    folds: tuple[str, ...]
    checkpoint: str
    device: str
    mirroring: bool = True

    @property
    def folder(self) -> Path:
        """Return nnU-Net's result folder of the model."""
        return self.model.folder(self.results)

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """Return the description of what the model was trained on.

        Raises:
            InputError: no such model.
        """
        file = self.folder / "dataset.json"
        if not file.is_file():
            raise InputError(
                f"{self.folder}: no such model; train it first, or correct -d, -c, -tr, -p"
            )
        content: dict[str, Any] = load_json(str(file))
        return content

    @property
    def classes(self) -> dict[str, int]:
        """Return its labels without ``ignore``: background and foreground, numbered from 0."""
        classes = {}
        for name, value in self.dataset_json["labels"].items():
            if name != "ignore":
                classes[name] = int(value[0] if isinstance(value, list) else value)
        return classes

    @property
    def checkpoint_files(self) -> list[Path]:
        """Return the folds' checkpoints."""
        return [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]

    def require_usable(self) -> None:
        """Check that the model is there with the checkpoints of its folds, and has plain labels.

        Raises:
            InputError: it is not, or its labels are regions.
        """
        for value in self.dataset_json["labels"].values():
            if isinstance(value, list) and len(value) > 1:
                raise InputError(
                    f"{self.folder / 'dataset.json'}: has regions, which overlap; pseudo-labels "
                    "need plain labels"
                )
        for file in self.checkpoint_files:
            if not file.is_file():
                raise InputError(
                    f"{file}: no such checkpoint; train the fold first, or correct -f, -chk"
                )

    def load(self) -> nnUNetPredictor:
        """Return nnU-Net's predictor with the weights of all folds.

        Raises:
            InputError: the second stage of a cascade, which needs predictions of the first.
        """
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        device = torch.device(self.device)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells what a CPU cannot do
            predictor = nnUNetPredictor(use_mirroring=self.mirroring, device=device)
            predictor.initialize_from_trained_model_folder(
                str(self.folder), self.folds, self.checkpoint
            )

        predictor.allow_tqdm = False
        if predictor.configuration_manager.previous_stage_name is not None:
            raise InputError(
                f"-c {self.model.configuration}: a cascade's second stage; use the first, or "
                "another one"
            )
        return predictor


@dataclass(frozen=True)
class PredictedCase:
    """A predicted case on disk: the label file, and beside it confidence and entropy."""

    case: RawCase
    label_file: Path

    @property
    def numbers(self) -> Path:
        """Return the file of confidence and entropy.

        It is written after the label file: its presence means that the case is done.
        """
        return self.label_file.with_name(f"{self.case.name}.npz")

    @property
    def entropy(self) -> float:
        """Return the mean over the voxels of the entropy as a share of its maximum, in [0, 1]."""
        with np.load(self.numbers) as numbers:
            return float(numbers["entropy"])

    @property
    def confidence(self) -> Confidence:
        """Return the probability of the predicted class in steps of 1 / 65535.

        It has the axes of the image's file reader.
        """
        with np.load(self.numbers) as numbers:
            return np.asarray(numbers["confidence"])

    def labels(self, reader: Any) -> tuple[Labels, dict[str, Any]]:
        """Return predicted classes and the geometry that nnU-Net's writer of label files takes."""
        labels, properties = reader.read_seg(str(self.label_file))
        return labels[0].astype(np.int64), properties


def predict_cases(
    model: TrainedModel, cases: Sequence[RawCase], folder: Path
) -> list[PredictedCase]:
    """Predict all cases into a folder.

    Those that an earlier run finished stay, unless model or images have changed.

    Raises:
        InputError: no such model, or an image that cannot be read; what is done stays.
    """
    _begin(model, cases, folder)
    ending = model.dataset_json["file_ending"]
    predicted = [PredictedCase(case, folder / f"{case.name}{ending}") for case in cases]
    todo = [case for case in predicted if not case.numbers.is_file()]
    if not todo:
        return predicted

    from tqdm import tqdm

    predictor = model.load()
    for case in tqdm(todo, desc="predict", unit="case"):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                _predict(predictor, case)
        except InputError:
            raise
        except Exception as error:  # every reader raises exceptions of its own
            raise InputError(
                f"{case.case.images[0]}: cannot be predicted ({first_line(error)})"
            ) from error
    return predicted


def _begin(model: TrainedModel, cases: Sequence[RawCase], folder: Path) -> None:
    """Make the folder; drop what an earlier run left there for another model or other images."""
    files = list(model.checkpoint_files)
    for case in cases:
        files += map(Path, case.images)

    stamps = {}
    for file in files:
        status = file.stat()
        stamps[str(file)] = [status.st_size, status.st_mtime_ns]

    record = {"mirroring": model.mirroring, "files": stamps}
    begun = folder / "begun.json"
    if begun.is_file() and json.loads(begun.read_text(encoding="utf-8")) == record:
        return

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(record, begun)


def _predict(predictor: nnUNetPredictor, case: PredictedCase) -> None:
    import torch
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape,
    )

    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case(
        case.case.images, None, plans, configuration, predictor.dataset_json
    )
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
    labels, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, predictor.label_manager, properties, return_probabilities=True
    )

    plans.image_reader_writer_class().write_seg(labels, str(case.label_file), properties)
    confidence = confidence_of(labels, probabilities)
    with whole_file(case.numbers) as unfinished:
        np.savez_compressed(unfinished, confidence=confidence, entropy=mean_entropy(probabilities))


def mean_entropy(probabilities: np.ndarray) -> float:
    """Return the mean over the voxels of the entropy as a share of its maximum, log C.

    Args:
        probabilities: ``(C, *spatial)``; taken slice by slice along the first spatial axis, to save
            memory.

    Returns:
        In [0, 1]; the score by which IntraDA ranks target images (Pan et al. 2020, eq. 4).
    """
    import torch

    from nnunet_ext.losses.entropy import entropy_map

    slices = torch.from_numpy(np.ascontiguousarray(probabilities)).unbind(dim=1)
    means = [float(entropy_map(one[None]).mean()) for one in slices]
    return float(np.mean(means))
