from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.cases.counting import Case
from nnunet_ext.evaluation.report import gallery
from nnunet_ext.evaluation.report.figures import OverlayCase
from nnunet_ext.evaluation.report.gallery import image_files, worst_cases_figure


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Three volumes of 4 slices; method m errs in slice 1 a little, in slice 2 most."""
    made = []
    for name in "abc":
        reference, prediction = np.zeros((4, 6, 6), np.uint8), np.zeros((4, 6, 6), np.uint8)
        reference[1, 0, 0] = reference[2, :3] = 2
        files = [
            write(tmp_path / kind / f"{name}.nii.gz", a)
            for kind, a in (("r", reference), ("m", prediction))
        ]
        made.append(Case(name, files[0], {"m": files[1]}))
        write(
            tmp_path / "images" / f"{name}_0000.nii.gz",
            np.arange(144, dtype=np.float32).reshape(4, 6, 6),
        )
    return made


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[OverlayCase]]:
    rows: list[list[OverlayCase]] = []
    monkeypatch.setattr(
        gallery, "overlay_figure", lambda overlays, path, title: rows.append(overlays)
    )
    return rows


def one_file_each(cases: list[Case]) -> dict[str, list[Case]]:
    return {case.name: [case] for case in cases}


@pytest.mark.parametrize(("metric", "expected"), [("dice", ["b", "c"]), ("mae", ["a", "c"])])
def test_worst_first_at_the_slice_with_most_errors(
    metric: str,
    expected: list[str],
    cases: list[Case],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = drawn(monkeypatch)
    table = pd.DataFrame(
        {"method": "m", "case": list("abc"), metric: [0.9, 0.1, 0.5], "tp": 0, "fp": 0, "fn": 19}
    )
    images = image_files(tmp_path / "images", cases)
    worst_cases_figure(
        table, "m", metric, one_file_each(cases), (2,), images, tmp_path / "figure.png", count=2
    )
    (overlays,) = rows
    assert [overlay.name for overlay in overlays] == [f"{name}, slice 2" for name in expected]
    assert overlays[0].reference.sum() == 18 and not overlays[0].predictions["m"].any()
    np.testing.assert_array_equal(overlays[0].image, np.arange(72, 108).reshape(6, 6))


def test_a_slice_profile_shows_the_slice_that_scored(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = drawn(monkeypatch)
    scores = {
        "slice": [3, 1, 2, 0],
        "dice": [0.0, 0.0, 0.2, np.nan],
        "tp": 0,
        "fp": [0, 0, 0, 9],
        "fn": [1, 5, 9, 0],
    }
    table = pd.DataFrame({"method": "m", "case": ["a", "a", "a", "b"]} | scores)
    worst_cases_figure(table, "m", "dice", one_file_each(cases), (2,), {}, tmp_path / "figure.png")
    assert [overlay.name for overlay in rows[0]] == ["a, slice 1"]
    assert not rows[0][0].image.any()


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [("rvd", [-1.0, 0.5, 0.0], ["a", "b", "c"]), ("hd95", [9.0, np.nan, 5.0], ["b", "a", "c"])],
)
def test_worst_is_far_from_0_or_undefined_with_a_lesion(
    metric: str,
    values: list[float],
    expected: list[str],
    cases: list[Case],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = drawn(monkeypatch)
    table = pd.DataFrame(
        {"method": "m", "case": list("abc"), metric: values, "tp": 0, "fp": 0, "fn": 19}
    )
    worst_cases_figure(table, "m", metric, one_file_each(cases), (2,), {}, tmp_path / "figure.png")
    assert [overlay.name[0] for overlay in rows[0]] == expected


def test_of_a_patient_the_file_with_most_errors(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = drawn(monkeypatch)
    write(cases[1].predictions["m"], np.ones((4, 6, 6), np.uint8) * 2)
    table = pd.DataFrame(
        {"method": "m", "case": ["patient"], "dice": [0.1], "tp": 1, "fp": 1, "fn": 1}
    )
    worst_cases_figure(table, "m", "dice", {"patient": cases}, (2,), {}, tmp_path / "figure.png")
    assert rows[0][0].name == "b, slice 0"


def test_images_that_do_not_fit(cases: list[Case], tmp_path: Path) -> None:
    write(tmp_path / "images" / "a_0000.nii.gz", np.zeros((3, 6, 6), np.float32))
    with pytest.raises(
        InputError, match=r"a_0000\.nii\.gz: shape \(3, 6, 6\), reference \(4, 6, 6\)"
    ):
        image_files(tmp_path / "images", cases)
    write(tmp_path / "images" / "a_0000.nii.gz", np.zeros((4, 6, 6), np.float32))
    (tmp_path / "images" / "b_0000.nii.gz").unlink()
    with pytest.raises(InputError, match=r"no image b_0000\.\*"):
        image_files(tmp_path / "images", cases)
