"""The gallery of a method's worst cases: image, reference, and every method's hits and errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.counting import Case
from nnunet_ext.evaluation.cases.label_files import (
    ENDINGS,
    image_shape,
    read_image_file,
    read_label_file,
)
from nnunet_ext.evaluation.metrics.array_measures import as_slices
from nnunet_ext.evaluation.metrics.names import badness
from nnunet_ext.evaluation.report.figures import OverlayCase, overlay_figure

if TYPE_CHECKING:
    import pandas as pd


def image_files(folder: Path, cases: Sequence[Case]) -> dict[str, Path]:
    """The first channel's image of each case, ``CASE_0000.*`` as in nnU-Net's raw data.

    Raises:
        InputError: no such folder, a case has no image in it, or the image's shape is not the
            reference's.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for case in cases:
        candidates = (folder / f"{case.name}_0000{ending}" for ending in ENDINGS)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise InputError(
                f"{folder}: no image {case.name}_0000.* for the gallery; leave out -i to draw "
                f"without images"
            )
        _require_shape(path, case)
        found[case.name] = path
    return found


def _require_shape(path: Path, case: Case) -> None:
    shape, expected = image_shape(path), image_shape(case.reference)
    if (1, *shape)[-3:] != (1, *expected)[-3:]:
        raise InputError(f"{path}: shape {shape}, reference {expected} ({case.reference})")


def worst_cases_figure(
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
    """Rows of the cases with the method's worst values of the metric, each at the slice with its
    most errors.

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
    rows = table[
        (table["method"] == method) & (table[metric].notna() | (table["tp"] + table["fn"] > 0))
    ]
    rows = rows.assign(
        badness=badness(metric, rows[metric]).fillna(np.inf), errors=rows["fp"] + rows["fn"]
    )
    rows = rows.sort_values(["badness", "errors"], ascending=False, kind="stable")
    rows = rows.drop_duplicates("case").head(count)
    overlays = [
        _overlay(
            _with_most_errors(cases[row["case"]], method, values),
            method,
            values,
            images,
            row.get("slice"),
        )
        for row in rows.to_dict("records")
    ]
    if overlays:
        overlay_figure(overlays, path, title)


def _with_most_errors(files: Sequence[Case], method: str, values: Sequence[int]) -> Case:
    def errors(case: Case) -> int:
        return int(
            np.count_nonzero(
                _mask(case.reference, values) != _mask(case.predictions[method], values)
            )
        )

    return files[0] if len(files) == 1 else max(files, key=errors)


def _overlay(
    case: Case, method: str, values: Sequence[int], images: Mapping[str, Path], z: int | None
) -> OverlayCase:
    reference = _mask(case.reference, values)
    predictions = {name: _mask(file, values) for name, file in case.predictions.items()}
    if z is None:
        z = int(np.count_nonzero(reference != predictions[method], axis=(1, 2)).argmax())
    picture = (
        as_slices(read_image_file(images[case.name]))
        if case.name in images
        else np.zeros(reference.shape)
    )
    name = case.name if len(reference) == 1 else f"{case.name}, slice {z}"
    return OverlayCase(
        name, picture[z], reference[z], {m: mask[z] for m, mask in predictions.items()}
    )


def _mask(path: Path, values: Sequence[int]) -> npt.NDArray[Any]:
    return as_slices(np.isin(read_label_file(path).array, values))
