"""A trained nnU-Net model: a folder of results, an exported zip, or what ``-d -c -tr -p`` name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files.archives import opened_archive
from nnunet_ext.files.json_files import read_object
from nnunet_ext.stock.folders import dataset_name, environment_folder

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
ADVICE = (
    "give the folder of a trained model (with plans.json, dataset.json and fold_*), or a zip that "
    "nnU-Net exported"
)


@dataclass(frozen=True)
class ModelFolder:
    """A folder ``Trainer__Plans__Configuration`` of nnU-Net's results."""

    folder: Path
    dataset_json: dict[str, Any]
    plans: dict[str, Any]

    @property
    def channel_names(self) -> list[str]:
        """Return the model's inputs in their order."""
        content = self.dataset_json
        by_number: dict[str, str] = content.get("channel_names") or content.get("modality") or {}
        numbers = sorted(by_number, key=int)
        return [str(by_number[number]) for number in numbers]

    @property
    def file_ending(self) -> str:
        """Return the ending of image files that ``nnUNetv2_predict`` looks for."""
        return str(self.dataset_json["file_ending"])

    @property
    def name(self) -> str:
        """Return data set, trainer, plans and configuration, for the reports."""
        dataset = self.plans.get("dataset_name", "nnU-Net")
        model = self.folder.name.replace("__", " ")
        return f"{dataset} {model}"

    def checkpoints(self, folds: Sequence[str] | None, checkpoint: str) -> dict[str, Path]:
        """Return the checkpoint of each fold; all trained folds but ``all`` if none is named.

        Raises:
            InputError: a fold is not trained.
        """
        trained = {}
        for file in sorted(self.folder.glob(f"fold_*/{checkpoint}")):
            fold = file.parent.name.removeprefix("fold_")
            trained[fold] = file
        usual = [fold for fold in trained if fold != "all"]
        wanted = list(folds or usual or trained)

        missing = [fold for fold in wanted if fold not in trained]
        if missing or not wanted:
            having = f"has {', '.join(trained)}" if trained else "has none"
            which = f"fold {missing[0]}" if missing else "any fold"
            raise InputError(
                f"{self.folder}: lacks {checkpoint} of {which} ({having}); choose with -f and -chk"
            )
        return {fold: trained[fold] for fold in wanted}


def digest_of(files: Sequence[Path]) -> str:
    """Return 16 hexadecimal digits that stand for the content of checkpoints."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


@contextmanager
def opened_model(
    model: Path | None,
    dataset: str | None,
    configuration: str | None,
    trainer: str,
    plans: str,
    temporary: Path,
) -> Iterator[ModelFolder]:
    """Find a model; a zip is unpacked into a folder below ``temporary``, which the caller removes.

    Args:
        model: folder or zip; or
        dataset: id or name of its data set, in nnUNet_results, with
        configuration: such as ``3d_fullres``, and
        trainer: class name, and
        plans: identifier.
        temporary: an existing folder.

    Raises:
        InputError: no such model, or it does not read volumes.
    """
    if model is None:
        if dataset is None or configuration is None:
            raise InputError("no model; give -m FOLDER_OR_ZIP, or -d and -c")
        name = f"{trainer}__{plans}__{configuration}"
        folder = environment_folder("nnUNet_results") / dataset_name(dataset) / name
        yield read_model(folder)
    elif model.is_file():
        yield read_model(_unpacked(model, temporary))
    else:
        yield read_model(model)


def read_model(folder: Path) -> ModelFolder:
    """Read what a model says of itself.

    Raises:
        InputError: no model, damaged files, or one for pictures.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such model; {ADVICE}")

    dataset_json = read_object(folder / "dataset.json", ADVICE)
    plans = read_object(folder / "plans.json", ADVICE)
    model = ModelFolder(folder, dataset_json, plans)
    try:
        names, ending = model.channel_names, model.file_ending
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{folder / 'dataset.json'}: lacks channel_names or file_ending; {ADVICE}"
        ) from error

    if not names:
        raise InputError(f"{folder / 'dataset.json'}: names no channel; {ADVICE}")
    if ending not in VOLUME_ENDINGS:
        known = ", ".join(VOLUME_ENDINGS)
        raise InputError(
            f"{folder}: its images end in {ending}; series of slices need one of {known}"
        )
    return model


def _unpacked(archive: Path, temporary: Path) -> Path:
    """Unpack an exported model below ``temporary``; returns the model's folder."""
    with opened_archive(archive, ADVICE) as (file, names):
        models = [PurePosixPath(name).parent for name in names if is_plans(name)]
        if len(models) != 1:
            found = ", ".join(map(str, models)) or "none"
            raise InputError(
                f"{archive}: holds {len(models)} models ({found}); unpack it and give -m the folder"
            )
        file.extractall(temporary, names)
    return temporary / models[0]


def is_plans(name: str) -> bool:
    """Return whether a member is the plans of a model, and not those of a data set."""
    path = PurePosixPath(name)
    is_of_fold = path.parent.name.startswith("fold_")
    return path.name == "plans.json" and not is_of_fold
