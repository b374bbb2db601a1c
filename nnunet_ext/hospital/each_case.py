"""Work on the cases of an export: what goes wrong with one is noted and never stops the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_ext.hospital.images import AS_SCANNED, write_images
from nnunet_ext.hospital.manifest import case_entry
from nnunet_ext.hospital.privacy import shown_reason
from nnunet_ext.hospital.survey import Case


@dataclass
class CaseOutcomes:
    """Cases that succeeded, each with what is known of it, and of each other one the reason.

    ``seconds`` holds how long each of them took.
    """

    finished: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def for_each(
    cases: Iterable[Case], work: Callable[[Case], Any], what: str, *, keep_names: bool = False
) -> CaseOutcomes:
    """Do some work for every case, with a progress bar; an error becomes the case's reason.

    Args:
        cases: to work on.
        work: returns what is known of the case then.
        what: the work is, for the progress bar.
        keep_names: show the whole message of errors.
    """
    outcomes = CaseOutcomes()
    with tqdm(list(cases), desc=what, unit="case", disable=not sys.stderr.isatty()) as progress:
        for case in progress:
            started = time.monotonic()
            # errors of nnU-Net, of a library, of this package: the next case is to be served
            try:
                outcomes.finished[case.name] = work(case)
            except Exception as error:
                reason = _reason(case, error, keep_names)
                outcomes.failed[case.name] = reason
                tqdm.write(f"{case.name}: {reason}", file=sys.stderr)
            outcomes.seconds[case.name] = time.monotonic() - started

    return outcomes


def _reason(case: Case, error: Exception, keep_names: bool) -> str:
    if keep_names:
        return f"{type(error).__name__}: {error}"

    paths: set[str] = set()
    for channel in case.channels:
        paths.update(item.path for item in channel.slices)
    return shown_reason(error, *paths)


def write_inputs(
    cases: Iterable[Case],
    folder: Path,
    ending: str,
    orientation: str = AS_SCANNED,
    *,
    keep_names: bool = False,
) -> CaseOutcomes:
    """Write the images of all cases; ``finished`` holds their entries of the manifest."""

    def write(case: Case) -> dict[str, Any]:
        written = write_images(case, folder, ending, orientation)
        return case_entry(case, written)

    return for_each(cases, write, "writing images", keep_names=keep_names)
