"""Rows of two stages that suites for domain adaptation share."""

from collections.abc import Mapping
from typing import Any

from nnunet_ext.benchmark.suite import MadeData, Row

MODEL = (
    *("-d", "{dataset}", "-c", "{configuration}", "-tr", "{trainer}", "-p", "{plans}"),
    *("-f", "{fold}", "-device", "{device}"),
)


def self_trained(
    name: str, first_stage: str, target: str, number: int, settings: Mapping[str, Any] | None = None
) -> Row:
    """Return a row that trains on labelled data and the first stage's confident predictions.

    Args:
        name: of the row.
        first_stage: row whose model labels the target.
        target: raw data set of the target's images.
        number: of the made data set, plus the seed.
        settings: of the training.
    """
    criteria = ("--keep-cases", "0.5", "--keep-voxels", "0.8", "--background", "0.9")
    made = ("-i", target, "-o", "{number}", "--name", name)
    command = ("nnUNetv2_ext_pseudo_label", *MODEL, *made, *criteria)
    data = MadeData(number, command)
    return Row(name, data, settings=settings or {}, first_stage=first_stage)


def intra_domain(name: str, first_stage: str, target: str, easy: int, hard: int) -> Row:
    """Return a row that adapts from the target's easy cases to its hard ones (IntraDA).

    The first stage's model labels the easy cases.

    Args:
        name: of the row.
        first_stage: row whose model ranks and labels the target.
        target: raw data set of the target's images.
        easy: number of the easy cases' data set, plus the seed.
        hard: number of the hard cases' data set, plus the seed.
    """
    numbers = ("-o", "{number}", "--hard", "{further}", "--name", name)
    command = ("nnUNetv2_ext_split_target", *MODEL, "-i", target, *numbers)
    data = MadeData(easy, command, hard)
    streams = {"target_domain": ("{further}",)}
    return Row(name, data, "AdvEntTrainer", streams=streams, first_stage=first_stage)
