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
    "general": "labelled data sets of other diseases, merged to lesion; 3=cancer takes only that "
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
    normalizations: dict[str, str] = field(
        default_factory=dict
    )  # role -> window(LOW,HIGH); others as in the plans
    regions: bool = False  # labels are regions, which overlap; see record_regions

    @classmethod
    def from_plans(cls, plans: dict) -> PlansEntry:
        """The recorded configuration, or the default one of plans that were never configured.

        Raises:
            InputError: an entry or a preset that this version does not know.
        """
        recorded = plans.get(PLANS_KEY, {})
        if not isinstance(recorded, dict):
            raise InputError(DAMAGED)
        entry = {name: value for name, value in recorded.items() if name != MADE_BY}
        try:
            configuration = cls(**entry)
        except TypeError as error:
            writer = recorded.get(MADE_BY, "another version")
            raise InputError(
                f"the plans' entry {PLANS_KEY} is not one of {made_by()}, but of {writer}: {error}"
            ) from error
        configuration._require_shape()
        if configuration.preset not in PRESETS:
            raise InputError(
                f"the plans name a preset {configuration.preset}; there are {', '.join(PRESETS)}"
            )
        return configuration

    def _require_shape(self) -> None:
        groups = (self.streams, self.settings, self.normalizations)
        shaped = isinstance(self.preset, str) and all(isinstance(group, dict) for group in groups)
        lists = list(self.streams.values()) if shaped else []
        names = [name for listed in lists if isinstance(listed, list) for name in listed]
        texts = [*names, *(self.normalizations.values() if shaped else ())]
        if (
            not shaped
            or not all(isinstance(one, list) for one in lists)
            or not all(isinstance(t, str) for t in texts)
        ):
            raise InputError(DAMAGED)

    def into_plans(self, plans: dict) -> dict:
        """A copy of the plans that carries this configuration."""
        return {**plans, PLANS_KEY: {MADE_BY: made_by(), **asdict(self)}}


def record_package(plans: dict) -> None:
    """Tell who opens the plans, in a result folder or an exported zip, what to install for them."""
    plans.setdefault(PLANS_KEY, {})[MADE_BY] = made_by()


def record_regions(plans: dict, has_regions: bool) -> None:
    """Tell networks, which are built from plans alone, that each output channel is a region and
    none the background.

    nnU-Net copies the plans into the results when a training starts, so inference knows it, too.
    """
    if has_regions:
        plans.setdefault(PLANS_KEY, {})["regions"] = True
