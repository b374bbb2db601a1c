"""Easy and hard target cases: easy ones get their predictions as labels, hard ones get none.

Reference: Pan et al. 2020, "Unsupervised Intra-domain Adaptation for Semantic Segmentation through
Self-Supervision" (IntraDA), section 3.2 and eq. 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.csv_cells import plain_table
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.pseudo_labels.labelling import below_raw
from nnunet_ext.pseudo_labels.new_data_sets import link_files, link_images
from nnunet_ext.pseudo_labels.prediction import PredictedCase, TrainedModel
from nnunet_ext.pseudo_labels.selection import rounded_share

RANKING = "entropy_ranking.csv"


def split_by_entropy(entropies: dict[str, float], easy: float) -> tuple[list[str], list[str]]:
    """Return the easy cases and the hard ones, each from the most to the least certain.

    Args:
        entropies: mean normalised entropy by case.
        easy: share of the cases, above 0 and below 1; at least one case is easy and one is hard.

    Raises:
        InputError: fewer than two cases.

    >>> split_by_entropy({"a": 0.3, "b": 0.1, "c": 0.2}, 0.67)
    (['b', 'c'], ['a'])
    """
    cases = len(entropies)
    if cases < 2:
        raise InputError(f"{cases} target case cannot be split; give two or more")

    def most_certain_first(case: str) -> tuple[float, str]:
        return entropies[case], case

    ordered = sorted(entropies, key=most_certain_first)
    count = rounded_share(easy, cases)
    count = max(1, count)
    count = min(count, cases - 1)
    return ordered[:count], ordered[count:]


def write_split(
    model: TrainedModel,
    predicted: Sequence[PredictedCase],
    easy: float,
    easy_folder: Path,
    hard_folder: Path,
) -> tuple[int, int]:
    """Write both data sets into empty folders; return the numbers of easy and of hard cases.

    Raises:
        InputError: fewer than two cases.
    """
    cases = {case.case.name: case for case in predicted}
    entropies = {name: case.entropy for name, case in cases.items()}
    easy_names, hard_names = split_by_entropy(entropies, easy)
    easy_count = len(easy_names)
    easy_cases = [cases[name] for name in easy_names]
    hard_cases = [cases[name] for name in hard_names]

    _link_easy(easy_cases, easy_folder, model)
    _link_hard(hard_cases, hard_folder, model)
    ordered = easy_cases + hard_cases
    for folder, labelled in ((easy_folder, easy_count), (hard_folder, 0)):
        content = dict(model.dataset_json)
        content.pop("dataset", None)
        content |= {
            "name": folder.name,
            "labels": model.classes,
            "numTraining": labelled,
        }
        write_json(content, folder / "dataset.json")
        _write_ranking(ordered, easy_count, folder / RANKING)

    return easy_count, len(hard_cases)


def _link_easy(cases: Sequence[PredictedCase], folder: Path, model: TrainedModel) -> None:
    """Link the images of easy cases as labelled ones, with their predictions as labels."""
    ending = model.dataset_json["file_ending"]
    images = folder / "imagesTr"
    labels = folder / "labelsTr"
    labels.mkdir()
    for predicted in cases:
        case = predicted.case
        label = labels / f"{case.name}{ending}"
        link_images(case.images, images, case.name, ending)
        link_files([predicted.label_file], [label])


def _link_hard(cases: Sequence[PredictedCase], folder: Path, model: TrainedModel) -> None:
    """Link the images of hard cases as unlabelled ones."""
    ending = model.dataset_json["file_ending"]
    images = folder / "imagesUn"
    for predicted in cases:
        case = predicted.case
        link_images(case.images, images, case.name, ending)


def _write_ranking(ordered: Sequence[PredictedCase], easy: int, path: Path) -> None:
    import pandas as pd

    lines = []
    for place, predicted in enumerate(ordered):
        first_image = predicted.case.images[0]
        line = {
            "case": predicted.case.name,
            "image": below_raw(first_image),
            "entropy": predicted.entropy,
            "part": "easy" if place < easy else "hard",
        }
        lines.append(line)

    table = plain_table(pd.DataFrame(lines))
    with whole_file(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.6f")
