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
_WITHOUT_GEOMETRY = (".png", ".bmp", ".tif", ".tiff")
# What nnU-Net and this package write beside predictions.
_BY_PRODUCTS = (".json", ".npz", ".npy", ".pkl", ".b2nd", ".csv", ".md", ".txt")

# Writers round headers to float32, and a NIfTI rotation passes through a quaternion.
_GRID_TOLERANCE = {"spacing": 1e-4, "origin": 1e-2, "direction": 1e-4}  # mm, mm, cosines


@dataclass(frozen=True)
class LabelMap:
    """Integer labels, array axes slowest first as in nnU-Net; ``geometry`` is None for formats that
    store none.
    """

    array: npt.NDArray[Any]
    geometry: dict[str, tuple[float, ...]] | None

    @property
    def spacing(self) -> tuple[float, ...]:
        """Per axis of the array in mm; 1 for formats that store none, whose unit is then the
        pixel.
        """
        return self.geometry["spacing"][::-1] if self.geometry else (1.0,) * self.array.ndim


def find_label_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Label files of a folder by case name, and the names of further files that are no known
    by-products.

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
        ending = next((e for e in ENDINGS if path.name.endswith(e)), None)
        if ending is None:
            unknown.append(path.name)
            continue
        case = path.name.removesuffix(ending)
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
        raise InputError(f"{path}: holds complex numbers; a label file holds whole numbers")
    array = SimpleITK.GetArrayFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    if components > 4:
        raise InputError(f"{path}: {components} values per voxel; a label file has one")
    if components > 1:
        channels = np.moveaxis(array, -1, 0)
        has_alpha = components == 4 and path.name.endswith(_WITHOUT_GEOMETRY)
        if has_alpha and (channels[-1] != np.iinfo(array.dtype).max).any():
            raise InputError(
                f"{path}: has transparent pixels, whose label is not certain; save it without them"
            )
        array, *others = (
            channels[:-1] if has_alpha else channels
        )  # grey BMP and many grey PNG arrive as RGB or RGBA
        if not all(np.array_equal(array, other) for other in others):
            raise InputError(f"{path}: a colour image; a label file has one channel")
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
    names = {
        "spacing": image.GetSpacing(),
        "origin": image.GetOrigin(),
        "direction": image.GetDirection(),
    }
    return LabelMap(array, {name: tuple(values) for name, values in names.items()})


def _require_numbers(path: Path) -> None:
    """Refuse NIfTI values that SimpleITK 2.5 changes while it reads them: NaN becomes 0, for
    instance.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return
    import nibabel

    image: Any = nibabel.load(path)
    kind = image.get_data_dtype().kind
    if kind == "c":
        raise InputError(f"{path}: holds complex numbers; a label file holds whole numbers")
    if kind == "f" and not np.isfinite(np.asanyarray(image.dataobj)).all():
        raise InputError(
            f"{path}: holds NaN or infinite values, which are no labels; predict or save it again"
        )


def _whole_numbers(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not np.isfinite(array).all():
        raise InputError(
            f"{path}: holds NaN or infinite values, which are no labels; predict or save it again"
        )
    fractions = array[array != np.rint(array)]
    if fractions.size:
        raise InputError(
            f"{path}: values that are no integers, such as {fractions[0]:.9g} (a soft map?); "
            f"evaluation needs labels"
        )
    return array.astype(np.int64)


def read_image_file(path: Path) -> npt.NDArray[Any]:
    """Grey values of an image file, axes slowest first; of a colour picture the mean over its
    channels.

    Raises:
        InputError: the file is unreadable or truncated, or neither 2D nor 3D.
    """
    import SimpleITK  # slow to import

    image_shape(path)
    image = _guarded(path, lambda: SimpleITK.ReadImage(str(path)))
    array = SimpleITK.GetArrayFromImage(image)
    array = array.mean(axis=-1) if image.GetNumberOfComponentsPerPixel() > 1 else array
    if array.ndim not in (2, 3):
        raise InputError(f"{path}: {array.ndim} dimensions; the gallery draws pictures and volumes")
    return array


def image_shape(path: Path) -> tuple[int, ...]:
    """Of an image file by its header, axes slowest first, without a picture's colours.

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
    """Say in words what differs between two grids (shape, then spacing, origin, direction), or
    None.
    """
    if reference.array.shape != prediction.array.shape:
        return f"shape {prediction.array.shape}, reference {reference.array.shape}"
    if reference.geometry is None or prediction.geometry is None:
        return None
    for name, tolerance in _GRID_TOLERANCE.items():
        found, expected = prediction.geometry[name], reference.geometry[name]
        if not np.allclose(found, expected, rtol=0, atol=tolerance):
            return f"{name} {_rounded(found)}, reference {_rounded(expected)}"
    return None


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InputError:
        raise
    except (
        Exception
    ) as error:  # readers raise anything from EOFError to RuntimeError for a broken file
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise InputError(
            f"{path}: cannot be read, truncated or no image ({reason[0].strip()})"
        ) from error


def _require_complete(path: Path) -> None:
    """Refuse files that SimpleITK 2.5 reads without complaint although their end is missing (NIfTI,
    BMP).

    A cut TIFF loses whole slices, which the comparison of shapes reveals; the other formats fail in
    their reader.
    """
    size = path.stat().st_size
    if path.name.endswith((".nii", ".nii.gz")):
        import nibabel

        image: Any = nibabel.load(path)
        expected = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
        if path.name.endswith(".gz"):
            require_size(path, expected, compressed=True)
            size = _unpacked_size(path, most=2 * expected)
    elif path.suffix == ".bmp":
        expected = max(
            54, int.from_bytes(path.read_bytes()[2:6], "little")
        )  # 54: the header itself
    else:
        return
    if size < expected:
        raise InputError(f"{path}: truncated, {size} of {expected} bytes")


def _unpacked_size(path: Path, most: int) -> int:
    """Size behind the compression; reading to the end also verifies the checksum. Beyond ``most``
    it is not read.
    """
    size = 0
    with gzip.open(path) as stream:
        while size <= most and (chunk := stream.read(1 << 20)):
            size += len(chunk)
    return size


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)
