"""Finding files in a download as it lies on a user's disk."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from nnunet_ext.errors import InputError

SYSTEM_NAMES = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
SEARCH_DEPTH = 10  # folders below the download in which its known folders are looked for


def is_hidden(name: str) -> bool:
    """Whether an operating system left this name behind, such as ``.DS_Store`` or ``__MACOSX``."""
    return name.startswith(".") or name in SYSTEM_NAMES


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts ``2`` before ``10``.

    >>> sorted(["10", "9", "1"], key=natural_key)
    ['1', '9', '10']
    """
    parts: list[str | int] = list(re.split(r"(\d+)", text))
    parts[1::2] = map(int, parts[1::2])

    return parts, text


def first_of(names: Sequence[str], count: int) -> str:
    """Return the first names as text, with dots where there are more.

    >>> first_of(["a", "b", "c"], 2)
    'a, b, ...'
    """
    shown = list(names[:count])
    if len(names) > count:
        shown.append("...")

    return ", ".join(shown)


def case_id(text: str) -> str:
    """Return a case id that nnU-Net takes: ASCII letters, digits, ``_`` and ``-``.

    It has no trailing ``_dddd``, which is a channel there.

    Raises:
        InputError: nothing is left of the text.

    >>> case_id("Läsion 7_0012")
    'Lasion-7-0012'
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_text).strip("-")
    if not cleaned:
        raise InputError(
            f"{text!r}: holds no ASCII letter or digit to name the case after; rename the file"
        )

    return re.sub(r"_(\d{4})$", r"-\1", cleaned)


def require_unpacked(download: Path) -> None:
    """Refuse an archive in place of a folder.

    Raises:
        InputError: it is a file.
    """
    if download.is_file():
        raise InputError(f"{download}: is a file; unpack it, -i names the folder that comes out")


def actual_file(path: Path) -> Path:
    """Return the file itself; some tools unpack ``x.nii.gz`` to a folder of that name.

    Raises:
        InputError: no such file, or a folder that holds none or several files.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        what = "a link that leads to no file" if path.is_symlink() else "no such file"
        raise InputError(f"{path}: {what}; unpack the download again")

    inner = [file for file in path.iterdir() if file.is_file() and not is_hidden(file.name)]
    if len(inner) != 1:
        raise InputError(
            f"{path}: is a folder with {len(inner)} files in place of a file; unpack the download "
            f"again"
        )

    return inner[0]


def visible_files(folder: Path, endings: Sequence[str]) -> list[Path]:
    """Return the entries of a folder with one of the endings, in natural order.

    Upper and lower case do not matter; hidden entries are ignored.
    """
    wanted = tuple(endings)
    chosen = []
    for entry in folder.iterdir():
        name = entry.name.lower()
        if name.endswith(wanted) and not is_hidden(entry.name):
            chosen.append(entry)

    chosen.sort(key=lambda entry: natural_key(entry.name))
    return chosen


