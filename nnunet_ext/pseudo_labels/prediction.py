"""Predict cases with a trained nnU-Net model, and store what pseudo-labels need.

A killed prediction can be continued.
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

from nnunet_ext.errors import InputError, first_line
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.pseudo_labels.selection import Confidence, Labels, confidence_of
from nnunet_ext.stock.files import read_dataset_json
from nnunet_ext.stock.training import Model
from nnunet_ext.training.streams.raw_cases import RawCase

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


@dataclass(frozen=True)
class TrainedModel:
    """An nnU-Net model whose folds predict together, as ``nnUNetv2_predict`` names it."""

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
        """Return the description of the model's training data.

        Raises:
            InputError: no such model, or an unreadable description.
        """
        file = self.folder / "dataset.json"
        if not file.is_file():
            raise InputError(
                f"{self.folder}: no such model; train it first, or correct -d, -c, -tr, -p"
            )
        return read_dataset_json(file, "train the model again")

    @property
    def classes(self) -> dict[str, int]:
        """Return its labels without ``ignore``: background and foreground, numbered from 0."""
        classes = {}
        for name, value in self.dataset_json["labels"].items():
            if name == "ignore":
                continue
            single = value[0] if isinstance(value, list) else value
            classes[name] = int(single)
        return classes

    @property
    def checkpoint_files(self) -> list[Path]:
        """Return the folds' checkpoints."""
        files = []
        for fold in self.folds:
            folder = self.folder / f"fold_{fold}"
            files.append(folder / self.checkpoint)
        return files

    def require_usable(self) -> None:
        """Check that the model and the checkpoints of its folds exist, and that labels are plain.

        Raises:
            InputError: they do not exist, or its labels are regions.
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
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what a CPU cannot do
            predictor = nnUNetPredictor(use_mirroring=self.mirroring, device=device)
            predictor.initialize_from_trained_model_folder(
                str(self.folder),
                self.folds,
                self.checkpoint,
            )

        predictor.allow_tqdm = False
        if predictor.configuration_manager.previous_stage_name is not None:
            raise InputError(
                f"-c {self.model.configuration}: a cascade's second stage; use its first stage, or "
                "another configuration"
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
        name = f"{self.case.name}.npz"
        return self.label_file.with_name(name)

    @property
    def entropy(self) -> float:
        """Return the mean over the voxels of the entropy as a share of its maximum, in [0, 1]."""
        with np.load(self.numbers) as numbers:
            entropy = numbers["entropy"]
        return float(entropy)

    @property
    def confidence(self) -> Confidence:
        """Return the probability of the predicted class in steps of 1 / 65535.

        It has the axes of the image's file reader.
        """
        with np.load(self.numbers) as numbers:
            confidence = numbers["confidence"]
        return np.asarray(confidence)

    def labels(self, reader: Any) -> tuple[Labels, dict[str, Any]]:
        """Return predicted classes, and the geometry that nnU-Net's writer of label files needs."""
        channels, properties = reader.read_seg(str(self.label_file))
        labels = channels[0]
        return labels.astype(np.int64), properties


def predict_cases(
    model: TrainedModel, cases: Sequence[RawCase], folder: Path
) -> list[PredictedCase]:
    """Predict all cases into a folder.

    Predictions of an earlier run are kept, unless model or images have changed.

    Raises:
        InputError: no such model, or an image that cannot be read; finished predictions are kept.
    """
    _begin(model, cases, folder)
    ending = model.dataset_json["file_ending"]
    predicted = []
    todo = []
    for case in cases:
        label_file = folder / f"{case.name}{ending}"
        predicted_case = PredictedCase(case, label_file)
        predicted.append(predicted_case)
        if not predicted_case.numbers.is_file():
            todo.append(predicted_case)
    if not todo:
        return predicted

    from tqdm import tqdm

    predictor = model.load()
    for unpredicted in tqdm(todo, desc="predict", unit="case"):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                _predict(predictor, unpredicted)
        except InputError:
            raise
        except Exception as error:  # readers raise exceptions of many kinds
            image = unpredicted.case.images[0]
            raise InputError(f"{image}: cannot be predicted ({first_line(error)})") from error
    return predicted


def _begin(model: TrainedModel, cases: Sequence[RawCase], folder: Path) -> None:
    """Make the folder; delete the results of an earlier run for another model or other images."""
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

    plans = predictor.plans_manager
    configuration = predictor.configuration_manager
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case(
        case.case.images,
        None,
        plans,
        configuration,
        predictor.dataset_json,
    )
    image = torch.from_numpy(data)
    logits = predictor.predict_logits_from_preprocessed_data(image)
    labels, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.cpu(),
        plans,
        configuration,
        predictor.label_manager,
        properties,
        return_probabilities=True,
    )

    writer = plans.image_reader_writer_class()
    writer.write_seg(labels, str(case.label_file), properties)
    confidence = confidence_of(labels, probabilities)
    entropy = mean_entropy(probabilities)
    with whole_file(case.numbers) as unfinished:
        np.savez_compressed(unfinished, confidence=confidence, entropy=entropy)


def mean_entropy(probabilities: np.ndarray) -> float:
    """Return the mean over the voxels of the entropy as a share of its maximum, log C.

    Args:
        probabilities: ``(C, *spatial)``; read slice by slice along the first spatial axis, to save
            memory.

    Returns:
        In [0, 1]; the score by which IntraDA ranks target images (Pan et al. 2020, eq. 4).
    """
    import torch

    from nnunet_ext.losses.entropy import entropy_map

    contiguous = np.ascontiguousarray(probabilities)
    slices = torch.from_numpy(contiguous).unbind(dim=1)
    means = []
    for one_slice in slices:
        entropy = entropy_map(one_slice[None])
        means.append(float(entropy.mean()))

    mean = np.mean(means)
    return float(mean)
