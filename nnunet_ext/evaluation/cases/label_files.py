"""Label files on disk: finding, reading and comparing their grids."""

import gzip
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.errors import InputError
from nnunet_ext.files.declared_size import require_size, shape_in_header

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".bmp", ".tif", ".tiff")
_NIFTI = (".nii", ".nii.gz")
_WITHOUT_GEOMETRY = (".png", ".bmp", ".tif", ".tiff")
# What nnU-Net and this package write beside predictions.
_BY_PRODUCTS = (".json", ".npz", ".npy", ".pkl", ".b2nd", ".csv", ".md", ".txt")

# Writers round headers to float32, and a NIfTI rotation passes through a quaternion.
_GRID_TOLERANCE = {"spacing": 1e-4, "origin": 1e-2, "direction": 1e-4}  # mm, mm, cosines

_BMP_HEADER_BYTES = 54
_COMPLEX = "holds complex numbers; a label file holds whole numbers"
_NOT_FINITE = "holds NaN or infinite values, which are not labels; predict or save it again"


@dataclass(frozen=True)
class LabelMap:
    """Integer labels, array axes slowest first as in nnU-Net.

    ``geometry`` is None for formats that store none.
    """

    array: npt.NDArray[Any]
    geometry: dict[str, tuple[float, ...]] | None

    @property
    def spacing(self) -> tuple[float, ...]:
        """Per axis of the array in mm, or 1 (pixel) for formats that store none."""
        if self.geometry is None:
            return (1.0,) * self.array.ndim
        fastest_first = self.geometry["spacing"]
        return fastest_first[::-1]


def find_label_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the label files of a folder by case name, and the names of unknown further files.

    Raises:
        InputError: no such folder, no label file in it, or two files for one case.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    cases: dict[str, Path] = {}
    unknown: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir() or path.suffix in _BY_PRODUCTS:
            continue
        endings = [ending for ending in ENDINGS if path.name.endswith(ending)]
        if not endings:
            unknown.append(path.name)
            continue
        case = path.name.removesuffix(endings[0])
        if case in cases:
            raise InputError(
                f"{folder}: {cases[case].name} and {path.name} are the same case; remove one"
            )
        cases[case] = path
    if not cases:
        raise InputError(f"{folder}: no label files ({', '.join(ENDINGS)})")
    return cases, unknown


def read_label_file(path: Path) -> LabelMap:
    """Read one label file with SimpleITK, after proving that it is complete.

    Raises:
        InputError: the file is unreadable or truncated, has colours, is neither 2D nor 3D, or holds
            other values than integers >= 0.
    """
    import SimpleITK  # slow to import

    _guarded(path, lambda: _require_complete(path))
    _guarded(path, lambda: _require_numbers(path))
    header_shape(path)
    image = _guarded(path, lambda: SimpleITK.ReadImage(str(path)))
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{path}: {_COMPLEX}")

    array = SimpleITK.GetArrayFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    if components > 1:
        array = _single_channel(path, array, components)
    if array.ndim not in (2, 3):
        raise InputError(
            f"{path}: {array.ndim} dimensions; a label file is a picture or a volume, so split it"
        )
    if array.dtype.kind == "f":
        array = _whole_numbers(path, array)
    if array.min() < 0:
        raise InputError(f"{path}: negative value {array.min()}; labels are integers from 0")
    if path.name.endswith(_WITHOUT_GEOMETRY):
        return LabelMap(array, None)
    geometry = {
        "spacing": tuple(image.GetSpacing()),
        "origin": tuple(image.GetOrigin()),
        "direction": tuple(image.GetDirection()),
    }
    return LabelMap(array, geometry)


def _single_channel(path: Path, array: npt.NDArray[Any], components: int) -> npt.NDArray[Any]:
    """Return the grey values; grey BMP and many grey PNG arrive as RGB or RGBA."""
    if components > 4:
        raise InputError(f"{path}: {components} values per voxel; a label file has one")

    channels = np.moveaxis(array, -1, 0)
    if components == 4 and path.name.endswith(_WITHOUT_GEOMETRY):
        alpha = channels[-1]
        channels = channels[:-1]
        if (alpha != np.iinfo(array.dtype).max).any():
            raise InputError(
                f"{path}: has transparent pixels, whose label is not certain; save it without them"
            )

    grey: npt.NDArray[Any] = channels[0]
    for other in channels[1:]:
        if not np.array_equal(grey, other):
            raise InputError(f"{path}: a colour image; a label file has one channel")
    return grey


