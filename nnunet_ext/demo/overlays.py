"""Test slices with what each method hits and misses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.evaluation.report.figures import OverlayCase, overlay_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_overlays(
    reference: Path, methods: dict[str, Path], figure: Path, cases: int = 4
) -> Figure:
    """Draw some test slices with the methods' hits and errors, spread evenly over the set.

    Args:
        reference: ``labelsTs``; the images lie in ``imagesTs`` beside it.
        methods: folder of predictions by the method's name.
        figure: file to write.
        cases: number of slices at most, among those with a lesion.
    """
    with_lesion = []
    for file in sorted(reference.glob("*.png")):
        if _pixels(file).any():
            with_lesion.append(file)
    count = min(cases, len(with_lesion))
    places = np.linspace(0, len(with_lesion) - 1, count)

    rows = []
    for place in places:
        file = with_lesion[round(place)]
        image = _pixels(reference.parent / "imagesTs" / f"{file.stem}_0000.png")
        predictions = {name: _pixels(folder / file.name) for name, folder in methods.items()}
        rows.append(OverlayCase(file.stem, image, _pixels(file), predictions))
    return overlay_figure(rows, figure)


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)
