"""An evaluation for other programs: all tables and settings as one JSON text."""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.metrics.metric import EmptyPolicy
from nnunet_ext.evaluation.profiles import Profile
from nnunet_ext.evaluation.report.statistics import CONFIDENCE_LEVEL, RESAMPLES, SEED
from nnunet_ext.package import made_by

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1  # counts up when a reader of an earlier one would misunderstand it


def json_report(
    summary: "pd.DataFrame",
    tests: "pd.DataFrame",
    ranks: "pd.DataFrame",
    profile: Profile,
    empty: EmptyPolicy,
    notes: Sequence[str] = (),
) -> str:
    """Return settings, means, tests and ranks; an undefined number is null.

    Args:
        summary: as `summary_table` makes it.
        tests: as `paired_tests_table` makes it.
        ranks: as `ranks_table` makes it.
        profile: how it was measured.
        empty: what 0/0 counts, where the profile leaves it to the user.
        notes: for the reader.
    """
    metrics = {}
    for name in summary["metric"].unique():
        declared = METRICS[name]
        metrics[name] = {"header": declared.header, "better": declared.better.name.lower()}

    report = {
        "format": FORMAT,
        "made_by": made_by(),
        "profile": profile.title,
        "definition": profile.definition,
        "unit": profile.unit,
        "empty": profile.empty or empty,
        "tolerance_mm": profile.tolerance_mm,
        "interval": {"level": CONFIDENCE_LEVEL, "resamples": RESAMPLES, "seed": SEED},
        "metrics": metrics,
        "notes": list(notes),
        "summary": _records(summary),
        "tests": _records(tests),
        "ranks": _records(ranks),
    }
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    records = []
    for row in table.to_dict("records"):
        records.append({str(name): _plain(value) for name, value in row.items()})
    return records


def _plain(value: Any) -> Any:
    """Return a number of NumPy as Python's, and NaN or infinity as None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
