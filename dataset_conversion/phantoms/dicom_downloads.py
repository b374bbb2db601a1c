"""Generated miniatures of DICOM collections in the layout of their downloads, with their traps.

Everything is computed, nothing comes from a patient. Equal arguments give equal files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.phantoms.anatomy import scanned, thorax
from dataset_conversion.phantoms.dicom_series import (
    AXIAL,
    Edit,
    chest_series,
    set_pixels,
    uid,
    write_series,
)

LIDC_SHAPE = (9, 48, 48)  # slices, rows, columns
LIDC_STEP_MM, LIDC_PIXEL_MM = 2.5, 0.7
LIDC_NODULES = (
    # centre (slice, row, column), half height in slices, radius in pixels per reader; 0: not marked
    ((4, 20, 14), 2, (6.0, 5.0, 4.0, 3.0)),
    ((6, 30, 34), 1, (3.0, 0.0, 3.0, 0.0)),
    ((2, 14, 36), 0, (0.0, 4.0, 0.0, 0.0)),
)
LIDC_HOLE = (
    20,
    14,
    2.0,
)  # row, column, radius: what the first reader leaves out of the first nodule's middle slice


def write_lidc(folder: Path, *, layout: int = 3, seed: int = 0) -> Path:
    """Write LIDC-IDRI: three CT of two patients, a chest X-ray with its reading, a segmentation
    object, XML files.

    Args:
        folder: made if absent.
        layout: 1 to 4, the folders of the collection's releases; the XML files lie beside the
            images in 1 to 3 and in a folder of their own in 4.
        seed: of the images.

    Returns:
        The folder to give to ``nnUNetv2_ext_convert LIDC-IDRI -i``.
    """
    slices, rows, _ = LIDC_SHAPE
    for number, (patient, scan) in enumerate(
        (("LIDC-IDRI-0001", 1), ("LIDC-IDRI-0132", 1), ("LIDC-IDRI-0132", 2))
    ):
        study, series = uid(patient, scan), uid(patient, scan, "ct")
        hu, _, positions_mm = chest_series(
            seed + number, slices, rows, (LIDC_STEP_MM, LIDC_PIXEL_MM, LIDC_PIXEL_MM)
        )
        place = folder / _lidc_place(layout, patient, scan, series)
        write_series(
            place,
            hu,
            positions_mm,
            spacing_mm=(LIDC_PIXEL_MM, LIDC_PIXEL_MM),
            patient=patient,
            study=study,
            series=series,
            order=range(slices)[::-1],
            names="{:06d}.dcm".format if layout < 3 else "1-{:03d}.dcm".format,
        )
        text = lidc_xml(series, positions_mm[:, 2])
        xml = (
            place if layout < 4 else folder / "tcia-lidc-xml/157"
        ) / f"{(69, 71, 72)[number]:03d}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_text(text, encoding="utf-8")
        if number == 0:  # the same reading once more, as in LIDC-XML-only.zip
            copy = folder / "LIDC-XML-only/tcia-lidc-xml/157/158.xml"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, encoding="utf-8")
            (copy.parent / "._158.xml").write_bytes(b"\0\5\x16\7\0\2\0\0")
    _write_xray(folder / _lidc_place(layout, "LIDC-IDRI-0001", 9, uid("xray")))
    (folder / "metadata.csv").write_text(
        'Series UID,File Size\n1.2,"1,234.5 MB"\n', encoding="utf-8"
    )
    return folder


def _lidc_place(layout: int, patient: str, scan: int, series: str) -> str:
    return {
        1: f"LIDC-IDRI/{patient}/{uid(patient, scan)}/{series}",
        2: f"LIDC-IDRI/{patient}/01-01-2000-{scan}/3000566-{scan}",
        3: f"LIDC-IDRI/{patient}/01-01-2000-NA-NA-{scan}/3000566.000000-NA-{scan}",
        4: series,
    }[layout]


def _write_xray(place: Path) -> None:
    """A radiograph, a segmentation object, and the XML file of the radiograph's reading."""

    def edit(index: int, data: Any) -> None:
        data.SOPClassUID = ("1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.66.4")[index]
        data.Modality = ("DX", "SEG")[index]
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID

    write_series(
        place, np.zeros((2, 8, 8), int), np.zeros((2, 3)), patient="LIDC-IDRI-0001", edit=edit
    )
    (place / "070.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<IdriReadMessage '
        'xmlns="http://www.nih.gov/idri"><ResponseHeader>'
        f"<CTSeriesInstanceUid>{uid('LIDC-IDRI-0001', 1, 'ct')}</CTSeriesInstanceUid>"
        f"<CXRSeriesInstanceUid>{uid('xray')}</CXRSeriesInstanceUid><Modality>CXR</Modality></ResponseHeader>"
        "<CXRreadingSession><unblindedRead/></CXRreadingSession></IdriReadMessage>\n",
        encoding="utf-8",
    )


