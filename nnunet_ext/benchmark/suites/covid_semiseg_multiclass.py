"""As ``covid-semiseg``, with ground-glass opacities and consolidations apart.

It needs the same download and the same converted data sets.
"""

from nnunet_ext.benchmark.covid_semiseg_data import FoldsOfSlices
from nnunet_ext.benchmark.covid_semiseg_published import methods
from nnunet_ext.benchmark.covid_semiseg_relation import slices_suite

OTHER_METHODS = (
    "Zhang et al. published no figures for two labels; these are other methods on the same data, "
    "with 45 slices for training, other networks and another budget."
)

SUITE = slices_suite(
    "covid-semiseg-multiclass",
    "40 labelled slices of two kinds of infection, and 100 of tumours and effusions",
    FoldsOfSlices(size=None),
    methods(OTHER_METHODS),
)