def files_by_stem(folder: Path, endings: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the files of a folder by name without ending, in natural order.

    Returns:
        The files; and by the same key, what is wrong with the others.

    Raises:
        InputError: no such folder, or no file in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; unpack the download again")

    files: dict[str, Path] = {}
    broken: dict[str, str] = {}
    for entry in visible_files(folder, endings):
        stem = _without_ending(entry.name, endings)
        if stem in files:
            other = files[stem].name
            broken[stem] = f"{entry}: {other} has the same name; remove one of the two"
        try:
            files[stem] = actual_file(entry)
        except InputError as error:
            broken[stem] = str(error)

    if not files and not broken:
        require_no_pairs(folder)
        raise InputError(
            f"{folder}: holds no file that ends in {' or '.join(endings)}; unpack the download "
            f"again"
        )

    for stem in broken:
        files.pop(stem, None)

    return files, broken


def _without_ending(name: str, endings: Sequence[str]) -> str:
    """Return a name without the first of the endings that it has."""
    for ending in endings:
        if name.lower().endswith(ending):
            return name[: -len(ending)]

    return name


def require_no_pairs(folder: Path) -> None:
    """Say what to do with images stored as two files.

    Raises:
        InputError: the folder holds such pairs.
    """
    pairs = visible_files(folder, (".hdr",))
    if pairs and pairs[0].with_suffix(".img").exists():
        raise InputError(
            f"{folder}: holds pairs .hdr/.img ({pairs[0].name}); save each as one file .nii.gz"
        )


def files_matching(
    download: Path, pattern: str, folders: str = ".*"
) -> tuple[dict[str, Path], list[str]]:
    """Return files at any depth whose name matches ``pattern``, by what its first group captured.

    They come in natural order.

    Mirrors of a data set rename and flatten its folders, but keep its file names. A file that lies
    there twice is not taken: nothing says which copy is the right one.

    Args:
        download: as the user gave it.
        pattern: regular expression for the whole name, case ignored, with a group for the key.
        folders: the same for the name of the folder that a file lies in.

    Returns:
        Files by key, and one line per file that cannot be used.

    Raises:
        InputError: ``download`` is not a folder.
    """
    if not download.is_dir():
        raise InputError(f"{download}: no such folder; -i names the unpacked download")

    found = _entries_by_key(download, pattern, folders)
    files: dict[str, Path] = {}
    problems: list[str] = []
    for key in sorted(found, key=natural_key):
        first, *others = sorted(found[key])
        if others:
            problems.append(
                f"{first}: lies in the download twice, also as {others[0]}; remove one of the two"
            )
            continue

        try:
            files[key] = actual_file(first)
        except InputError as error:
            problems.append(str(error))

    return files, problems


def _entries_by_key(download: Path, pattern: str, folders: str) -> dict[str, list[Path]]:
    """Return all entries whose name matches, by what its first group captured."""
    known = re.compile(pattern, re.IGNORECASE)
    known_folder = re.compile(folders, re.IGNORECASE)
    found: dict[str, list[Path]] = {}
    for folder in _folders(download, SEARCH_DEPTH):
        # x.nii.gz may be unpacked to a folder of that name; then its entry in the parent counts.
        is_unpacked_file = known.fullmatch(folder.name)
        if is_unpacked_file or not known_folder.fullmatch(folder.name):
            continue

        for entry in folder.iterdir():
            match = known.fullmatch(entry.name)
            if match and not is_hidden(entry.name):
                entries = found.setdefault(match[1], [])
                entries.append(entry)

    return found


def find_folder(download: Path, relative: str) -> Path | None:
    """Return the one folder at or below ``download`` whose path ends in ``relative``, or None.

    Whether a user names the download's root or a folder inside it makes no difference.

    Raises:
        InputError: ``download`` is not a folder, or several folders match.
    """
    if not download.is_dir():
        raise InputError(f"{download}: no such folder; -i names the unpacked download")

    parts = PurePosixPath(relative).parts
    # Not resolve(): a link keeps the name that is looked for.
    top = Path(os.path.abspath(download))  # noqa: PTH100
    found = []
    for folder in _folders(top, SEARCH_DEPTH):
        end = folder.parts[-len(parts) :]
        if end == parts:
            found.append(folder)

    if not found:
        return None
    if len(found) > 1:
        names = ", ".join(map(str, sorted(found)))
        raise InputError(
            f"{download}: holds {relative} more than once ({names}); give -i the copy you mean"
        )

    return found[0]


def _folders(folder: Path, depth: int, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Yield the folder and those in it, each once although links may lead back to one ``above``."""
    yield folder
    if depth == 0:
        return

    above = (*above, _identity(folder))
    try:
        with os.scandir(folder) as entries:
            children = [Path(entry.path) for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror})") from error

    # Path.is_dir, because DirEntry.is_dir may raise for a link that leads nowhere.
    for child in sorted(filter(Path.is_dir, children)):
        if _identity(child) not in above:
            yield from _folders(child, depth - 1, above)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def listed_file(folder: Path, entry: object, list_name: str) -> Path:
    """Return the path of a file that a list names, such as ``./imagesTr/lung_001.nii.gz``.

    Raises:
        InputError: the entry is not text, or leads out of the folder.
    """
    if not isinstance(entry, str) or not entry.strip() or "\0" in entry:
        raise InputError(f"{list_name}: {entry!r} is not a file name; the download is damaged")

    windows = PureWindowsPath(entry)
    is_absolute = entry.startswith("/") or bool(windows.anchor)
    if is_absolute or ".." in windows.parts:
        raise InputError(
            f"{list_name}: {entry!r} leads out of the download; do not use this copy of the data "
            f"set"
        )

    return folder / Path(*windows.parts)
