"""Where each tool puts the voxels of odd DICOM series.

At their true place, elsewhere, or nowhere because it refuses.

The phantom knows its own coordinates: three series of one geometry hold the x, the y and the z
coordinate of every pixel as grey value. A voxel of the written NIfTI thus shows a position, and its
affine claims one; the distance between the two is the error. Only voxels inside the scan count, and
every pixel of the scan must lie in the volume. Coordinates are linear, so correct interpolation
between slices makes no error.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conversion_dicom import ours
from benchmarks.process_cost import OURS, environment

ROWS, COLUMNS = 40, 48
SPACING_MM = (1.25, 1.0)  # between rows, between columns
SLICES, STEP_MM = 24, 2.5
HU_PER_MM = 20.0
SECOND_SCAN_HU = 100.0
TOLERANCE_MM = 0.2  # two roundings to whole HU, in three coordinates
# pixels of each slice whose voxels are not looked at: tools fill differently where nothing was
# scanned
RIM = 3
PATIENTS = (
    "ID_00000a",
    "ID_00000b",
    "ID_00000c",
)  # of the x, y and z coordinate; called as RSNA-ICH calls them
DICOM2NIFTI = """
import sys
from pathlib import Path
import dicom2nifti
for folder in sorted(Path(sys.argv[1]).iterdir()):
    output = f"{sys.argv[2]}/{folder.name}.nii.gz"
    dicom2nifti.dicom_series_to_nifti(str(folder), output, reorient_nifti=False)
"""


@dataclass(frozen=True)
class Trap:
    """A kind of series.

    ``along_mm`` are the places of the slices as they are stored; a tilted gantry turns them by
    ``tilt_degrees`` about the x axis. ``offsets_hu`` are added to the slices. ``scans`` are the
    offsets of the volumes that a right tool writes: none where it must refuse, because any answer
    would be a guess.
    """

    name: str
    along_mm: np.ndarray
    tilt_degrees: float = 0.0
    offsets_hu: np.ndarray | None = None
    order: Sequence[int] | None = None
    edit: Callable[[int, Any], None] | None = None
    scans: tuple[float, ...] = (0.0,)

    @property
    def orientation(self) -> tuple[float, ...]:
        angle = np.radians(self.tilt_degrees)
        return (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle)))

    @property
    def axes_mm(self) -> np.ndarray:
        """Return the steps along the axes in mm, as columns of a (3, 3) matrix.

        They lead to the next column, to the next row, and 1 mm along the table.
        """
        column_mm, row_mm = np.reshape(self.orientation, (2, 3)) * np.array(
            [[SPACING_MM[1]], [SPACING_MM[0]]]
        )
        return np.stack([column_mm, row_mm, [0.0, 0.0, 1.0]], axis=1)

    @property
    def first_mm(self) -> np.ndarray:
        """(3,), the first pixel of the first slice."""
        sizes_mm = (
            SPACING_MM[1] * (COLUMNS - 1),
            SPACING_MM[0] * (ROWS - 1),
            STEP_MM * (SLICES - 1),
        )
        return -np.array(sizes_mm) / 2

    @property
    def positions_mm(self) -> np.ndarray:
        """(n, 3), first pixel of each slice."""
        return self.first_mm + self.along_mm[:, None] * np.array([0.0, 0.0, 1.0])

    @property
    def pixels_mm(self) -> np.ndarray:
        """(n, row, column, 3), where the pixels lie."""
        rows, columns = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
        in_plane_mm = np.stack([columns, rows], axis=-1) @ self.axes_mm[:, :2].T
        return self.positions_mm[:, None, None] + in_plane_mm

    def is_inside(self, places_mm: np.ndarray) -> np.ndarray:
        """Mask (m,) of the places (m, 3) that lie between the scan's slices, without their rim."""
        column, row, along_mm = np.linalg.inv(self.axes_mm) @ (places_mm - self.first_mm).T
        inside = (
            (column >= RIM) & (column <= COLUMNS - 1 - RIM) & (row >= RIM) & (row <= ROWS - 1 - RIM)
        )
        return (
            inside
            & (along_mm >= self.along_mm.min() - 1e-3)
            & (along_mm <= self.along_mm.max() + 1e-3)
        )