def lidc_reader_masks() -> np.ndarray:
    """What each of the four readers took for nodule, (reader, slice, row, column), slices foot to
    head.
    """
    slices, rows, columns = np.meshgrid(*map(np.arange, LIDC_SHAPE), indexing="ij")
    masks = np.zeros((4, *LIDC_SHAPE), bool)
    for (z, row, column), half, radii in LIDC_NODULES:
        for reader, radius in enumerate(radii):
            near = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
            masks[reader] |= near & (np.abs(slices - z) <= half)
    row, column, radius = LIDC_HOLE
    hole = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    masks[0] &= ~(hole & (slices == LIDC_NODULES[0][0][0]))
    return masks


def lidc_xml(series: str, heights_mm: np.ndarray) -> str:
    """The reading of :data:`LIDC_NODULES` as the collection writes it, with small nodules and stray
    points.
    """
    sessions = []
    for reader in range(4):
        nodules = []
        for number, ((z, row, column), half, radii) in enumerate(LIDC_NODULES):
            if not radii[reader]:
                continue
            rois = [
                _roi(series, heights_mm, index, _around(row, column, radii[reader]))
                for index in range(z + half, z - half - 1, -1)  # against the order of the slices
            ]
            if reader == 0 and number == 0:
                hole_row, hole_column, radius = LIDC_HOLE
                # The outline of a hole belongs to what is excluded, so it is the hole's own rim.
                rois.insert(
                    0,
                    _roi(
                        series,
                        heights_mm,
                        z,
                        _rim(hole_row, hole_column, radius),
                        inclusion="FALSE",
                    ),
                )
                rois.append(_roi(series, heights_mm, z, [(column + 1, row + 3)]))  # a stray mark
            nodules.append(
                f"<unblindedReadNodule><noduleID>Nodule "
                f"{number}</noduleID><characteristics><subtlety>5</subtlety>"
                f"<malignancy>4</malignancy></characteristics>{''.join(rois)}</unblindedReadNodule>"
            )
        small = _roi(series, heights_mm, 1, [(10, 30)])
        nodules.append(
            f"<unblindedReadNodule><noduleID>small</noduleID>{small}</unblindedReadNodule>"
        )
        nodules.append("<nonNodule><nonNoduleID>1</nonNoduleID></nonNodule>")
        sessions.append(
            f"<readingSession><annotationVersion>3.12</annotationVersion>{''.join(nodules)}</readingSession>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<LidcReadMessage '
        'xmlns="http://www.nih.gov"><ResponseHeader>'
        f"<TaskDescription>Second unblinded "
        f"read</TaskDescription><SeriesInstanceUid>{series}</SeriesInstanceUid>"
        "<DateService>2008-08-18</DateService><TimeService>02:05:51</TimeService>"
        f"</ResponseHeader>{''.join(sessions)}</LidcReadMessage>\n"
    )


def _roi(
    series: str,
    heights_mm: np.ndarray,
    index: int,
    points: Sequence[tuple[int, int]],
    inclusion: str = "TRUE",
) -> str:
    edges = "".join(
        f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points
    )
    return (
        f"<roi><imageZposition>{heights_mm[index]:.6f} </imageZposition>"
        f"<imageSOP_UID>{uid(series, index)}</imageSOP_UID>"
        f"<inclusion>{inclusion}</inclusion>{edges}</roi>"
    )


def _around(row: int, column: int, radius: float) -> list[tuple[int, int]]:
    """The first pixels outside a disc, as closed outline of (column, row)."""
    return _ordered(row, column, radius, outside=True)


