"""Adaptation on real slices: labelled ones of COVID-SemiSeg under a change, unlabelled as they are.

``COVID_SEMISEG`` names the folder of the download.
"""

from pathlib import Path

from dataset_conversion.phantoms.changed_slices import (
    CHANGED,
    UNCHANGED,
    UNLABELED,
    write_changed_domain,
)
from nnunet_ext.benchmark.adaptation import self_trained
from nnunet_ext.benchmark.suite import Row, Suite
from nnunet_ext.stock.folders import environment_folder

ADAPTED = {"target_domain": (UNLABELED,)}
STRONG = {"augmentation": "strong"}
NARROW = {"generator_width": 8, "critic_width": 16}  # half the default, as for the networks


def write_data(raw: Path) -> None:
    """Write the suite's data from the user's download."""
    write_changed_domain(environment_folder("COVID_SEMISEG"), raw)


SUITE = Suite(
    name="covid-semiseg-da",
    title="adaptation from changed to real CT slices",
    write_data=write_data,
    test_set=UNCHANGED,
    budget={
        "num_epochs": 30,  # strong augmentation learns slowly: nothing after 600 steps
        "num_iterations_per_epoch": 50,
        "num_val_iterations_per_epoch": 2,
        "save_every": 6,
        "average_weights": 0.99,  # a short training averages over its last hundred steps
    },
    features=(8, 16, 32, 64, 128),
    batch_size=4,
    lower="source-only",
    upper="target-only",
    seeds=3,
    rows=(
        Row("source-only", CHANGED),
        Row("strong-augmentation", CHANGED, settings=STRONG),
        Row("adv-ent", CHANGED, "AdvEntTrainer", streams=ADAPTED),
        Row("mean-teacher", CHANGED, "MeanTeacherTrainer", streams=ADAPTED),
        Row("image-space", CHANGED, "ImageSpaceDATrainer", settings=NARROW, streams=ADAPTED),
        self_trained("self-training", "source-only", UNLABELED, 600),
        self_trained("self-training-strong", "strong-augmentation", UNLABELED, 650, STRONG),
        Row("target-only", UNCHANGED),
    ),
)
