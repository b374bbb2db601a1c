"""MR tumours teach CT haemorrhages, on public data: AMD-DAS's tables 2 to 4, Dong et al. 2022.

Convert the data sets before; the third has the labels of the test::

    nnUNetv2_ext_convert MSD -i Task01_BrainTumour -d 548 --name BrainTumourFLAIR
        --channel FLAIR --merge 1,2,3=tumour --slices 60:99
    nnUNetv2_ext_convert RSNA-ICH -i rsna -d 549 --name Haemorrhages
        --haemorrhage intraparenchymal --strip-skull --slices all --resize 240
    nnUNetv2_ext_convert RSNA-ICH -i ct-ich -d 550 --name LabelledHaemorrhages
        --strip-skull --slices all --resize 240

The labelled CT are divided in halves by patient: all rows are tested on the second, and
``target-only`` trains on the first.
"""

import os
from pathlib import Path

from dataset_conversion.writing.raw_splits import splits_by_patient
from nnunet_ext.benchmark.brain_data import write_brain_matches
from nnunet_ext.benchmark.converted import Converted
from nnunet_ext.benchmark.modality_transfer import ModalityTransfer
from nnunet_ext.benchmark.published import Published, PublishedTable
from nnunet_ext.benchmark.suite import Suite

SLICES = "--strip-skull --slices all --resize 240"
TUMOURS = Converted(
    "Dataset548_BrainTumourFLAIR",
    "nnUNetv2_ext_convert MSD -i DOWNLOAD -d 548 --name BrainTumourFLAIR --channel FLAIR "
    "--merge 1,2,3=tumour --slices 60:99",
)
HAEMORRHAGES = Converted(
    "Dataset549_Haemorrhages",
    f"nnUNetv2_ext_convert RSNA-ICH -i DOWNLOAD -d 549 --name Haemorrhages --haemorrhage "
    f"intraparenchymal {SLICES}",
)
LABELLED = Converted(
    "Dataset550_LabelledHaemorrhages",
    f"nnUNetv2_ext_convert RSNA-ICH -i DOWNLOAD -d 550 --name LabelledHaemorrhages {SLICES}",
)
HALVES = "Dataset551_HalvesOfHaemorrhages"
SIMILAR_SLICES = 20  # as in the paper
MOST_PROCESSES = 8


def write_data(raw: Path) -> None:
    """Link the data sets, write the labelled CT in halves, and match MR with unlabelled CT.

    Raises:
        InputError: a data set has not been converted, or is not of single slices.
    """
    for dataset in (TUMOURS, HAEMORRHAGES):
        dataset.link(raw)
    splits = splits_by_patient(LABELLED.folder, None, 2)
    training, test = splits.folds[0]
    LABELLED.write_part(raw / HALVES, training, test)

    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    datasets = (TUMOURS.name, HAEMORRHAGES.name)
    write_brain_matches(raw, datasets, raw / "matches.json", SIMILAR_SLICES, processes)


DATA = ModalityTransfer(TUMOURS.name, HALVES, HAEMORRHAGES.name, "{raw}/matches.json")

COLUMNS = ("Dice",)
MEASURED = (
    "Measured on 1,498 slices of the RSNA challenge that the authors labelled: 500 with an "
    "intraparenchymal haemorrhage, 998 without."
)
OTHER_TEST = (
    "Here the test slices are those of PhysioNet ct-ich with a haemorrhage of any kind, from "
    "another hospital, their Dice leaves out slices without (the paper's counts them, as 1 if "
    "nothing is predicted), and the segmentation network is nnU-Net's instead of an FCN."
)
SYNTHESIS = PublishedTable(
    source="Dong et al. 2022, table 2: one stage",
    measured=MEASURED,
    differs=OTHER_TEST,
    label="haemorrhage",
    columns=COLUMNS,
    lines=(
        Published("Baseline", (0.7242,), "mri-baseline"),
        Published("CycleGAN", (0.6515,), "cyclegan"),
        Published("Mask supervised CycleGAN", (0.6767,), "mask-cyclegan"),
        Published("Matched mask supervised CycleGAN", (0.7628,), "matched-mask-cyclegan"),
        Published("The proposed synthesis network", (0.8141,), "one-stage"),
    ),
    decimals=4,
)
STAGES = PublishedTable(
    source="Dong et al. 2022, table 3: two stages",
    measured=MEASURED,
    differs=f"{OTHER_TEST} The CT of the row DAS may have shown skulls in the paper, which "
    f"contradicts itself.",
    label="haemorrhage",
    columns=COLUMNS,
    lines=(
        Published("DAS", (0.7422,), "das-on-mr"),
        Published("CycleGAN+DAS", (0.7231,), "cyclegan-das"),
        Published("Mask CycleGAN+DAS", (0.7860,), "mask-cyclegan-das"),
        Published("Matched Mask CycleGAN+DAS", (0.8014,), "matched-mask-cyclegan-das"),
        Published("The proposed model (AMD-DAS)", (0.8577,), "two-stages"),
    ),
    decimals=4,
)
SUBSETS = PublishedTable(
    source="Dong et al. 2022, table 4: the matching",
    measured=MEASURED,
    differs=OTHER_TEST,
    label="haemorrhage",
    columns=COLUMNS,
    lines=(
        Published("All source domain data, 15,480 slices", (0.8577,), "two-stages"),
        Published("Unmatched dataset 1, 10,296 slices", (0.8355,), "two-stages-unmatched"),
        Published("Unmatched dataset 2, 5,184 slices", (0.8324,), "two-stages-random"),
        Published("Unmatched dataset 3, 5,184 slices", (0.8212,), "two-stages-unmatched-random"),
        Published("Matched dataset, 5,184 slices", (0.8693,), "two-stages-matched"),
    ),
    decimals=4,
)

SUITE = Suite(
    name="msd-rsna",
    title="from MR tumours to CT haemorrhages, on public data",
    write_data=write_data,
    test_set=HALVES,
    # nnU-Net's, for both stages; the paper gives batches of 2 and 12, but not how long it trains
    budget={"num_epochs": 1000, "num_iterations_per_epoch": 250, "average_weights": 0.999},
    batch_size=4,
    fold="all",
    lower="mri-baseline",
    upper="target-only",
    profile="slice",
    seeds=3,
    rows=(*DATA.rows(), *DATA.unmatched_rows(), *DATA.contrast_rows()),
    published=(SYNTHESIS, STAGES, SUBSETS),
)
