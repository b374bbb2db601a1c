"""What the folder of a study's results tells about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_json, read_object
from nnunet_ext.hospital.report.names import ADVICE, FACTS, MEASUREMENTS


@dataclass(frozen=True)
class WrittenResults:
    """Results of a study that were written before, with a page.

    ``model`` is the digest of the model, empty where nothing tells it. ``volumes_ml`` holds the
    volume of each segment by its label.
    """

    model: str
    volumes_ml: dict[str, float]
    lesions: int
    warnings: int


def read_results(folder: Path) -> WrittenResults | None:
    """Read what a study's folder tells; None where it fails.

    Results may be absent or damaged, and another run may be replacing them at this moment.
    """
    try:
        facts = read_object(folder / FACTS, ADVICE)
        measurements: list[dict[str, Any]] = read_json(folder / MEASUREMENTS, ADVICE)
        volumes_ml = {}
        for item in measurements:
            if not item["lesion"]:
                volumes_ml[str(item["segment"])] = float(item["volume_ml"])
        lesions = sum(bool(item["lesion"]) for item in measurements)
        warnings = len(facts["warnings"])
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None
    return WrittenResults(str(facts.get("model") or ""), volumes_ml, lesions, warnings)
