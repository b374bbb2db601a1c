"""What the converters of DICOM collections share: finding series in a download, and reading one
again as a case.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dataset_conversion.converter import Case, Converter, Found, Reading
from nnunet_ext.errors import InputError
from nnunet_ext.keyed_names import keyed_name

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.folder_scan import Scan
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.series import Acquisition, Rejected, Rules
    from nnunet_ext.dicom.reading.volume import Volume

SCAN_PROCESSES = 2
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_SHARED: ContextVar[Scan | None] = ContextVar("shared", default=None)


def headers_below(folder: Path, cache: Path | None = None) -> Scan:
    """Headers of all DICOM files of a folder.

    Raises:
        InputError: no folder, or packages are missing.
    """
    if (
        importlib.util.find_spec("pydicom") is None
    ):  # imported only where it is needed: that takes a while
        raise InputError("reading DICOM needs further packages; pip install 'nnunetv2-ext[dicom]'")
    from nnunet_ext.dicom.reading.folder_scan import scan

    return scan(folder, processes=SCAN_PROCESSES, cache=cache)


@contextmanager
def sharing(scan: Scan | None) -> Iterator[None]:
    """Give these headers to every converter within, so that a folder is not read once for each."""
    token = _SHARED.set(scan)
    try:
        yield
    finally:
        _SHARED.reset(token)


@dataclass(frozen=True)
class DicomConverter(Converter):
    """A collection of DICOM files in folders of any names; headers decide what belongs together."""

    cache: Path | None = None

    published_id: ClassVar[str]
    """Pattern of the publisher's identifiers; any other may be a hospital's own and leaves only as
    a keyed hash.
    """

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--cache",
            type=Path,
            metavar="FILE",
            help="keep the headers of the scan in this file, outside the download; a second run "
            "then reads them there",
        )

    @property
    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in super().settings.items() if name != "cache"}

    def scan(self, found: Found) -> Scan:
        """Headers of all DICOM files; damaged files become problems.

        Raises:
            InputError: no folder, or one without DICOM files.
        """
        content = _SHARED.get() or headers_below(self.source, self.cache)
        if not content.slices and not content.damaged:
            raise InputError(
                f"{self.source}: holds no DICOM file; -i names the unpacked download of "
                f"{self.download}"
            )
        found.problems.extend(content.damaged.values())
        return content

    def public(self, identifier: str, kind: str) -> str:
        """A patient's or study's identifier where it is the publisher's; else its name under the
        user's own key.
        """
        if not identifier or self._is_published(identifier):
            return identifier
        return keyed_name(kind, identifier)

    def _is_published(self, identifier: str) -> bool:
        return re.fullmatch(self.published_id, identifier, re.IGNORECASE) is not None

    def is_private(self, case: Case) -> bool:
        """Whether the patient's identifier is none of the publisher's."""
        return "series_uid" in case.details and not self._is_published(case.details["patient"])

    def series_name(self, first: Slice) -> str:
        """The UID of a series, or its name under the user's own key where the patient is none of
        the publisher's.
        """
        return (
            first.series_uid
            if self._is_published(first.patient_id)
            else keyed_name("series", first.series_uid)
        )

    def details_of(self, acquisition: Acquisition) -> dict[str, str]:
        """What conversion.csv says of a series."""
        first = acquisition.slices[0]
        return {
            "patient": self.public(first.patient_id, "patient"),
            "series_uid": self.series_name(first),
            "acquisition": str(acquisition.index),
            "series_remarks": ", ".join(acquisition.remarks),
        }

    def recognises(self, slices: Sequence[Slice]) -> bool:
        """Whether the folder looks like this collection; any other DICOM files can be converted as
        well.
        """
        return any(
            re.fullmatch(self.published_id, patient)
            for patient in {item.patient_id for item in slices}
        )

    @property
    def rules(self) -> Rules:
        """Which series are taken."""
        from nnunet_ext.dicom.reading.series import Rules

        return Rules()

    def read_volume(self, case: Case) -> Volume:
        """The volume of a case made by :meth:`details_of` and :func:`files_of`."""
        from nnunet_ext.dicom.reading.headers import read_headers
        from nnunet_ext.dicom.reading.volume import acquisition_in, read_volume

        slices = [item for file in case.image_files for item in read_headers(file)]
        try:
            return read_volume(acquisition_in(slices, self.rules, int(case.details["acquisition"])))
        except InputError as error:
            named = any(str(file) in str(error) for file in case.image_files)
            raise InputError(
                str(error) if named else f"{case.image_files[0].parent}: {error}"
            ) from error


def without_damaged(
    acquisitions: Sequence[Acquisition],
    content: Scan,
    found: Found,
    *,
    shared_folders: bool = False,
) -> list[Acquisition]:
    """Scans without those that may lack a slice because a file beside theirs is damaged.

    Args:
        acquisitions: to choose from.
        content: names the damaged files.
        found: receives what was left out.
        shared_folders: a folder may hold many scans; there a damaged file leaves out none, and a
            note says so.
    """
    damaged = {Path(file).parent for file in content.damaged}
    folders_of = [
        {Path(item.path).parent for item in acquisition.slices} for acquisition in acquisitions
    ]
    scans = Counter(folder for folders in folders_of for folder in folders)
    spared = {folder for folder in damaged if shared_folders and scans[folder] > 1}
    for folder in sorted(spared):
        found.notes.append(
            f"{folder}: holds damaged files; each of its {scans[folder]} series may lack a slice; "
            f"mend them, run again"
        )
    whole = []
    for acquisition, folders in zip(acquisitions, folders_of, strict=True):
        if broken := folders & (damaged - spared):
            found.problems.append(
                f"{min(broken)}: series left out: a file in this folder is damaged"
            )
        else:
            whole.append(acquisition)
    return whole


def report_rejected(rejected: Iterable[Rejected], found: Found) -> None:
    """Scans that cannot be used become problems, a line each; what never was a scan one note per
    reason.
    """
    series: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for item in rejected:
        if item.defect:
            folder = Path(item.slices[0].path).parent
            found.problems.append(
                f"{folder}: series of {len(item.slices)} images left out: {item.reason}"
            )
        else:
            series[item.reason] += 1
            files[item.reason] += len(item.slices)
    for reason in sorted(series):
        found.notes.append(f"{series[reason]} series left out ({files[reason]} images): {reason}")


def image_name(path: str) -> str:
    """Name of a file without an ending; what follows the last dot of a UID is none.

    >>> image_name("a/ID_1.dcm"), image_name("a/CT.1.2.840.17")
    ('ID_1', 'CT.1.2.840.17')
    """
    file = Path(path)
    return file.stem if file.suffix.lower() in DICOM_ENDINGS else file.name


def files_of(acquisition: Acquisition) -> tuple[Path, ...]:
    """Files of an acquisition, each once."""
    return tuple(dict.fromkeys(Path(item.path) for item in acquisition.slices))


def image_of(volume: Volume) -> Reading:
    """Return what a case without labels reads as."""
    return Reading(
        volume.voxels[None],
        None,
        volume.unit,
        volume.grid.affine_ras_mm,
        transforms=volume.transforms,
        warnings=volume.warnings,
    )
