"""Figures for both labels of COVID-SemiSeg that suites show: Jin et al. 2022, tables 1 and 2."""

from collections.abc import Mapping

from nnunet_ext.benchmark.published import Published, PublishedTable

COLUMNS = ("Dice", "sensitivity", "specificity", "S-measure", "E-measure", "MAE")
LABELS = ("ggo", "consolidation")

Figures = tuple[float, ...]
# Each method's figures for ground-glass opacity, then for consolidation.
METHODS: dict[str, tuple[Figures, Figures]] = {
    "FCN": (
        (0.480, 0.450, 0.910, 0.582, 0.754, 0.101),
        (0.283, 0.268, 0.714, 0.554, 0.561, 0.051),
    ),
    "DeepLabv3+": (
        (0.462, 0.591, 0.912, 0.551, 0.690, 0.079),
        (0.201, 0.289, 0.685, 0.598, 0.610, 0.049),
    ),
    "U-Net": (
        (0.473, 0.530, 0.944, 0.577, 0.743, 0.098),
        (0.274, 0.302, 0.673, 0.640, 0.805, 0.048),
    ),
    "U-Net++": (
        (0.488, 0.542, 0.952, 0.580, 0.787, 0.080),
        (0.280, 0.311, 0.745, 0.615, 0.820, 0.046),
    ),
    "Attention UNet": (
        (0.491, 0.539, 0.961, 0.576, 0.792, 0.082),
        (0.279, 0.320, 0.752, 0.597, 0.811, 0.049),
    ),
    "R2U-Net": (
        (0.410, 0.481, 0.875, 0.554, 0.716, 0.097),
        (0.193, 0.284, 0.693, 0.495, 0.554, 0.049),
    ),
    "PSPNet": (
        (0.500, 0.445, 0.945, 0.594, 0.820, 0.081),
        (0.241, 0.279, 0.687, 0.655, 0.794, 0.044),
    ),
    "MANet": (
        (0.537, 0.519, 0.969, 0.633, 0.880, 0.078),
        (0.292, 0.285, 0.743, 0.651, 0.797, 0.044),
    ),
    "Ours": (
        (0.587, 0.606, 0.963, 0.644, 0.877, 0.073),
        (0.323, 0.333, 0.759, 0.678, 0.855, 0.039),
    ),
}
ABLATIONS: dict[str, tuple[Figures, Figures]] = {
    "Backbone": (
        (0.473, 0.575, 0.891, 0.591, 0.574, 0.140),
        (0.187, 0.261, 0.613, 0.573, 0.759, 0.049),
    ),
    "Backbone+VVM": (
        (0.520, 0.579, 0.912, 0.599, 0.659, 0.136),
        (0.213, 0.279, 0.628, 0.621, 0.775, 0.048),
    ),
    "Backbone+Lprop": (
        (0.514, 0.587, 0.935, 0.510, 0.731, 0.105),
        (0.251, 0.284, 0.662, 0.588, 0.802, 0.045),
    ),
    "Backbone+SSA": (
        (0.539, 0.599, 0.944, 0.625, 0.854, 0.128),
        (0.249, 0.278, 0.690, 0.597, 0.783, 0.043),
    ),
    "Backbone+VVM+Lprop": (
        (0.557, 0.590, 0.938, 0.618, 0.810, 0.095),
        (0.279, 0.301, 0.702, 0.630, 0.791, 0.043),
    ),
    "Backbone+SSA+Lprop": (
        (0.571, 0.609, 0.956, 0.641, 0.838, 0.091),
        (0.294, 0.315, 0.713, 0.628, 0.811, 0.041),
    ),
    "Backbone+VVM+SSA+Lprop": METHODS["Ours"],
}


def methods(differs: str) -> tuple[PublishedTable, ...]:
    """Return table 1 of each label: other methods, and all parts of the paper's own."""
    return _tables("table 1", METHODS, {}, differs)


def ablations(differs: str, rows: Mapping[str, str]) -> tuple[PublishedTable, ...]:
    """Return table 2 of each label.

    Args:
        differs: what the suite does otherwise.
        rows: of the suite that train the same, by the paper's name.
    """
    return _tables("table 2", ABLATIONS, rows, differs)


def _tables(
    table: str,
    figures: Mapping[str, tuple[Figures, Figures]],
    rows: Mapping[str, str],
    differs: str,
) -> tuple[PublishedTable, ...]:
    tables = []
    for place, label in enumerate(LABELS):
        lines = []
        for method, of_labels in figures.items():
            lines.append(Published(method, of_labels[place], rows.get(method, "")))
        tables.append(
            PublishedTable(
                source=f"Jin et al. 2022, {table}, {label}",
                measured="Measured on the test slices of COVID-SemiSeg with Inf-Net's toolbox.",
                differs=differs,
                label=label,
                columns=COLUMNS,
                lines=tuple(lines),
            )
        )
    return tuple(tables)
