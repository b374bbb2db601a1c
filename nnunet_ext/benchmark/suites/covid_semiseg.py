"""Few labelled slices of infections, and slices of other lung diseases: Zhang et al. 2021, table V.

``COVID_SEMISEG`` names the folder of the download. Convert the other diseases before::

    nnUNetv2_ext_convert MSD -i Task06_Lung -d 541 --name LungTumourSlices
        --slices lesion --window -1250 250
    nnUNetv2_ext_convert NSCLC-PleuralEffusion -i nsclc -d 542 --name EffusionSlices
        --slices lesion --window -1250 250

Seed k trains without the k-th fifth of the labelled slices.
"""

from nnunet_ext.benchmark.covid_semiseg_data import INFECTION, FoldsOfSlices
from nnunet_ext.benchmark.covid_semiseg_relation import slices_suite
from nnunet_ext.benchmark.published import Published, PublishedTable

METRICS = ("Dice", "sensitivity", "specificity", "MAE")
METHODS = PublishedTable(
    source="Zhang et al. 2021, table V",
    measured="Measured on the test slices of COVID-SemiSeg with Inf-Net's toolbox, as here. The "
    "rows above 2D nnUNet are figures that Inf-Net's authors published.",
    differs="Here each seed holds out a fifth of the 50 labelled slices, the tumours and effusions "
    "are other slices, the schedule is nnU-Net's, and the network is that of its plans. The row "
    "with unlabelled slices has the preset recommended.",
    label="infection",
    columns=METRICS,
    lines=(
        Published("U-Net", (0.439, 0.534, 0.858, 0.186)),
        Published("Attention-UNet", (0.583, 0.637, 0.921, 0.112)),
        Published("Gated-UNet", (0.623, 0.658, 0.926, 0.102)),
        Published("Dense-UNet", (0.515, 0.594, 0.840, 0.184)),
        Published("U-Net++", (0.581, 0.672, 0.902, 0.120)),
        Published("Inf-Net", (0.682, 0.692, 0.943, 0.082)),
        Published("Semi-Inf-Net", (0.739, 0.725, 0.960, 0.064)),
        Published("2D nnUNet", (0.747, 0.829, 0.953, 0.063), "plain"),
        Published("Ours-2D", (0.765, 0.839, 0.955, 0.056), "relation-driven-paper"),
        Published("Ours-2D-UN", (0.767, 0.839, 0.957, 0.055), "relation-driven-unlabeled"),
    ),
)

SUITE = slices_suite(
    "covid-semiseg",
    "40 labelled slices of infections, and 100 of tumours and effusions",
    FoldsOfSlices(size=None, names=INFECTION, labels="infection"),
    (METHODS,),
)
