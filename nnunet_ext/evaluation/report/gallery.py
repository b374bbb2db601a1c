"""The gallery of a method's worst cases: image, reference, and every method's hits and errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.array_measures import as_slices
from nnunet_ext.evaluation.cases.counting import Case
from nnunet_ext.evaluation.cases.label_files import (
    ENDINGS,
    image_shape,
    read_image_file,
    read_label_file,
)
from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.report.figures import OverlayCase, overlay_figure

if TYPE_CHECKING:
    import pandas as pd


def image_files(folder: Path, cases: Sequence[Case]) -> dict[str, Path]:
    """Return the first channel's image of each case, ``CASE_0000.*`` as in nnU-Net's raw data.

    Raises:
        InputError: no such folder, a case has no image in it, or the image's shape is not the
            reference's.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for case in cases:
        image = _first_channel(folder, case)
        _require_shape(image, case)
        found[case.name] = image
    return found


def _first_channel(folder: Path, case: Case) -> Path:
    for ending in ENDINGS:
        path = folder / f"{case.name}_0000{ending}"
        if path.is_file():
            return path
    raise InputError(
        f"{folder}: no image {case.name}_0000.* for the gallery; leave out -i to draw without "
        f"images"
    )


def _require_shape(path: Path, case: Case) -> None:
    shape = image_shape(path)
    expected = image_shape(case.reference)
    if _as_volume(shape) != _as_volume(expected):
        raise InputError(f"{path}: shape {shape}, reference {expected} ({case.reference})")


def _as_volume(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a picture as that of a volume of one slice."""
    with_slices = (1, *shape)
    return with_slices[-3:]


def worst_cases_figure(  # noqa: PLR0913 - a figure shows many things
    table: "pd.DataFrame",
    method: str,
    metric: str,
    cases: Mapping[str, Sequence[Case]],
    values: Sequence[int],
    images: Mapping[str, Path],
    path: Path,
    title: str = "",
    count: int = 4,
) -> None:
    """Draw the cases with the method's worst values, each at the slice with its most errors.

    Args:
        table: rows of one label of `cases_table`.
        method: whose worst cases.
        metric: by which they are the worst, then by the number of false voxels. Undefined with a
            lesion in the reference is the worst of all, such as a surface distance to nothing;
            other undefined ones do not take part.
        cases: the files of each case, several for a patient: the one with most errors is drawn.
        values: voxel values of the label.
        images: image file by case name; empty draws on black.
        path: file to write.
        title: above the figure.
        count: rows.
    """
    of_method = table[table["method"] == method]
    overlays = []
    for row in _worst(of_method, metric, count):
        files = cases[row["case"]]
        case = _with_most_errors(files, method, values)
        overlays.append(_overlay(case, method, values, images, row.get("slice")))
    if overlays:
        overlay_figure(overlays, path, title)


def _worst(rows: "pd.DataFrame", metric: str, count: int) -> list[dict[Any, Any]]:
    has_lesion = rows["tp"] + rows["fn"] > 0
    is_defined = rows[metric].notna()
    rows = rows[is_defined | has_lesion]

    badness = METRICS[metric].badness(rows[metric])
    badness = badness.fillna(np.inf)
    errors = rows["fp"] + rows["fn"]
    rows = rows.assign(badness=badness, errors=errors)
    rows = rows.sort_values(["badness", "errors"], ascending=False, kind="stable")

    worst = rows.drop_duplicates("case").head(count)
    return worst.to_dict("records")


def _with_most_errors(files: Sequence[Case], method: str, values: Sequence[int]) -> Case:
    if len(files) == 1:
        return files[0]

    def errors(case: Case) -> int:
        truth = _mask(case.reference, values)
        predicted = _mask(case.predictions[method], values)
        is_wrong = truth != predicted
        return int(np.count_nonzero(is_wrong))

    return max(files, key=errors)


def _overlay(
    case: Case, method: str, values: Sequence[int], images: Mapping[str, Path], z: int | None
) -> OverlayCase:
    reference = _mask(case.reference, values)
    predictions = {name: _mask(file, values) for name, file in case.predictions.items()}
    if z is None:
        is_wrong = reference != predictions[method]
        errors = np.count_nonzero(is_wrong, axis=(1, 2))
        z = int(errors.argmax())

    picture = np.zeros(reference.shape)
    if case.name in images:
        image = read_image_file(images[case.name])
        picture = as_slices(image)

    name = case.name
    if len(reference) > 1:
        name += f", slice {z}"
    predicted = {method: mask[z] for method, mask in predictions.items()}
    return OverlayCase(name, picture[z], reference[z], predicted)


def _mask(path: Path, values: Sequence[int]) -> npt.NDArray[Any]:
    """Return the voxels of a label, shape (slices, rows, columns)."""
    labels = read_label_file(path).array
    return as_slices(np.isin(labels, values))
