"""Any folder of images with a folder of masks; and the synthetic COVID-19 CT, of which no more than
that is known.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataset_conversion.converter import Converter, Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.download_folder import files_by_stem, require_no_pairs
from dataset_conversion.reading.label_values import distinct_values
from dataset_conversion.reading.nifti_cases import paired, read_ct, read_volume
from dataset_conversion.reading.pictures import read_colours, read_grey
from nnunet_ext.errors import InputError
from nnunet_ext.keyed_names import keyed_name

VOLUMES, PICTURES = (".nii.gz", ".nii"), (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MOST_VALUES = 8
Key = tuple[int, ...]


@dataclass(frozen=True)
class Generic(Converter):
    """A folder of images and one of masks, paired by name: NIfTI volumes, or pictures."""

    images: str = ""
    masks: str = ""
    image_suffix: str = ""
    mask_suffix: str = ""
    channel: str = "image"
    map: tuple[str, ...] = ()

    name: ClassVar[str] = "Generic"
    task: ClassVar[str] = "any folder of images with a folder of masks"
    licence: ClassVar[str] = "as its owner says"
    download: ClassVar[str] = (
        "https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md"
    )
    citation: ClassVar[str] = "as its owner says"

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--images", default="", metavar="FOLDER", help="of the images, relative to -i"
        )
        parser.add_argument(
            "--masks", default="", metavar="FOLDER", help="of the masks, relative to -i"
        )
        parser.add_argument(
            "--image-suffix", default="", metavar="TEXT", help="before the ending, e.g. _ct"
        )
        parser.add_argument(
            "--mask-suffix", default="", metavar="TEXT", help="before the ending, e.g. _seg"
        )
        parser.add_argument(
            "--channel",
            default="image",
            metavar="NAME",
            help="CT makes nnU-Net normalise as Hounsfield units",
        )
        _add_map(parser)

    def is_private(self, case: SourceCase) -> bool:
        """Whose images these are, nobody has said."""
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """As every converter's; folder names, which may be those of patients, under the user's own
        key.
        """
        folders = {name: getattr(self, name) for name in ("images", "masks")}
        return {
            **super().settings,
            **{name: keyed_name("folder", folder) for name, folder in folders.items()},
        }

    @property
    def channel_names(self) -> tuple[str, ...]:
        return (self.channel,)

    @property
    def labels(self) -> dict[str, int]:
        names = dict.fromkeys(self._names.values()) if self._names else {"lesion": None}
        return {
            "background": 0,
            **{name: 1 + index for index, name in enumerate(n for n in names if n != "background")},
        }

    @property
    def file_ending(self) -> str:  # type: ignore[override]
        return ".png" if self._endings == PICTURES else ".nii.gz"

    @cached_property
    def _names(self) -> dict[Key, str]:
        """Label name by value (v,) or colour (r, g, b)."""
        names: dict[Key, str] = {}
        for entry in self.map:
            value, _, name = (part.strip() for part in entry.partition("="))
            numbers = value.split(",")
            if (
                not name
                or len(numbers) not in (1, 3)
                or not all(n.isascii() and n.isdigit() for n in numbers)
            ):
                raise InputError(f"--map {entry}: write VALUE=NAME or R,G,B=NAME, e.g. 128=ggo")
            key = tuple(map(int, numbers))
            if key in names:
                raise InputError(f"--map {entry}: {value} is mapped twice; name each value once")
            names[key] = name
        if len({len(key) for key in names}) > 1:
            raise InputError("--map: give either values or colours, not both")
        return names

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        folder = self._folder(self.images, "--images")
        names = [entry.name.lower() for entry in folder.iterdir() if not entry.name.startswith(".")]
        if any(name.endswith(VOLUMES) for name in names):
            return VOLUMES
        if any(name.endswith(PICTURES) for name in names):
            return PICTURES
        require_no_pairs(folder)
        raise InputError(
            f"{folder}: holds no file that ends in {', '.join(VOLUMES + PICTURES)} (subfolders "
            f"are not searched); name "
            "the folder that does, or save the images as NIfTI first"
        )

    def _folder(self, relative: str, option: str) -> Path:
        if not self.source.is_dir():
            raise InputError(f"{self.source}: no such folder; -i names the unpacked download")
        if not relative:
            raise InputError(
                f"{self.source}: -i names the download; {option} the folder in it, relative to -i"
            )
        folder = self.source / relative
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; {option} is relative to -i")
        return folder

    def find_cases(self) -> Inventory:
        _ = self._names
        images, problems = self._by_key(self.images, "--images", self.image_suffix)
        if self.unlabeled:
            return paired(images, {}, problems, without_label="Un")
        masks, more = self._by_key(self.masks, "--masks", self.mask_suffix)
        return paired(
            images, masks, problems + more, details=lambda _: {"patient": ""}
        )  # names do not tell

    def _by_key(self, relative: str, option: str, suffix: str) -> tuple[dict[str, Path], list[str]]:
        files, broken = files_by_stem(self._folder(relative, option), self._endings)
        return {
            stem.removesuffix(suffix): file for stem, file in files.items() if stem.endswith(suffix)
        }, [*broken.values()]

    def read_case(self, case: SourceCase) -> LoadedCase:
        if self._endings == VOLUMES:
            reading = read_ct(case)
            if self.channel.casefold() != "ct":
                reading = replace(reading, intensity_unit="arbitrary", warnings=())
            return (
                replace(reading, label=self._named(case, reading.label))
                if case.label_files
                else reading
            )
        image = read_grey(case.image_files[0])
        label = self._named(case, *_mask(case.label_files[0])) if case.label_files else None
        return LoadedCase(image[None], label, "grey values 0..255")

    def _named(self, case: SourceCase, mask: np.ndarray | None, colour: bool = False) -> np.ndarray:
        """Labels of a mask's values or colours."""
        assert mask is not None
        found = _keys(mask, colour)
        if not self._names:
            if not found <= {(0,), (1,)} and not found <= {(0,), (255,)}:
                raise InputError(
                    f"{case.label_files[0]}: holds {_shown(found)}; say with --map what each means"
                )
            return np.asarray(mask != 0).astype(np.uint8)
        width = len(next(iter(self._names)))
        if not colour and width == 3:
            raise InputError(
                f"{case.label_files[0]}: is grey, but --map gives colours; write VALUE=NAME"
            )
        if colour and width == 1:
            raise InputError(
                f"{case.label_files[0]}: is coloured, but --map gives values; write R,G,B=NAME"
            )
        if unknown := found - self._names.keys() - {(0,), (0, 0, 0)}:
            raise InputError(
                f"{case.label_files[0]}: holds {_shown(unknown)}, which --map does not name"
            )
        label = np.zeros(mask.shape[:-1] if colour else mask.shape, np.uint8)
        for key, name in self._names.items():
            label[(mask == key).all(axis=-1) if colour else mask == key[0]] = self.labels[name]
        return label


