"""Unsupervised adaptation to another scanner, on generated slices.

Every baseline has one backbone and budget.
"""

from dataset_conversion.phantoms.domains import SOURCE, TARGET, UNLABELED_TARGET, write_domain_pair
from nnunet_ext.benchmark.adaptation import intra_domain, self_trained
from nnunet_ext.benchmark.suite import Row, Suite

ADAPTED = {"target_domain": (UNLABELED_TARGET,)}
STRONG = {"augmentation": "strong"}
NARROW = {"generator_width": 8, "critic_width": 16}  # half the default, as for the networks

SUITE = Suite(
    name="phantom-da",
    title="adaptation from a labelled source to an unlabelled target",
    write_data=write_domain_pair,
    test_set=TARGET,
    budget={
        "num_epochs": 12,
        "num_iterations_per_epoch": 50,
        "num_val_iterations_per_epoch": 2,
        "save_every": 6,
        "average_weights": 0.99,  # a short training averages over its last hundred steps
    },
    features=(8, 16, 32, 64, 128),
    batch_size=4,
    lower="source-only",
    upper="target-only",
    rows=(
        Row("source-only", SOURCE),
        Row("strong-augmentation", SOURCE, settings=STRONG),
        Row("feature-space", SOURCE, "FeatureSpaceDATrainer", streams=ADAPTED),
        Row("min-ent", SOURCE, "MinEntTrainer", streams=ADAPTED),
        Row("adv-ent", SOURCE, "AdvEntTrainer", streams=ADAPTED),
        Row("mean-teacher", SOURCE, "MeanTeacherTrainer", streams=ADAPTED),
        Row("mean-teacher-strong", SOURCE, "MeanTeacherTrainer", settings=STRONG, streams=ADAPTED),
        Row("image-space", SOURCE, "ImageSpaceDATrainer", settings=NARROW, streams=ADAPTED),
        Row(
            "image-space-weak",  # nnU-Net's own augmentation
            SOURCE,
            "ImageSpaceDATrainer",
            settings={**NARROW, "augmentation": "nnunet"},
            streams=ADAPTED,
        ),
        self_trained("self-training", "source-only", UNLABELED_TARGET, 600),
        self_trained("self-training-strong", "strong-augmentation", UNLABELED_TARGET, 650, STRONG),
        intra_domain("intra-da", "adv-ent", UNLABELED_TARGET, 700, 750),
        Row("target-only", TARGET),
    ),
)
