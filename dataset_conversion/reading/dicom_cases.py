"""What the converters of DICOM collections share: finding series, and reading one as a case."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dataset_conversion.converter import Converter, Inventory, LoadedCase, Part, SourceCase
from nnunet_ext.errors import InputError, naming
from nnunet_ext.keyed_names import keyed_name
from nnunet_ext.printable import counted

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.folder_scan import Scan
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.series import Acquisition, Rejected, Rules
    from nnunet_ext.dicom.reading.volume import Volume

SCAN_PROCESSES = 2
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_SHARED: ContextVar[Scan | None] = ContextVar("shared", default=None)


@dataclass(frozen=True, kw_only=True)
class DicomCase(SourceCase):
    """A case of DICOM files; ``is_private`` where its patient is not one of the publisher's."""

    is_private: bool


@dataclass(frozen=True, kw_only=True)
class SeriesCase(DicomCase):
    """A case that is a whole series; ``acquisition`` has the headers of its slices, in order."""

    acquisition: Acquisition


def headers_below(folder: Path) -> Scan:
    """Return the headers of all DICOM files of a folder.

    Raises:
        InputError: there is no such folder, or packages are missing.
    """
    # pydicom is imported only where it is needed, because that takes a while.
    if importlib.util.find_spec("pydicom") is None:
        raise InputError("reading DICOM needs further packages; pip install 'nnunetv2-ext[dicom]'")

    from nnunet_ext.dicom.reading.folder_scan import scan

    return scan(folder, processes=SCAN_PROCESSES)


@contextmanager
def sharing(scan: Scan | None) -> Iterator[None]:
    """Give these headers to every converter within, so that a folder is read only once."""
    token = _SHARED.set(scan)
    try:
        yield
    finally:
        _SHARED.reset(token)


@dataclass(frozen=True)
class DicomConverter(Converter):
    """A collection of DICOM files in folders of any names; headers decide what belongs together."""

    published_id: ClassVar[str]
    """Pattern of the publisher's identifiers.

    Any other may be a hospital's own, and leaves only as a keyed hash.
    """

    def scan(self, found: Inventory) -> Scan:
        """Return the headers of all DICOM files; damaged files become problems.

        Raises:
            InputError: there is no such folder, or it holds no DICOM file.
        """
        content = _SHARED.get() or headers_below(self.source)
        if not content.slices and not content.damaged:
            raise InputError(
                f"{self.source}: holds no DICOM file; -i names the unpacked download of "
                f"{self.download}"
            )

        found.problems.extend(content.damaged.values())

        return content

    def usable_series(
        self,
        content: Scan,
        found: Inventory,
        slices: Sequence[Slice] | None = None,
        *,
        shared_folders: bool = False,
    ) -> list[Acquisition]:
        """Return the series that :attr:`rules` take, and report the others.

        Args:
            content: of the download.
            found: receives what was left out.
            slices: those of ``content`` to look at; None: all.
            shared_folders: see :func:`without_damaged`.
        """
        from nnunet_ext.dicom.reading.series import acquisitions_of

        chosen = content.slices if slices is None else slices
        accepted, rejected = acquisitions_of(chosen, self.rules)
        usable = without_damaged(accepted, content, found, shared_folders=shared_folders)
        report_rejected(rejected, found)

        return usable

    def public(self, identifier: str, kind: str) -> str:
        """Return a patient's or study's identifier if it is the publisher's.

        Any other becomes its name under the user's own key.
        """
        if not identifier or self._is_published(identifier):
            return identifier

        return keyed_name(kind, identifier)

    def _is_published(self, identifier: str) -> bool:
        return re.fullmatch(self.published_id, identifier, re.IGNORECASE) is not None

    def is_private(self, case: SourceCase) -> bool:
        """Whether the patient's identifier is not one of the publisher's."""
        return isinstance(case, DicomCase) and case.is_private

    def has_private_patient(self, first: Slice) -> bool:
        """Whether the patient of a slice is not one of the publisher's."""
        return not self._is_published(first.patient_id)

    def series_name(self, first: Slice) -> str:
        """Return the UID of a series, or its name under the user's own key.

        The latter holds where the patient is not one of the publisher's.
        """
        if self._is_published(first.patient_id):
            return first.series_uid

        return keyed_name("series", first.series_uid)

    def series_case(
        self,
        name: str,
        acquisition: Acquisition,
        label_files: Sequence[Path],
        part: Part = "Tr",
        **details: str,
    ) -> SeriesCase:
        """Return a series as a case.

        Args:
            name: id of the case.
            acquisition: the series.
            label_files: files with its label, if any.
            part: of the data set.
            details: further columns of conversion.csv.
        """
        first = acquisition.slices[0]
        columns = {
            "patient": self.public(first.patient_id, "patient"),
            "series_uid": self.series_name(first),
            "acquisition": str(acquisition.index),
            "series_remarks": ", ".join(acquisition.remarks),
            **details,
        }

        return SeriesCase(
            name,
            part,
            files_of(acquisition),
            tuple(label_files),
            columns,
            is_private=self.has_private_patient(first),
            acquisition=acquisition,
        )

    def recognises(self, slices: Sequence[Slice]) -> bool:
        """Whether the folder looks like this collection.

        Any other DICOM files can be converted as well.
        """
        patients = {item.patient_id for item in slices}

        return any(re.fullmatch(self.published_id, patient) for patient in patients)

    @property
    def rules(self) -> Rules:
        """Which series are taken."""
        from nnunet_ext.dicom.reading.series import Rules

        return Rules()