def _require_numbers(path: Path) -> None:
    """Refuse NIfTI values that SimpleITK 2.5 changes while reading: NaN becomes 0, for instance."""
    if not path.name.endswith(_NIFTI):
        return
    import nibabel

    image: Any = nibabel.load(path)
    kind = image.get_data_dtype().kind
    if kind == "c":
        raise InputError(f"{path}: {_COMPLEX}")
    if kind != "f":
        return

    values = np.asanyarray(image.dataobj)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: {_NOT_FINITE}")


def _whole_numbers(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not np.isfinite(array).all():
        raise InputError(f"{path}: {_NOT_FINITE}")
    fractions = array[array != np.rint(array)]
    if fractions.size:
        raise InputError(
            f"{path}: values that are not integers, such as {fractions[0]:.9g} (a soft map?); "
            f"evaluation needs labels"
        )
    return array.astype(np.int64)


def read_image_file(path: Path) -> npt.NDArray[Any]:
    """Return the grey values of an image file, axes slowest first.

    Those of a colour picture are the means over its channels.

    Raises:
        InputError: the file is unreadable or truncated, or neither 2D nor 3D.
    """
    import SimpleITK  # slow to import

    image_shape(path)
    image = _guarded(path, lambda: SimpleITK.ReadImage(str(path)))
    array = SimpleITK.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = array.mean(axis=-1)
    if array.ndim not in (2, 3):
        raise InputError(f"{path}: {array.ndim} dimensions; the gallery draws pictures and volumes")
    return array


def image_shape(path: Path) -> tuple[int, ...]:
    """Return the shape in an image file's header, axes slowest first, without colours.

    Raises:
        InputError: the file is unreadable or truncated.
    """
    _guarded(path, lambda: _require_complete(path))
    return header_shape(path)


def header_shape(path: Path) -> tuple[int, ...]:
    """As :func:`image_shape`, of a file that may be incomplete.

    Raises:
        InputError: no readable header, or one that declares more than the file can hold.
    """
    shape: tuple[int, ...] = _guarded(path, lambda: shape_in_header(path))
    return shape


def grid_difference(reference: LabelMap, prediction: LabelMap) -> str | None:
    """Return what differs between two grids in words, or None.

    Compared are the shape, then spacing, origin and direction.
    """
    if reference.array.shape != prediction.array.shape:
        return f"shape {prediction.array.shape}, reference {reference.array.shape}"
    if reference.geometry is None or prediction.geometry is None:
        return None
    for name, tolerance in _GRID_TOLERANCE.items():
        found = prediction.geometry[name]
        expected = reference.geometry[name]
        if not np.allclose(found, expected, rtol=0, atol=tolerance):
            return f"{name} {_rounded(found)}, reference {_rounded(expected)}"
    return None


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InputError:
        raise
    except Exception as error:  # readers raise anything for a broken file, even EOFError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path}: cannot be read, truncated or not an image ({lines[-1].strip()})"
        ) from error


def _require_complete(path: Path) -> None:
    """Refuse NIfTI and BMP files whose end is missing, which SimpleITK 2.5 reads all the same.

    A cut TIFF loses whole slices, which the comparison of shapes reveals. The readers of the other
    formats fail.
    """
    size = path.stat().st_size
    if path.name.endswith(_NIFTI):
        import nibabel

        image: Any = nibabel.load(path)
        voxels = math.prod(image.shape)
        data_bytes = voxels * image.get_data_dtype().itemsize
        expected = image.dataobj.offset + data_bytes
        if path.name.endswith(".gz"):
            require_size(path, expected, compressed=True)
            size = _unpacked_size(path, most=2 * expected)
    elif path.suffix == ".bmp":
        declared = int.from_bytes(path.read_bytes()[2:6], "little")
        expected = max(_BMP_HEADER_BYTES, declared)
    else:
        return
    if size < expected:
        raise InputError(f"{path}: truncated, {size} of {expected} bytes")


def _unpacked_size(path: Path, most: int) -> int:
    """Return the size behind the compression; nothing beyond ``most`` is read.

    Reading to the end also verifies the checksum.
    """
    size = 0
    with gzip.open(path) as stream:
        while size <= most:
            chunk = stream.read(1 << 20)
            if not chunk:
                break
            size += len(chunk)
    return size


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    numbers = map(float, values)
    return tuple(round(number, 4) for number in numbers)
