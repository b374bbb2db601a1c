"""Write a new raw data set with a trained synthesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.files.checksums import sha256_of_file
from nnunet_ext.files.json_files import read_object
from nnunet_ext.stock.files import read_dataset_json
from nnunet_ext.stock.folders import environment_folder, plain_name
from nnunet_ext.stock.training import Model
from nnunet_ext.synthesis.export import ADVICE, RECORD, ExportJob, export, finish, source_cases
from nnunet_ext.synthesis.export_figure import export_figure
from nnunet_ext.synthesis.matches import read_matches
from nnunet_ext.synthesis.model import SynthesisModel
from nnunet_ext.training.streams.raw_cases import RawCase, raw_cases

if TYPE_CHECKING:
    from nnunet_ext.synthesis.contrast import LesionContrast
    from nnunet_ext.synthesis.matches import Matches

FIGURE = "examples.png"


@dataclass(frozen=True)
class TrainedFold:
    """A fold of a trained synthesis, as ``nnUNetv2_predict -d -tr -p -c -f -chk`` names it."""

    model: Model
    fold: str
    checkpoint: str

    def folder(self) -> Path:
        """Return nnU-Net's result folder of the model.

        Raises:
            InputError: nothing was trained there, or a name is a path.
        """
        model = self.model
        plain_name(model.trainer, "-tr")
        plain_name(model.plans, "-p")
        plain_name(model.configuration, "-c")

        folder = model.folder(environment_folder("nnUNet_results"))
        if not (folder / "plans.json").is_file():
            raise InputError(
                f"{folder}: no trained synthesis; run nnUNetv2_train {model.dataset} "
                f"{model.configuration} {self.fold} -tr {model.trainer} -p {model.plans} first"
            )
        return folder


@dataclass(frozen=True)
class CaseChoice:
    """Which cases of the source are translated; all by default.

    Args:
        matches: file of ``nnUNetv2_ext_match``.
        subset: one of its subsets.
        random_cases: in place of a subset, so many cases, drawn at random.
        seed: of that draw.
    """

    matches: Path | None = None
    subset: str | None = None
    random_cases: int | None = None
    seed: int = 0

    @property
    def in_words(self) -> str:
        """What is recorded beside the new data set."""
        if self.random_cases:
            return f"random {self.random_cases}, seed {self.seed}"
        return self.subset or "all"

    def read_matches(self, source: str) -> Matches | None:
        """Return the matches, or None where no file is named.

        Raises:
            InputError: they are of another data set than the source.
        """
        if self.matches is None:
            return None
        matches = read_matches(self.matches)
        if matches.source != source:
            raise InputError(
                f"{self.matches}: matches of {matches.source}, not of {source}; run "
                f"nnUNetv2_ext_match -d {source}"
            )
        return matches

    def of(self, cases: list[str], matches: Matches | None) -> tuple[str, ...]:
        """Return the chosen ones of the source's cases, in order of their names.

        Raises:
            InputError: there are none, or fewer than wanted, or the source lacks one.
        """
        if self.random_cases:
            return _random_cases(cases, self.random_cases, self.seed)
        if self.subset is None or matches is None:
            return tuple(cases)

        wanted = matches.subset(self.subset)
        missing = sorted(set(wanted) - set(cases))
        if missing:
            problem = f"names {missing[0]}, which {matches.source} lacks"
        elif not wanted:
            problem = "is empty"
        else:
            return tuple(sorted(wanted))
        raise InputError(f"the subset {self.subset} {problem}; run nnUNetv2_ext_match again")


def write_translated_data_set(
    trained: TrainedFold,
    choice: CaseChoice,
    folder: Path,
    device: str,
    beside: Sequence[Path] = (),
) -> str:
    """Translate the chosen labelled cases to the target domain and draw examples.

    Args:
        trained: the synthesis; its data set is the source.
        choice: the cases to translate.
        folder: raw folder of the new data set, from `new_dataset_folder`.
        device: as torch calls it.
        beside: raw folders of further such data sets of the same source, shown in the examples.

    Returns:
        What was written, in words.

    Raises:
        InputError: the model, the source or the matches are missing or do not fit.
    """
    raw = environment_folder("nnUNet_raw")
    source = raw / trained.model.dataset
    results = trained.folder()
    _require_same_source(beside, source.name)
    matches = choice.read_matches(source.name)
    every_case = source_cases(source)
    names = [case.name for case in every_case]
    chosen = choice.of(names, matches)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("-device cuda: no CUDA device found; use -device cpu")

    model = SynthesisModel.load(
        results,
        trained.fold,
        trained.checkpoint,
        torch.device(device),
    )
    window = model.window
    origin = _origin(trained, choice, results, str(window))
    job = ExportJob(source, folder, chosen, origin)
    contrasts = export(model, job)

    cases = [case for case in every_case if case.name in contrasts]
    matched = _matched_files(matches, cases) if matches else None
    dataset_json = read_dataset_json(source / "dataset.json", ADVICE)
    export_figure(
        folder,
        cases,
        (window.low, window.high),
        folder / FIGURE,
        dataset_json["labels"],
        matched,
        beside,
    )
    finish(job)
    return _summary(folder, contrasts, str(window))


def _require_same_source(folders: Sequence[Path], source: str) -> None:
    """Refuse data sets that were not written by a synthesis of the source."""
    for folder in folders:
        record = folder / RECORD
        theirs = read_object(record, "name another one with --beside").get("source")
        if theirs != source:
            raise InputError(
                f"--beside {folder.name}: {record} names the source {theirs}, not {source}"
            )


def _random_cases(cases: list[str], count: int, seed: int) -> tuple[str, ...]:
    existing = len(cases)
    if count > existing:
        raise InputError(f"--random-subset {count}: there are only {existing} cases")

    generator = np.random.default_rng(seed)
    drawn = generator.choice(cases, count, replace=False)
    in_order = sorted(drawn.tolist())
    return tuple(in_order)


def _origin(trained: TrainedFold, choice: CaseChoice, results: Path, window: str) -> dict[str, Any]:
    """Return what the images were made by."""
    checkpoint = results / f"fold_{trained.fold}" / trained.checkpoint
    return {
        "trainer": trained.model.trainer,
        "plans": trained.model.plans,
        "configuration": trained.model.configuration,
        "fold": trained.fold,
        "checkpoint": trained.checkpoint,
        "checkpoint_sha256": sha256_of_file(checkpoint),
        "window": window,
        "subset": choice.in_words,
    }


def _matched_files(matches: Matches, cases: list[RawCase]) -> dict[str, str]:
    """Return the image of each case's most similar target case, where its raw data are here."""
    images = _target_images(matches.target)
    files = {}
    for case in cases:
        similar = matches.source_cases.get(case.name)
        if similar is None:
            continue

        most_similar = similar.targets[0]
        if most_similar in images:
            files[case.name] = images[most_similar]
    return files


