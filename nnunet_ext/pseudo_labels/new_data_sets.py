"""New raw data sets that are complete or absent; a killed command continues where it stopped."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.files.locks import taken
from nnunet_ext.stock.folders import environment_folder

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class NewDataSets:
    """One or several data sets that appear in ``nnUNet_raw`` together, when all are complete."""

    raw: Path
    names: tuple[str, ...]

    @property
    def work(self) -> Path:
        """Return the hidden folder of unfinished data sets; nnU-Net does not look there."""
        first = self.names[0]
        return self.raw / f".{first}.unfinished"

    @property
    def whole(self) -> bool:
        """Return whether everything is written and only remains to be moved."""
        return self._marker.is_file()

    @property
    def _marker(self) -> Path:
        return self.work / "whole"

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Make sure that this is the only process that writes them.

        Raises:
            InputError: a number is in use, or another process is writing them.
        """
        if not self.whole:
            for name in self.names:
                require_unused(name)

        self.work.mkdir(exist_ok=True)
        with taken(self.work / "lock") as ours:
            if not ours:
                raise InputError(
                    f"{self.names[0]}: another process is writing it; wait until it has finished, "
                    "or choose another -o"
                )
            yield

    def begin(self) -> list[Path]:
        """Return an empty folder for each data set; what a killed run left is removed."""
        parent = self.work / "new"
        shutil.rmtree(parent, ignore_errors=True)

        folders = []
        for name in self.names:
            folder = parent / name
            folder.mkdir(parents=True)
            folders.append(folder)
        return folders

    def publish(self) -> None:
        """Move the data sets to their places."""
        self._marker.touch()
        for name in self.names:
            written = self.work / "new" / name
            if written.is_dir():
                written.rename(self.raw / name)
        shutil.rmtree(self.work)


def new_name(number: str, title: str, option: str) -> str:
    """Return ``Dataset130_Title``.

    Raises:
        InputError: not a number that nnU-Net accepts, or an impossible title.
    """
    is_number = re.fullmatch("[0-9]{1,3}", number) is not None
    if not is_number or number == "000":
        raise InputError(f"{option} {number}: give an unused number from 1 to 999")

    is_title = re.fullmatch("[A-Za-z0-9-]+", title) is not None
    if not is_title:
        raise InputError(f"--name {title}: use letters, digits and -")
    return f"Dataset{int(number):03d}_{title}"


def require_unused(name: str) -> None:
    """Refuse a number that a data set has in any of nnU-Net's folders.

    Raises:
        InputError: there is one.
    """
    prefix, _, _ = name.partition("_")
    number = prefix.removeprefix("Dataset")
    for variable in NNUNET_FOLDERS:
        folder = environment_folder(variable)
        existing = sorted(folder.glob(f"{prefix}_*"))
        if existing:
            raise InputError(f"{existing[0]}: the number {number} is in use; choose another")


def link_files(files: Sequence[str | Path], targets: Sequence[Path]) -> None:
    """Give files other names: as hard links, which take no space, or as copies."""
    for file, target in zip(files, targets, strict=True):
        original = Path(file).resolve()
        try:
            os.link(original, target)
        except OSError:
            shutil.copy2(original, target)


def link_images(images: Sequence[str], folder: Path, case: str, ending: str) -> None:
    """Link the channels of a case into a folder of images, under the case's new name."""
    folder.mkdir(exist_ok=True)
    targets = []
    for channel, _ in enumerate(images):
        name = f"{case}_{channel:04d}{ending}"
        targets.append(folder / name)
    link_files(images, targets)
