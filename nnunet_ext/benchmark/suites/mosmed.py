"""Few labelled studies of infections, after none, one or two stages of transfer: nCoVSegNet.

Liu et al. 2021, tables 2, 4 and 5. Convert the data sets, and fetch a backbone, before::

    nnUNetv2_ext_convert LIDC-IDRI -i lidc -d 546 --name Nodules
        --slices lesion --crop lungs --window -1250 250 --resize 352
    nnUNetv2_ext_convert MosMed -i mosmed -d 547 --name MosMed
        --slices all --crop lungs --window -1250 250 --resize 352
    nnUNetv2_ext_pretrained --timm resnet50.tv_in1k -o resnet50.pth
    export RESNET50_WEIGHTS=$PWD/resnet50.pth

The paper's 40 and 10 studies are not published: the 50 are divided in five folds by patient, as
``nnUNetv2_ext_split`` does, and seed k is tested on the k-th.
"""

import os
from pathlib import Path

from dataset_conversion.writing.raw_splits import splits_by_patient
from nnunet_ext.benchmark.converted import Converted
from nnunet_ext.benchmark.published import Published, PublishedTable
from nnunet_ext.benchmark.staged_transfer import StagedTransfer
from nnunet_ext.benchmark.suite import Row, Suite
from nnunet_ext.errors import InputError

IN_LUNG_BOX = "--crop lungs --window -1250 250 --resize 352"
NODULES = Converted(
    "Dataset546_Nodules",
    f"nnUNetv2_ext_convert LIDC-IDRI -i DOWNLOAD -d 546 --name Nodules --slices lesion "
    f"{IN_LUNG_BOX}",
)
INFECTIONS = Converted(
    "Dataset547_MosMed",
    f"nnUNetv2_ext_convert MosMed -i DOWNLOAD -d 547 --name MosMed --slices all {IN_LUNG_BOX}",
)
BACKBONE = "RESNET50_WEIGHTS"  # environment variable: file with ImageNet's weights
FOLDS = tuple(f"Dataset{551 + fold}_MosMedFold{fold}" for fold in range(5))


def write_data(raw: Path) -> None:
    """Write the folds as data sets, and link the nodules and the backbone.

    Raises:
        InputError: a data set has not been converted, or the backbone is not named.
    """
    weights = os.environ.get(BACKBONE)
    if not weights or not Path(weights).is_file():
        raise InputError(
            f"{BACKBONE}={weights or ''}: names no file; make one with nnUNetv2_ext_pretrained "
            f"--timm resnet50.tv_in1k -o resnet50.pth, then export {BACKBONE}=$PWD/resnet50.pth"
        )
    (raw / "resnet50.pth").symlink_to(Path(weights).resolve())

    NODULES.link(raw)
    splits = splits_by_patient(INFECTIONS.folder, None, len(FOLDS))
    for name, (training, test) in zip(FOLDS, splits.folds, strict=True):
        INFECTIONS.write_part(raw / name, training, test)


# The paper counts passes over all slices in batches of four; nnU-Net counts epochs of 250 batches.
NODULE_EPOCHS = {"num_epochs": 1392}  # 100 passes over 13,916 slices; the rate falls at the half
INFECTION_EPOCHS = {"initial_lr": 5e-5, "decay_after": 1}  # as many as the budget says
DATA = StagedTransfer(
    FOLDS,
    NODULES.name,
    backbone="{raw}/resnet50.pth",
    neighbour_settings=NODULE_EPOCHS,
    target_settings=INFECTION_EPOCHS,
    patch=(352, 352),  # nnU-Net's own network, which needs multiples of 64, keeps 384 x 384
)

COLUMNS = ("DSC", "SEN", "SPE", "PPV")
OTHER_SPLIT = (
    "Here another 40 and 10 studies are trained and tested in each of five folds, overlap is "
    "measured inside the lung box on slices of 352 x 352 pixels, and nothing is stopped early."
)
MEASURED = "Means over the volumes of 10 studies."
METHODS = PublishedTable(
    source="Liu et al. 2021, table 2",
    measured=MEASURED,
    differs=OTHER_SPLIT,
    label="infection",
    columns=COLUMNS,
    lines=(
        Published("U-Net", (0.5419, 0.4585, 0.9971, 0.7425)),
        Published("U-Net++", (0.5454, 0.4546, 0.9971, 0.7674)),
        Published("U2Net", (0.6022, 0.5813, 0.9971, 0.6867)),
        Published("U-Net3+", (0.6265, 0.5724, 0.9975, 0.7653)),
        Published("CE-Net", (0.6416, 0.6295, 0.9973, 0.7276)),
        Published("nCoVSegNet", (0.6843, 0.7480, 0.9976, 0.7525), "two-stages"),
    ),
    decimals=4,
)
STAGES = PublishedTable(
    source="Liu et al. 2021, table 4",
    measured=MEASURED,
    differs=OTHER_SPLIT,
    label="infection",
    columns=COLUMNS,
    lines=(
        Published("w/o TL", (0.6411, 0.6802, 0.9973, 0.6562), "none"),
        Published("Single-Stage TL", (0.6680, 0.7007, 0.9975, 0.6977), "one-stage"),
        Published("Two-Stage TL", (0.6843, 0.7480, 0.9976, 0.7525), "two-stages"),
    ),
    decimals=4,
)
ABLATIONS = PublishedTable(
    source="Liu et al. 2021, table 5",
    measured=f"{MEASURED} All rows have one stage of transfer.",
    differs=f"{OTHER_SPLIT} What replaces a module is our choice, because the paper does not say.",
    label="infection",
    columns=COLUMNS,
    lines=(
        Published("(A) backbone", (0.5908, 0.5758, 0.9972, 0.6536), "A"),
        Published("(B) GCA", (0.6055, 0.5870, 0.9973, 0.6691), "B"),
        Published("(C) DAF", (0.6283, 0.6445, 0.9973, 0.6656), "C"),
        Published("(D) DS", (0.6119, 0.6577, 0.9971, 0.6129), "D"),
        Published("(E) GCA, DS", (0.6270, 0.6640, 0.9973, 0.6377), "E"),
        Published("(F) DAF, DS", (0.6355, 0.6651, 0.9974, 0.6846), "F"),
        Published("(G) GCA, DAF", (0.6453, 0.6711, 0.9974, 0.6809), "G"),
        Published("(H) all", (0.6680, 0.7007, 0.9975, 0.6977), "one-stage"),
    ),
    decimals=4,
)

SUITE = Suite(
    name="mosmed",
    title="40 labelled studies of infections, after none, one or two stages of transfer",
    write_data=write_data,
    test_set=FOLDS,
    # the paper's 50 passes over 1,640 slices in batches of four
    budget={"num_epochs": 82, "num_iterations_per_epoch": 250},
    batch_size=4,
    fold="all",
    lower="none",
    profile="ncovsegnet",
    discard_checkpoints=True,
    rows=(Row("nnunet", FOLDS), *DATA.rows()),
    published=(METHODS, STAGES, ABLATIONS),
)
