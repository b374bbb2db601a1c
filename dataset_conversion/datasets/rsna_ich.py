"""RSNA Intracranial Hemorrhage: head CT of the 2019 challenge, and the collections that add masks
to it.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from dataset_conversion.converter import Case, Found, Reading
from dataset_conversion.reading.dicom_cases import (
    DicomConverter,
    files_of,
    image_name,
    report_rejected,
    without_damaged,
)
from dataset_conversion.reading.download_folder import (
    case_id,
    files_by_stem,
    find_folder,
    natural_key,
)
from dataset_conversion.reading.haemorrhage_labels import MASK_ENDINGS, read_slice_mask, slice_label
from dataset_conversion.reading.haemorrhage_slices import (
    as_hu,
    of_one_rescaling,
    read_bare_slice,
    read_placed_slice,
    steps_of_series_mm,
)
from dataset_conversion.reading.haemorrhage_table import EXPECTED, TYPES, in_words, read_table
from dataset_conversion.reading.nifti_headers import open_volume, states_orientation
from dataset_conversion.reading.volumes import label_place, read_voxels, spatial_axes
from dataset_conversion.shaping.skull_removal import reading_without_skull
from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_object
from nnunet_ext.worker_processes import first_line

if TYPE_CHECKING:
    from nnunet_ext.dicom.reading.folder_scan import Scan
    from nnunet_ext.dicom.reading.headers import Slice
    from nnunet_ext.dicom.reading.series import Acquisition, Rules

VOLUME_ENDINGS = (".nii.gz", ".nii")
# Folders of images and of masks: BHSD (its name has a space), PhysioNet ct-ich, and slices cut from
# it.
PAIRED_FOLDERS = (("images", "ground truths"), ("ct_scans", "masks"), ("images", "masks"))
COLLECTIONS = {"ground truths": "BHSD", "ct_scans": "ct-ich"}
BRAIN_WINDOW_LOW_HU = 0
Wanted = Literal[
    "any", "none", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural"
]


@dataclass(frozen=True)
class RsnaIch(DicomConverter):
    """752 803 labelled slices of 25 000 examinations, without masks; and BHSD, ct-ich or own masks
    for some of them.

    Reference: Flanders et al. 2020 (the challenge).
    """

    dimension: Literal["2d", "3d"] = "2d"
    haemorrhage: Wanted | None = None
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
        "Flanders et al., Construction of a Machine Learning Dataset through Collaboration: The "
        "RSNA 2019 Brain CT "
        "Hemorrhage Challenge, Radiology: Artificial Intelligence 2(3), e190211 (2020), "
        "doi:10.1148/ryai.2020190211; "
        "masks of BHSD: Wu et al., BHSD: A 3D Multi-class Brain Hemorrhage Segmentation Dataset, "
        "MLMI 2023, "
        "arXiv:2308.11298; ct-ich: Hssayeni et al., Intracranial Hemorrhage Segmentation Using a "
        "Deep Convolutional "
        "Model, Data 5(1), 14 (2020), doi:10.3390/data5010014"
    )

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        DicomConverter.add_options(parser)
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
            "like the image (2d), or "
            "NIfTI per series, called PATIENT_STUDY as BHSD's (3d); only images with a mask are "
            "converted (imagesTr)",
        )
        parser.add_argument(
            "--strip-skull",
            action="store_true",
            help="keep the brain alone, as public MR of brain tumours shows it; the rest gets one "
            "value",
        )
        parser.add_argument(
            "--background-hu",
            type=int,
            metavar="HU",
            help="that value, default 0; with --window it is the window's low end",
        )

    @property
    def folder_name(self) -> str:
        if self._paired_folders is not None:
            return self.collection
        return self.name if self.dimension == "2d" else f"{self.name}-{self.dimension}"

    @cached_property
    def _paired_folders(self) -> tuple[Path, Path] | None:
        """Folders of images and masks, where the download is one of :data:`PAIRED_FOLDERS`."""
        for images, beside in PAIRED_FOLDERS:
            image_folder = find_folder(self.source, images)
            if image_folder is not None and (image_folder.parent / beside).is_dir():
                return image_folder, image_folder.parent / beside
        return None

    @property
    def collection(self) -> str:
        names = {folder.name for folder in self._paired_folders or ()}
        return next(
            (collection for folder, collection in COLLECTIONS.items() if folder in names), self.name
        )

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("official",) if self.collection == "BHSD" else ()

    def published_folds(
        self, split: str, cases: Collection[str]
    ) -> list[tuple[list[str], list[str]]]:
        """BHSD's: half of its scans to train on, half to test."""
        assert self._paired_folders is not None
        root = self._paired_folders[1].parent
        file = next(
            (
                path
                for path in (root / "dataset.json", root.parent / "dataset.json")
                if path.is_file()
            ),
            None,
        )
        if file is None:
            raise InputError(
                f"{root}: --split official needs BHSD's dataset.json there; it lies beside its "
                f"README"
            )
        try:
            content = read_object(file, "download it again")
            names = [entry["image"] for entry in content["training"]], list(content["test"])
            train, test = (
                [case_id(Path(name).name.removesuffix(".nii.gz")) for name in part]
                for part in names
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: is not BHSD's list ({first_line(error)}); download it again"
            ) from error
        return [(train, test)]

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("CT",)

    @property
    def labels(self) -> dict[str, int]:
        names = ("haemorrhage",) if self.classes == "any" else TYPES
        return {"background": 0, **{name: 1 + index for index, name in enumerate(names)}}

    @property
    def rules(self) -> Rules:
        from nnunet_ext.dicom.reading.series import Rules

        return Rules(minimum_slices=1 if self.dimension == "2d" else 3)

    def recognises(self, slices: Sequence[Slice]) -> bool:
        """By the challenge's names and tables, or the folders of BHSD and ct-ich."""
        named = any(re.fullmatch(self.published_id, image_name(item.path)) for item in slices)
        if named or any(self.source.rglob("stage_[12]_train*")):
            return True
        if self._paired_folders is None:
            return False
        # Many a data set has images and masks.
        return self.collection != self.name or any(self._paired_folders[0].glob("*.dcm"))

    @property
    def _background_hu(self) -> int:
        """What stands for everything but the brain.

        Raises:
            InputError: two different values, or one without effect.
        """
        given = self.background_hu
        if given is not None and not self.strip_skull:
            raise InputError(f"--background-hu {given} has no effect without --strip-skull")
        if self.window is None:
            return BRAIN_WINDOW_LOW_HU if given is None else given

        low = math.floor(self.window[0])
        if given not in (None, low):
            raise InputError(
                f"--background-hu {given}: with --window the background is its low end, {low}; "
                f"leave one of them out"
            )
        return low

    def find_cases(self) -> Found:
        _ = self._background_hu  # impossible options are reported before any file is read
        if self._paired_folders is not None:
            return self._paired(*self._paired_folders)
        found = Found()
        content = self.scan(found)
        slices = content.slices
        if self.masks is not None:  # which may be DICOM, and lie in the download
            mask_folder = self.masks.resolve()
            slices = [
                item for item in slices if not Path(item.path).resolve().is_relative_to(mask_folder)
            ]
        table = read_table(sorted(path for path in self.source.rglob("*.csv") if path.is_file()))
        found.notes.extend(table.notes)
        unread = "; ".join(table.unread)
        if self.haemorrhage and not table.types:
            what = (
                f"its table is not read ({unread}), expected {EXPECTED}"
                if unread
                else "holds no stage_2_train.csv"
            )
            raise InputError(f"{self.source}: {what}, which --haemorrhage needs")
        if unread:
            found.notes.append(f"a table is not read: {unread}, expected {EXPECTED}")
        types = table.types
        masks = self._masks(found)
        if self.dimension == "2d":
            self._find_slices(slices, types, masks, found)
        else:
            self._find_series(content, slices, types, masks, found)
        return found

    def _masks(self, found: Found) -> dict[str, Path] | None:
        if self.masks is None:
            return None
        files, broken = files_by_stem(
            self.masks, MASK_ENDINGS if self.dimension == "2d" else VOLUME_ENDINGS
        )
        found.problems.extend(broken.values())
        return files

    def _find_slices(
        self,
        slices: list[Slice],
        types: Mapping[str, frozenset[str]],
        masks: dict[str, Path] | None,
        found: Found,
    ) -> None:
        """One case per image; its layer is as thick as the slices of its series are apart."""
        from nnunet_ext.dicom.reading.series import other_kind

        others = Counter(kind for item in slices if (kind := other_kind(item, self.rules)))
        found.notes.extend(
            f"{count} images left out: {kind}" for kind, count in sorted(others.items())
        )
        slices = [item for item in slices if not other_kind(item, self.rules)]
        slices = of_one_rescaling(slices, found)
        steps_mm = steps_of_series_mm(slices)
        unknown = without_mask = 0
        for item in slices:
            name = item.sop_uid or image_name(item.path)
            unknown += name not in types
            if not self._is_wanted(types.get(name)):
                continue
            mask = None if masks is None else masks.get(name) or masks.get(image_name(item.path))
            if masks is not None and mask is None:
                without_mask += 1
                continue
            details = {
                "patient": self.public(item.patient_id, "patient"),
                "series_uid": self.series_name(item),
                "step_mm": f"{steps_mm[item.path]:g}",
                "haemorrhage": in_words(types.get(name)),
            }
            part: Literal["Tr", "Un"] = "Tr" if mask else "Un"
            image = case_id(self.public(name, "image"))
            found.cases.append(
                Case(image, part, (Path(item.path),), (mask,) if mask else (), details)
            )
        if types and unknown:
            found.notes.append(
                f"{unknown} images are not in the table (the challenge's test images never are)"
            )
        if without_mask:
            found.notes.append(f"{without_mask} images have no mask and are left out")

    def _find_series(
        self,
        content: Scan,
        slices: list[Slice],
        types: Mapping[str, frozenset[str]],
        masks: dict[str, Path] | None,
        found: Found,
    ) -> None:
        from nnunet_ext.dicom.reading.series import acquisitions_of

        accepted, rejected = acquisitions_of(slices, self.rules)
        accepted = without_damaged(accepted, content, found, shared_folders=True)
        report_rejected(rejected, found)
        by_study: dict[str, list[Acquisition]] = defaultdict(list)
        for acquisition in accepted:
            first = acquisition.slices[0]
            by_study[f"{first.patient_id}_{first.study_uid}"].append(acquisition)
        without_mask = 0
        for study in sorted(by_study, key=natural_key):
            for number, acquisition in enumerate(by_study[study], start=1):
                present = [
                    types[item.sop_uid] for item in acquisition.slices if item.sop_uid in types
                ]
                union = frozenset().union(*present) if present else None
                mask = None if masks is None else masks.get(study)
                if not self._is_wanted(union):
                    continue
                if masks is not None and mask is None:
                    without_mask += 1
                    continue
                details = {**self.details_of(acquisition), "haemorrhage": in_words(union)}
                suffix = f"-{number}" if len(by_study[study]) > 1 else ""
                part: Literal["Tr", "Un"] = "Tr" if mask else "Un"
                labels = (mask,) if mask else ()
                first = acquisition.slices[0]
                ids = (
                    self.public(first.patient_id, "patient"),
                    self.public(first.study_uid or first.series_uid, "study"),
                )
                name = case_id(("_".join(filter(None, ids)) or "series") + suffix)
                found.cases.append(Case(name, part, files_of(acquisition), labels, details))
        if without_mask:
            found.notes.append(f"{without_mask} series have no mask and are left out")

    def _is_wanted(self, types: frozenset[str] | None) -> bool:
        if self.haemorrhage is None:
            return True
        if types is None:
            return False
        return not types if self.haemorrhage == "none" else self.haemorrhage in types

    def _paired(self, image_folder: Path, mask_folder: Path) -> Found:
        """Images and masks of one name in two folders."""
        if self.masks or self.haemorrhage:
            option = "--masks" if self.masks else "--haemorrhage"
            raise InputError(
                f"{option} belongs to the challenge's DICOM files; {image_folder} has masks of "
                f"its own"
            )
        endings = (*VOLUME_ENDINGS, ".dcm")
        images, broken_images = files_by_stem(image_folder, endings)
        masks, broken_masks = files_by_stem(mask_folder, endings)
        if self.classes == "types" and image_folder.name == "ct_scans":
            raise InputError(
                f"{mask_folder}: --classes types: ct-ich's masks tell no types; leave it out"
            )
        found = Found(problems=[*broken_images.values(), *broken_masks.values()])
        for stem in sorted(images.keys() ^ masks.keys(), key=natural_key):
            if stem not in broken_images and stem not in broken_masks:
                file, missing = (images[stem], "mask") if stem in images else (masks[stem], "image")
                found.problems.append(
                    f"{file}: has no {missing}; download it again or remove the file"
                )
        for stem in images.keys() & masks.keys():
            # BHSD: patient and study; slices of ct-ich: patient and slice; ct-ich itself: the
            # patient.
            patient = (
                "_".join(stem.split("_")[:2]) if stem.startswith("ID_") else stem.split("_")[0]
            )
            name = case_id(stem if stem.startswith("ID_") else f"ich_{stem}")
            found.cases.append(
                Case(name, "Tr", (images[stem],), (masks[stem],), {"patient": patient})
            )
        odd = [
            path.name
            for path in image_folder.iterdir()
            if not path.suffix and not path.name.startswith(".")
        ]
        if odd:
            found.problems.append(
                f"{image_folder / min(odd)}: has no ending, as {len(odd)} files; call them .nii.gz"
            )
        return found

    def read_case(self, case: Case) -> Reading:
        reading = self._read_as_scanned(case)
        if not self.strip_skull:
            return reading
        try:
            return reading_without_skull(reading, self._background_hu)
        except InputError as error:
            raise InputError(f"{case.image_files[0]}: {error}") from error

    def _read_as_scanned(self, case: Case) -> Reading:
        """The whole head."""
        if case.image_files[0].name.lower().endswith(VOLUME_ENDINGS):
            return self._read_volumes(case)
        if "step_mm" not in case.details and "acquisition" not in case.details:
            return read_bare_slice(case, self.classes == "types")
        volume = (
            read_placed_slice(case, self.rules)
            if "step_mm" in case.details
            else self.read_volume(case)
        )
        warnings = volume.warnings
        if volume.voxels.min() == volume.voxels.max():
            warnings = (*warnings, "all voxels have one value")
        label, label_affine_mm = None, None
        if case.label_files:
            label, label_affine_mm, remarks = self._read_label(
                case.label_files[0], volume.grid.affine_ras_mm
            )
            warnings = (*warnings, *remarks)
        return Reading(
            volume.voxels[None],
            label,
            volume.unit,
            volume.grid.affine_ras_mm,
            label_affine_mm,
            volume.transforms,
            warnings,
        )

    def _read_label(
        self, file: Path, affine_mm: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
        """Mask of a slice or of a series, as (x, y, z) with its place (:func:`label_place`), or on
        the pixels.
        """
        if self.dimension == "3d":
            volume = open_volume(file)
            label, warnings = self._volume_label(file, volume)
            return label, label_place(volume, affine_mm), warnings
        label, label_affine_mm, warnings = read_slice_mask(file, self.classes == "types", affine_mm)
        return (label if label.ndim == 3 else label.T[:, :, None]), label_affine_mm, warnings

    def _volume_label(self, file: Path, volume: object) -> tuple[np.ndarray, tuple[str, ...]]:
        try:
            voxels = spatial_axes(file, read_voxels(file, volume), anywhere=True)
            return slice_label(voxels, self.classes == "types")
        except InputError as error:
            raise InputError(
                str(error) if str(file) in str(error) else f"{file}: {error}"
            ) from error

    def _read_volumes(self, case: Case) -> Reading:
        """Image and mask as NIfTI volumes (BHSD, ct-ich)."""
        image_file = case.image_files[0]
        image = open_volume(image_file)
        hu, transforms, remarks = as_hu(spatial_axes(image_file, read_voxels(image_file, image)))
        reading = Reading(
            hu[None], None, "HU", image.affine, transforms=transforms, warnings=remarks
        )
        if not case.label_files:
            return reading
        mask = open_volume(case.label_files[0])
        label, warnings = self._volume_label(case.label_files[0], mask)
        place = label_place(mask, image.affine, states_orientation(image))
        return replace(reading, label=label, label_affine_mm=place, warnings=(*warnings, *remarks))