def _rim(row: int, column: int, radius: float) -> list[tuple[int, int]]:
    """The last pixels inside a disc."""
    return _ordered(row, column, radius, outside=False)


def _ordered(row: int, column: int, radius: float, outside: bool) -> list[tuple[int, int]]:
    from scipy import ndimage

    reach = int(radius) + 3
    rows, columns = np.meshgrid(
        np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij"
    )
    disc = rows**2 + columns**2 < radius**2
    ring = (
        ndimage.binary_dilation(disc) & ~disc if outside else disc & ~ndimage.binary_erosion(disc)
    )
    points = sorted(
        ((x, y) for y, x in np.argwhere(ring) - reach),
        key=lambda point: np.arctan2(point[1], point[0]),
    )
    closed = [*points, points[0]]
    return [(int(column + x), int(row + y)) for x, y in closed]


NSCLC_SHAPE = (12, 56, 56)
NSCLC_SPACING_MM = (3.0, 1.5, 1.5)


def write_nsclc(folder: Path, *, seed: int = 0) -> Path:
    """Write NSCLC-Radiomics with PleThora's masks: four patients, one without an effusion.

    The masks' arrays run against the rows of the CT. The header of LUNG1-001 says so; LUNG1-005's
    does not fit the CT at all; LUNG1-008 has two reviewers, whose values are not quite binary;
    LUNG1-010 has no effusion. Beside each CT lies an RTSTRUCT.

    Returns:
        The folder to give to ``nnUNetv2_ext_convert NSCLC-PleuralEffusion -i``.
    """
    import nibabel

    for number, patient in enumerate(("LUNG1-001", "LUNG1-005", "LUNG1-008", "LUNG1-010")):
        hu, cavity, effusion, positions_mm = effusion_chest(seed + number)
        study = folder / f"NSCLC-Radiomics/{patient}/09-18-2008-StudyID-NA-69331"
        write_series(
            study / "0.000000-NA-82046",
            hu,
            positions_mm,
            spacing_mm=NSCLC_SPACING_MM[1:],
            patient=patient,
            order=range(len(hu))[::-1],
        )
        write_series(
            study / "0.000000-NA-58228",
            np.zeros((1, 4, 4), int),
            np.zeros((1, 3)),
            patient=patient,
            series=uid(patient, "rtstruct"),
            modality="RTSTRUCT",
            edit=lambda _, data: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.481.3"),
        )
        row_mm, column_mm = NSCLC_SPACING_MM[1:]
        affine_mm = np.diag([-column_mm, row_mm, NSCLC_SPACING_MM[0], 1.0])
        last_row_mm = positions_mm[0, 1] + row_mm * (hu.shape[1] - 1)
        affine_mm[:3, 3] = (-positions_mm[0, 0], -last_row_mm, positions_mm[0, 2])
        if patient == "LUNG1-005":
            affine_mm = np.eye(4)
        masks = {
            f"Thoracic_Cavities/{patient}/{patient}_thor_cav_primary_reviewer": cavity.astype(float)
        }
        if patient != "LUNG1-010":
            masks[f"Effusions/{patient}/{patient}_effusion_first_reviewer"] = effusion.astype(float)
        if patient == "LUNG1-008":
            softened = np.where(effusion, 0.98, 0.01)
            softened[np.nonzero(effusion)[0].min()] = 0
            masks[f"Effusions/{patient}/{patient}_effusion_second_reviewer"] = softened
        for name, mask in masks.items():
            path = folder / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            array = mask[:, ::-1].transpose(2, 1, 0).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(array, affine_mm), path)
    (folder / "metadata.csv").write_text(
        'Series UID,File Size\n1.2,"1,234.5 MB"\n', encoding="utf-8"
    )
    return folder