def _target_images(dataset: str) -> dict[str, str]:
    """Return the first image of each target case; empty where the raw data cannot be used."""
    folder = environment_folder("nnUNet_raw") / dataset
    try:
        dataset_json = read_dataset_json(folder / "dataset.json", ADVICE)
        targets = raw_cases("target_domain", folder, dataset_json)
    except InputError:
        return {}
    return {case.name: case.images[0] for case in targets}


def _summary(folder: Path, contrasts: dict[str, LesionContrast], window: str) -> str:
    lines = [f"{len(contrasts)} cases in {window} -> {folder.name}"]
    known = []
    brighter = 0
    for contrast in contrasts.values():
        if np.isfinite(contrast.difference):
            known.append(contrast.difference)
            brighter += contrast.difference > 0

    if known:
        mean = np.mean(known)
        lines.append(
            f"lesions: {mean:+.1f} against their rim on average, brighter in {brighter} of "
            f"{len(known)} cases"
        )
    if known and brighter < len(known) / 2:
        lines.append(
            "Warning: most lesions are darker than what surrounds them. If those of the target are "
            "brighter, the translation is inverted: train it again, with contrast_weight=50 if it "
            "was 0, or with another seed"
        )
    lines.append(f"see lesion_contrast.csv, provenance.csv and {FIGURE} there")
    return "\n".join(lines)
