"""Rows that suites share for few labels of one disease and many of others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_ext.benchmark.suite import Row

PRETRAINING = "general-pretraining"
PRETRAINED = {"general_checkpoint": "{checkpoint}"}


@dataclass(frozen=True)
class GeneralKnowledge:
    """The data sets of such a comparison.

    Args:
        few: with few labels, or one per seed in turn.
        general: labelled data sets of other diseases.
        unlabeled: of the few's disease, without labels; empty: there is none.
    """

    few: str | tuple[str, ...]
    general: tuple[str, ...]
    unlabeled: str = ""

    @property
    def other_diseases(self) -> dict[str, tuple[str, ...]]:
        """The stream of every row but the plain ones."""
        return {"general": self.general}

    def rows(self) -> tuple[Row, ...]:
        """Return all rows, from plain training to all that the method can use."""
        rows = [
            self.pretraining(PRETRAINING),
            Row("plain", self.few),
            Row("strong-augmentation", self.few, settings={"augmentation": "strong"}),
            self.pretrained("pre-trained", PRETRAINING),
            self._paper(
                "frozen-general-encoder",
                general_relation_weight=0.0,
                target_relation_weight=0.0,
            ),
            self._paper("only-general-relation", target_relation_weight=0.0),
            self._paper("only-target-relation", general_relation_weight=0.0),
            self._paper("relation-driven-paper"),
            self._relation_driven("relation-driven"),
            self._relation_driven("only-encoder-pretrained", pretrained_part="general_encoder"),
            self._relation_driven("without-general-segmentation", general_segmentation_weight=0.0),
            self._relation_driven(
                "without-relation",
                general_relation_weight=0.0,
                target_relation_weight=0.0,
            ),
        ]
        if self.unlabeled:
            both = {**self.other_diseases, "unlabeled": (self.unlabeled,)}
            rows.append(self._relation_driven("relation-driven-unlabeled", both))
        rows.append(self._relation_driven("relation-driven-strong", augmentation="strong"))
        return tuple(rows)

    def pretraining(self, name: str, general: tuple[str, ...] = ()) -> Row:
        """Return a row on other diseases, all or the given ones; the first stage of others."""
        streams = {"general": general or self.general}
        return Row(name, self.few, "GeneralPretrainTrainer", streams=streams, tested=False)

    def pretrained(self, name: str, pretraining: str) -> Row:
        """Return plain training that starts from what a row has learnt of other diseases."""
        return Row(name, self.few, first_stage=pretraining, pretrained=True)

    def _paper(self, name: str, **settings: Any) -> Row:
        return self._relation_driven(name, preset="paper", **settings)

    def _relation_driven(
        self,
        name: str,
        streams: Mapping[str, tuple[str, ...]] | None = None,
        preset: str = "recommended",
        **settings: Any,
    ) -> Row:
        return Row(
            name,
            self.few,
            "RelationDrivenTrainer",
            settings={**PRETRAINED, **settings},
            streams=streams or self.other_diseases,
            preset=preset,
            first_stage=PRETRAINING,
        )
