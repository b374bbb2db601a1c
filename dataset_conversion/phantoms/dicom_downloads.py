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
LIDC_STEP_MM = 2.5
LIDC_PIXEL_MM = 0.7
# Patient, number of the scan, number of its XML file
LIDC_SCANS = (("LIDC-IDRI-0001", 1, 69), ("LIDC-IDRI-0132", 1, 71), ("LIDC-IDRI-0132", 2, 72))
LIDC_NODULES = (
    # centre (slice, row, column), half height in slices, radius in pixels per reader; 0: not marked
    ((4, 20, 14), 2, (6.0, 5.0, 4.0, 3.0)),
    ((6, 30, 34), 1, (3.0, 0.0, 3.0, 0.0)),
    ((2, 14, 36), 0, (0.0, 4.0, 0.0, 0.0)),
)
# Row, column, radius: what the first reader leaves out of the first nodule's middle slice
LIDC_HOLE = (20, 14, 2.0)
METADATA = 'Series UID,File Size\n1.2,"1,234.5 MB"\n'


def write_lidc(folder: Path, *, layout: int = 3, seed: int = 0) -> Path:
    """Write LIDC-IDRI: three CT, a chest X-ray with its reading, a segmentation, XML files.

    Args:
        folder: made if absent.
        layout: 1 to 4, the folders of the collection's releases; the XML files lie beside the
            images in 1 to 3 and in a folder of their own in 4.
        seed: of the images.

    Returns:
        The folder to give to ``nnUNetv2_ext_convert LIDC-IDRI -i``.
    """
    slices, rows, _ = LIDC_SHAPE
    pixel_mm = (LIDC_PIXEL_MM, LIDC_PIXEL_MM)
    for number, (patient, scan, xml_number) in enumerate(LIDC_SCANS):
        series = uid(patient, scan, "ct")
        hu, _, positions_mm = chest_series(seed + number, slices, rows, (LIDC_STEP_MM, *pixel_mm))
        place = folder / _lidc_place(layout, patient, scan, series)
        write_series(
            place,
            hu,
            positions_mm,
            spacing_mm=pixel_mm,
            patient=patient,
            study=uid(patient, scan),
            series=series,
            order=range(slices)[::-1],
            names="{:06d}.dcm".format if layout < 3 else "1-{:03d}.dcm".format,
        )

        text = lidc_xml(series, positions_mm[:, 2])
        xml_folder = place if layout < 4 else folder / "tcia-lidc-xml/157"
        _write_text(xml_folder / f"{xml_number:03d}.xml", text)
        if number == 0:  # the same reading once more, as in LIDC-XML-only.zip
            copy = folder / "LIDC-XML-only/tcia-lidc-xml/157/158.xml"
            _write_text(copy, text)
            copy.with_name("._158.xml").write_bytes(b"\0\5\x16\7\0\2\0\0")

    _write_xray(folder / _lidc_place(layout, "LIDC-IDRI-0001", 9, uid("xray")))
    _write_text(folder / "metadata.csv", METADATA)

    return folder


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _lidc_place(layout: int, patient: str, scan: int, series: str) -> str:
    places = {
        1: f"LIDC-IDRI/{patient}/{uid(patient, scan)}/{series}",
        2: f"LIDC-IDRI/{patient}/01-01-2000-{scan}/3000566-{scan}",
        3: f"LIDC-IDRI/{patient}/01-01-2000-NA-NA-{scan}/3000566.000000-NA-{scan}",
        4: series,
    }
    return places[layout]


