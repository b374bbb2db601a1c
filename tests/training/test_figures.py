from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from nnunet_ext.training.figures import (
    loss_curves_figure,
    picture_rows_figure,
    relation_matrices_figure,
)


def relations(
    channels: int, rows: tuple[str, ...] = ("epoch 1", "epoch 200")
) -> dict[str, dict[str, np.ndarray]]:
    features = np.abs(np.random.default_rng(0).normal(size=(channels, 50)))
    matrix = features @ features.T
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return {row: {"$R_G(X^n)$": matrix, "$R_G(X^c)$": matrix, "$R_T(X^c)$": matrix} for row in rows}


def assert_written(path: Path) -> None:
    with Image.open(path) as image:
        assert image.width > 200 and image.height > 200
        assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 5  # something is drawn


@pytest.mark.parametrize("columns", [1, 3, 7])
def test_loss_curves_have_one_panel_per_column(tmp_path: Path, columns: int) -> None:
    table = pd.DataFrame({f"loss_{i}": np.linspace(1, 0, 30) for i in range(columns)})
    figure = loss_curves_figure(table, tmp_path / "loss.png", "a trainer")
    assert_written(tmp_path / "loss.png")
    assert [ax.get_title() for ax in figure.axes] == [f"loss {i}" for i in range(columns)]
    assert sum(ax.get_xlabel() == "epoch" for ax in figure.axes) == min(3, columns)


def test_loss_curves_accept_gaps_and_one_epoch(tmp_path: Path) -> None:
    loss_curves_figure(
        pd.DataFrame({"a": [1.0, np.nan, 0.5], "b": [np.nan] * 3}), tmp_path / "gaps.png"
    )
    loss_curves_figure(pd.DataFrame({"a": [1.0]}), tmp_path / "one.png")
    with pytest.raises(ValueError, match="no epochs"):
        loss_curves_figure(pd.DataFrame({"a": []}), tmp_path / "none.png")


@pytest.mark.parametrize("channels", [1, 32, 512])
def test_relation_matrices_share_one_scale(tmp_path: Path, channels: int) -> None:
    figure = relation_matrices_figure(relations(channels), tmp_path / "relations.png", "relations")
    assert_written(tmp_path / "relations.png")
    *panels, bar = figure.axes
    assert len(panels) == 2 * 3 and bar.get_ylabel() == "relation"
    assert [ax.get_title() for ax in panels[:3]] == ["$R_G(X^n)$", "$R_G(X^c)$", "$R_T(X^c)$"]
    assert len({ax.images[0].get_clim() for ax in panels}) == 1
    assert panels[0].images[0].get_clim()[0] == 0


def test_relation_scale_is_symmetric_for_signed_matrices(tmp_path: Path) -> None:
    matrix = np.array([[1.0, -0.4], [0.2, 1.0]])
    figure = relation_matrices_figure({"epoch 1": {"R": matrix}}, tmp_path / "r.png")
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high and high == pytest.approx(0.4, rel=0.01)


def test_relation_matrices_refuse_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no matrices"):
        relation_matrices_figure({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="square"):
        relation_matrices_figure({"e": {"R": np.zeros((2, 3))}}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="NaN"):
        relation_matrices_figure({"e": {"R": np.full((2, 2), np.nan)}}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="expected"):
        relation_matrices_figure({"a": {"R": np.eye(2)}, "b": {"S": np.eye(2)}}, tmp_path / "x.png")


def test_styles_left_behind_in_the_process_do_not_reach_the_figure(tmp_path: Path) -> None:
    table = pd.DataFrame({"segmentation": [0.5, 0.4]})
    with matplotlib.rc_context(
        {"xtick.labelsize": 40, "axes.facecolor": "red"}
    ):  # as nnU-Net's progress plot does
        figure = loss_curves_figure(table, tmp_path / "loss.png")
        assert to_hex(figure.axes[0].get_facecolor()) == "#ffffff"
        assert matplotlib.rcParams["axes.facecolor"] == "red"


def pictures(size: tuple[int, int] = (12, 16)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=size)
    return 100 + image, 80 + image, rng.uniform(size=size)


def test_rows_of_pictures(tmp_path: Path) -> None:
    image, reconstruction, confidence = pictures()
    rows = {
        "reconstruction": [image, reconstruction],
        "kept_pixels": [image, confidence, confidence > 0.5],
    }
    figure = picture_rows_figure(rows, tmp_path / "rows.png", "epoch 3")
    assert_written(tmp_path / "rows.png")
    panels = figure.axes[:6]
    assert [panels[i].get_ylabel() for i in (0, 3)] == ["reconstruction", "kept pixels"]
    assert not panels[2].images  # the first row is shorter
    both = np.concatenate([image.ravel(), reconstruction.ravel()])
    in_grey = [panels[i].images[0].get_clim() for i in (0, 1)]
    assert in_grey[0] == in_grey[1] == pytest.approx(tuple(np.percentile(both, (1, 99))))
    assert [panels[i].images[0].get_clim() for i in (4, 5)] == [(0, 1), (0, 1)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "no pictures"),
        ({"a": []}, "a: no pictures"),
        ({"a": [np.zeros((2, 2, 2))]}, "a: expected finite 2D arrays"),
        ({"a": [np.full((2, 2), np.nan)]}, "a: expected finite 2D arrays"),
    ],
)
def test_pictures_that_cannot_be_drawn(rows: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        picture_rows_figure(rows, tmp_path / "rows.png")
    assert not (tmp_path / "rows.png").exists()