@dataclass(frozen=True)
class SyntheticCovidCT(Generic):
    """Synthetic slices with maps of lung, ground glass and consolidation; options say where and how
    they lie.

    Reference: Jiang et al. 2021 (the paper; how the files lie is not published).
    """

    channel: str = "synthetic lung-window CT"

    name: ClassVar[str] = "Synthetic-COVID-CT"
    task: ClassVar[str] = "COVID-19 ground glass and consolidation, synthetic CT slices"
    licence: ClassVar[str] = "not known: ask the authors"
    download: ClassVar[str] = "https://arxiv.org/abs/2007.14638"
    citation: ClassVar[str] = (
        "Jiang et al., COVID-19 CT Image Synthesis With a Conditional Generative Adversarial "
        "Network, IEEE Journal of "
        "Biomedical and Health Informatics 25(2), 2021, doi:10.1109/JBHI.2020.3042523"
    )
    label_groups = {"infection": ("ggo", "consolidation", "ground glass")}  # noqa: RUF012

    def find_cases(self) -> Inventory:
        found = super().find_cases()
        if self._endings != PICTURES:
            raise InputError(f"{self.source}: --images holds no pictures; for volumes use Generic")
        if not self.map and not self.unlabeled:
            values: set[Key] = set()
            for case in found.cases:
                values |= _keys(*_mask(case.label_files[0]))
            what = (
                f"hold {_shown(values)}"
                if len(values) <= MOST_VALUES
                else f"hold {len(values)} values: no masks"
            )
            raise InputError(
                f"{self.source}: its masks {what}; say with --map what each value means, e.g. "
                f"128=ggo"
            )
        return found


def _add_map(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="VALUE=NAME",
        help="what a mask value (or colour R,G,B) means; repeat it; several may share a name; "
        "default: 1 or 255 "
        "is lesion",
    )


def _mask(file: Path) -> tuple[np.ndarray, bool]:
    """Mask values, and whether they are colours (row, column, 3)."""
    if file.name.lower().endswith(VOLUMES):
        return read_volume(file)[0], False
    colours, _ = read_colours(file)
    grey = bool((colours == colours[..., :1]).all())
    if file.suffix.lower() in (".jpg", ".jpeg") and len(_keys(colours, True)) > 2:
        raise InputError(
            f"{file}: is JPEG, which changes the values of a mask; save the original mask as PNG"
        )
    return (colours[..., 0] if grey else colours), not grey


def _keys(mask: np.ndarray, colour: bool) -> set[Key]:
    if colour:
        return {tuple(int(v) for v in key) for key in np.unique(mask.reshape(-1, 3), axis=0)}
    values = distinct_values(mask)
    if values.size and values[0] < 0:
        raise InputError(
            f"holds the negative value {values[0]:g}; a mask holds whole numbers from 0, save it "
            f"as such"
        )
    return {(int(value),) for value in values}


def _shown(keys: set[Key]) -> str:
    return "  ".join(",".join(map(str, key)) for key in sorted(keys)[:MOST_VALUES]) + (
        "  ..." if len(keys) > MOST_VALUES else ""
    )
