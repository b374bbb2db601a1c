"""Translate the cases of a file of matches into the keys under which a training reads them."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_ext.errors import InputError
from nnunet_ext.synthesis.matches import Matches


def target_keys(matches: Matches, stream_keys: Sequence[str]) -> dict[str, str]:
    """Return the key in the target stream of every target case.

    Args:
        matches: with the target data set.
        stream_keys: paths of the stream's cases, which begin with the data set and end with the
            case.

    Raises:
        InputError: the stream does not hold the data set that was matched.
    """
    keys = {}
    for key in stream_keys:
        parts = key.split("/")
        if parts[0] == matches.target:
            keys[parts[-1]] = key

    if not keys:
        raise InputError(
            f"the matches are with {matches.target}, which is not in the target_domain stream; "
            "add that data set to the stream, or match again"
        )
    return keys


def similar_targets(matches: Matches, stream_keys: Sequence[str]) -> dict[str, list[str]]:
    """Return the keys of the n most similar targets of every source case: the pairs of stage 1.

    Raises:
        InputError: the stream does not hold the data set that was matched, or lacks a case of it.
    """
    keys = target_keys(matches, stream_keys)
    pairs: dict[str, list[str]] = {}
    for case, similar in matches.source_cases.items():
        pairs[case] = []
        for target in similar.targets:
            key = _key_of(target, keys)
            pairs[case].append(key)
    return pairs


def nearest_pairs(matches: Matches, stream_keys: Sequence[str]) -> dict[str, list[str]]:
    """Return the keys of the targets to which a source case is nearest: the pairs of stage 2.

    A source case that is nearest to no target case gets its own most similar target.

    Raises:
        InputError: the stream does not hold the data set that was matched, or lacks a case of it.
    """
    keys = target_keys(matches, stream_keys)
    pairs: dict[str, list[str]] = {case: [] for case in matches.source_cases}
    for target, nearest in matches.target_cases.items():
        key = _key_of(target, keys)
        pairs[nearest.source].append(key)

    for case, similar in matches.source_cases.items():
        if not pairs[case]:
            most_similar = similar.targets[0]
            key = _key_of(most_similar, keys)
            pairs[case].append(key)
    return pairs


def _key_of(case: str, keys: dict[str, str]) -> str:
    if case not in keys:
        raise InputError(
            f"the target_domain stream has no case {case}, which the matches name; match again"
        )
    return keys[case]