def _write_xray(place: Path) -> None:
    """Write a radiograph, a segmentation object, and the XML file of the radiograph's reading."""
    classes = ("1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.66.4")
    modalities = ("DX", "SEG")

    def edit(index: int, data: Any) -> None:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = classes[index]
        data.Modality = modalities[index]

    pixels = np.zeros((2, 8, 8), int)
    write_series(place, pixels, np.zeros((2, 3)), patient="LIDC-IDRI-0001", edit=edit)
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<IdriReadMessage xmlns="http://www.nih.gov/idri"><ResponseHeader>'
        f"<CTSeriesInstanceUid>{uid('LIDC-IDRI-0001', 1, 'ct')}</CTSeriesInstanceUid>"
        f"<CXRSeriesInstanceUid>{uid('xray')}</CXRSeriesInstanceUid>"
        "<Modality>CXR</Modality></ResponseHeader>"
        "<CXRreadingSession><unblindedRead/></CXRreadingSession></IdriReadMessage>\n"
    )
    _write_text(place / "070.xml", text)


def lidc_reader_masks() -> np.ndarray:
    """Return what each of the four readers took for nodule: (reader, slice, row, column).

    Slices go from foot to head.
    """
    slices, rows, columns = np.meshgrid(*map(np.arange, LIDC_SHAPE), indexing="ij")
    masks = np.zeros((4, *LIDC_SHAPE), bool)
    for (z, row, column), half, radii in LIDC_NODULES:
        squares = (rows - row) ** 2 + (columns - column) ** 2
        in_reach = np.abs(slices - z) <= half
        for reader, radius in enumerate(radii):
            masks[reader] |= (squares < radius**2) & in_reach

    row, column, radius = LIDC_HOLE
    hole = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    middle = LIDC_NODULES[0][0][0]
    masks[0] &= ~(hole & (slices == middle))

    return masks


def lidc_xml(series: str, heights_mm: np.ndarray) -> str:
    """Return the reading of :data:`LIDC_NODULES` as the collection writes it.

    Small nodules and stray points come with it.
    """
    sessions = [_session(series, heights_mm, reader) for reader in range(4)]

    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader>'
        "<TaskDescription>Second unblinded read</TaskDescription>"
        f"<SeriesInstanceUid>{series}</SeriesInstanceUid>"
        "<DateService>2008-08-18</DateService><TimeService>02:05:51</TimeService>"
        f"</ResponseHeader>{''.join(sessions)}</LidcReadMessage>\n"
    )


def _session(series: str, heights_mm: np.ndarray, reader: int) -> str:
    """Return what one reader drew."""
    nodules = []
    for number, ((z, row, column), half, radii) in enumerate(LIDC_NODULES):
        radius = radii[reader]
        if not radius:
            continue

        outline = _around(row, column, radius)
        rois = []
        for index in range(z + half, z - half - 1, -1):  # against the order of the slices
            rois.append(_roi(series, heights_mm, index, outline))
        if reader == 0 and number == 0:
            # The outline of a hole belongs to what is excluded, so it is the hole's own rim.
            rois.insert(0, _roi(series, heights_mm, z, _rim(*LIDC_HOLE), inclusion="FALSE"))
            rois.append(_roi(series, heights_mm, z, [(column + 1, row + 3)]))  # a stray mark
        nodules.append(
            f"<unblindedReadNodule><noduleID>Nodule {number}</noduleID>"
            f"<characteristics><subtlety>5</subtlety><malignancy>4</malignancy></characteristics>"
            f"{''.join(rois)}</unblindedReadNodule>"
        )

    small = _roi(series, heights_mm, 1, [(10, 30)])

    return (
        f"<readingSession><annotationVersion>3.12</annotationVersion>{''.join(nodules)}"
        f"<unblindedReadNodule><noduleID>small</noduleID>{small}</unblindedReadNodule>"
        f"<nonNodule><nonNoduleID>1</nonNoduleID></nonNodule></readingSession>"
    )


def _roi(
    series: str,
    heights_mm: np.ndarray,
    index: int,
    points: Sequence[tuple[int, int]],
    inclusion: str = "TRUE",
) -> str:
    edges = ""
    for x, y in points:
        edges += f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>"

    return (
        f"<roi><imageZposition>{heights_mm[index]:.6f} </imageZposition>"
        f"<imageSOP_UID>{uid(series, index)}</imageSOP_UID>"
        f"<inclusion>{inclusion}</inclusion>{edges}</roi>"
    )


