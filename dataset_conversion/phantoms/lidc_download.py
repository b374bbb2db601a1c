"""A generated miniature of LIDC-IDRI in the layouts of its releases, with their traps.

Everything is computed, nothing comes from a patient. Equal arguments give equal files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from dataset_conversion.phantoms.dicom_series import chest_series, uid, write_series
from dataset_conversion.phantoms.small_files import METADATA, write_text

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
    slices, size, _ = LIDC_SHAPE
    pixel_mm = (LIDC_PIXEL_MM, LIDC_PIXEL_MM)
    has_six_digits = layout < 3
    has_own_folder = layout == 4
    for number, (patient, scan, xml_number) in enumerate(LIDC_SCANS):
        series = uid(patient, scan, "ct")
        spacing_mm = (LIDC_STEP_MM, *pixel_mm)
        hu, _, positions_mm = chest_series(seed + number, slices, size, spacing_mm)
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
            names="{:06d}.dcm".format if has_six_digits else "1-{:03d}.dcm".format,
        )

        heights_mm = positions_mm[:, 2]
        text = lidc_xml(series, heights_mm)
        xml_folder = folder / "tcia-lidc-xml/157" if has_own_folder else place
        write_text(xml_folder / f"{xml_number:03d}.xml", text)
        if number == 0:
            _write_second_copy(folder, text)

    xray = folder / _lidc_place(layout, "LIDC-IDRI-0001", 9, uid("xray"))
    _write_xray(xray)
    write_text(folder / "metadata.csv", METADATA)

    return folder


def _write_second_copy(folder: Path, text: str) -> None:
    """Write a reading once more, as in LIDC-XML-only.zip."""
    copy = folder / "LIDC-XML-only/tcia-lidc-xml/157/158.xml"
    write_text(copy, text)
    hidden = copy.with_name("._158.xml")
    hidden.write_bytes(b"\0\5\x16\7\0\2\0\0")


def _lidc_place(layout: int, patient: str, scan: int, series: str) -> str:
    study = uid(patient, scan)
    places = {
        1: f"LIDC-IDRI/{patient}/{study}/{series}",
        2: f"LIDC-IDRI/{patient}/01-01-2000-{scan}/3000566-{scan}",
        3: f"LIDC-IDRI/{patient}/01-01-2000-NA-NA-{scan}/3000566.000000-NA-{scan}",
        4: series,
    }
    return places[layout]


def _write_xray(place: Path) -> None:
    """Write a radiograph, a segmentation object, and the XML file of the radiograph's reading."""
    kinds = (("1.2.840.10008.5.1.4.1.1.1.1", "DX"), ("1.2.840.10008.5.1.4.1.1.66.4", "SEG"))

    def edit(index: int, data: Any) -> None:
        sop_class, modality = kinds[index]
        data.file_meta.MediaStorageSOPClassUID = sop_class
        data.SOPClassUID = sop_class
        data.Modality = modality

    pixels = np.zeros((2, 8, 8), int)
    positions_mm = np.zeros((2, 3))
    write_series(
        place,
        pixels,
        positions_mm,
        patient="LIDC-IDRI-0001",
        edit=edit,
    )
    ct = uid("LIDC-IDRI-0001", 1, "ct")
    xray = uid("xray")
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<IdriReadMessage xmlns="http://www.nih.gov/idri"><ResponseHeader>'
        f"<CTSeriesInstanceUid>{ct}</CTSeriesInstanceUid>"
        f"<CXRSeriesInstanceUid>{xray}</CXRSeriesInstanceUid>"
        "<Modality>CXR</Modality></ResponseHeader>"
        "<CXRreadingSession><unblindedRead/></CXRreadingSession></IdriReadMessage>\n"
    )
    write_text(place / "070.xml", text)


def lidc_reader_masks() -> np.ndarray:
    """Return what each of the four readers took for nodule: (reader, slice, row, column).

    Slices go from foot to head.
    """
    slices, rows, columns = np.indices(LIDC_SHAPE)
    masks = np.zeros((4, *LIDC_SHAPE), bool)
    for (z, row, column), half, radii in LIDC_NODULES:
        in_reach = np.abs(slices - z) <= half
        for reader, radius in enumerate(radii):
            in_disc = _disc(rows, columns, row, column, radius)
            masks[reader] |= in_disc & in_reach

    in_hole = _disc(rows, columns, *LIDC_HOLE)
    (middle, _, _), _, _ = LIDC_NODULES[0]
    in_middle_slice = slices == middle
    masks[0] &= ~(in_hole & in_middle_slice)

    return masks


def _disc(
    rows: np.ndarray, columns: np.ndarray, row: int, column: int, radius: float
) -> np.ndarray:
    """Return where pixels lie in a disc."""
    down = rows - row
    right = columns - column
    squares = down**2 + right**2

    return squares < radius**2


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
    nodules = ""
    for number in range(len(LIDC_NODULES)):
        nodules += _nodule(series, heights_mm, reader, number)
    small = _roi(series, heights_mm, 1, [(10, 30)])

    return (
        f"<readingSession><annotationVersion>3.12</annotationVersion>{nodules}"
        f"<unblindedReadNodule><noduleID>small</noduleID>{small}</unblindedReadNodule>"
        f"<nonNodule><nonNoduleID>1</nonNoduleID></nonNodule></readingSession>"
    )


def _nodule(series: str, heights_mm: np.ndarray, reader: int, number: int) -> str:
    """Return what one reader drew of one nodule; nothing if it was not marked."""
    (z, row, column), half, radii = LIDC_NODULES[number]
    radius = radii[reader]
    if not radius:
        return ""

    outline = _around(row, column, radius)
    rois = []
    for index in range(z + half, z - half - 1, -1):  # against the order of the slices
        rois.append(_roi(series, heights_mm, index, outline))

    if reader == 0 and number == 0:
        # The outline of a hole belongs to what is excluded, so it is the hole's own rim.
        hole = _roi(series, heights_mm, z, _rim(*LIDC_HOLE), inclusion="FALSE")
        stray_mark = _roi(series, heights_mm, z, [(column + 1, row + 3)])
        rois = [hole, *rois, stray_mark]

    return (
        f"<unblindedReadNodule><noduleID>Nodule {number}</noduleID>"
        f"<characteristics><subtlety>5</subtlety><malignancy>4</malignancy></characteristics>"
        f"{''.join(rois)}</unblindedReadNodule>"
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
    disc = _centred_disc(radius)
    ring = ndimage.binary_dilation(disc) & ~disc

    return _closed_outline(ring, row, column)


def _rim(row: int, column: int, radius: float) -> list[tuple[int, int]]:
    """Return the last pixels inside a disc, as closed outline of (column, row)."""
    disc = _centred_disc(radius)
    ring = disc & ~ndimage.binary_erosion(disc)

    return _closed_outline(ring, row, column)


def _centred_disc(radius: float) -> np.ndarray:
    """Return a disc in the middle of a square mask with a margin around it."""
    reach = int(radius) + 3
    side = 2 * reach + 1
    rows, columns = np.indices((side, side))

    return _disc(rows, columns, reach, reach, radius)


def _closed_outline(ring: np.ndarray, row: int, column: int) -> list[tuple[int, int]]:
    """Return the pixels of a ring around a place in their order, the first once more at the end."""
    reach = len(ring) // 2
    offsets = (np.argwhere(ring) - reach).tolist()
    offsets.sort(key=lambda offset: np.arctan2(offset[0], offset[1]))
    closed = [*offsets, offsets[0]]

    return [(column + right, row + down) for down, right in closed]
