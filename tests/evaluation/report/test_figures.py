from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from nnunet_ext.evaluation.report.figures import (
    ERROR_COLORS,
    OverlayCase,
    largest_lesion_slice,
    overlay_figure,
)


def overlay_case(name: str = "case") -> OverlayCase:
    image = np.random.default_rng(0).normal(size=(24, 32))
    reference, shifted = np.zeros((24, 32), bool), np.zeros((24, 32), bool)
    reference[4:12, 4:12] = True
    shifted[4:12, 8:16] = True
    return OverlayCase(
        name, image, reference, {"shifted": shifted, "silent": np.zeros_like(reference)}
    )


def assert_written(path: Path) -> None:
    with Image.open(path) as image:
        assert image.width > 200 and image.height > 200
        assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 5  # something is drawn


def test_overlay_layout_and_scores(tmp_path: Path) -> None:
    figure = overlay_figure(
        [overlay_case("a"), overlay_case("b")], tmp_path / "deep" / "overlay.png"
    )
    assert_written(tmp_path / "deep" / "overlay.png")
    assert [ax.get_title() for ax in figure.axes] == [
        "image",
        "reference",
        "shifted",
        "silent",
        *[""] * 4,
    ]
    assert [ax.get_xlabel() for ax in figure.axes[:4]] == ["", "", "Dice 0.500", "Dice 0.000"]
    assert [figure.axes[i].get_ylabel() for i in (0, 4)] == ["a", "b"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["reference", *ERROR_COLORS]


def test_overlay_colours_hits_misses_and_false_alarms(tmp_path: Path) -> None:
    figure = overlay_figure([overlay_case()], tmp_path / "overlay.png")
    overlay = np.asarray(figure.axes[2].images[1].get_array())
    found = {
        name: to_hex(overlay[5, column, :3])
        for name, column in (("missed", 5), ("true positive", 9))
    }
    found["false alarm"] = to_hex(overlay[5, 13, :3])
    assert {k: v.upper() for k, v in found.items()} == ERROR_COLORS
    assert overlay[20, 20, 3] == 0  # the image shows through elsewhere


def test_overlay_of_empty_masks(tmp_path: Path) -> None:
    empty = np.zeros((24, 32), bool)
    figure = overlay_figure(
        [OverlayCase("e", np.zeros((24, 32)), empty, {"m": empty})], tmp_path / "e.png"
    )
    assert figure.axes[2].get_xlabel() == "both empty"


def test_overlay_refuses_what_does_not_fit(tmp_path: Path) -> None:
    good = overlay_case()
    with pytest.raises(ValueError, match="no cases"):
        overlay_figure([], tmp_path / "x.png")
    other = OverlayCase("other", good.image, good.reference, {"unknown": good.reference})
    with pytest.raises(ValueError, match="other: methods"):
        overlay_figure([good, other], tmp_path / "x.png")
    with pytest.raises(ValueError, match="2D and of one shape"):
        overlay_figure(
            [OverlayCase("c", good.image[:5], good.reference, good.predictions)], tmp_path / "x.png"
        )


def test_largest_lesion_slice() -> None:
    mask = np.zeros((7, 4, 4), int)
    assert largest_lesion_slice(mask) == 3  # empty: the middle
    mask[1, 0, 0], mask[5, :2, :2] = 2, 1
    assert largest_lesion_slice(mask) == 5
    with pytest.raises(ValueError, match="slices, rows, columns"):
        largest_lesion_slice(mask[0])


def test_no_global_state_is_touched(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    overlay_figure([overlay_case()], tmp_path / "overlay.png")
    assert dict(matplotlib.rcParams) == before
