"""MR tumours teach CT haemorrhages, on generated slices: AMD-DAS's tables 2 to 4.

Dong et al. 2022. "One stage" is nnU-Net trained on pseudo-CT, "two stages" also aligns it with real
CT.
"""

from dataset_conversion.phantoms.brains import CT, MR, UNLABELED_CT
from nnunet_ext.benchmark.brain_data import MATCHES, write_matched_brains
from nnunet_ext.benchmark.modality_transfer import ModalityTransfer
from nnunet_ext.benchmark.suite import Suite

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
DATA = ModalityTransfer(MR, CT, UNLABELED_CT, MATCHES, synthesis=SYNTHESIS, training=AVERAGED)

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
    rows=(*DATA.rows(), *DATA.contrast_rows()),
)
