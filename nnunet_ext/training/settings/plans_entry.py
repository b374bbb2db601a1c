"""The entry ``nnunet_ext`` of a plans file, which ``nnUNetv2_ext_configure`` writes.

nnU-Net copies the plans into results and export zips, so a trained model carries its configuration.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.package import made_by
from nnunet_ext.training.settings.hyperparameters import PRESETS

PLANS_KEY = "nnunet_ext"
MADE_BY = "made_by"  # name and version of the package that wrote the entry
DAMAGED = f"the plans' entry {PLANS_KEY} is damaged; run nnUNetv2_ext_configure with --reset"
ROLES = {
    "general": "labelled data sets of other diseases, their labels merged into lesion; 3=cancer "
    "uses only the label cancer",
    "unlabeled": "data sets with images of the same disease in imagesUn",
    "target_domain": "data sets with images of another domain in imagesUn",
}


@dataclass
class PlansEntry:
    """Streams and hyperparameters of one plans file."""

    preset: str = "recommended"
    streams: dict[str, list[str]] = field(default_factory=dict)  # role -> data set names
    settings: dict[str, Any] = field(default_factory=dict)  # name or Trainer.name -> value
    # role -> window(LOW,HIGH); others as in the plans
    normalizations: dict[str, str] = field(default_factory=dict)
    regions: bool = False  # labels are regions, which overlap; see record_regions

    @classmethod
    def from_plans(cls, plans: dict) -> PlansEntry:
        """Return the recorded entry, or the default one of plans that were never configured.

        Raises:
            InputError: an entry or a preset that this version does not know.
        """
        recorded = plans.get(PLANS_KEY, {})
        if not isinstance(recorded, dict):
            raise InputError(DAMAGED)

        fields = dict(recorded)
        writer = fields.pop(MADE_BY, "another version")
        try:
            entry = cls(**fields)
        except TypeError as error:
            raise InputError(
                f"the plans' entry {PLANS_KEY} was not written by {made_by()}, but by {writer}: "
                f"{error}"
            ) from error

        if not entry._is_well_formed():
            raise InputError(DAMAGED)
        if entry.preset not in PRESETS:
            presets = ", ".join(PRESETS)
            raise InputError(f"the plans name the preset {entry.preset}; valid are {presets}")
        return entry

    def _is_well_formed(self) -> bool:
        """Return whether every value, as it was read from a file, has its declared type."""
        if not isinstance(self.preset, str):
            return False
        for group in (self.streams, self.settings, self.normalizations):
            if not isinstance(group, dict):
                return False

        texts = list(self.normalizations.values())
        for datasets in self.streams.values():
            if not isinstance(datasets, list):
                return False
            texts += datasets
        return all(isinstance(text, str) for text in texts)

    def into_plans(self, plans: dict) -> dict:
        """Return a copy of the plans with this entry."""
        fields = asdict(self)
        entry = {MADE_BY: made_by(), **fields}
        return {**plans, PLANS_KEY: entry}


def record_package(plans: dict) -> None:
    """Record in the plans, which results and exported zips contain, what to install for them."""
    entry = plans.setdefault(PLANS_KEY, {})
    entry[MADE_BY] = made_by()


def record_regions(plans: dict, has_regions: bool) -> None:
    """Tell networks, which are built from plans alone, that each output channel is a region.

    None of them is then the background. nnU-Net copies the plans into the results when a training
    starts, so inference knows it as well.
    """
    if has_regions:
        entry = plans.setdefault(PLANS_KEY, {})
        entry["regions"] = True
