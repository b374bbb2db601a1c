"""The data sets that a model has seen: licences, and other data sets with the same images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_conversion.writing.overlaps import OVERLAPS, collection_of
from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object
from nnunet_ext.training.settings.plans_entry import PlansEntry

UNKNOWN = "not recorded"
LABELLED = "labelled"


@dataclass(frozen=True)
class TrainingData:
    """One data set of a training."""

    name: str
    role: str  # labelled, or the stream's
    licence: str = UNKNOWN
    reference: str = UNKNOWN
    collection: str | None = None  # that it was converted from; None: this package did not make it

    @property
    def overlaps(self) -> list[str]:
        """What other collections share with it, a line each."""
        lines = []
        for known in OVERLAPS:
            pair = (known.first, known.second)
            if self.collection not in pair:
                continue
            other = known.second if self.collection == known.first else known.first
            probably = "" if known.certain else "probably "
            lines.append(f"{other}: {probably}shares images ({known.first}: {known.what})")
        return lines


def training_data(plans: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> list[TrainingData]:
    """Return the labelled data set of a model, then those of its streams.

    What is known of them is read where the data sets still lie in nnU-Net's folders.

    Args:
        plans: of the model.
        dataset_json: of the model.

    Raises:
        InputError: the plans' entry is damaged.
    """
    name = str(plans.get("dataset_name", "unnamed"))
    found = [_described(name, LABELLED, dataset_json)]
    for role, names in PlansEntry.from_plans(dict(plans)).streams.items():
        for listed in names:
            stream_name = listed.partition("=")[0]
            found.append(_described(stream_name, role, _dataset_json_of(stream_name)))
    return found


def _described(name: str, role: str, content: Mapping[str, Any]) -> TrainingData:
    licence = content.get("licence") or content.get("license") or UNKNOWN
    reference = content.get("reference") or UNKNOWN
    raw = _folder("nnUNet_raw", name)
    collection = collection_of(raw) if raw else None
    return TrainingData(name, role, str(licence), str(reference), collection)


def _dataset_json_of(name: str) -> dict[str, Any]:
    """Return dataset.json of a data set; empty if it is not there or cannot be read."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        folder = _folder(variable, name)
        if folder is None:
            continue
        try:
            return read_object(folder / "dataset.json", "")
        except InputError:
            continue
    return {}


def _folder(variable: str, name: str) -> Path | None:
    """Return the folder of a data set; None if there is none, or its name leads elsewhere."""
    parent = os.environ.get(variable)
    if not parent or name != Path(name).name:
        return None
    folder = Path(parent, name)
    return folder if folder.is_dir() else None