def volume_of(case: SourceCase) -> Volume:
    """Read the volume of a case that is a series.

    Raises:
        InputError: a slice cannot be read; the message names a file or the folder.
    """
    from nnunet_ext.dicom.reading.volume import read_volume

    assert isinstance(case, SeriesCase)
    folder = case.image_files[0].parent
    with naming(folder, *case.image_files):
        return read_volume(case.acquisition)


def without_damaged(
    acquisitions: Sequence[Acquisition],
    content: Scan,
    found: Inventory,
    *,
    shared_folders: bool = False,
) -> list[Acquisition]:
    """Return the series without those that may lack a slice, because a file beside is damaged.

    Args:
        acquisitions: to choose from.
        content: names the damaged files.
        found: receives what was left out.
        shared_folders: a folder may hold many series; there a damaged file leaves out none, and a
            note says so.
    """
    damaged = {Path(file).parent for file in content.damaged}
    folders_of = [_folders_of(acquisition) for acquisition in acquisitions]
    series_in: Counter[Path] = Counter()
    for folders in folders_of:
        series_in.update(folders)

    spared = set()
    if shared_folders:
        spared = {folder for folder in damaged if series_in[folder] > 1}
    for folder in sorted(spared):
        found.notes.append(
            f"{folder}: holds damaged files; each of its {series_in[folder]} series may lack a "
            f"slice; fix them, run again"
        )

    whole = []
    for acquisition, folders in zip(acquisitions, folders_of, strict=True):
        broken = folders & (damaged - spared)
        if broken:
            found.problems.append(
                f"{min(broken)}: series left out: a file in this folder is damaged"
            )
        else:
            whole.append(acquisition)

    return whole


def _folders_of(acquisition: Acquisition) -> set[Path]:
    return {Path(item.path).parent for item in acquisition.slices}


def report_rejected(rejected: Iterable[Rejected], found: Inventory) -> None:
    """Report the series that are not taken.

    A series that cannot be used becomes a problem, a line each. What never was a series of images
    becomes one note per reason.
    """
    series: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for item in rejected:
        count = len(item.slices)
        if item.defect:
            folder = Path(item.slices[0].path).parent
            found.problems.append(
                f"{folder}: series left out ({counted(count, 'image')}): {item.reason}"
            )
        else:
            series[item.reason] += 1
            images[item.reason] += count

    for reason in sorted(series):
        found.notes.append(
            f"{series[reason]} series left out ({counted(images[reason], 'image')}): {reason}"
        )


def image_name(path: str) -> str:
    """Return the name of a file without its ending; what follows the last dot of a UID is not one.

    >>> image_name("a/ID_1.dcm"), image_name("a/CT.1.2.840.17")
    ('ID_1', 'CT.1.2.840.17')
    """
    file = Path(path)
    return file.stem if file.suffix.lower() in DICOM_ENDINGS else file.name


def files_of(acquisition: Acquisition) -> tuple[Path, ...]:
    """Return the files of an acquisition, each once."""
    paths = dict.fromkeys(item.path for item in acquisition.slices)
    return tuple(map(Path, paths))


def image_of(volume: Volume) -> LoadedCase:
    """Return what a case without labels is read as."""
    return LoadedCase(
        volume.voxels[None],
        None,
        volume.unit,
        volume.grid.affine_ras_mm,
        transforms=volume.transforms,
        warnings=volume.warnings,
    )
