"""Match two raw data sets of single slices: measure, rank, and choose subsets."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ext.synthesis.matches import Matches
from nnunet_ext.synthesis.matching import Weights, nearest_sources, rank, subsets, targets_by_case
from nnunet_ext.synthesis.slice_measures import Measuring, measure_slices


@dataclass(frozen=True)
class Pairing:
    """How slices are matched: targets to keep per source slice, weights, seed of random subsets.

    ``target_lesion`` is the option that says what counts as lesion in the target; it is only
    recorded.
    """

    n_similar: int
    weights: Weights
    seed: int
    target_lesion: str


def match_data_sets(
    source: Measuring, target: Measuring, pairing: Pairing, processes: int
) -> Matches:
    """Read all slices of both data sets and find the most similar ones in both directions.

    Raises:
        InputError: slices that cannot be used, or an impossible pairing.
    """
    source_slices = measure_slices(source, processes)
    target_slices = measure_slices(target, processes)
    ranking = rank(source_slices, target_slices, pairing.n_similar, pairing.weights)

    nearest = nearest_sources(ranking, source_slices, target_slices)
    matched = {entry.source for entry in nearest.values()}
    parameters = {
        "n_similar": pairing.n_similar,
        "fingerprint_weight": pairing.weights.fingerprint,
        "lesion_weight": pairing.weights.lesion,
        "target_lesion": pairing.target_lesion,
        "target_window": target.window,
        "seed": pairing.seed,
    }
    return Matches(
        source=source.files.dataset,
        target=target.files.dataset,
        parameters=parameters,
        source_cases=targets_by_case(ranking, source_slices, target_slices),
        target_cases=nearest,
        subsets=subsets(source_slices.names, matched, pairing.seed),
    )
