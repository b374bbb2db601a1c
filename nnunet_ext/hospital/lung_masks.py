"""``--lung-mask FOLDER``: lung masks that another program made, one file per study."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_ext.errors import InputError
from nnunet_ext.hospital.images import read_mask
from nnunet_ext.hospital.privacy import series_name
from nnunet_ext.hospital.survey import Case

ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")


def lung_mask_of(folder: Path, case: Case) -> np.ndarray:
    """Return the lungs of a case, boolean (x, y, z) on the grid of its first series.

    The file has the name of the case, the study or the series. Voxels other than 0 are lung.

    Raises:
        InputError: there is no such file, or more than one; it cannot be read, is empty, or is on
            another grid.
    """
    found = []
    for name in (case.name, case.study, series_name(case.reference)):
        for ending in ENDINGS:
            file = folder / f"{name}{ending}"
            if file.is_file():
                found.append(file)

    if not found:
        raise InputError("no file has the name of the case, the study or the series")
    if len(found) > 1:
        raise InputError("several files are of this study; keep one")

    lungs = read_mask(found[0], case) > 0
    if not lungs.any():
        raise InputError("the mask is empty")
    return lungs
