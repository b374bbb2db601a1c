"""Easy and hard target cases.

Easy ones get their predictions as labels, hard ones become unlabelled images.

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
    """Return the easy cases and the hard ones, each from the surest to the most unsure.

    Args:
        entropies: mean normalised entropy by case.
        easy: share of the cases, above 0 and below 1; at least one case is easy and one is hard.

    Raises:
        InputError: fewer than two cases.

    >>> split_by_entropy({"a": 0.3, "b": 0.1, "c": 0.2}, 0.67)
    (['b', 'c'], ['a'])
    """
    if len(entropies) < 2:
        raise InputError(f"{len(entropies)} target case cannot be split; give two or more")

    ordered = sorted(entropies, key=lambda case: (entropies[case], case))
    count = rounded_share(easy, len(ordered))
    count = min(max(1, count), len(ordered) - 1)
    return ordered[:count], ordered[count:]


def write_split(
    model: TrainedModel,
    predicted: Sequence[PredictedCase],
    easy: float,
    easy_folder: Path,
    hard_folder: Path,
) -> tuple[int, int]:
    """Write both data sets into empty folders; returns the numbers of easy and of hard cases.

    Raises:
        InputError: fewer than two cases.
    """
    cases = {case.case.name: case for case in predicted}
    entropies = {name: case.entropy for name, case in cases.items()}
    easy_names, hard_names = split_by_entropy(entropies, easy)

    ending = model.dataset_json["file_ending"]
    (easy_folder / "labelsTr").mkdir()
    for name in easy_names:
        link_images(cases[name].case.images, easy_folder / "imagesTr", name, ending)
        link_files([cases[name].label_file], [easy_folder / "labelsTr" / f"{name}{ending}"])
    for name in hard_names:
        link_images(cases[name].case.images, hard_folder / "imagesUn", name, ending)

    ordered = [cases[name] for name in (*easy_names, *hard_names)]
    for folder, labelled in ((easy_folder, len(easy_names)), (hard_folder, 0)):
        content = dict(model.dataset_json)
        content.pop("dataset", None)
        content |= {"name": folder.name, "labels": model.classes, "numTraining": labelled}
        write_json(content, folder / "dataset.json")
        _write_ranking(ordered, len(easy_names), folder / RANKING)

    return len(easy_names), len(hard_names)


def _write_ranking(ordered: Sequence[PredictedCase], easy: int, path: Path) -> None:
    import pandas as pd

    lines = []
    for place, case in enumerate(ordered):
        line = {
            "case": case.case.name,
            "image": below_raw(case.case.images[0]),
            "entropy": case.entropy,
            "part": "easy" if place < easy else "hard",
        }
        lines.append(line)

    with whole_file(path) as unfinished:
        plain_table(pd.DataFrame(lines)).to_csv(unfinished, index=False, float_format="%.6f")
