"""Few labels of one disease, many of another: what does the general knowledge add?"""

from dataset_conversion.phantoms.diseases import (
    FEW,
    GENERAL,
    MANY,
    POOLED,
    UNLABELED,
    write_disease_pair,
)
from nnunet_ext.benchmark.general_knowledge import GeneralKnowledge
from nnunet_ext.benchmark.suite import Row, Suite

DATA = GeneralKnowledge(FEW, (GENERAL,), UNLABELED)

SUITE = Suite(
    name="phantom-relation",
    title="three labelled slices, and 60 of another disease",
    write_data=write_disease_pair,
    test_set=MANY,
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
    rows=(*DATA.rows(), Row("pooled", POOLED), Row("all-labels", MANY)),
)
