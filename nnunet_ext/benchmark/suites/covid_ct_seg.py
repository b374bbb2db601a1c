"""Four labelled volumes of infections, many of tumours and effusions: Zhang et al. 2021, tables III
and IV.

Convert the data sets before; all become grey values of one window::

    nnUNetv2_ext_convert COVID-19-CT-Seg -i ctseg -d 543 --name CovidCTSeg
    nnUNetv2_ext_convert MSD -i Task06_Lung -d 544 --name LungTumours --window -1250 250
    nnUNetv2_ext_convert NSCLC-PleuralEffusion -i nsclc -d 545 --name Effusions
        --positives-only --window -1250 250

Seed k trains on the four cases of the k-th published fold, and is tested on the 16 others.
"""

from pathlib import Path

from dataset_conversion.datasets.covid_19_ct_seg import Covid19CTSeg
from nnunet_ext.benchmark.converted import Converted
from nnunet_ext.benchmark.general_knowledge import GeneralKnowledge
from nnunet_ext.benchmark.published import Published, PublishedTable
from nnunet_ext.benchmark.suite import Suite

INFECTIONS = Converted(
    "Dataset543_CovidCTSeg",
    "nnUNetv2_ext_convert COVID-19-CT-Seg -i DOWNLOAD -d 543 --name CovidCTSeg",
)
TUMOURS = Converted(
    "Dataset544_LungTumours",
    "nnUNetv2_ext_convert MSD -i DOWNLOAD -d 544 --name LungTumours --window -1250 250",
)
EFFUSIONS = Converted(
    "Dataset545_Effusions",
    "nnUNetv2_ext_convert NSCLC-PleuralEffusion -i DOWNLOAD -d 545 --name Effusions "
    "--positives-only --window -1250 250",
)
FOLDS = tuple(f"Dataset{551 + fold}_CovidCTSegFold{fold}" for fold in range(5))
DATA = GeneralKnowledge(FOLDS, (TUMOURS.name, EFFUSIONS.name))


def write_data(raw: Path) -> None:
    """Write the published folds as data sets, and link the other diseases.

    Raises:
        InputError: a data set has not been converted, or not completely.
    """
    for dataset in (TUMOURS, EFFUSIONS):
        dataset.link(raw)
    converter = Covid19CTSeg(INFECTIONS.folder)
    folds = converter.published_folds("paper", sorted(INFECTIONS.cases()))
    for name, (training, test) in zip(FOLDS, folds, strict=True):
        INFECTIONS.write_part(raw / name, training, test)


MEANS = ("DSC", "NSD", *(f"DSC fold {fold}" for fold in range(5)))
METHODS = PublishedTable(
    source="Zhang et al. 2021, tables III and IV",
    measured="Means over the 16 test volumes of each published fold, then over the five folds; NSD "
    "has a tolerance of 3 mm.",
    differs="The folds are the same here. The networks are those of nnU-Net v2's plans, and the "
    "general encoder is trained on all tumours and effusions instead of 80 % of them.",
    label="infection",
    columns=MEANS,
    lines=(
        Published("3D nnUNet", (0.673, 0.700, 0.681, 0.713, 0.662, 0.681, 0.627), "plain"),
        Published(
            "Pre-train on MSD",
            (0.688, 0.713, 0.679, 0.706, 0.724, 0.708, 0.623),
            "pre-trained-tumours",
        ),
        Published(
            "Pre-train on NSCLC",
            (0.671, 0.693, 0.696, 0.716, 0.673, 0.690, 0.579),
            "pre-trained-effusions",
        ),
        Published(
            "Pre-train on Multi-lesion",
            (0.696, 0.717, 0.702, 0.736, 0.703, 0.725, 0.612),
            "pre-trained",
        ),
        Published(
            "Multi-encoder",
            (0.703, 0.732, 0.712, 0.732, 0.721, 0.742, 0.608),
            "frozen-general-encoder",
        ),
        Published(
            "Ours (baseline)",
            (0.695, 0.728, 0.689, 0.721, 0.712, 0.720, 0.632),
            "frozen-general-encoder",
        ),
        Published(
            "Ours (L_rc^G)",
            (0.699, 0.740, 0.701, 0.727, 0.727, 0.710, 0.625),
            "only-general-relation",
        ),
        Published(
            "Ours (L_rc^T)",
            (0.697, 0.739, 0.696, 0.725, 0.729, 0.699, 0.638),
            "only-target-relation",
        ),
        Published(
            "Ours (both)",
            (0.703, 0.742, 0.723, 0.728, 0.718, 0.720, 0.625),
            "relation-driven-paper",
        ),
    ),
)

SUITE = Suite(
    name="covid-ct-seg",
    title="four labelled volumes of infections, and 141 of tumours and effusions",
    write_data=write_data,
    test_set=FOLDS,
    # nnU-Net's; the paper gives batch and rate, but not how long it trains
    budget={"num_epochs": 1000, "num_iterations_per_epoch": 250},
    batch_size=2,
    configuration="3d_fullres",
    fold="all",
    lower="plain",
    profile="covid-benchmark",
    rows=(
        *DATA.rows(),
        DATA.pretraining("pretraining-tumours", (TUMOURS.name,)),
        DATA.pretrained("pre-trained-tumours", "pretraining-tumours"),
        DATA.pretraining("pretraining-effusions", (EFFUSIONS.name,)),
        DATA.pretrained("pre-trained-effusions", "pretraining-effusions"),
    ),
    published=(METHODS,),
)
