"""The data of suite ``phantom-mr-ct``."""

from functools import partial
from pathlib import Path

import pytest

from dataset_conversion.phantoms.brains import CT, MR, UNLABELED_CT, write_brain_sets
from nnunet_ext.benchmark import brain_data
from nnunet_ext.benchmark.suite import MadeData, load_suite
from nnunet_ext.synthesis.matches import read_matches


def test_matches_lie_beside_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        brain_data, "write_brain_sets", partial(write_brain_sets, n_mr=7, n_ct=4, n_test=1, size=64)
    )
    brain_data.write_matched_brains(tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {MR, CT, UNLABELED_CT}  # what no row uses is not written
    matches = read_matches(Path(brain_data.MATCHES.format(raw=tmp_path)))
    assert (matches.source, matches.target) == (MR, UNLABELED_CT)
    assert set(matches.source_cases) == {f"mr_{number:03d}" for number in range(7)}
    assert set(matches.target_cases) == {f"ct_{number:03d}" for number in range(4)}
    assert 0 < len(matches.subset("matched")) == len(matches.subset("random")) < 7


def test_every_synthesiser_is_followed_by_one_and_by_two_stages() -> None:
    suite = load_suite("phantom-mr-ct")
    for synthesis in (row for row in suite.rows if row.trainer == "PseudoCTSynthesisTrainer"):
        followers = [row.trainer for row in suite.rows if row.first_stage == synthesis.name]
        assert {"PlainTrainer", "AMDDASTrainer"} <= set(followers) and not synthesis.tested


def test_every_made_data_set_has_numbers_of_its_own() -> None:
    suite = load_suite("phantom-mr-ct")
    numbers = [row.trains_on.number for row in suite.rows if isinstance(row.trains_on, MadeData)]
    taken = {number + seed for number in numbers for seed in range(suite.seeds)}
    assert len(taken) == len(numbers) * suite.seeds
