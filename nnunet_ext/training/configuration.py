"""What ``nnUNetv2_ext_configure`` records inside a plans file, under the key ``nnunet_ext``.

nnU-Net copies the plans into results and export zips, so a trained model carries its configuration.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

PLANS_KEY = "nnunet_ext"


@dataclass
class Configuration:
    """Streams and hyperparameters of one plans file."""

    preset: str = "recommended"
    streams: dict[str, list[str]] = field(default_factory=dict)  # role -> data set names
    settings: dict[str, Any] = field(default_factory=dict)  # name or Trainer.name -> value

    @classmethod
    def from_plans(cls, plans: dict) -> Configuration:
        """The recorded configuration, or the default one of plans that were never configured."""
        return cls(**plans.get(PLANS_KEY, {}))

    def into_plans(self, plans: dict) -> dict:
        """A copy of the plans that carries this configuration."""
        return {**plans, PLANS_KEY: asdict(self)}
