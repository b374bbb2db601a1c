"""Any folder of images with a folder of masks; and the synthetic COVID-19 CT in such folders."""

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

VOLUMES = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
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
        """As every converter's; folder names may be those of patients, so they are keyed."""
        return {
            **super().settings,
            "images": keyed_name("folder", self.images),
            "masks": keyed_name("folder", self.masks),
        }

    @property
    def channel_names(self) -> tuple[str, ...]:
        return (self.channel,)

    @property
    def labels(self) -> dict[str, int]:
        names = dict.fromkeys(["background", *self._names.values()])
        if not self._names:
            names["lesion"] = None

        return {name: value for value, name in enumerate(names)}

    @property
    def file_ending(self) -> str:  # type: ignore[override]
        return ".png" if self._endings == PICTURES else ".nii.gz"

    @cached_property
    def _names(self) -> dict[Key, str]:
        """Label name by value (v,) or colour (r, g, b)."""
        names: dict[Key, str] = {}
        for entry in self.map:
            value, _, name = entry.partition("=")
            numbers = value.strip().split(",")
            are_numbers = all(number.isascii() and number.isdigit() for number in numbers)
            if not name.strip() or len(numbers) not in (1, 3) or not are_numbers:
                raise InputError(f"--map {entry}: write VALUE=NAME or R,G,B=NAME, e.g. 128=ggo")

            key = tuple(map(int, numbers))
            if key in names:
                raise InputError(
                    f"--map {entry}: {value.strip()} is mapped twice; name each value once"
                )

            names[key] = name.strip()

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
            f"{folder}: holds no file that ends in {', '.join(VOLUMES + PICTURES)} "
            f"(subfolders are not searched); name the folder that does, or save the images as "
            f"NIfTI first"
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
        _ = self._names  # a wrong --map is reported before any file is read
        images, problems = self._by_key(self.images, "--images", self.image_suffix)
        if self.unlabeled:
            return paired(images, {}, problems, without_label="Un")

        masks, more = self._by_key(self.masks, "--masks", self.mask_suffix)
        # Names do not tell the patient.
        return paired(images, masks, problems + more, details=lambda _: {"patient": ""})

    def _by_key(self, relative: str, option: str, suffix: str) -> tuple[dict[str, Path], list[str]]:
        """Return the files of a folder by name without suffix, and what is wrong with others."""
        files, broken = files_by_stem(self._folder(relative, option), self._endings)
        by_key = {}
        for stem, file in files.items():
            if stem.endswith(suffix):
                by_key[stem.removesuffix(suffix)] = file

        return by_key, list(broken.values())

    def read_case(self, case: SourceCase) -> LoadedCase:
        if self._endings == VOLUMES:
            return self._read_volume(case)

        image = read_grey(case.image_files[0])
        label = None
        if case.label_files:
            mask, is_colour = _mask(case.label_files[0])
            label = self._label(case.label_files[0], mask, is_colour)

        return LoadedCase(image[None], label, "grey values 0..255")

    def _read_volume(self, case: SourceCase) -> LoadedCase:
        loaded = read_ct(case)
        if self.channel.casefold() != "ct":
            loaded = replace(loaded, intensity_unit="arbitrary", warnings=())
        if loaded.label is not None:
            label = self._label(case.label_files[0], loaded.label, is_colour=False)
            loaded = replace(loaded, label=label)

        return loaded

    def _label(self, file: Path, mask: np.ndarray, is_colour: bool) -> np.ndarray:
        """Return the labels of a mask's values or colours.

        Raises:
            InputError: the mask holds what ``--map`` does not name.
        """
        found = _keys(mask, is_colour)
        if not self._names:
            if not found <= {(0,), (1,)} and not found <= {(0,), (255,)}:
                raise InputError(f"{file}: holds {_shown(found)}; say with --map what each means")

            return np.asarray(mask != 0).astype(np.uint8)

        self._require_mapped(file, found, is_colour)
        label = np.zeros(mask.shape[:-1] if is_colour else mask.shape, np.uint8)
        for key, name in self._names.items():
            inside = (mask == key).all(axis=-1) if is_colour else mask == key[0]
            label[inside] = self.labels[name]

        return label

    def _require_mapped(self, file: Path, found: set[Key], is_colour: bool) -> None:
        maps_colours = len(next(iter(self._names))) == 3
        if maps_colours and not is_colour:
            raise InputError(f"{file}: is grey, but --map gives colours; write VALUE=NAME")
        if is_colour and not maps_colours:
            raise InputError(f"{file}: is coloured, but --map gives values; write R,G,B=NAME")

        unknown = found - self._names.keys() - {(0,), (0, 0, 0)}
        if unknown:
            raise InputError(f"{file}: holds {_shown(unknown)}, which --map does not name")


@dataclass(frozen=True)
class SyntheticCovidCT(Generic):
    """Synthetic slices with maps of lung, ground glass and consolidation; options say where.

    Reference: Jiang et al. 2021 (the paper; how the files lie is not published).
    """

    channel: str = "synthetic lung-window CT"

    name: ClassVar[str] = "Synthetic-COVID-CT"
    task: ClassVar[str] = "COVID-19 ground glass and consolidation, synthetic CT slices"
    licence: ClassVar[str] = "not known: ask the authors"
    download: ClassVar[str] = "https://arxiv.org/abs/2007.14638"
    citation: ClassVar[str] = (
        "Jiang et al., COVID-19 CT Image Synthesis With a Conditional Generative Adversarial "
        "Network, IEEE Journal of Biomedical and Health Informatics 25(2), 2021, "
        "doi:10.1109/JBHI.2020.3042523"
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
            what = f"hold {len(values)} values: no masks"
            if len(values) <= MOST_VALUES:
                what = f"hold {_shown(values)}"
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
        "default: 1 or 255 is lesion",
    )


def _mask(file: Path) -> tuple[np.ndarray, bool]:
    """Return mask values, and whether they are colours (row, column, 3)."""
    if file.name.lower().endswith(VOLUMES):
        return read_volume(file)[0], False

    colours, _ = read_colours(file)
    if file.suffix.lower() in (".jpg", ".jpeg") and len(_keys(colours, True)) > 2:
        raise InputError(
            f"{file}: is JPEG, which changes the values of a mask; save the original mask as PNG"
        )

    is_grey = bool((colours == colours[..., :1]).all())
    if is_grey:
        return colours[..., 0], False

    return colours, True


def _keys(mask: np.ndarray, is_colour: bool) -> set[Key]:
    """Return the distinct values (v,) or colours (r, g, b) of a mask."""
    if is_colour:
        colours = np.unique(mask.reshape(-1, 3), axis=0)
        return set(map(tuple, colours.tolist()))

    values = distinct_values(mask)
    if values.size and values[0] < 0:
        raise InputError(
            f"holds the negative value {values[0]:g}; a mask holds whole numbers from 0, save it "
            f"as such"
        )

    return {(int(value),) for value in values}


def _shown(keys: set[Key]) -> str:
    texts = [",".join(map(str, key)) for key in sorted(keys)]
    dots = ["..."] if len(texts) > MOST_VALUES else []

    return "  ".join(texts[:MOST_VALUES] + dots)
