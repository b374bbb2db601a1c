"""Measurements as a structured report that refers to the segmentation they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ext.dicom.writing.measurements import Measurement
from nnunet_ext.dicom.writing.segments import Model, ascii_text
from nnunet_ext.dicom.writing.source import Source, derived_uid, proxies, quietly, write_object

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MILLILITRE = ("ml", "UCUM", "milliliter")
DECIMALS = 3  # of a measured value: a microlitre, a micrometre


def write_report(
    file: Path,
    measurements: Sequence[Measurement],
    source: Source,
    segmentation: Dataset,
    model: Model,
    *,
    series_number: int,
) -> Dataset:
    """Write measurements as a TID 1500 report: a group per segment and per lesion.

    Every group names its finding, its tracking identifiers, and the segment of ``segmentation`` (a
    lesion that of its class), and gives the volume in ml, the largest diameter in mm and, where
    known, the mean in Hounsfield units.

    Args:
        file: to write.
        measurements: of :func:`nnunet_ext.dicom.writing.measurements.measure`.
        source: the images.
        segmentation: as written by
            :func:`nnunet_ext.dicom.writing.segmentation.write_segmentation`.
        model: what made the mask.
        series_number: of the new series.

    Returns:
        The data set as written.

    Reference: DICOM PS3.16, templates TID 1500 and TID 1411.
    """
    from highdicom.sr import EnhancedSR, MeasurementReport
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    modality = str(source.acquisition.slices[0].modality)
    procedure = codes.LN.CTUnspecifiedBodyRegion
    if modality == "MR":
        procedure = codes.LN.MRIUnspecifiedBodyRegion

    with quietly():
        groups = [_group(item, source, segmentation, model) for item in measurements]
        content = MeasurementReport(
            observation_context=_observation_context(model),
            procedure_reported=procedure,
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        )
        result = EnhancedSR(
            [*proxies(source)[:1], segmentation],
            content[0],
            generate_uid(),
            series_number,
            generate_uid(),
            1,
            manufacturer=ascii_text(model.manufacturer),
            is_complete=True,
            series_description="Automatic measurements, research use only",
        )

    write_object(file, result, source)
    return result


def _observation_context(model: Model) -> Any:
    """Return who observed: a device, by the name of the model."""
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        ObservationContext,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    attributes = DeviceObserverIdentifyingAttributes(
        derived_uid(f"{model.manufacturer} {model.name} {model.version} {model.serial}"),
        name=ascii_text(model.name),
        manufacturer_name=ascii_text(model.manufacturer),
        model_name=ascii_text(f"{model.name} {model.version}"),
        serial_number=ascii_text(model.serial),
    )
    device = ObserverContext(
        observer_type=codes.DCM.Device, observer_identifying_attributes=attributes
    )
    return ObservationContext(observer_device_context=device)


def _group(item: Measurement, source: Source, segmentation: Dataset, model: Model) -> Any:
    """Return one measurement group (TID 1411)."""
    from highdicom.sr import (
        AlgorithmIdentification,
        ReferencedSegment,
        SourceSeriesForSegmentation,
        TrackingIdentifier,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )
    from pydicom.sr.coding import Code

    series = SourceSeriesForSegmentation(str(source.first.SeriesInstanceUID))
    segment = ReferencedSegment(
        segmentation.SOPClassUID,
        segmentation.SOPInstanceUID,
        item.segment.number,
        source_series=series,
    )
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(uid=item.tracking_uid, identifier=item.tracking_id),
        referenced_segment=segment,
        finding_category=Code(*item.segment.category),
        finding_type=Code(*item.segment.type),
        algorithm_id=AlgorithmIdentification(ascii_text(model.name), ascii_text(model.version)),
        measurements=_values(item),
    )


def _values(item: Measurement) -> list[Any]:
    from highdicom.sr import Measurement as Value
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    volume = Value(codes.SCT.Volume, round(item.volume_ml, DECIMALS), Code(*MILLILITRE))
    diameter = Value(
        codes.SCT.Diameter,
        round(item.diameter_mm, DECIMALS),
        codes.UCUM.Millimeter,
        derivation=codes.SCT.Maximum,
    )
    if item.mean is None:
        return [volume, diameter]
    mean = Value(
        codes.DCM.AttenuationCoefficient,
        round(item.mean, DECIMALS),
        codes.UCUM.HounsfieldUnit,
        derivation=codes.SCT.Mean,
    )
    return [volume, diameter, mean]
