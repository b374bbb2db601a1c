"""The file of similar slices, written by ``nnUNetv2_ext_match``.

Trainings on pairs and exports of subsets read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.checksums import sha256_of_file
from nnunet_ext.files.json_files import read_object
from nnunet_ext.stock.folders import plain_name

FORMAT = "nnunet_ext matches 1"
ADVICE = "run nnUNetv2_ext_match again"
NO_MATCHES = "none"  # in place of a file, in the settings of a training


@dataclass(frozen=True)
class SimilarTargets:
    """Target slices that are most similar to a source slice, the most similar first."""

    targets: tuple[str, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True)
class NearestSource:
    """The source slice that is most similar to a target slice."""

    source: str
    distance: float


@dataclass(frozen=True)
class Matches:
    """The similar slices of a source and a target data set.

    Cases have nnU-Net's names. ``subsets`` are lists of source cases: ``matched`` holds the nearest
    source of any target slice, ``unmatched`` all others. ``random`` is drawn from all cases and
    ``unmatched_random`` from the unmatched; both have as many cases as ``matched``.

    Reference: Dong et al. 2022, section 3.2 and table 4
    """

    source: str
    target: str
    parameters: Mapping[str, Any]
    source_cases: Mapping[str, SimilarTargets]
    target_cases: Mapping[str, NearestSource]
    subsets: Mapping[str, tuple[str, ...]]

    def subset(self, name: str) -> tuple[str, ...]:
        """Return the source cases of a subset.

        Raises:
            InputError: no subset has that name.
        """
        if name not in self.subsets:
            existing = ", ".join(self.subsets)
            raise InputError(f"the matches have no subset {name}; they have {existing}")
        return self.subsets[name]


def write_matches(matches: Matches, path: Path) -> None:
    """Write the file, whole or not at all."""
    fields = asdict(matches)
    content = {"format": FORMAT, **fields}
    write_json(content, path)


def digest_of_matches(file: str) -> str:
    """Return the SHA-256 of a training's file of matches; empty where there is none.

    A training goes on with the same pairs, wherever their file is.
    """
    path = Path(file)
    if file == NO_MATCHES or not path.is_file():
        return ""
    return sha256_of_file(path)


def read_matches(path: Path) -> Matches:
    """Read a file of matches.

    Raises:
        InputError: it cannot be read, is not a file of matches, contradicts itself, or a name in it
            is a path.
    """
    content = read_object(path, ADVICE)
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: does not hold matches of this version; {ADVICE}")

    try:
        matches = _from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: is damaged ({type(error).__name__}: {error}); {ADVICE}"
        ) from error

    _require_plain_names(matches, path)
    _require_consistent(matches, path)
    return matches


def _from_json(content: dict[str, Any]) -> Matches:
    source_cases = {}
    for case, entry in content["source_cases"].items():
        targets = tuple(map(str, entry["targets"]))
        distances = tuple(map(float, entry["distances"]))
        source_cases[str(case)] = SimilarTargets(targets, distances)

    target_cases = {}
    for case, entry in content["target_cases"].items():
        source = str(entry["source"])
        distance = float(entry["distance"])
        target_cases[str(case)] = NearestSource(source, distance)

    subsets = {}
    for name, cases in content["subsets"].items():
        subsets[str(name)] = tuple(map(str, cases))

    return Matches(
        source=str(content["source"]),
        target=str(content["target"]),
        parameters=dict(content["parameters"]),
        source_cases=source_cases,
        target_cases=target_cases,
        subsets=subsets,
    )


def _require_plain_names(matches: Matches, path: Path) -> None:
    """Refuse names of data sets and cases that lead to other files.

    All other cases must be among these, see :func:`_require_consistent`.
    """
    for dataset in (matches.source, matches.target):
        plain_name(dataset, f"{path}: data set")
    for case in (*matches.source_cases, *matches.target_cases):
        plain_name(case, f"{path}: case")


def _require_consistent(matches: Matches, path: Path) -> None:
    """Refuse matches that name cases they do not list."""
    _require_consistent_sources(matches, path)

    for case, nearest in matches.target_cases.items():
        if nearest.source not in matches.source_cases:
            raise InputError(
                f"{path}: {nearest.source}, the source of {case}, is not among the source cases; "
                f"{ADVICE}"
            )

    for name, cases in matches.subsets.items():
        for case in cases:
            if case not in matches.source_cases:
                raise InputError(
                    f"{path}: {case} of the subset {name} is not among the source cases; {ADVICE}"
                )


def _require_consistent_sources(matches: Matches, path: Path) -> None:
    """Refuse source cases without known targets, or without one distance for each of them."""
    for case, similar in matches.source_cases.items():
        target_count = len(similar.targets)
        if target_count == 0 or target_count != len(similar.distances):
            raise InputError(
                f"{path}: source case {case} needs targets and one distance for each; {ADVICE}"
            )
        for target in similar.targets:
            if target not in matches.target_cases:
                raise InputError(
                    f"{path}: {target}, a target of {case}, is not among the target cases; {ADVICE}"
                )
