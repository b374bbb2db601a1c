"""Checks of every declared metric, found by introspection, and the examples of the docs."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK

from nnunet_ext.commands.evaluate import evaluate_entry
from nnunet_ext.evaluation.metrics.declarations import METRICS, by_name
from nnunet_ext.evaluation.metrics.infnet import stretched
from nnunet_ext.evaluation.metrics.metric import (
    EMPTY_POLICIES,
    Better,
    ConfusionCounts,
    MaskPair,
    Metric,
    ProbabilityPair,
)
from nnunet_ext.evaluation.metrics.overlap import confusion_counts

DOCS = Path(__file__).parents[3] / "docs" / "add_a_metric.md"
SPACING = (5.0, 0.7, 0.8)


def masks(shift: int) -> tuple[np.ndarray, np.ndarray]:
    """A box, and the same box some columns further."""
    reference = np.zeros((4, 12, 16), bool)
    reference[1:3, 3:8, 4:9] = True
    return np.roll(reference, shift, axis=2), reference


def values(metric: Metric, prediction: np.ndarray, reference: np.ndarray) -> list[float]:
    """Every way to compute the metric, on one pair of masks."""
    found = []
    if metric.from_counts:
        counts = confusion_counts(prediction, reference)
        found += [metric.of_counts(counts, empty) for empty in EMPTY_POLICIES]
    if metric.from_masks:
        found.append(metric.from_masks(MaskPair(prediction, reference, SPACING, 3.0)))
    if metric.from_soft_map:
        found.append(metric.from_soft_map(stretched(prediction[1], reference[1])))
    if metric.from_probabilities:
        pair = ProbabilityPair(prediction.astype(np.float32), reference)
        found.append(metric.from_probabilities(pair))
    return found


def examples() -> dict[str, Metric]:
    """The metrics of the documentation."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names = {"Metric": Metric, "Better": Better, "MaskPair": MaskPair, "np": np, "math": math}
    for block in blocks:
        exec(block, names)
    return by_name(value for value in names.values() if isinstance(value, Metric))


@pytest.mark.parametrize("metric", [*METRICS.values(), *examples().values()], ids=lambda m: m.name)
def test_values_lie_in_the_declared_range(metric: Metric) -> None:
    low, high = metric.range
    for shift in range(8):
        for value in values(metric, *masks(shift)):
            assert math.isnan(value) or low <= value <= high


@pytest.mark.parametrize("metric", [*METRICS.values(), *examples().values()], ids=lambda m: m.name)
def test_a_perfect_prediction_is_the_best(metric: Metric) -> None:
    """It is the test of the direction: bold print takes it from the declaration."""
    for perfect, poor in zip(values(metric, *masks(0)), values(metric, *masks(3)), strict=True):
        if math.isnan(perfect):  # of another size class
            assert math.isnan(poor)
            continue
        ranked = metric.badness(pd.Series([perfect, poor])).tolist()
        assert ranked[0] <= ranked[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "two words"}, "letters, digits"),
        ({"range": (1.0, 0.0)}, "is empty"),
        ({"from_counts": None}, "nothing says"),
    ],
)
def test_contradictions_are_refused(wrong: dict, message: str) -> None:
    right: dict = {
        "name": "share",
        "header": "Share",
        "better": Better.HIGHER,
        "decimals": 3,
        "range": (0.0, 1.0),
        "from_counts": lambda counts: (counts.tp, sum(counts)),
    }
    Metric(**right)
    with pytest.raises(ValueError, match=message):
        Metric(**{**right, **wrong})


@pytest.mark.parametrize("left_out", ["better", "decimals", "range", "header"])
def test_nothing_has_a_default_that_could_be_wrong(left_out: str) -> None:
    needed = {"name", "header", "better", "decimals", "range"} - {left_out}
    with pytest.raises(TypeError, match=left_out):
        Metric(**dict.fromkeys(needed))  # type: ignore[arg-type]


def test_a_name_is_declared_once() -> None:
    with pytest.raises(ValueError, match="dice is declared twice"):
        by_name([METRICS["dice"], METRICS["dice"]])


def test_examples_of_the_docs_have_the_values_worked_out_by_hand() -> None:
    declared = examples()
    assert declared["volumetric_similarity"].of_counts(ConfusionCounts(2, 3, 1, 9)) == 6 / 8
    far = declared["centre_distance"].from_masks
    assert far is not None
    assert far(MaskPair(*masks(3), SPACING, 3.0)) == pytest.approx(3 * 0.8)


def test_examples_of_the_docs_are_measured_printed_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new metric goes through the whole command, and the better method is in bold."""
    for name, metric in examples().items():
        monkeypatch.setitem(METRICS, name, metric)
    for folder, shift in (("reference", 0), ("near", 1), ("far", 4)):
        (tmp_path / folder).mkdir()
        for case in ("a", "b"):
            image = SimpleITK.GetImageFromArray(masks(shift)[0].astype(np.uint8))
            SimpleITK.WriteImage(image, str(tmp_path / folder / f"{case}.nii.gz"))
    arguments = ["-r", tmp_path / "reference", "-p", tmp_path / "far", tmp_path / "near"]
    arguments += ["-o", tmp_path / "out", "--figures", "--metrics", *examples()]
    with pytest.raises(SystemExit) as stop:
        evaluate_entry([str(argument) for argument in arguments])

    assert stop.value.code == 0
    latex = (tmp_path / "out" / "table.tex").read_text(encoding="utf-8")
    assert r"near & 1.000 $\pm$ 0.000 & \textbf{1.00} $\pm$ 0.00" in latex
    assert (tmp_path / "out" / "figures" / "volumetric_similarity_over_volume.png").is_file()
