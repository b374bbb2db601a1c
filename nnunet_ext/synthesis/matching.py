"""Rank slices of two data sets by how similar they look and how large their lesions are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ext.errors import InputError
from nnunet_ext.synthesis.fingerprints import hamming
from nnunet_ext.synthesis.matches import NearestSource, SimilarTargets

SCALE = 240  # lesions are compared in pixels of a 240 x 240 image, section 4.1.2
BLOCK_BYTES = 64 * 2**20  # of one matrix of distances; a block needs about five of them


@dataclass(frozen=True)
class Slices:
    """The slices of a data set as the matching compares them.

    Fingerprints are uint64 ``(N,)``. Lesion sizes ``(N,)`` are in pixels of a 240 x 240 image,
    whatever the size of the images.
    """

    names: tuple[str, ...]
    fingerprints: np.ndarray
    lesion_pixels: np.ndarray


@dataclass(frozen=True)
class Weights:
    """Weights of the Hamming distance and of the lesion distance, eq. 17."""

    fingerprint: float = 100.0  # lambda_ham
    lesion: float = 1.0


@dataclass(frozen=True)
class Ranking:
    """Most similar slices by index, and their distances.

    ``targets`` and ``target_distances`` are ``(source slices, n)``, the most similar first;
    ``sources`` and ``source_distances`` are ``(target slices,)``. Among equal distances the lower
    index comes first.
    """

    targets: np.ndarray
    target_distances: np.ndarray
    sources: np.ndarray
    source_distances: np.ndarray


def pixels_at_scale(pixels: int, height: int, width: int) -> float:
    """Return an area in pixels of a 240 x 240 image that shows the same field of view."""
    return pixels * SCALE**2 / (height * width)


def distances(
    source: Slices, target: Slices, weights: Weights, rows: slice = slice(None)
) -> np.ndarray:
    """Return d_sim between source slices ``rows`` and all target slices.

    It is float32 ``(rows, target slices)``.

    Reference: Dong et al. 2022, eq. 15-17
    """
    own_fingerprints = source.fingerprints[rows, None]
    other_fingerprints = target.fingerprints[None, :]
    differing_bits = hamming(own_fingerprints, other_fingerprints)
    similarity = differing_bits.astype(np.float32)
    similarity *= np.float32(weights.fingerprint)

    own_pixels = source.lesion_pixels[rows, None].astype(np.float32)
    other_pixels = target.lesion_pixels[None, :].astype(np.float32)
    lesion = np.abs(own_pixels - other_pixels)
    lesion *= np.float32(weights.lesion)
    similarity += lesion
    return similarity


def rank(source: Slices, target: Slices, n_similar: int, weights: Weights) -> Ranking:
    """Find the most similar slices in both directions, block by block, with a progress bar.

    Args:
        source: slices with labels.
        target: slices of the other domain.
        n_similar: targets to keep per source slice; all where there are fewer.
        weights: of the two distances.

    Raises:
        InputError: a data set without slices, or an impossible number or weight.
    """
    from tqdm import tqdm

    _require_possible(source, target, n_similar, weights)
    n_source = len(source.names)
    n_target = len(target.names)
    kept = min(n_similar, n_target)
    targets = np.empty((n_source, kept), np.int64)
    target_distances = np.empty((n_source, kept), np.float32)
    sources = np.zeros(n_target, np.int64)
    source_distances = np.full(n_target, np.inf, np.float32)

    bytes_of_row = 4 * n_target
    rows_of_block = max(1, BLOCK_BYTES // bytes_of_row)
    columns = np.arange(n_target)
    is_quiet = not sys.stderr.isatty()
    with tqdm(total=n_source, desc="ranking", unit="slice", disable=is_quiet) as progress:
        for begin in range(0, n_source, rows_of_block):
            end = min(begin + rows_of_block, n_source)
            rows = slice(begin, end)
            block = distances(source, target, weights, rows)

            # the targets of these sources
            lowest = _lowest_of_rows(block, kept)
            targets[rows] = lowest
            target_distances[rows] = np.take_along_axis(block, lowest, axis=1)

            # the sources of all targets, where they are nearer than those of earlier blocks
            nearest = block.argmin(axis=0)
            nearest_distance = block[nearest, columns]
            is_nearer = nearest_distance < source_distances
            sources[is_nearer] = begin + nearest[is_nearer]
            source_distances[is_nearer] = nearest_distance[is_nearer]
            progress.update(end - begin)

    return Ranking(targets, target_distances, sources, source_distances)


def _require_possible(source: Slices, target: Slices, n_similar: int, weights: Weights) -> None:
    if not source.names or not target.names:
        raise InputError("one of the data sets has no slices, so nothing can be matched")
    if n_similar < 1:
        raise InputError(f"-n {n_similar}: keep at least one similar slice")

    options = {"--fingerprint-weight": weights.fingerprint, "--lesion-weight": weights.lesion}
    for name, weight in options.items():
        if not 0 <= weight < np.inf:
            raise InputError(f"{name} {weight:g}: use 0 or a positive number")
    if not any(options.values()):
        raise InputError(
            "--fingerprint-weight and --lesion-weight are both 0, so all slices are equally similar"
        )


def _lowest_of_rows(block: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the lowest values of each row, lowest first.

    Among equal values the lower index comes first.
    """
    last = count - 1
    partitioned = np.partition(block, last, axis=1)
    highest_kept = partitioned[:, last]

    lowest = np.empty((len(block), count), np.int64)
    for row, values in enumerate(block):
        is_candidate = values <= highest_kept[row]
        candidates = np.flatnonzero(is_candidate)
        order = np.argsort(values[candidates], kind="stable")
        lowest_first = candidates[order]
        lowest[row] = lowest_first[:count]
    return lowest


def targets_by_case(ranking: Ranking, source: Slices, target: Slices) -> dict[str, SimilarTargets]:
    """Return the most similar targets of each source slice by name."""
    by_case = {}
    for index, case in enumerate(source.names):
        positions = ranking.targets[index]
        names = tuple(target.names[position] for position in positions)
        distances = tuple(map(float, ranking.target_distances[index]))
        by_case[case] = SimilarTargets(names, distances)
    return by_case


def nearest_sources(ranking: Ranking, source: Slices, target: Slices) -> dict[str, NearestSource]:
    """Return the most similar source of each target slice by name."""
    by_case = {}
    for position, case in enumerate(target.names):
        index = ranking.sources[position]
        distance = ranking.source_distances[position]
        by_case[case] = NearestSource(source.names[index], float(distance))
    return by_case


def subsets(source: Sequence[str], matched: set[str], seed: int) -> dict[str, tuple[str, ...]]:
    """Return subsets of the source, each sorted: matched, random, unmatched, unmatched_random.

    Both random ones have as many cases as are matched; ``unmatched_random`` has all unmatched cases
    where there are fewer.

    Reference: Dong et al. 2022, table 4
    """
    every = sorted(source)
    unmatched = [case for case in every if case not in matched]
    count = len(matched)

    possible = min(count, len(unmatched))

    generator = np.random.default_rng(seed)
    random = generator.choice(every, count, replace=False)
    unmatched_random = generator.choice(unmatched, possible, replace=False)
    return {
        "matched": tuple(sorted(matched)),
        "random": tuple(sorted(map(str, random))),
        "unmatched": tuple(unmatched),
        "unmatched_random": tuple(sorted(map(str, unmatched_random))),
    }
