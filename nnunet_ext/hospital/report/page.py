"""``report.html``: pictures, findings and warnings of a study in one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ext.dicom.reading.series import Acquisition
from nnunet_ext.dicom.writing.measurements import Measurement
from nnunet_ext.dicom.writing.secondary_capture import (
    orientation_letters,
    picture_with_segments,
    size_of_pictures_px,
    volume_text,
)
from nnunet_ext.dicom.writing.segments import Model, Segment
from nnunet_ext.dicom.writing.source import Source, text_of
from nnunet_ext.files.whole_file import whole_file
from nnunet_ext.hospital.report.findings import (
    Finding,
    findings_of,
    found_lung_volume_ml,
    given_lung_volume_ml,
    lung_volume_ml,
    with_folds,
)
from nnunet_ext.hospital.report.model_facts import ModelFacts
from nnunet_ext.hospital.report.names import PICTURE
from nnunet_ext.hospital.report.pictures import Pictures, Window, grey_scale, pictures_of
from nnunet_ext.hospital.report.quality import quality_warnings

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}
PATIENT_TEXTS = {
    "PatientName": "Name",
    "PatientID": "Patient number",
    "PatientBirthDate": "Born",
    "StudyDate": "Study date",
    "AccessionNumber": "Accession number",
}


@dataclass(frozen=True)
class PageOptions:
    """What a page shows beside the findings.

    ``patient`` shows who it is. ``lungs`` finds the lungs where the model labels none;
    ``lung_masks`` is a folder of given ones. ``facts`` are about the model.
    """

    patient: bool = False
    lungs: bool = False
    facts: ModelFacts = field(default_factory=ModelFacts)
    lung_masks: Path | None = None


@dataclass(frozen=True)
class Study:
    """What a page is about.

    ``mask`` and ``values`` are (n, row, column) on the slices of ``source``; ``unit`` is that of
    the values. ``fractions`` are (segment, n, row, column) from 0 to 1, if the model's soft map is
    known. ``folds`` are masks like ``mask``, of each fold on its own.
    ``lungs`` are given, boolean; ``lung_trouble`` tells why they are not.
    """

    name: str
    source: Source
    mask: np.ndarray
    values: np.ndarray
    unit: str
    segments: Sequence[Segment]
    measurements: Sequence[Measurement]
    model: Model
    fractions: np.ndarray | None = None
    folds: Sequence[np.ndarray] = ()
    lungs: np.ndarray | None = None
    lung_trouble: str = ""


def write_page(file: Path, study: Study, options: PageOptions) -> dict[str, Any]:
    """Write the page of a study, and its first slice as a picture beside it.

    Returns:
        What a program may want to know of it: digest of the model, warnings, and volume of the
        lungs in ml.

    Raises:
        OSError: the file cannot be written.
    """
    acquisition = study.source.acquisition
    lung_ml = lung_volume_ml(study.mask, acquisition, study.segments)
    finds_lungs = lung_ml is None and options.lungs and study.unit == "HU"
    if study.lungs is not None:
        lung_ml = given_lung_volume_ml(study.lungs, study.mask, acquisition, study.segments)
    if finds_lungs:
        lung_ml = found_lung_volume_ml(study.values, study.mask, acquisition, study.segments)
    findings = findings_of(study.measurements, study.mask, acquisition, study.fractions, lung_ml)
    findings = with_folds(findings, study.mask, study.folds, acquisition)
    warnings = quality_warnings(
        study.source, study.values, study.unit, study.measurements, options.facts
    )

    if study.lung_trouble:
        warnings.append(f"No share of the lungs is given: {study.lung_trouble}.")
    if options.lungs and lung_ml is None:
        warnings.append("No lungs were found, so no share of them is given.")

    scale = grey_scale(study.values, study.unit)
    pictures = pictures_of(study.values, study.mask, scale)
    first = _first_slice(study.mask, findings)
    _write_picture(file.with_name(PICTURE), study, scale.windows[0], first)
    viewer = {
        "columns": acquisition.stack.columns,
        "rows": acquisition.stack.rows,
        "spacing": list(acquisition.stack.spacing_mm),
        "letters": _letters(study.source),
        "slices": _slices(acquisition),
        "knots": scale.knots,
        "unit": scale.unit,
        "windows": [window._asdict() for window in scale.windows],
        "segments": [_segment(segment) for segment in study.segments],
        "mediaType": pictures.encoding.media_type,
        "first": first,
    }
    content = _content(study, options, pictures, findings, warnings)
    content["lung_ml"] = lung_ml
    content["finds_lungs"] = finds_lungs
    content["given_lungs"] = study.lungs is not None
    write_html(file, "report.html.jinja", "viewer.js", {**content, "viewer": viewer})
    return {
        "model": study.model.serial,
        "warnings": warnings,
        "lung_ml": None if lung_ml is None else round(lung_ml, 1),
    }


def _write_picture(file: Path, study: Study, window: Window, index: int) -> None:
    """Write a slice with its segments as a picture, to be shown beside that of another study."""
    from PIL import Image

    pixels = picture_with_segments(
        study.values[index],
        study.mask[index],
        study.segments,
        (window.centre - window.width / 2, window.centre + window.width / 2),
        size_of_pictures_px(study.source),
    )
    with whole_file(file) as unfinished:
        Image.fromarray(pixels).save(unfinished, "PNG")


def write_html(file: Path, template: str, script: str, content: Mapping[str, Any]) -> None:
    """Write a page from a template, with its style and script inside and nothing from elsewhere.

    The Content-Security-Policy names the digests of style and script, so that nothing else in the
    page can run or load, whatever texts it shows.

    Args:
        file: to write.
        template: in the folder of templates.
        script: in the folder of templates; empty: none.
        content: for the template.

    Raises:
        OSError: the file cannot be written.
    """
    environment = _environment()
    style = environment.get_template("style.css.jinja").render(content).strip()
    code = (TEMPLATES / script).read_text(encoding="utf-8").strip() if script else ""
    allowed = f"'{_digest(code)}'" if code else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )

    pieces = environment.get_template(template).generate(
        {**content, "style": style, "script": code, "policy": policy}
    )
    with whole_file(file) as unfinished, unfinished.open("w", encoding="utf-8") as stream:
        stream.writelines(pieces)


def rendered(template: str, content: Mapping[str, Any]) -> str:
    """Return a part of a page."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["volume"] = volume_text
    return environment