def traps() -> list[Trap]:
    """All kinds, the ordinary one first."""
    regular = STEP_MM * np.arange(SLICES)
    shuffled = np.random.default_rng(44).permutation(SLICES).tolist()
    doubled = np.insert(regular, 10, regular[10])
    second = np.repeat([0.0, SECOND_SCAN_HU], SLICES)

    def own_rescale(index: int, data: Any) -> None:
        """Return stored values of a scanner that spreads each slice over its bits.

        They mean the same HU.
        """
        stored = np.frombuffer(data.PixelData, "<u2").astype(int) + int(data.RescaleIntercept)
        slope, intercept = 1 + index % 2, -1200 - 60 * (index % 3)
        data.RescaleSlope, data.RescaleIntercept = str(slope), str(intercept)
        data.PixelData = np.round((stored - intercept) / slope).astype("<u2").tobytes()

    def two_scans(index: int, data: Any) -> None:
        data.AcquisitionNumber = 1 + index // SLICES

    return [
        Trap("regular", regular),
        Trap("files and InstanceNumber in no order", regular, order=shuffled),
        Trap("slope and intercept differ by slice", regular, edit=own_rescale),
        Trap("gantry tilted by 15 degrees", regular, tilt_degrees=15.0),
        Trap("gantry tilted by -15 degrees", regular, tilt_degrees=-15.0),
        Trap("two slices missing", np.delete(regular, [9, 10])),
        Trap("one slice stored twice", doubled),
        Trap(
            "uneven steps (2, 2.5, 3.5 mm)", np.cumsum(np.tile([2.0, 2.5, 3.5], SLICES // 3)) - 2.0
        ),
        Trap(
            "two scans in one series, AcquisitionNumber differs",
            np.tile(regular, 2),
            offsets_hu=second,
            edit=two_scans,
            scans=(0.0, SECOND_SCAN_HU),
        ),
        Trap(
            "two different slices at one position, nothing tells which belongs",
            doubled,
            offsets_hu=SECOND_SCAN_HU * (np.arange(SLICES + 1) == 11),
            scans=(),
        ),
    ]


def write_trap(folder: Path, trap: Trap) -> None:
    """Write its three series, one per coordinate; 12-bit pixels, as scanners write them."""
    from dataset_conversion.phantoms.dicom_series import write_series

    def edit(index: int, data: Any) -> None:
        data.BitsStored, data.HighBit, data.PatientPosition = 12, 11, "HFS"
        if trap.edit:
            trap.edit(index, data)

    offsets_hu = np.zeros(len(trap.along_mm)) if trap.offsets_hu is None else trap.offsets_hu
    for axis, name in enumerate(PATIENTS):
        hu = np.round(HU_PER_MM * trap.pixels_mm[..., axis] + offsets_hu[:, None, None]).astype(int)
        write_series(
            folder / name,
            hu,
            trap.positions_mm,
            orientation=trap.orientation,
            spacing_mm=SPACING_MM,
            patient=name,
            order=trap.order,
            edit=edit,
        )


def verdict(trap: Trap, outputs: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> str:
    """What a tool made of a trap, in words.

    Args:
        trap: the series.
        outputs: ending of the file name, voxels (3, x, y, z) of the three coordinates in HU, affine
            (4, 4) RAS.
    """
    if not outputs:
        return "refused" if trap.scans else "refused, as it must"
    if not trap.scans:
        return "**guessed**"
    found, words = set(), []
    for ending, voxels, affine_mm in outputs:
        judged = {scan: _judge(trap, voxels - scan, affine_mm) for scan in trap.scans}
        right = [scan for scan, fault in judged.items() if not fault]
        found.update(right)
        words.append(f"{ending}{'right' if right else '**wrong**: ' + next(iter(judged.values()))}")
    if set(words) == {"right"}:
        return (
            "right" if found == set(trap.scans) else f"**{len(found)} of {len(trap.scans)} scans**"
        )
    return "; ".join(dict.fromkeys(words))


def _judge(trap: Trap, voxels: np.ndarray, affine_mm: np.ndarray) -> str:
    """What is wrong with a volume; empty if nothing is."""
    shape = voxels.shape[1:]
    indices = np.indices(shape).reshape(3, -1)
    claimed_mm = (affine_mm[:3, :3] @ indices + affine_mm[:3, 3:]).T * np.array(
        [-1.0, -1.0, 1.0]
    )  # to DICOM's LPS
    inside = trap.is_inside(claimed_mm)
    errors_mm = np.linalg.norm(
        voxels.reshape(3, -1).T[inside] / HU_PER_MM - claimed_mm[inside], axis=1
    )
    pixels_ras_mm = trap.pixels_mm.reshape(-1, 3) * np.array([-1.0, -1.0, 1.0])
    places = (pixels_ras_mm - affine_mm[:3, 3]) @ np.linalg.inv(affine_mm[:3, :3]).T
    outside = ((places < -0.6) | (places > np.array(shape) - 0.4)).any(axis=1).mean()
    faults = []
    if (errors_mm > TOLERANCE_MM).any():
        faults.append(
            f"{(errors_mm > TOLERANCE_MM).mean():.0%} of voxels, by up to {errors_mm.max():.1f} mm"
        )
    if outside:
        faults.append(f"{outside:.0%} of the scan outside")
    return ", ".join(faults)


def read_outputs(folder: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Volumes in a folder, as :func:`verdict` takes them; the parts of a 4-D file one by one."""
    import nibabel

    files = [sorted(folder.rglob(f"{name}[._]*nii.gz")) for name in PATIENTS]
    outputs = []
    for alike in zip(*files, strict=True):
        volumes = [nibabel.load(file) for file in alike]
        arrays = np.stack([np.asarray(volume.dataobj, np.float64) for volume in volumes])
        word = alike[0].name.removesuffix(".nii.gz").removeprefix(f"{PATIENTS[0]}_")
        ending = (
            f"`_{word}` " if word in ("Tilt_1", "Eq_1", "Tilt_Eq_1") else ""
        )  # what dcm2niix adds
        parts = np.moveaxis(arrays, 4, 0) if arrays.ndim == 5 else arrays[None]
        outputs += [(ending, part, volumes[0].affine) for part in parts]
    return outputs


def compare(
    scratch: Path, convert: Path, dcm2niix: str | None, dicom2nifti: str | None
) -> list[dict[str, str]]:
    """Rows of the table; arguments as in :func:`benchmarks.conversion_dicom.compare`."""
    script = scratch / "exact_dicom2nifti.py"
    script.write_text(DICOM2NIFTI)
    rows = []
    for number, trap in enumerate(traps()):
        folder = scratch / f"trap{number}"
        write_trap(folder, trap)
        outs = {tool: scratch / f"out{number}-{tool}" for tool in (OURS, "dcm2niix", "dicom2nifti")}
        commands: dict[str, list[Any]] = {OURS: ours(convert, folder, 1)}
        if dcm2niix:
            commands["dcm2niix"] = [
                dcm2niix,
                "-z",
                "i",
                "-b",
                "n",
                "-f",
                "%i",
                "-o",
                outs["dcm2niix"],
                folder,
            ]
        if dicom2nifti:
            commands["dicom2nifti"] = [dicom2nifti, script, folder, outs["dicom2nifti"]]
        row = {"series": trap.name}
        for tool, command in commands.items():
            outs[tool].mkdir()
            # Refusing is an answer, so a failure is none.
            subprocess.run(
                list(map(str, command)),
                env=environment(outs[tool]),
                capture_output=True,
                check=False,
            )
            row[tool] = verdict(trap, read_outputs(outs[tool]))
        rows.append(row)
    return rows
