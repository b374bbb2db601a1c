"""The manifest between the three steps: which keyed series lie in which image, and on which grid.

It holds keyed names, numbers and what this package says of series, and nothing that a header says
in words.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.dicom.reading.rules import Rules
from nnunet_ext.errors import InputError
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.json_files import read_object
from nnunet_ext.hospital.images import WrittenCase
from nnunet_ext.hospital.privacy import series_name
from nnunet_ext.hospital.survey import Case, Export, Survey
from nnunet_ext.stock.folders import plain_name

FILE_NAME = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What a manifest holds.

    ``rules`` are those with which the export was read; ``cases`` holds the entry of each case, as
    :func:`write_manifest` writes it.
    """

    rules: Rules
    file_ending: str
    cases: dict[str, dict[str, Any]]


def case_entry(case: Case, written: WrittenCase) -> dict[str, Any]:
    """Return a case's entry: keyed study and series, grid, files and what was done to them."""
    content = written.as_json()
    channels = zip(content["channels"], case.channels, strict=True)
    for channel, acquisition in channels:
        channel["series"] = series_name(acquisition)
    return {"study": case.study, **content}


def write_manifest(
    path: Path,
    rules: Rules,
    file_ending: str,
    cases: dict[str, dict[str, Any]],
    found: Survey,
    failed: dict[str, str],
) -> None:
    """Write the manifest whole.

    Args:
        path: of the file.
        rules: with which the export was read.
        file_ending: of the images.
        cases: from :func:`case_entry`.
        found: whose rows become the list of all series.
        failed: reason of each case that could not be written.
    """
    content = {
        "version": VERSION,
        "rules": asdict(rules),
        "file_ending": file_ending,
        "cases": cases,
        "failed": failed,
        "series": [asdict(row) for row in found.rows],
        "damaged_files": dict(found.damaged),
    }
    write_json(content, path)


def read_manifest(path: Path) -> Manifest:
    """Read what :func:`write_manifest` wrote.

    Raises:
        InputError: another kind of file, or damaged.
    """
    content = read_object(path, "nnUNetv2_ext_dicom_to_nnunet writes it")
    try:
        if content["version"] != VERSION:
            raise InputError(
                f"{path}: has version {content['version']!r}, not {VERSION}; write it again"
            )
        cases = {}
        for name, entry in content["cases"].items():
            channels = list(entry["channels"])
            for channel in channels:
                str(channel["series"])  # raises where it is absent
            cases[plain_name(name, f"{path}: case")] = {**entry, "channels": channels}
        return Manifest(_rules(content["rules"]), str(content["file_ending"]), cases)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: is not a manifest of nnUNetv2_ext_dicom_to_nnunet; write it again"
        ) from error


def _rules(content: dict[str, Any]) -> Rules:
    rules = dict(content)
    rules["modalities"] = tuple(map(str, rules["modalities"]))
    rules.pop("axial_only", None)  # always false, in manifests of earlier versions
    return Rules(**rules)


def cases_in(manifest: Manifest, export: Export) -> tuple[dict[str, Case], dict[str, str]]:
    """Find the series of a manifest's cases in an export again.

    Returns:
        The cases, and of each other one why not.
    """
    by_name = {series_name(acquisition): acquisition for acquisition in export.acquisitions}
    cases: dict[str, Case] = {}
    missing: dict[str, str] = {}
    for name, entry in manifest.cases.items():
        channels = []
        for channel in entry["channels"]:
            acquisition = by_name.get(str(channel["series"]))
            if acquisition is not None:
                channels.append(acquisition)

        if not channels or len(channels) < len(entry["channels"]):
            missing[name] = "its series is not in the export, or was read with another key"
            continue

        first = channels[0].slices[0]
        key = (first.patient_id, first.study_uid)
        taken = export.series_numbers.get(key, set())
        study = str(entry.get("study", ""))
        cases[name] = Case(name, study, tuple(channels), frozenset(taken))

    return cases, missing
