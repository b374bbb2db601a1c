"""Transfer in two stages with nCoVSegNet, on generated slices: its rows and ablations.

Stage one stands in for ImageNet, of which no file is part of this package: the network's own
training on generated objects, from which the backbone alone is taken. Stage two goes on with
generated lung nodules and hands over the whole network.
"""

from typing import Any

from dataset_conversion.phantoms.transfer import INFECTIONS, NODULES, OBJECTS, write_transfer_tasks
from nnunet_ext.benchmark.suite import Row, Suite

TRAINER = "NCoVSegNetTrainer"
# At 64 pixels the three sizes of a step round to one; a few hundred steps need a higher rate.
SHORT = {"rates": "random", "initial_lr": 5e-4}
BACKBONE = {**SHORT, "backbone_weights": "{checkpoint}"}
TWICE_AS_LONG = {"num_epochs": 4}  # what is handed over should be learnt


def _ablation(letter: str, gca: bool, daf: bool, deep_supervision: bool) -> Row:
    """A row of table 5: one stage, as all of them; H is the row one-stage."""
    modules: dict[str, Any] = {
        "use_gca": gca,
        "use_daf": daf,
        "use_deep_supervision": deep_supervision,
    }
    return Row(letter, INFECTIONS, TRAINER, {**BACKBONE, **modules}, first_stage="objects")


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
        Row(
            "nodules",
            NODULES,
            TRAINER,
            {**BACKBONE, **TWICE_AS_LONG},
            first_stage="objects",
            tested=False,
        ),
        Row("none", INFECTIONS, TRAINER, SHORT),
        Row("one-stage", INFECTIONS, TRAINER, BACKBONE, first_stage="objects"),
        Row("two-stages", INFECTIONS, TRAINER, SHORT, first_stage="nodules", pretrained=True),
        _ablation("A", gca=False, daf=False, deep_supervision=False),
        _ablation("B", gca=True, daf=False, deep_supervision=False),
        _ablation("C", gca=False, daf=True, deep_supervision=False),
        _ablation("D", gca=False, daf=False, deep_supervision=True),
        _ablation("E", gca=True, daf=False, deep_supervision=True),
        _ablation("F", gca=False, daf=True, deep_supervision=True),
        _ablation("G", gca=True, daf=True, deep_supervision=False),
    ),
)
