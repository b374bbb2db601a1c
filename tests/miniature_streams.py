"""Preprocessed miniature data on disk, and trainers that read them with nnU-Net's own loaders."""

import json
import shutil
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.training.settings.plans_entry import PlansEntry
from nnunet_ext.training.streams.location import Stream
from nnunet_ext.training.streams.preprocessing import preprocess_stream
from tests.miniature_plans import trainer


def trainer_with_data(
    cls: type, root: Path, content: dict[str, Any], labelled: Path, **streams: Path
) -> Any:
    """An initialized trainer whose data lie preprocessed below ``root``; every labelled case is
    trained on.

    Args:
        cls: trainer class.
        root: holds nnU-Net's folders.
        content: plans; their entry names the data sets of every stream.
        labelled: raw folder of the labelled data set.
        streams: role -> raw folder of its data set.
    """
    manager = PlansManager(content)
    (name,) = content["configurations"]
    configuration = manager.get_configuration(name)
    folder = root / "nnUNet_preprocessed" / content["dataset_name"]

    for role, raw in streams.items():
        normalization = PlansEntry.from_plans(content).normalizations.get(role)
        preprocess_stream(
            Stream.locate(role, raw.name, folder, configuration, normalization),
            raw,
            manager,
            name,
            1,
        )

    own = Stream("general", labelled.name, (), folder / configuration.data_identifier)
    preprocess_stream(own, labelled, manager, name, 1)
    cases = json.loads((own.folder / "stream.json").read_text())["cases"]
    _leave_only_cases(own.folder)
    (folder / "splits_final.json").write_text(json.dumps([{"train": cases, "val": cases[:1]}]))

    made = trainer(cls, root, content)
    (own.folder / "case.b2nd").unlink()  # which trainer() made for lack of data
    return made


def _leave_only_cases(folder: Path) -> None:
    for record in folder.glob("*.json"):
        record.unlink()
    shutil.rmtree(folder / "unfinished")


def drawn(loader: Any, count: int) -> list[dict[str, Any]]:
    """The next batches; worker processes are stopped."""
    batches = [next(loader) for _ in range(count)]
    if hasattr(loader, "_finish"):
        loader._finish()
    return batches
