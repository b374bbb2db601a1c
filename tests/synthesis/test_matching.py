"""The order of similar slices against brute force, and the subsets of table 4."""

from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.synthesis import matching
from nnunet_ext.synthesis.matches import Matches, read_matches, write_matches
from nnunet_ext.synthesis.matching import (
    Slices,
    Weights,
    nearest_sources,
    pixels_at_scale,
    rank,
    subsets,
    targets_by_case,
)


def random_slices(count: int, prefix: str, seed: int) -> Slices:
    generator = np.random.default_rng(seed)
    fingerprints = generator.integers(0, 2**64, count, dtype=np.uint64, endpoint=False)
    lesions = generator.integers(0, 300, count).astype(float)
    return Slices(tuple(f"{prefix}{index:03d}" for index in range(count)), fingerprints, lesions)


def d_sim(source: Slices, target: Slices, weights: Weights, first: int, second: int) -> float:
    """Eq. 15-17 for one pair."""
    different = int(source.fingerprints[first]) ^ int(target.fingerprints[second])
    lesion = abs(source.lesion_pixels[first] - target.lesion_pixels[second])
    return weights.fingerprint * different.bit_count() + weights.lesion * lesion


@pytest.mark.parametrize("weights", [Weights(), Weights(1, 1), Weights(0, 1), Weights(1, 0)])
@pytest.mark.parametrize("rows_of_block", [1, 7, 1000])
def test_order_of_brute_force(
    weights: Weights, rows_of_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = random_slices(40, "mr", 1), random_slices(50, "ct", 2)
    monkeypatch.setattr(matching, "BLOCK_BYTES", rows_of_block * 4 * len(target.names))
    ranking = rank(source, target, 6, weights)

    for first in range(40):
        ordered = sorted(
            range(50), key=lambda second: (d_sim(source, target, weights, first, second), second)
        )
        assert ranking.targets[first].tolist() == ordered[:6]
        expected = [d_sim(source, target, weights, first, second) for second in ordered[:6]]
        assert ranking.target_distances[first].tolist() == expected

    for second in range(50):
        nearest = min(
            range(40), key=lambda first: (d_sim(source, target, weights, first, second), first)
        )
        assert ranking.sources[second] == nearest
        assert ranking.source_distances[second] == d_sim(source, target, weights, nearest, second)


def test_all_targets_are_kept_where_there_are_fewer() -> None:
    ranking = rank(random_slices(3, "mr", 1), random_slices(4, "ct", 2), 20, Weights())
    assert ranking.targets.shape == (3, 4)


@pytest.mark.parametrize(
    ("n_similar", "weights", "message"),
    [
        (0, Weights(), "-n 0"),
        (1, Weights(-1, 1), "--fingerprint-weight -1"),
        (1, Weights(1, float("nan")), "--lesion-weight nan"),
        (1, Weights(0, 0), "both 0"),
    ],
)
def test_impossible_rankings_are_refused(n_similar: int, weights: Weights, message: str) -> None:
    slices = random_slices(3, "a", 1)
    with pytest.raises(InputError, match=message):
        rank(slices, slices, n_similar, weights)


def test_lesions_are_compared_at_240_x_240() -> None:
    assert pixels_at_scale(100, 240, 240) == 100
    assert pixels_at_scale(100, 480, 480) == 25
    assert pixels_at_scale(100, 120, 240) == 200


def test_subsets_of_the_source() -> None:
    source = [f"case{index:02d}" for index in range(30)]
    matched = set(source[3:13])
    drawn = subsets(source, matched, seed=5)
    assert drawn["matched"] == tuple(source[3:13])
    assert set(drawn["unmatched"]) == set(source) - matched
    assert len(drawn["random"]) == len(drawn["unmatched_random"]) == 10
    assert len(set(drawn["random"])) == 10 and set(drawn["random"]) <= set(source)
    assert set(drawn["unmatched_random"]) <= set(drawn["unmatched"])
    assert drawn == subsets(source[::-1], matched, seed=5) != subsets(source, matched, seed=6)


def test_fewer_unmatched_than_matched_cases_are_all_taken() -> None:
    drawn = subsets(["a", "b", "c"], {"a", "b"}, seed=0)
    assert drawn["unmatched_random"] == drawn["unmatched"] == ("c",)
    assert subsets(["a"], {"a"}, seed=0)["unmatched_random"] == ()


@pytest.fixture
def matches() -> Matches:
    source, target = random_slices(5, "mr", 1), random_slices(4, "ct", 2)
    ranking = rank(source, target, 2, Weights())
    nearest = nearest_sources(ranking, source, target)
    drawn = subsets(source.names, {entry.source for entry in nearest.values()}, seed=0)
    similar = targets_by_case(ranking, source, target)
    return Matches("Dataset101_MR", "Dataset102_CT", {"n_similar": 2}, similar, nearest, drawn)


def test_the_file_gives_back_what_was_written(matches: Matches, tmp_path: Path) -> None:
    write_matches(matches, tmp_path / "matches.json")
    assert read_matches(tmp_path / "matches.json") == matches
    assert matches.subset("matched") == matches.subsets["matched"]
    with pytest.raises(InputError, match="no subset best; they have matched, random"):
        matches.subset("best")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("matches 1", "matches 0", "matches of this version"),
        ('"source_cases"', '"cases"', r"is damaged \(KeyError"),
        ('"mr000": {', '"other": {', "is not among the source cases"),
        ('"ct000": {', '"other": {', "is not among the target cases"),
        ("{", "[", "is not readable as JSON"),
        ("ct000", "../ct000", r"case '\.\./ct000' is a path"),
        ("mr000", "/mr000", "case '/mr000' is a path"),
        ("Dataset102_CT", "../Dataset102_CT", r"data set '\.\./Dataset102_CT' is a path"),
    ],
)
def test_damaged_files_are_refused(
    matches: Matches, tmp_path: Path, before: str, after: str, message: str
) -> None:
    path = tmp_path / "matches.json"
    write_matches(matches, path)
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(InputError, match=message):
        read_matches(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.json: cannot be read"):
        read_matches(tmp_path / "no.json")