def effusion_chest(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """HU, cavity and effusion (slice, row, column), foot to head, and positions: fluid in the back
    of one lung.
    """
    generator = np.random.default_rng([seed, 45])
    slices, rows, columns = NSCLC_SHAPE
    body = thorax(generator, NSCLC_SHAPE, np.linspace(-0.4, 0.4, slices))
    cavity = body.lung > 0.5
    effusion = cavity & (body.x > 0) & (body.y > 0.15)
    effusion[:2] = False  # the fluid ends below the apex
    body.hu[effusion] = 15
    hu = np.round(scanned(generator, body.hu)).astype(np.int16)[::-1]
    step_mm, row_mm, column_mm = NSCLC_SPACING_MM
    first = (-column_mm * (columns - 1) / 2, -row_mm * (rows - 1) / 2)
    positions_mm = np.array([(*first, -300 + step_mm * index) for index in range(slices)])
    return hu, cavity[::-1], effusion[::-1], positions_mm


ICH_SIZE = 40
ICH_PIXEL_MM = 5.0


def head(seed: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """A head CT (slice, row, column) int16 in HU, foot to head, and its haemorrhages 0..5 (BHSD's
    values).
    """
    generator = np.random.default_rng([seed, 46])
    axis = np.linspace(-1, 1, ICH_SIZE)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius = np.sqrt((x / 0.7) ** 2 + (y / 0.85) ** 2)
    hu = np.select([radius < 0.88, radius < 1], [35.0, 900.0], -1000.0)
    label = np.zeros((slices, ICH_SIZE, ICH_SIZE), np.uint8)
    for value in generator.choice(np.arange(1, 6), 2, replace=False):
        centre = generator.uniform(-0.35, 0.35, 2)
        layer = int(generator.integers(0, slices))
        label[layer, (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.03] = value
    volume = hu + generator.normal(0, 5, label.shape) + 40 * (label > 0)
    return np.round(np.maximum(volume, -1000)).astype(np.int16), label


def ich_id(*parts: int | str) -> str:
    """An identifier as the challenge uses in place of UIDs."""
    return f"ID_{uid(*parts).rpartition('.')[2]:0>9.9}"


def write_rsna(folder: Path, *, seed: int = 0) -> Path:
    """Write the challenge's ``stage_2_train``, ``stage_2_test`` and tables: four series, each with
    a trap.

    Series 0 is regular, signed, with padding of -2000. Series 1 is tilted and holds 12-bit values
    without their sign. Series 2 holds three positions twice, and nothing tells the slices apart.
    Series 3 (test) is foot first. Files have no InstanceNumber, no thickness, no valid UID.

    Returns:
        The folder to give to ``nnUNetv2_ext_convert RSNA-ICH -i``.
    """
    rows = [("ID", "Label")]
    for number in range(4):
        hu, label = head(seed + number, 6)
        part = "stage_2_test" if number == 3 else "stage_2_train"
        ids = [ich_id(number, index) for index in range(9)]
        _write_exam(folder / part, number, hu, ids)
        if number == 3:
            continue
        for index in range(6):
            present = set(np.unique(label[index])) - {0}
            flags = [
                *((name, value in present) for value, name in enumerate(ICH_TYPES, start=1)),
                ("any", bool(present)),
            ]
            rows += [(f"{ids[index]}_{name}", str(int(flag))) for name, flag in flags]
    rows += rows[1:7]  # four images of the real table occur twice
    _write_table(folder / "stage_2_train.csv", rows)
    _write_table(
        folder / "stage_2_sample_submission.csv", [("ID", "Label"), (f"{ich_id(3, 0)}_any", "0.5")]
    )
    return folder


ICH_TYPES = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")


def _write_exam(folder: Path, number: int, hu: np.ndarray, ids: Sequence[str]) -> None:
    count = len(hu)
    positions_mm = np.array([(-95.0, -95.0, 5.0 * index) for index in range(count)])
    orientation: Sequence[float] = AXIAL
    order = np.arange(count)
    if number == 1:
        angle = np.radians(15)
        orientation = (1, 0, 0, 0, np.cos(angle), np.sin(angle))
    if number == 2:
        order = np.array([*range(count), 1, 2, 3])

    def edit(index: int, data: Any) -> None:
        for name in (
            "InstanceNumber",
            "SliceThickness",
            "SeriesNumber",
            "FrameOfReferenceUID",
            "ImageType",
        ):
            delattr(data, name)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = ids[index]
        values = hu[order[index]].astype(int) + (5 if index >= count else 0)
        if number == 0:
            values[:2] = -2000
            data.RescaleIntercept = "0"
            set_pixels(data, values, 16, True)
        elif number == 1:
            data.RescaleIntercept = "0"
            set_pixels(data, np.where(values < 0, values + 4096, values), 12, False)
        else:
            set_pixels(data, values + 1024, 12, False)

    write_series(
        folder,
        hu[order],
        positions_mm[order],
        orientation=orientation,
        spacing_mm=(ICH_PIXEL_MM, ICH_PIXEL_MM),
        patient=ich_id("patient", number),
        study=ich_id("study", number),
        series=ich_id("series", number),
        names=lambda position: f"{ids[position - 1]}.dcm",
        edit=edit,
    )


def _write_table(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    path.write_text("".join(f"{name},{value}\n" for name, value in rows), encoding="utf-8")


def write_bhsd(folder: Path, *, seed: int = 0) -> Path:
    """Write BHSD: ``label_192/images`` and ``label_192/ground truths``, two volumes of 5 mm
    slices.
    """
    for number in range(2):
        name = f"{ich_id('patient', number)}_{ich_id('study', number)}"
        _write_pair(
            folder / "label_192",
            ("images", "ground truths"),
            f"{name}.nii.gz",
            *head(seed + number, 6),
        )
    return folder


def write_ct_ich(folder: Path, *, seed: int = 0) -> Path:
    """Write PhysioNet's ct-ich: ``ct_scans`` and ``masks``; the second volume is without
    haemorrhage.
    """
    root = (
        folder
        / "computed-tomography-images-for-intracranial-hemorrhage-detection-and-segmentation-1.3.1"
    )
    for number, name in enumerate(("049", "066")):
        hu, label = head(seed + number, 6)
        _write_pair(
            root, ("ct_scans", "masks"), f"{name}.nii", hu, 255 * (label > 0) * (number == 0)
        )
    (root / "Patient_demographics.csv").write_text(
        '"Patient\nNumber",Unnamed: 4\n49,\n', encoding="utf-8"
    )
    return folder


def _write_pair(
    root: Path, folders: tuple[str, str], name: str, hu: np.ndarray, label: np.ndarray
) -> None:
    import nibabel

    affine_mm = np.diag([ICH_PIXEL_MM, -ICH_PIXEL_MM, 5.0, 1.0])
    for folder, array in zip(folders, (hu, label), strict=True):
        (root / folder).mkdir(parents=True, exist_ok=True)
        values = np.ascontiguousarray(array.transpose(2, 1, 0)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, affine_mm), root / folder / name)


EXPORT_SHAPE = (24, 128)  # slices, rows and columns
EXPORT_SPACING_MM = (5.0, 2.8, 2.8)


def write_export(folder: Path, *, seed: int = 0) -> np.ndarray:
    """Write a hospital's export of one patient: a chest CT with two nodules, its scout, and a thick
    reconstruction.

    Returns:
        The nodules (slice, row, column), foot to head, numbered 1 and 2.
    """
    slices, size = EXPORT_SHAPE
    hu, nodules, positions_mm = chest_series(seed, slices, size, EXPORT_SPACING_MM, nodules=2)
    every, thick, scout = np.arange(slices), np.arange(0, slices, 2), np.arange(1)
    for number, (description, kernel, kind, chosen) in enumerate(
        (
            ("Topogram", "T20", "LOCALIZER", scout),
            ("Thorax 5.0 I30f", "I30f", "AXIAL", every),
            ("Thorax 10.0 I70f", "I70f", "AXIAL", thick),
        ),
        start=1,
    ):
        write_series(
            folder / "DOE^JOHN" / "CT Thorax" / description,
            hu[chosen],
            positions_mm[chosen],
            spacing_mm=EXPORT_SPACING_MM[1:],
            patient="DOE-1",
            series=uid("export", number),
            edit=_of_john_doe(number, description, kernel, kind),
        )
    return nodules


def _of_john_doe(number: int, description: str, kernel: str, kind: str) -> Edit:
    def edit(_: int, data: Any) -> None:
        data.PatientName, data.PatientBirthDate, data.PatientSex = "Doe^John", "19500101", "M"
        data.StudyDate, data.StudyTime, data.AccessionNumber = "20260102", "101500", "A1"
        data.SeriesDescription, data.ConvolutionKernel, data.SeriesNumber = (
            description,
            kernel,
            number,
        )
        data.BodyPartExamined, data.ImageType = "CHEST", ["ORIGINAL", "PRIMARY", kind]

    return edit
