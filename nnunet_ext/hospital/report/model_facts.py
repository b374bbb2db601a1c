"""What a model's folder tells about its training, for the page and its warnings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object

CARD_NAMES = ("MODEL_CARD.md", "model_card.md", "README.md")
LARGEST_CARD_BYTES = 1 << 16


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model's training; all of it may be unknown.

    ``spacing_mm`` is the usual distance between columns, rows and slices. ``intensity_range``
    holds the 0.5 and 99.5 percentiles of the labelled voxels of the first channel. ``card`` is the
    text of a file beside the model.
    """

    spacing_mm: tuple[float, float, float] | None = None
    intensity_range: tuple[float, float] | None = None
    training_cases: int | None = None
    card: str = ""


def facts_of(folder: Path | None) -> ModelFacts:
    """Read what a model's folder tells; what is absent or odd stays unknown."""
    if folder is None:
        return ModelFacts()

    plans = _object(folder / "plans.json")
    cases = _object(folder / "dataset.json").get("numTraining")
    return ModelFacts(
        _spacing(plans),
        _intensities(plans),
        cases if type(cases) is int else None,
        _card(folder),
    )


def _object(file: Path) -> dict[str, Any]:
    try:
        return read_object(file, "")
    except InputError:
        return {}


def _spacing(plans: dict[str, Any]) -> tuple[float, float, float] | None:
    """Return the median spacing of the training images as (column, row, slice)."""
    try:
        transposed_mm = plans["original_median_spacing_after_transp"]
        axes = plans.get("transpose_backward", [0, 1, 2])
        spacing_mm = [float(transposed_mm[axis]) for axis in axes]
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        return None
    return spacing_mm[2], spacing_mm[1], spacing_mm[0]


def _intensities(plans: dict[str, Any]) -> tuple[float, float] | None:
    try:
        measured = plans["foreground_intensity_properties_per_channel"]["0"]
        return float(measured["percentile_00_5"]), float(measured["percentile_99_5"])
    except (KeyError, TypeError, ValueError):
        return None


def _card(folder: Path) -> str:
    for name in CARD_NAMES:
        file = folder / name
        if file.is_file():
            with file.open("rb") as stream:
                return stream.read(LARGEST_CARD_BYTES).decode("utf-8", "replace").strip()
    return ""