def _digest(text: str) -> str:
    """Return what a Content-Security-Policy calls a text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _content(
    study: Study,
    options: PageOptions,
    pictures: Pictures,
    findings: Sequence[Finding],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Return what the template shows."""
    return {
        "name": study.name,
        "patient": _patient(study.source) if options.patient else {},
        "segments": study.segments,
        "wholes": [item for item in findings if not item.measurement.lesion],
        "lesions": [item for item in findings if item.measurement.lesion],
        "seeks_lesions": any(segment.lesions for segment in study.segments),
        "warnings": warnings,
        "unit": study.unit,
        "has_certainty": study.fractions is not None,
        "folds": len(study.folds),
        "has_lung": any(item.percent_of_lung is not None for item in findings),
        "model": asdict(study.model),
        "facts": options.facts,
        "pictures": pictures,
        "slices": len(study.values),
        "step_mm": study.source.acquisition.stack.step_mm,
    }


def _patient(source: Source) -> dict[str, str]:
    """Return who it is, by what the page calls each text."""
    found = {}
    for name, heading in PATIENT_TEXTS.items():
        text = text_of(source.first, name)
        if text:
            found[heading] = text.replace("^", " ").strip()
    return found


def _letters(source: Source) -> dict[str, str]:
    """Return which side of the patient lies at each side of the picture."""
    right, bottom = orientation_letters(source)
    return {"right": right, "left": OPPOSITE[right], "bottom": bottom, "top": OPPOSITE[bottom]}


def _slices(acquisition: Acquisition) -> list[dict[str, Any]]:
    """Return of each slice where it lies along the normal in mm, and its number in the series."""
    along_mm = acquisition.stack.offsets_mm[:, 2]
    result = []
    for item, place_mm in zip(acquisition.slices, along_mm, strict=True):
        result.append({"mm": round(float(place_mm), 2), "image": item.instance_number})
    return result


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "number": segment.number,
        "label": segment.label,
        "colour": list(segment.colour_rgb),
        "values": [int(value) for value in segment.values],
    }


def _first_slice(mask: np.ndarray, findings: Sequence[Finding]) -> int:
    """Return the slice of the first lesion; without any, the one with most of the segments."""
    for item in findings:
        if item.measurement.lesion and item.measurement.slice_index is not None:
            return item.measurement.slice_index

    counts = np.count_nonzero(mask, axis=(1, 2))
    return int(counts.argmax()) if counts.any() else len(mask) // 2
