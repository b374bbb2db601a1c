"""Generated brains as suites use them: MR, CT, and which of their slices are similar."""

from __future__ import annotations

from pathlib import Path

from dataset_conversion.phantoms.brains import MR, UNLABELED_CT, write_brain_sets
from nnunet_ext.synthesis.data_set_matching import Pairing, match_data_sets
from nnunet_ext.synthesis.matches import write_matches
from nnunet_ext.synthesis.matching import Weights
from nnunet_ext.synthesis.slice_measures import (
    BRAIN_WINDOW_HU,
    HAEMORRHAGE_HU,
    LesionBand,
    Measuring,
    slices_with_labels,
    slices_without_labels,
)

MATCHES = f"{{raw}}/{MR}/matches.json"  # as rows of a suite name it
SIMILAR_SLICES = 5  # of 60 CT slices; the paper takes 20 of 15480


def write_matched_brains(raw: Path) -> None:
    """Write the generated data sets, and beside the MR images which CT slices resemble them."""
    write_brain_sets(raw, with_skulls=False)  # all rows are tested on slices without
    write_brain_matches(raw, (MR, UNLABELED_CT), raw / MR / "matches.json", SIMILAR_SLICES)


def write_brain_matches(
    raw: Path, datasets: tuple[str, str], file: Path, n_similar: int, processes: int = 1
) -> None:
    """Write which CT slices resemble which MR slices.

    Args:
        raw: folder of raw data sets.
        datasets: labelled MR and unlabelled CT, both of single slices.
        file: to write.
        n_similar: CT slices to name per MR slice.
        processes: that read the slices.

    Raises:
        InputError: slices that cannot be used.
    """
    mr, ct = datasets
    source = Measuring(slices_with_labels(mr, raw), None, None)
    band = LesionBand(*HAEMORRHAGE_HU)
    target = Measuring(slices_without_labels(ct, raw), BRAIN_WINDOW_HU, band)

    pairing = Pairing(n_similar, Weights(), 0, f"{band.low:g}:{band.high:g}")
    matches = match_data_sets(source, target, pairing, processes)
    write_matches(matches, file)
