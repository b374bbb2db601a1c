"""Every voxel of a volume shows what lies at the place that the affine claims, by a phantom of
coordinates.
"""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.conversion_exactness import (
    PATIENTS,
    STEP_MM,
    Trap,
    read_outputs,
    traps,
    verdict,
    write_trap,
)
from dataset_conversion.datasets.rsna_ich import RsnaIch
from dataset_conversion.writing.conversion import convert
from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.series import acquisitions_of
from nnunet_ext.dicom.reading.volume import read_volume


def outputs_of(folder: Path, trap: Trap) -> list[tuple[str, np.ndarray, np.ndarray]]:
    write_trap(folder, trap)
    accepted, _ = acquisitions_of(scan(folder).slices)
    volumes = [
        [read_volume(item) for item in accepted if item.slices[0].patient_id == name]
        for name in PATIENTS
    ]
    return [
        (
            "",
            np.stack([volume.voxels for volume in alike]).astype(float),
            alike[0].grid.affine_ras_mm,
        )
        for alike in zip(*volumes, strict=True)
    ]


@pytest.mark.parametrize("trap", traps(), ids=lambda trap: trap.name)
def test_voxels_lie_at_their_true_place(tmp_path: Path, trap: Trap) -> None:
    assert verdict(trap, outputs_of(tmp_path, trap)) == (
        "right" if trap.scans else "refused, as it must"
    )


def test_converted_files_show_their_true_place(tmp_path: Path) -> None:
    trap = traps()[3]
    write_trap(tmp_path / "scans", trap)
    convert(RsnaIch(tmp_path / "scans", dimension="3d"), tmp_path / "Dataset900_RSNA")
    assert verdict(trap, read_outputs(tmp_path / "Dataset900_RSNA")) == "right"


def test_errors_are_found(tmp_path: Path) -> None:
    trap = traps()[0]
    ((ending, voxels, affine_mm),) = outputs_of(tmp_path, trap)
    shifted_mm = affine_mm.copy()
    shifted_mm[2, 3] += STEP_MM
    assert (
        verdict(trap, [(ending, voxels, shifted_mm)])
        == "**wrong**: 100% of voxels, by up to 2.5 mm, 4% of the scan outside"
    )
    assert verdict(trap, [(ending, voxels[:, ::-1], affine_mm)]).startswith("**wrong**")
    assert (
        verdict(trap, [(ending, voxels[..., :-1], affine_mm)])
        == "**wrong**: 4% of the scan outside"
    )
    assert verdict(traps()[-1], [(ending, voxels, affine_mm)]) == "**guessed**"
    assert verdict(traps()[-2], [(ending, voxels, affine_mm)]) == "**1 of 2 scans**"
