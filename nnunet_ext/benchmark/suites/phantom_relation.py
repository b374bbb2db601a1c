"""Few labels of one disease, many of another: what does the general knowledge add?"""

from collections.abc import Mapping
from typing import Any

from dataset_conversion.phantoms.diseases import FEW, GENERAL, MANY, UNLABELED, write_disease_pair
from nnunet_ext.benchmark.suite import Row, Suite

OTHER_DISEASE = {"general": (GENERAL,)}
BOTH = {"general": (GENERAL,), "unlabeled": (UNLABELED,)}
PRETRAINED = {"general_checkpoint": "{checkpoint}"}


def _relation_driven(
    name: str, streams: Mapping[str, tuple[str, ...]] = OTHER_DISEASE, **settings: Any
) -> Row:
    return Row(
        name,
        FEW,
        "RelationDrivenTrainer",
        settings={**PRETRAINED, **settings},
        streams=streams,
        first_stage="general-pretraining",
    )


SUITE = Suite(
    name="phantom-relation",
    title="five labelled slices, and 48 of another disease",
    write_data=write_disease_pair,
    test_set=FEW,
    budget={
        "num_epochs": 20,
        "num_iterations_per_epoch": 50,
        "num_val_iterations_per_epoch": 2,
        "save_every": 10,
        "average_weights": 0.99,  # a short training averages over its last hundred steps
    },
    features=(8, 16, 32, 64, 128),
    batch_size=4,
    fold="all",
    lower="plain",
    upper="all-labels",
    rows=(
        Row(
            "general-pretraining",
            FEW,
            "GeneralPretrainTrainer",
            streams=OTHER_DISEASE,
            tested=False,
        ),
        Row("plain", FEW),
        Row("strong-augmentation", FEW, settings={"augmentation": "strong"}),
        _relation_driven(
            "frozen-general-encoder", general_relation_weight=0.0, target_relation_weight=0.0
        ),
        _relation_driven("only-general-relation", target_relation_weight=0.0),
        _relation_driven("only-target-relation", general_relation_weight=0.0),
        _relation_driven("relation-driven"),
        _relation_driven("relation-driven-unlabeled", streams=BOTH),
        _relation_driven("relation-driven-strong", augmentation="strong"),
        Row("all-labels", MANY),
    ),
)
