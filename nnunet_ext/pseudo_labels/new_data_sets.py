"""New raw data sets that are whole or not there; a killed command goes on where it was."""

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
    """One or several data sets that appear in ``nnUNet_raw`` together, when all are whole."""

    raw: Path
    names: tuple[str, ...]

    @property
    def work(self) -> Path:
        """Return the hidden folder of what is not finished; nnU-Net does not look there."""
        return self.raw / f".{self.names[0]}.unfinished"

    @property
    def whole(self) -> bool:
        """Return whether everything is written, so that only the move is left."""
        return self._marker.is_file()

    @property
    def _marker(self) -> Path:
        return self.work / "whole"

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Be the only process that writes them.

        Raises:
            InputError: a number is in use, or another process is at it.
        """
        if not self.whole:
            for name in self.names:
                require_unused(name)

        self.work.mkdir(exist_ok=True)
        with taken(self.work / "lock") as ours:
            if not ours:
                raise InputError(
                    f"{self.names[0]}: another process is writing it; wait for it, or choose "
                    "another -o"
                )
            yield

    def begin(self) -> list[Path]:
        """Return a fresh, empty folder for each data set.

        What a killed run left there is removed.
        """
        shutil.rmtree(self.work / "new", ignore_errors=True)
        folders = [self.work / "new" / name for name in self.names]
        for folder in folders:
            folder.mkdir(parents=True)
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
        InputError: not a number of nnU-Net's, or an impossible title.
    """
    if not re.fullmatch("[0-9]{1,3}", number) or number == "000":
        raise InputError(f"{option} {number}: give an unused number from 1 to 999")
    if not re.fullmatch("[A-Za-z0-9-]+", title):
        raise InputError(f"--name {title}: use letters, digits and -")
    return f"Dataset{int(number):03d}_{title}"


def require_unused(name: str) -> None:
    """Refuse a number that a data set has in any of nnU-Net's folders.

    Raises:
        InputError: there is one.
    """
    number = name.partition("_")[0]
    for variable in NNUNET_FOLDERS:
        for path in sorted(environment_folder(variable).glob(f"{number}_*")):
            raise InputError(
                f"{path}: the number {number.removeprefix('Dataset')} is in use; choose another"
            )


def link_files(files: Sequence[str | Path], targets: Sequence[Path]) -> None:
    """Put files under other names.

    They are hard links, which take no space, or copies on another file system.
    """
    for file, target in zip(files, targets, strict=True):
        original = Path(file).resolve()
        try:
            os.link(original, target)
        except OSError:
            shutil.copy2(original, target)


def link_images(images: Sequence[str], folder: Path, case: str, ending: str) -> None:
    """Put the channels of a case into a folder of images under the case's new name."""
    folder.mkdir(exist_ok=True)
    targets = [folder / f"{case}_{channel:04d}{ending}" for channel in range(len(images))]
    link_files(images, targets)
