"""The gallery of a method's worst cases: image, reference, and every method's hits and errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.array_measures import as_slices
from nnunet_ext.evaluation.cases import Case
from nnunet_ext.evaluation.figures import OverlayCase, overlay_figure
from nnunet_ext.evaluation.label_files import ENDINGS, read_image_file, read_label_file
from nnunet_ext.evaluation.metric_names import arrow

if TYPE_CHECKING:
    import pandas as pd


def image_files(folder: Path, cases: Sequence[Case]) -> dict[str, Path]:
    """The first channel's image of each case, ``CASE_0000.*`` as in nnU-Net's raw data.

    Raises:
        InputError: no such folder, or a case has no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for case in cases:
        candidates = (folder / f"{case.name}_0000{ending}" for ending in ENDINGS)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise InputError(
                f"{folder}: no image {case.name}_0000.* for the gallery; leave out -i to draw without images"
            )
        found[case.name] = path
    return found


def worst_cases_figure(
    table: "pd.DataFrame",
    method: str,
    metric: str,
    cases: Sequence[Case],
    values: Sequence[int],
    images: Mapping[str, Path],
    path: Path,
    count: int = 4,
) -> None:
    """Rows of the cases with the method's worst values of the metric, each at the slice with its most errors.

    Args:
        table: rows of one label of `cases_table`.
        method: whose worst cases.
        metric: by which they are the worst, then by the number of false voxels; those without a value do not take part.
        cases: where their files are.
        values: voxel values of the label.
        images: image file by case name; empty draws on black.
        path: file to write.
        count: rows.
    """
    rows = table[table["method"] == method].dropna(subset=[metric])
    rows = rows.assign(errors=rows["fp"] + rows["fn"])
    rows = rows.sort_values([metric, "errors"], ascending=[arrow(metric) == "↑", False])
    rows = rows.drop_duplicates("case").head(count)
    by_name = {case.name: case for case in cases}
    overlays = [
        _overlay(by_name[row["case"]], method, values, images.get(row["case"]), row.get("slice"))
        for row in rows.to_dict("records")
    ]
    if overlays:
        overlay_figure(overlays, path)


def _overlay(case: Case, method: str, values: Sequence[int], image: Path | None, z: int | None) -> OverlayCase:
    reference = _mask(case.reference, values)
    predictions = {name: _mask(file, values) for name, file in case.predictions.items()}
    if z is None:
        z = int(np.count_nonzero(reference != predictions[method], axis=(1, 2)).argmax())
    picture = as_slices(read_image_file(image)) if image else np.zeros(reference.shape)
    if picture.shape != reference.shape:
        raise InputError(f"{image}: shape {picture.shape}, reference {reference.shape} ({case.reference})")
    name = case.name if len(reference) == 1 else f"{case.name}, slice {z}"
    return OverlayCase(name, picture[z], reference[z], {m: mask[z] for m, mask in predictions.items()})


def _mask(path: Path, values: Sequence[int]) -> npt.NDArray[Any]:
    return as_slices(np.isin(read_label_file(path).array, values))
