import numpy as np
import pandas as pd
import pytest

from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.profiles import PROFILES
from nnunet_ext.evaluation.report.ranks import ranks, ranks_table, resampled_means

PLAIN = PROFILES["plain"]


def cases_of(**dice_by_method: list[float]) -> pd.DataFrame:
    rows = []
    for method, values in dice_by_method.items():
        for number, value in enumerate(values):
            measures = dict.fromkeys(PLAIN.metrics, value)
            rows.append({"method": method, "case": f"c{number}", "label": "lesion"} | measures)
    return pd.DataFrame(rows)


def rows_of(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    return table[table["metric"] == metric].set_index("method")


def test_rank_follows_the_declared_direction() -> None:
    means = np.array([0.2, 0.9, 0.2])
    assert ranks(means, METRICS["dice"]).tolist() == [2, 1, 2]
    assert ranks(means, METRICS["mae"]).tolist() == [1, 3, 1]
    assert ranks(np.array([-0.5, 0.1, 0.3]), METRICS["rvd"]).tolist() == [3, 1, 2]


def test_a_method_that_is_better_in_every_case_is_always_first() -> None:
    table = ranks_table(cases_of(a=[0.1, 0.5, 0.3], b=[0.2, 0.6, 0.4]), PLAIN)
    by_dice = rows_of(table, "dice")
    assert (
        by_dice.loc["b", ["n", "rank", "rank_low", "rank_high", "first"]].tolist() == [3] + [1] * 4
    )
    assert by_dice.loc["a", "rank"] == 2
    assert rows_of(table, "mae").loc["a", "first"] == 1


def test_share_of_first_places_is_that_of_the_binomial_distribution() -> None:
    """With two cases, one won by each, a wins when both draws are its case: a quarter.

    Half of the draws end even, where both share the first place.
    """
    table = rows_of(ranks_table(cases_of(a=[1.0, 0.0], b=[0.0, 1.0]), PLAIN), "dice")
    spread = 3 * np.sqrt(0.75 * 0.25 / 1000)
    assert table["first"].tolist() == pytest.approx([0.75, 0.75], abs=spread)


def test_means_of_resamples_are_those_of_a_loop() -> None:
    values = np.random.default_rng(3).random((5, 2))
    means = resampled_means(values, resamples=4, seed=1)

    generator = np.random.default_rng(1)
    for mean in means:
        times = generator.multinomial(5, [0.2] * 5)
        drawn = np.repeat(values, times, axis=0)
        assert mean == pytest.approx(drawn.mean(axis=0))


def test_cases_that_are_undefined_for_one_method_do_not_count() -> None:
    table = rows_of(ranks_table(cases_of(a=[0.5, np.nan, 0.5], b=[0.4, 1.0, 0.4]), PLAIN), "dice")
    assert table["n"].tolist() == [2, 2]
    assert table.loc["a", "first"] == 1


def test_one_method_has_no_rank() -> None:
    assert ranks_table(cases_of(a=[0.5, 0.6]), PLAIN).empty
