from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nnunet_ext.evaluation.report.comparison_figures import (
    bland_altman_figure,
    box_plots_figure,
    score_over_volume_figure,
)


@pytest.fixture
def cases() -> pd.DataFrame:
    """Method a is right, b finds twice the volume; the third case has no lesion. Voxels of 2 ml."""
    rows = []
    for method, factor in (("a", 1), ("b", 2)):
        for case, volume in enumerate((10, 30, 0)):
            dice = 2 / (1 + factor) if volume else float("nan")
            counts = {"tp": volume, "fp": volume * (factor - 1), "fn": 0, "tn": 100}
            rows.append(
                {"method": method, "case": f"case{case}", "label": "lesion", **counts, "dice": dice}
            )
    return pd.DataFrame(rows).assign(voxel_ml=2.0)


def test_bland_altman_lines(cases: pd.DataFrame, tmp_path: Path) -> None:
    figure = bland_altman_figure(cases, tmp_path / "figure.png")
    assert [ax.get_title() for ax in figure.axes] == ["a, n = 3", "b, n = 3"]
    points, _, mean, lower, upper = figure.axes[1].lines
    np.testing.assert_allclose(points.get_xdata(), [(20 + 40) / 2, (60 + 120) / 2, 0])
    np.testing.assert_allclose(points.get_ydata(), [20, 60, 0])
    differences = np.array([20, 60, 0])
    reach = 1.96 * differences.std(ddof=1)
    for line, height in ((mean, 80 / 3), (lower, 80 / 3 - reach), (upper, 80 / 3 + reach)):
        np.testing.assert_allclose(line.get_ydata(), height)
    assert figure.axes[0].get_xlabel() == "mean volume [ml]"


def test_slices_of_a_case_add_up_to_its_volume(cases: pd.DataFrame, tmp_path: Path) -> None:
    sliced = pd.concat([cases.assign(slice=i) for i in range(3)])
    points = bland_altman_figure(sliced, tmp_path / "figure.png").axes[1].lines[0]
    np.testing.assert_allclose(points.get_ydata(), [60, 180, 0])


def test_score_over_volume_leaves_out_cases_without_lesion(
    cases: pd.DataFrame, tmp_path: Path
) -> None:
    (ax,) = score_over_volume_figure(cases, "dice", tmp_path / "figure.png").axes
    first, second = ax.lines
    np.testing.assert_allclose(first.get_xdata(), [20, 60])
    np.testing.assert_allclose(second.get_ydata(), [2 / 3, 2 / 3])
    assert ax.get_xscale() == "log"


def test_pixels_where_files_have_no_spacing(cases: pd.DataFrame, tmp_path: Path) -> None:
    (ax,) = score_over_volume_figure(
        cases.assign(voxel_ml=float("nan")), "dice", tmp_path / "figure.png"
    ).axes
    assert ax.get_xlabel() == "reference volume [pixels]"
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [10, 30])


def test_box_plots_show_every_defined_case(cases: pd.DataFrame, tmp_path: Path) -> None:
    (ax,) = box_plots_figure(cases, ("dice",), tmp_path / "figure.png").axes
    points = [line for line in ax.lines if line.get_marker() == "."]
    assert [sorted(line.get_ydata()) for line in points] == [[1, 1], [pytest.approx(2 / 3)] * 2]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a, n = 2", "b, n = 2"]
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 200


def test_names_are_drawn_as_they_are_and_titles_fit(cases: pd.DataFrame, tmp_path: Path) -> None:
    """Matplotlib hides legend entries that begin with an underscore, and sets text between dollar
    signs as formula.
    """
    cases["method"] = cases["method"].replace({"a": "_a", "b": "$x_{$"})
    figure = score_over_volume_figure(
        cases, "dice", tmp_path / "figure.png", "a profile with a remark " * 4
    )
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [" _a", r"\$x_{\$"]
    assert figure.get_suptitle().count("\n") >= 2
    figure.draw_without_rendering()
    for text in (*legend.get_texts(), figure._suptitle):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
