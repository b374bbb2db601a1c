"""Whether the data sets of the streams fit the labelled one, before they are preprocessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.stock.files import read_dataset_json
from nnunet_ext.training.settings.plans_entry import PlansEntry

PLAN_AGAIN = "run nnUNetv2_plan_and_preprocess again"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Labelled:
    """The labelled data set, with which every stream is compared."""

    name: str
    raw: Path  # nnU-Net's folder of all raw data sets
    channels: dict[str, str]

    @classmethod
    def read(cls, preprocessed: Path, raw: Path) -> Labelled:
        """Read the data set whose preprocessed folder this is."""
        file = preprocessed / "dataset.json"
        content = read_dataset_json(file, PLAN_AGAIN)
        return cls(preprocessed.name, raw, content["channel_names"])

    @property
    def folder(self) -> Path:
        """Its raw folder."""
        return self.raw / self.name


def check_streams(entry: PlansEntry, labelled: Labelled, say: Say) -> None:
    """Check that every stream exists and looks like the labelled data set.

    Args:
        entry: the plans' streams.
        labelled: with what they are compared.
        say: called with each note for the user.

    Raises:
        InputError: a stream is missing or does not fit.
    """
    for role, datasets in entry.streams.items():
        for recorded in datasets:
            dataset, _, lesions = recorded.partition("=")
            content = _dataset_json(role, dataset, labelled)
            has_own_normalization = role in entry.normalizations
            _check_channels(role, dataset, content, labelled, has_own_normalization, say)
            if role == "target_domain":
                _check_target(labelled.raw / dataset, labelled, has_own_normalization, say)
            if role == "general" and not lesions:
                _mention_merged_labels(dataset, content, say)


def _dataset_json(role: str, dataset: str, labelled: Labelled) -> dict[str, Any]:
    """Return the stream's dataset.json.

    Raises:
        InputError: there is none, or it is the labelled data set's.
    """
    if dataset == labelled.name and role == "general":
        raise InputError(
            f"{dataset}: is the labelled data set itself; the general stream holds other diseases"
        )
    file = labelled.raw / dataset / "dataset.json"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; convert the data set first (nnUNetv2_ext_convert --list)"
        )
    return read_dataset_json(file, "convert the data set again")


def _check_channels(
    role: str,
    dataset: str,
    content: dict[str, Any],
    labelled: Labelled,
    has_own_normalization: bool,
    say: Say,
) -> None:
    """Check the number of channels; mention other names."""
    theirs = list(content["channel_names"].values())
    ours = list(labelled.channels.values())
    named = ", ".join(theirs)
    wanted = ", ".join(ours)
    if len(theirs) != len(ours):
        file = labelled.raw / dataset / "dataset.json"
        raise InputError(
            f"{file}: {len(theirs)} channels ({named}), but {labelled.name} has {len(ours)} "
            f"({wanted}); convert it with the matching --channel"
        )
    if theirs != ours and not has_own_normalization:
        say(
            f"note: {dataset} and {labelled.name} call their channels {named} and {wanted}; their "
            f"intensities should look alike, or use --normalize {role}=..."
        )


def _mention_merged_labels(dataset: str, content: dict[str, Any], say: Say) -> None:
    foreground = []
    for name in content["labels"]:
        if name not in ("background", "ignore"):
            foreground.append(name)
    if len(foreground) > 1:
        say(
            f"note: {dataset}: {', '.join(foreground)} all become lesion; if one is an organ, name "
            f"the others: --general {dataset}={foreground[-1]}"
        )


def _check_target(folder: Path, labelled: Labelled, has_own_normalization: bool, say: Say) -> None:
    """Check that a target domain has the labelled data set's unit; mention that labels are ignored.

    Raises:
        InputError: it is the labelled data set itself, or has another unit and no normalisation of
            its own.
    """
    from dataset_conversion.writing.units import different_units
    from nnunet_ext.training.streams.raw_cases import ignores_labels

    units = different_units(labelled.folder, folder)
    if units and not has_own_normalization:
        raise InputError(
            f"{units}; convert both to one unit (--window), or use --normalize "
            "target_domain=window(LOW,HIGH)"
        )
    if not ignores_labels("target_domain", folder):
        return
    if folder == labelled.folder:
        raise InputError(
            f"{folder.name}: is the labelled data set itself and has no imagesUn; name a target "
            "data set"
        )
    say(f"note: {folder.name} has no imagesUn: its imagesTr are used, its labels are ignored")


def check_overlaps(entry: PlansEntry, labelled: Labelled, forbid: bool, say: Say) -> None:
    """Look for images that the labelled data set and a stream share.

    They may be trained on in one and validated on in the other.

    Args:
        entry: the plans' streams.
        labelled: with what they are compared.
        forbid: refuse shared images, and read files of which nobody knows where they come from.
        say: called with each note for the user.

    Raises:
        InputError: images are shared, with ``forbid``.
    """
    from dataset_conversion.writing.overlaps import shared_images, unknown_origin

    names: dict[str, None] = {}  # each once, in their order
    for datasets in entry.streams.values():
        for recorded in datasets:
            name, _, _ = recorded.partition("=")
            names[name] = None

    for name in names:
        folder = labelled.raw / name
        shared = shared_images(labelled.folder, folder, read_files=forbid)
        unknown = unknown_origin(labelled.folder, folder)
        if unknown and not forbid:
            say(
                f"note: whether {name} shares images with {labelled.name} is not checked, because "
                f"nnUNetv2_ext_convert did not make {' and '.join(unknown)}; --forbid-overlap "
                "reads and compares the images"
            )
        if shared and forbid:
            raise InputError(f"{shared}; leave it out, or leave out --forbid-overlap")
        if shared:
            say(f"note: {shared}; results on {labelled.name} may be optimistic")
