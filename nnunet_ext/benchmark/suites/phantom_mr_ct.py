"""MR tumours teach CT haemorrhages, on generated slices: AMD-DAS's tables 2 to 4.

Dong et al. 2022. "One stage" is nnU-Net trained on pseudo-CT, "two stages" also aligns it with real
CT.
"""

from typing import Any

from dataset_conversion.phantoms.brains import CT, MR, UNLABELED_CT
from nnunet_ext.benchmark.brain_data import MATCHES, write_matched_brains
from nnunet_ext.benchmark.suite import MadeData, Row, Suite

TARGET = {"target_domain": (UNLABELED_CT,)}
WINDOW = {"target_domain": "window(0,80)"}  # of the brain, in HU
AVERAGED = {
    "average_weights": 0.99
}  # of 1,000 iterations; one in a thousand would still remember the start
# Minutes on one core: the recommended preset with narrower networks, and a higher rate for fewer
# iterations.
SYNTHESIS = {
    "generator_width": 16,
    "critic_width": 16,
    "translation_lr": 1e-3,
    "num_epochs": 16,
    **AVERAGED,
}
CYCLE_GAN = {"shared_fusion": False, "feature_weight": 0}
MATCHED = {"matches_file": MATCHES}


def _synthesis(name: str, **settings: Any) -> Row:
    """Stage 1; it is only the first stage of others, because it segments MR."""
    return Row(
        name,
        MR,
        "PseudoCTSynthesisTrainer",
        {**SYNTHESIS, **settings},
        TARGET,
        tested=False,
        normalize=WINDOW,
    )


def _pseudo_ct(number: int, *options: str) -> MadeData:
    words = (
        "nnUNetv2_ext_synthesize -d {dataset} -tr {trainer} -c {configuration} -f {fold} -p "
        "{plans} -o {number}"
    )
    return MadeData(number, (*words.split(), "-device", "{device}", *options))


def _subset(name: str) -> tuple[str, ...]:
    return ("--matches", MATCHES, "--subset", name)


def _one_stage(name: str, number: int, synthesis: str, *options: str) -> Row:
    """Plain nnU-Net on pseudo-CT."""
    return Row(name, _pseudo_ct(number, *options), settings=AVERAGED, first_stage=synthesis)


def _two_stages(name: str, number: int, synthesis: str, *options: str) -> Row:
    """Pseudo-CT, aligned with real CT."""
    return Row(
        name, _pseudo_ct(number, *options), "AMDDASTrainer", AVERAGED, TARGET, first_stage=synthesis
    )


SUITE = Suite(
    name="phantom-mr-ct",
    title="from MR tumours to CT haemorrhages",
    write_data=write_matched_brains,
    test_set=CT,
    budget={
        "num_epochs": 20,
        "num_iterations_per_epoch": 50,
        "num_val_iterations_per_epoch": 2,
        "save_every": 5,
    },
    features=(8, 16, 32, 64, 128),
    batch_size=4,
    fold="all",
    lower="mri-baseline",
    upper="target-only",
    rows=(
        Row("mri-baseline", MR, settings=AVERAGED),
        Row("das-on-mr", MR, "AMDDASTrainer", AVERAGED, TARGET),
        _synthesis("synthesis", **MATCHED),
        _one_stage("one-stage", 600, "synthesis"),
        _two_stages("two-stages", 610, "synthesis"),
        _two_stages("two-stages-matched", 620, "synthesis", *_subset("matched")),
        _two_stages("two-stages-random", 630, "synthesis", *_subset("random")),
        Row("target-only", CT, settings=AVERAGED),
        _synthesis("synthesis-cyclegan", **CYCLE_GAN, lesion_weight=0),
        _one_stage("cyclegan", 640, "synthesis-cyclegan"),
        _two_stages("cyclegan-das", 650, "synthesis-cyclegan"),
        _synthesis("synthesis-mask-cyclegan", **CYCLE_GAN),
        _one_stage("mask-cyclegan", 660, "synthesis-mask-cyclegan"),
        _two_stages("mask-cyclegan-das", 670, "synthesis-mask-cyclegan"),
        _synthesis("synthesis-matched-mask-cyclegan", **CYCLE_GAN, **MATCHED),
        _one_stage("matched-mask-cyclegan", 680, "synthesis-matched-mask-cyclegan"),
        _two_stages("matched-mask-cyclegan-das", 690, "synthesis-matched-mask-cyclegan"),
    ),
)
