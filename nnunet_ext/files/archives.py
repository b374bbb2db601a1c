"""Zip archives from outside, checked before anything is unpacked."""

import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from nnunet_ext.errors import InputError

LARGEST_ZIP_BYTES = 1 << 36


@contextmanager
def opened_archive(archive: Path, advice: str) -> Iterator[tuple[zipfile.ZipFile, list[str]]]:
    """Open a zip and yield it with the names of its files.

    Args:
        archive: of the zip.
        advice: what the user should do if it cannot be read.

    Raises:
        InputError: no zip or a damaged one, also where the block finds that; larger than models; or
            a member that leads outside the folder it is unpacked to.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = [entry for entry in file.infolist() if not entry.is_dir()]
            _require_plain(archive, entries)
            yield file, [entry.filename for entry in entries]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{archive}: is not a readable zip ({error}); {advice}") from error


def _require_plain(archive: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse an archive that is larger than models, or whose members lead out of the folder."""
    total = sum(entry.file_size for entry in entries)
    if total > LARGEST_ZIP_BYTES:
        raise InputError(
            f"{archive}: unpacks to {total >> 30} GiB, more than a model; do not use this file"
        )

    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        is_link = stat.S_ISLNK(entry.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or is_link:
            raise InputError(f"{archive}: holds a path that leads outside; do not use this file")
