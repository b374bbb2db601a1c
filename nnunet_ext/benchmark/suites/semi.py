"""Many unlabelled slices, few labels, on COVID-SemiSeg: the rows of the VQ paper.

COVID_SEMISEG names the folder of the download. Seed k trains without the k-th fifth of the labelled
slices.
"""

from typing import Any

from nnunet_ext.benchmark.covid_semiseg_data import MULTICLASS, UNLABELED, FoldsOfSlices
from nnunet_ext.benchmark.covid_semiseg_published import ablations, methods
from nnunet_ext.benchmark.suite import Row, Suite

# What 2,000 iterations of a small network need: averages as short as the training, and auxiliary
# networks as small. The second phase begins at iteration 1,000, as in the paper.
SHORT = {
    "codebook_decay": 0.95,
    "discriminator_width": 16,
    "reconstruction_width": 16,
}
AVERAGED = {**SHORT, "average_weights": 0.99}
SHORTER = (
    "Here slices are smaller, the network is smaller, the training is shorter, and Dice is that of "
    "the predicted labels."
)
SAME = {
    "Backbone": "backbone",
    "Backbone+VVM": "vq",
    "Backbone+Lprop": "prop",
    "Backbone+SSA": "semi",
    "Backbone+VVM+Lprop": "vq-prop",
    "Backbone+SSA+Lprop": "semi-prop",
    "Backbone+VVM+SSA+Lprop": "all",
}


def _vq(name: str, preset: str = "recommended", **settings: Any) -> Row:
    short = AVERAGED if preset == "recommended" else SHORT
    streams = {"unlabeled": (UNLABELED,)}
    return Row(name, MULTICLASS, "VQSemiSupervisedTrainer", {**short, **settings}, streams, preset)


SUITE = Suite(
    name="semi",
    title="40 labelled slices and many without labels",
    write_data=FoldsOfSlices(size=128),
    test_set=MULTICLASS,
    budget={
        "num_epochs": 40,
        "num_iterations_per_epoch": 50,
        "num_val_iterations_per_epoch": 2,
        "save_every": 10,
    },
    features=(8, 16, 32, 64, 128),
    batch_size=4,
    fold="all",
    lower="nnunet",
    profile="hits",
    metric="dice_hits",
    rows=(
        Row("nnunet", MULTICLASS),
        Row("nnunet-averaged", MULTICLASS, settings={"average_weights": 0.99}),
        _vq("backbone", use_vq=False, proportion_weight=0, semi_supervised=False),
        _vq("vq", proportion_weight=0, semi_supervised=False),
        _vq("prop", use_vq=False, semi_supervised=False),
        _vq("semi", use_vq=False, proportion_weight=0),
        _vq("vq-prop", semi_supervised=False),
        _vq("semi-prop", use_vq=False),
        _vq("vq-semi", proportion_weight=0),
        _vq("all"),
        _vq("paper", preset="paper"),
        _vq(
            "paper-backbone",
            preset="paper",
            use_vq=False,
            proportion_weight=0,
            semi_supervised=False,
        ),
        # Figure 2: losses of the backbone alone.
        _vq(
            "loss-ce",
            segmentation_loss="ce",
            use_vq=False,
            proportion_weight=0,
            semi_supervised=False,
        ),
        _vq("loss-ce-prop", segmentation_loss="ce", use_vq=False, semi_supervised=False),
        # Against a discriminator that wins, so that nothing unlabelled is kept: weaker, not asked,
        # or heeded more.
        _vq("slow-critic", discriminator_lr=1e-5),
        _vq("low-threshold", confidence_threshold=0.02),
        _vq("no-threshold", confidence_threshold=0),
        _vq("no-threshold-weight-1", confidence_threshold=0, pseudo_label_weight=1),
        _vq("strong-adversary", adversarial_weight=0.1, discriminator_lr=3e-5),
    ),
    published=(*ablations(SHORTER, SAME), *methods(SHORTER)),
)
