"""Transfer in two stages with nCoVSegNet, on generated slices: its rows and ablations.

Stage one stands in for ImageNet, of which no file is part of this package: the network's own
training on generated objects, from which the backbone alone is taken. Stage two goes on with
generated lung nodules and hands over the whole network.
"""

from dataset_conversion.phantoms.transfer import INFECTIONS, NODULES, OBJECTS, write_transfer_tasks
from nnunet_ext.benchmark.staged_transfer import TRAINER, StagedTransfer
from nnunet_ext.benchmark.suite import Row, Suite

# At 64 pixels the three sizes of a step round to one; a few hundred steps need a higher rate.
SHORT = {"rates": "random", "initial_lr": 5e-4}
TWICE_AS_LONG = {"num_epochs": 4}  # what is handed over should be learnt
DATA = StagedTransfer(
    INFECTIONS,
    NODULES,
    first_stage="objects",
    settings=SHORT,
    neighbour_settings=TWICE_AS_LONG,
)

SUITE = Suite(
    name="phantom-transfer",
    title="few labelled infections, after none, one or two stages of transfer",
    write_data=write_transfer_tasks,
    test_set=INFECTIONS,
    budget={
        "num_epochs": 2,
        "num_iterations_per_epoch": 50,
        "num_val_iterations_per_epoch": 1,
        "save_every": 10,
    },
    batch_size=4,
    lower="none",
    seeds=3,
    discard_checkpoints=True,
    rows=(
        Row("nnunet", INFECTIONS),
        Row("objects", OBJECTS, TRAINER, {**SHORT, **TWICE_AS_LONG}, tested=False),
        *DATA.rows(),
    ),
)
