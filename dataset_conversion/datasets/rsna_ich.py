"""RSNA Intracranial Hemorrhage: head CT of the 2019 challenge, and collections with masks for it.

There are four kinds of download: the challenge's DICOM files, also with masks of one's own
(``reading.haemorrhage_challenge``); and BHSD, PhysioNet ct-ich and slices of the latter, whose
images and masks lie in two folders (``reading.haemorrhage_pairs``).
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from dataset_conversion.converter import Inventory, LoadedCase, SourceCase
from dataset_conversion.reading.dicom_cases import DicomCase, DicomConverter, image_name
from dataset_conversion.reading.download_folder import files_by_stem
from dataset_conversion.reading.haemorrhage_challenge import (
    Challenge,
    WantedType,
    read_challenge_case,
)
from dataset_conversion.reading.haemorrhage_labels import MASK_ENDINGS
from dataset_conversion.reading.haemorrhage_pairs import (
    VOLUME_ENDINGS,
    PairedFolders,
    paired_folders,
    read_paired_volumes,
)
from dataset_conversion.reading.haemorrhage_slices import read_bare_slice
from dataset_conversion.reading.haemorrhage_table import (
    EXPECTED,
    TYPES,
    HaemorrhageTable,
    read_table,
)
from dataset_conversion.shaping.skull_removal import case_without_skull
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.series import Rules

BRAIN_WINDOW_LOW_HU = 0


@dataclass(frozen=True)
class RsnaIch(DicomConverter):
    """752 803 labelled slices of 25 000 examinations, some with masks of BHSD, ct-ich or one's own.

    Reference: Flanders et al. 2020 (the challenge).
    """

    dimension: Literal["2d", "3d"] = "2d"
    haemorrhage: WantedType | None = None
    classes: Literal["any", "types"] = "any"
    masks: Path | None = None
    strip_skull: bool = False
    background_hu: int | None = None

    name: ClassVar[str] = "RSNA-ICH"
    published_id: ClassVar[str] = r"ID_[0-9a-f]{6,12}"
    task: ClassVar[str] = "intracranial haemorrhage, head CT (RSNA 2019, BHSD, PhysioNet ct-ich)"
    licence: ClassVar[str] = (
        "RSNA: non-commercial research and education; BHSD: NC-ND; ct-ich: PhysioNet restricted"
    )
    download: ClassVar[str] = "https://www.kaggle.com/c/rsna-intracranial-hemorrhage-detection"
    citation: ClassVar[str] = (
        "Flanders et al., Construction of a Machine Learning Dataset through Collaboration: "
        "The RSNA 2019 Brain CT Hemorrhage Challenge, "
        "Radiology: Artificial Intelligence 2(3), e190211 (2020), doi:10.1148/ryai.2020190211; "
        "masks of BHSD: Wu et al., BHSD: A 3D Multi-class Brain Hemorrhage Segmentation Dataset, "
        "MLMI 2023, arXiv:2308.11298; "
        "ct-ich: Hssayeni et al., Intracranial Hemorrhage Segmentation Using a Deep "
        "Convolutional Model, Data 5(1), 14 (2020), doi:10.3390/data5010014"
    )

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--dimension",
            choices=("2d", "3d"),
            default="2d",
            help="a case is a slice, or a series where its slices form a volume; default 2d",
        )
        parser.add_argument(
            "--haemorrhage",
            choices=("any", "none", *TYPES),
            help="only slices (2d) or series (3d) that the challenge's table labels so",
        )
        parser.add_argument(
            "--classes",
            choices=("any", "types"),
            default="any",
            help="one label for any haemorrhage, or BHSD's five types; default any",
        )
        parser.add_argument(
            "--masks",
            type=Path,
            metavar="FOLDER",
            help="masks of the challenge's images: PNG, NPY, NIfTI or DICOM per slice, called "
            "like the image (2d), or NIfTI per series, called PATIENT_STUDY as BHSD's (3d); "
            "only images with a mask are converted (imagesTr)",
        )
        parser.add_argument(
            "--strip-skull",
            action="store_true",
            help="keep the brain alone, as public MR of brain tumours shows it; the rest gets "
            "one value",
        )
        parser.add_argument(
            "--background-hu",
            type=int,
            metavar="HU",
            help="that value, default 0; with --window it is the window's low end",
        )

    @property
    def folder_name(self) -> str:
        if self._pairs is not None:
            return self.collection

        return self.name if self.dimension == "2d" else f"{self.name}-{self.dimension}"

    @property
    def collection(self) -> str:
        collection = self._pairs.collection if self._pairs else None
        return collection or self.name

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("CT",)

    @property
    def labels(self) -> dict[str, int]:
        names = TYPES if self._has_types else ("haemorrhage",)
        return {"background": 0, **{name: value for value, name in enumerate(names, start=1)}}

    @property
    def rules(self) -> Rules:
        from nnunet_ext.dicom.reading.series import Rules

        return Rules(minimum_slices=1 if self.dimension == "2d" else 3)

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("official",) if self.collection == "BHSD" else ()

    def published_folds(
        self, split: str, cases: Collection[str]
    ) -> list[tuple[list[str], list[str]]]:
        """Return BHSD's own split."""
        assert self._pairs is not None
        return [self._pairs.official_split()]

    def recognises(self, slices: Sequence[Slice]) -> bool:
        """By the challenge's names and tables, or the folders of BHSD and ct-ich."""
        if any(re.fullmatch(self.published_id, image_name(item.path)) for item in slices):
            return True
        if any(self.source.rglob("stage_[12]_train*")):
            return True
        if self._pairs is None:
            return False

        # Folders of other data sets, too, are called images and masks.
        return self._pairs.collection is not None or any(self._pairs.images.glob("*.dcm"))

    @cached_property
    def _pairs(self) -> PairedFolders | None:
        return paired_folders(self.source)

    @property
    def _has_types(self) -> bool:
        return self.classes == "types"

    def find_cases(self) -> Inventory:
        self._require_possible_background()
        if self._pairs is not None:
            self._require_pair_options(self._pairs)
            return self._pairs.find_cases()

        found = Inventory()
        content = self.scan(found)
        slices = self._without_masks(content.slices)
        table = self._table(found)
        challenge = Challenge(self, table.types, self._mask_files(found), self.haemorrhage)
        if self.dimension == "2d":
            challenge.find_slices(slices, found)
        else:
            challenge.find_series(content, slices, found)

        return found

    def _require_pair_options(self, pairs: PairedFolders) -> None:
        if self.masks or self.haemorrhage:
            option = "--masks" if self.masks else "--haemorrhage"
            raise InputError(
                f"{option} belongs to the challenge's DICOM files; {pairs.images} has masks of "
                f"its own"
            )
        if self._has_types and not pairs.tells_types:
            raise InputError(
                f"{pairs.masks}: --classes types: ct-ich's masks tell no types; leave it out"
            )

    def _without_masks(self, slices: list[Slice]) -> list[Slice]:
        """Return the slices without those of --masks, which may be DICOM and in the download."""
        if self.masks is None:
            return slices

        folder = self.masks.resolve()
        return [item for item in slices if not Path(item.path).resolve().is_relative_to(folder)]

    def _table(self, found: Inventory) -> HaemorrhageTable:
        """Read the challenge's table; notes say what is odd about it.

        Raises:
            InputError: --haemorrhage needs a table, and there is none.
        """
        files = sorted(path for path in self.source.rglob("*.csv") if path.is_file())
        table = read_table(files)
        found.notes.extend(table.notes)
        unread = "; ".join(table.unread)
        if self.haemorrhage and not table.types:
            reason = "holds no stage_2_train.csv"
            if unread:
                reason = f"its table is not read ({unread}), expected {EXPECTED}"
            raise InputError(f"{self.source}: {reason}, which --haemorrhage needs")

        if unread:
            found.notes.append(f"a table is not read: {unread}, expected {EXPECTED}")

        return table

    def _mask_files(self, found: Inventory) -> dict[str, Path] | None:
        if self.masks is None:
            return None

        endings = MASK_ENDINGS if self.dimension == "2d" else VOLUME_ENDINGS
        files, broken = files_by_stem(self.masks, endings)
        found.problems.extend(broken.values())

        return files

    def read_case(self, case: SourceCase) -> LoadedCase:
        loaded = self._read_whole_head(case)
        if not self.strip_skull:
            return loaded

        try:
            return case_without_skull(loaded, self._outside_brain_hu)
        except InputError as error:
            raise InputError(f"{case.image_files[0]}: {error}") from error

    def _read_whole_head(self, case: SourceCase) -> LoadedCase:
        if isinstance(case, DicomCase):
            return read_challenge_case(case, self.rules, self._has_types)
        if case.image_files[0].name.lower().endswith(VOLUME_ENDINGS):
            return read_paired_volumes(case, self._has_types)

        return read_bare_slice(case, self._has_types)

    @property
    def _outside_brain_hu(self) -> int:
        """What stands for everything but the brain; with --window its low end."""
        if self.window is not None:
            return math.floor(self.window[0])

        return BRAIN_WINDOW_LOW_HU if self.background_hu is None else self.background_hu

    def _require_possible_background(self) -> None:
        """Refuse two different values of the background, or one without effect.

        Raises:
            InputError: says which option to leave out.
        """
        given = self.background_hu
        if given is not None and not self.strip_skull:
            raise InputError(f"--background-hu {given} has no effect without --strip-skull")
        if given not in (None, self._outside_brain_hu):
            raise InputError(
                f"--background-hu {given}: with --window the background is its low end, "
                f"{self._outside_brain_hu}; leave one of them out"
            )