def _around(row: int, column: int, radius: float) -> list[tuple[int, int]]:
    """Return the first pixels outside a disc, as closed outline of (column, row)."""
    return _ordered(row, column, radius, outside=True)


def _rim(row: int, column: int, radius: float) -> list[tuple[int, int]]:
    """Return the last pixels inside a disc."""
    return _ordered(row, column, radius, outside=False)


def _ordered(row: int, column: int, radius: float, outside: bool) -> list[tuple[int, int]]:
    from scipy import ndimage

    reach = int(radius) + 3
    places = np.arange(-reach, reach + 1)
    rows, columns = np.meshgrid(places, places, indexing="ij")
    disc = rows**2 + columns**2 < radius**2
    ring = disc & ~ndimage.binary_erosion(disc)
    if outside:
        ring = ndimage.binary_dilation(disc) & ~disc

    offsets = (np.argwhere(ring) - reach).tolist()
    offsets.sort(key=lambda offset: np.arctan2(offset[0], offset[1]))
    closed = [*offsets, offsets[0]]

    return [(column + x, row + y) for y, x in closed]


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
        _write_structure_set(study / "0.000000-NA-58228", patient)

        masks = {f"Thoracic_Cavities/{patient}/{patient}_thor_cav_primary_reviewer": cavity}
        effusions = f"Effusions/{patient}/{patient}_effusion"
        if patient != "LUNG1-010":
            masks[f"{effusions}_first_reviewer"] = effusion
        if patient == "LUNG1-008":
            softened = np.where(effusion, 0.98, 0.01)
            softened[np.nonzero(effusion)[0].min()] = 0
            masks[f"{effusions}_second_reviewer"] = softened

        affine_mm = np.eye(4)
        if patient != "LUNG1-005":
            affine_mm = _affine_against_rows(positions_mm, rows=hu.shape[1])
        for name, mask in masks.items():
            _write_against_rows(folder / f"{name}.nii.gz", mask, affine_mm)

    _write_text(folder / "metadata.csv", METADATA)

    return folder


def _write_structure_set(folder: Path, patient: str) -> None:
    """Write a file that is an RTSTRUCT by its header."""
    write_series(
        folder,
        np.zeros((1, 4, 4), int),
        np.zeros((1, 3)),
        patient=patient,
        series=uid(patient, "rtstruct"),
        modality="RTSTRUCT",
        edit=lambda _, data: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.481.3"),
    )


def _affine_against_rows(positions_mm: np.ndarray, rows: int) -> np.ndarray:
    """Return the affine of an array whose second axis runs against the rows of the CT."""
    slice_mm, row_mm, column_mm = NSCLC_SPACING_MM
    last_row_mm = positions_mm[0, 1] + row_mm * (rows - 1)
    affine_mm = np.diag([-column_mm, row_mm, slice_mm, 1.0])
    affine_mm[:3, 3] = (-positions_mm[0, 0], -last_row_mm, positions_mm[0, 2])

    return affine_mm


