"""What ``nnUNetv2_ext_configure`` records inside a plans file, under the key ``nnunet_ext``.

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
    "general": "labelled data sets of other diseases, merged to lesion; 3=cancer uses only that "
    "label",
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
        entry = {name: value for name, value in recorded.items() if name != MADE_BY}
        try:
            read = cls(**entry)
        except TypeError as error:
            writer = recorded.get(MADE_BY, "another version")
            raise InputError(
                f"the plans' entry {PLANS_KEY} is not one of {made_by()}, but of {writer}: {error}"
            ) from error
        if not read._is_well_formed():
            raise InputError(DAMAGED)
        if read.preset not in PRESETS:
            raise InputError(
                f"the plans name a preset {read.preset}; there are {', '.join(PRESETS)}"
            )
        return read

    def _is_well_formed(self) -> bool:
        """Return whether every value, as it was read from a file, has its declared type."""
        groups = (self.streams, self.settings, self.normalizations)
        if not isinstance(self.preset, str) or not all(isinstance(one, dict) for one in groups):
            return False

        texts = list(self.normalizations.values())
        for datasets in self.streams.values():
            if not isinstance(datasets, list):
                return False
            texts += datasets
        return all(isinstance(text, str) for text in texts)

    def into_plans(self, plans: dict) -> dict:
        """Return a copy of the plans that carries this entry."""
        return {**plans, PLANS_KEY: {MADE_BY: made_by(), **asdict(self)}}


def record_package(plans: dict) -> None:
    """Tell who opens the plans, in a result folder or an exported zip, what to install for them."""
    plans.setdefault(PLANS_KEY, {})[MADE_BY] = made_by()


def record_regions(plans: dict, has_regions: bool) -> None:
    """Tell networks, which are built from plans alone, that each output channel is a region.

    None is the background then.

    nnU-Net copies the plans into the results when a training starts, so inference knows it, too.
    """
    if has_regions:
        plans.setdefault(PLANS_KEY, {})["regions"] = True
