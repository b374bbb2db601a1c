"""A mask on the original slices as a DICOM Segmentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from nnunet_ext.dicom.reading.headers import CT_STORAGE, MR_STORAGE
from nnunet_ext.dicom.writing.segments import Model, Segment, ascii_text
from nnunet_ext.dicom.writing.source import (
    Source,
    equipment_of,
    proxies,
    quietly,
    require_mask,
    text_of,
    write_object,
)
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SegmentationKind = Literal["binary", "labelmap", "fractional"]
LARGEST_FRACTION = 255  # what a probability of 1 is stored as


def write_segmentation(  # noqa: PLR0913 - optional ones by keyword
    file: Path,
    mask: np.ndarray,
    source: Source,
    segments: Sequence[Segment],
    model: Model,
    *,
    series_number: int,
    kind: SegmentationKind = "binary",
    probabilities: np.ndarray | None = None,
    description: str = "Automatic segmentation",
) -> Dataset:
    """Write a mask as DICOM SEG: a frame for every slice, at its place.

    Slices without a segment have a frame, too: viewers have misplaced segments of files that leave
    empty frames out.

    Args:
        file: to write.
        mask: (n, row, column) label values on ``source.acquisition.slices``; zeros alone are
            written, too.
        source: the images.
        segments: what the values mean.
        model: what made the mask.
        series_number: of the new series.
        kind: ``binary`` is read everywhere; ``labelmap`` (DICOM Supplement 243) is many times
            smaller and is read by recent programs only; ``fractional`` holds probabilities.
        probabilities: (segment, n, row, column) from 0 to 1 in the order of ``segments``, for
            ``fractional``; without them the mask's 0 and 1.
        description: of the series.

    Returns:
        The data set as written, which a report refers to.

    Raises:
        InputError: the mask does not fit the slices or the segments, or segments of a label map
            overlap.

    Reference: DICOM PS3.3 A.51 and C.8.20.
    """
    if kind not in get_args(SegmentationKind):
        kinds = ", ".join(get_args(SegmentationKind))
        raise InputError(f"'{kind}' is not a kind of segmentation; valid are {kinds}")

    require_mask(mask, source.acquisition, segments)
    if kind == "labelmap" and _overlap(segments):
        raise InputError(
            "regions that share label values cannot be written as a label map; choose another kind"
        )

    pixels = _pixels(mask, segments, kind, probabilities)
    result = _segmentation(
        pixels, source, segments, model, kind, series_number, ascii_text(description)
    )
    _refer_to_files(result, source)
    write_object(file, result, source)
    return result


def _overlap(segments: Sequence[Segment]) -> bool:
    values: list[int] = []
    for segment in segments:
        values += segment.values
    return len(values) > len(set(values))


def _pixels(
    mask: np.ndarray,
    segments: Sequence[Segment],
    kind: SegmentationKind,
    probabilities: np.ndarray | None,
) -> np.ndarray:
    """Return what highdicom takes.

    These are segment numbers (n, row, column), or values (n, row, column, segment).
    """
    if kind == "fractional" and probabilities is not None:
        expected = (len(segments), *mask.shape)
        if probabilities.shape != expected:
            raise InputError(
                f"probabilities have shape {probabilities.shape}, expected {expected}; predict "
                "with --save_probabilities on the exported image"
            )
        segments_last = np.moveaxis(probabilities, 0, -1)
        fractions = np.clip(segments_last, 0, 1)
        return np.nan_to_num(fractions).astype(np.float32)

    if _overlap(segments):
        masks = [segment.of(mask) for segment in segments]
        return np.stack(masks, axis=-1).astype(np.uint8)

    numbers = np.zeros(mask.shape, np.uint8 if len(segments) < 256 else np.uint16)
    for segment in segments:
        numbers[segment.of(mask)] = segment.number
    return numbers


def _segmentation(
    pixels: np.ndarray,
    source: Source,
    segments: Sequence[Segment],
    model: Model,
    kind: SegmentationKind,
    series_number: int,
    description: str,
) -> Dataset:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

    algorithm = AlgorithmIdentificationSequence(
        ascii_text(model.name), codes.cid7162.ArtificialIntelligence, ascii_text(model.version)
    )
    with quietly():
        return Segmentation(
            proxies(source),
            pixels,
            kind.upper(),
            [_description(segment, algorithm) for segment in segments],
            generate_uid(),
            series_number,
            generate_uid(),
            1,
            **equipment_of(model),
            transfer_syntax_uid=ExplicitVRLittleEndian if kind == "binary" else RLELossless,
            max_fractional_value=LARGEST_FRACTION,
            omit_empty_frames=False,
            series_description=description,
            content_description=description,
            content_qualification="RESEARCH",
        )


def _description(segment: Segment, algorithm: Any) -> Any:
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.coding import Code

    return SegmentDescription(
        segment.number,
        segment.label,
        Code(*segment.category),
        Code(*segment.type),
        "AUTOMATIC",
        algorithm,
        display_color=CIELabColor.from_rgb(*segment.colour_rgb),
    )


def _refer_to_files(result: Dataset, source: Source) -> None:
    """Refer to the files as they are.

    Each file is named once, by its own class, and a multi-frame file by its frames.
    """
    slices = source.acquisition.slices
    if all(item.frame is None and item.sop_class in (CT_STORAGE, MR_STORAGE) for item in slices):
        return

    result.SourceImageSequence = _each_once(result.SourceImageSequence)
    for series in result.ReferencedSeriesSequence:
        series.ReferencedInstanceSequence = _each_once(series.ReferencedInstanceSequence)
    references = [
        *result.SourceImageSequence,
        *result.ReferencedSeriesSequence[0].ReferencedInstanceSequence,
    ]

    frame_at = {_place(item.position_mm): item.frame for item in slices}
    for group in result.PerFrameFunctionalGroupsSequence:
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        references.append(reference)
        frame = frame_at[_place(group.PlanePositionSequence[0].ImagePositionPatient)]
        if frame is not None:
            reference.ReferencedFrameNumber = frame + 1

    class_of = {}
    for header in source.headers:
        class_of[text_of(header, "SOPInstanceUID")] = text_of(header, "SOPClassUID")
    for reference in references:
        uid = str(reference.ReferencedSOPInstanceUID)
        reference.ReferencedSOPClassUID = class_of[uid] or reference.ReferencedSOPClassUID


def _place(position_mm: Iterable[Any]) -> tuple[float, ...]:
    """Return a position as the key of a dictionary."""
    coordinates_mm = map(float, position_mm)
    return tuple(round(value, 4) for value in coordinates_mm)


def _each_once(references: Sequence[Dataset]) -> list[Dataset]:
    by_uid = {item.ReferencedSOPInstanceUID: item for item in references}
    return list(by_uid.values())