def _write_against_rows(path: Path, mask: np.ndarray, affine_mm: np.ndarray) -> None:
    """Write a mask (slice, row, column) whose rows are stored from the last to the first."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    array = mask[:, ::-1].transpose(2, 1, 0).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, affine_mm), path)


def effusion_chest(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a chest with fluid in the back of one lung.

    Returns:
        HU, cavity and effusion (slice, row, column), foot to head, and positions.
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
    first_mm = (-column_mm * (columns - 1) / 2, -row_mm * (rows - 1) / 2)
    positions_mm = np.array([(*first_mm, -300 + step_mm * index) for index in range(slices)])

    return hu, cavity[::-1], effusion[::-1], positions_mm


ICH_SIZE = 40
ICH_PIXEL_MM = 5.0
CT_ICH_FOLDER = (
    "computed-tomography-images-for-intracranial-hemorrhage-detection-and-segmentation-1.3.1"
)


def head(seed: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a head CT (slice, row, column) int16 in HU, foot to head, and its haemorrhages.

    Their values are BHSD's, 0..5.
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
        is_inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.03
        label[layer, is_inside] = value
    volume = hu + generator.normal(0, 5, label.shape) + 40 * (label > 0)

    return np.round(np.maximum(volume, -1000)).astype(np.int16), label


def ich_id(*parts: int | str) -> str:
    """Return an identifier as the challenge uses in place of UIDs."""
    digits = uid(*parts).rpartition(".")[2]
    return f"ID_{digits:0>9.9}"


def write_rsna(folder: Path, *, seed: int = 0) -> Path:
    """Write the challenge's folders and tables: four series, each with a trap.

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
            rows += _types_in(ids[index], label[index])

    rows += rows[1:7]  # four images of the real table occur twice
    _write_table(folder / "stage_2_train.csv", rows)
    submission = [("ID", "Label"), (f"{ich_id(3, 0)}_any", "0.5")]
    _write_table(folder / "stage_2_sample_submission.csv", submission)

    return folder


def _types_in(image: str, label: np.ndarray) -> list[tuple[str, str]]:
    """Return the rows of the table for one image."""
    rows = []
    for value, name in enumerate(ICH_TYPES, start=1):
        rows.append((f"{image}_{name}", str(int((label == value).any()))))
    rows.append((f"{image}_any", str(int(label.any()))))

    return rows


ICH_ABSENT_FIELDS = (
    *("InstanceNumber", "SliceThickness", "SeriesNumber"),
    *("FrameOfReferenceUID", "ImageType"),
)
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
        for name in ICH_ABSENT_FIELDS:
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
    lines = [f"{name},{value}\n" for name, value in rows]
    path.write_text("".join(lines), encoding="utf-8")


def write_bhsd(folder: Path, *, seed: int = 0) -> Path:
    """Write BHSD: ``label_192/images`` and ``label_192/ground truths``, two volumes."""
    for number in range(2):
        name = f"{ich_id('patient', number)}_{ich_id('study', number)}.nii.gz"
        hu, label = head(seed + number, 6)
        _write_pair(folder / "label_192", ("images", "ground truths"), name, hu, label)

    return folder


def write_ct_ich(folder: Path, *, seed: int = 0) -> Path:
    """Write PhysioNet's ct-ich: ``ct_scans`` and ``masks``; the second has no haemorrhage."""
    root = folder / CT_ICH_FOLDER
    for number, name in enumerate(("049", "066")):
        hu, label = head(seed + number, 6)
        mask = 255 * (label > 0) * (number == 0)
        _write_pair(root, ("ct_scans", "masks"), f"{name}.nii", hu, mask)
    _write_text(root / "Patient_demographics.csv", '"Patient\nNumber",Unnamed: 4\n49,\n')

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
    """Write a hospital's export: a chest CT with two nodules, its scout, and thick slices.

    Returns:
        The nodules (slice, row, column), foot to head, numbered 1 and 2.
    """
    slices, size = EXPORT_SHAPE
    hu, nodules, positions_mm = chest_series(seed, slices, size, EXPORT_SPACING_MM, nodules=2)
    series = (
        ("Topogram", "T20", "LOCALIZER", np.arange(1)),
        ("Thorax 5.0 I30f", "I30f", "AXIAL", np.arange(slices)),
        ("Thorax 10.0 I70f", "I70f", "AXIAL", np.arange(0, slices, 2)),
    )
    for number, (description, kernel, kind, chosen) in enumerate(series, start=1):
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
        data.PatientName = "Doe^John"
        data.PatientBirthDate = "19500101"
        data.PatientSex = "M"
        data.StudyDate = "20260102"
        data.StudyTime = "101500"
        data.AccessionNumber = "A1"
        data.SeriesDescription = description
        data.ConvolutionKernel = kernel
        data.SeriesNumber = number
        data.BodyPartExamined = "CHEST"
        data.ImageType = ["ORIGINAL", "PRIMARY", kind]

    return edit
