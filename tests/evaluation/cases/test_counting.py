import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunet_ext.evaluation.cases import counting as cases
from nnunet_ext.evaluation.cases.counting import count_value_pairs, counts_of_label
from nnunet_ext.evaluation.metrics.overlap import confusion_counts

label_arrays = hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))


@settings(max_examples=60)
@given(label_arrays, label_arrays, st.sampled_from([(1,), (2,), (1, 3), (1, 2, 3)]))
def test_counts_from_pairs_equal_counts_of_masks(
    g: np.ndarray, p: np.ndarray, values: tuple[int, ...]
) -> None:
    pairs = count_value_pairs(g, p)
    assert sum(pairs.values()) == g.size
    assert counts_of_label(pairs, values) == confusion_counts(
        np.isin(p, values), np.isin(g, values)
    )


@settings(max_examples=60)
@given(label_arrays, label_arrays)
def test_ignored_voxels_do_not_count(g: np.ndarray, p: np.ndarray) -> None:
    kept = g != 3
    counts = counts_of_label(count_value_pairs(g, p), (1,), ignore=3)
    assert counts == confusion_counts(p[kept] == 1, g[kept] == 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_chunks_and_large_values(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    monkeypatch.setattr(cases, "_VOXELS_PER_CHUNK", 7)
    rng = np.random.default_rng(0)
    largest = min(np.iinfo(dtype).max, 10**9)
    g, p = (rng.choice([0, 1, largest], size=(5, 5, 5)).astype(dtype) for _ in range(2))
    pairs = count_value_pairs(g, p)
    expected = {
        (int(i), int(j)): int(((g == i) & (p == j)).sum())
        for i in np.unique(g)
        for j in np.unique(p)
    }
    assert pairs == {key: n for key, n in expected.items() if n}
