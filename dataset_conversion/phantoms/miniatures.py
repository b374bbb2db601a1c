"""The generated miniature of every public data set, in the layout of its download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dataset_conversion.phantoms import (
    effusion_download,
    haemorrhage_downloads,
    hospital_export,
    lidc_download,
    slice_downloads,
    volume_downloads,
)


def write_msd(folder: Path) -> None:
    """Write two tasks of the Medical Segmentation Decathlon: lung and brain."""
    slice_downloads.write_msd_lung(folder)
    slice_downloads.write_msd_brain(folder)


# By the name of the data set, or of the collection that RSNA-ICH reads as well.
MINIATURES: dict[str, Callable[[Path], object]] = {
    "BHSD": haemorrhage_downloads.write_bhsd,
    "COVID-19-20": volume_downloads.write_covid_19_20,
    "COVID-19-CT-Seg": volume_downloads.write_covid_19_ct_seg,
    "COVID-SemiSeg": slice_downloads.write_covid_semiseg,
    "CT-ICH": haemorrhage_downloads.write_ct_ich,
    "DICOM": hospital_export.write_export,
    "Generic": volume_downloads.write_generic,
    "LIDC-IDRI": lidc_download.write_lidc,
    "LiTS": volume_downloads.write_lits,
    "MSD": write_msd,
    "MosMed": volume_downloads.write_mosmed,
    "NSCLC-PleuralEffusion": effusion_download.write_nsclc,
    "RSNA-ICH": haemorrhage_downloads.write_rsna,
    "SIRM": volume_downloads.write_sirm,
    "Synthetic-COVID-CT": volume_downloads.write_synthetic,
}


def write_miniatures(folder: Path) -> list[Path]:
    """Write every miniature into a folder of its name below ``folder``; return those folders."""
    written = []
    for name, write in MINIATURES.items():
        place = folder / name
        place.mkdir(parents=True)
        write(place)
        written.append(place)

    return written
