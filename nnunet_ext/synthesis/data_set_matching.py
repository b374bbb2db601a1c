"""Match two raw data sets of single slices: measure, rank, and choose subsets."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ext.synthesis.matches import Matches
from nnunet_ext.synthesis.matching import Weights, nearest_sources, rank, subsets, targets_by_case
from nnunet_ext.synthesis.slice_measures import Measuring, measure_slices


@dataclass(frozen=True)
class Pairing:
    """How slices are matched: targets kept of each source slice, weights, seed of random subsets.

    ``target_lesion`` is what counts as lesion in the target, as the user said it; it is only
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
        source.files.dataset,
        target.files.dataset,
        parameters,
        targets_by_case(ranking, source_slices, target_slices),
        nearest,
        subsets(source_slices.names, matched, pairing.seed),
    )
