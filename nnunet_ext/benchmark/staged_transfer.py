"""Rows that suites share for transfer in two stages: a backbone, then a neighbouring task."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nnunet_ext.benchmark.suite import Row

TRAINER = "NCoVSegNetTrainer"


@dataclass(frozen=True)
class StagedTransfer:
    """The data sets and the backbone of such a comparison.

    Args:
        target: with few labels, or one per seed in turn.
        neighbour: labelled data set of the second stage.
        backbone: file of the first stage; ``{checkpoint}`` is that of ``first_stage``.
        first_stage: row whose backbone is taken; empty: the file is not of this suite.
        settings: of every row.
        neighbour_settings: further ones of the second stage.
        target_settings: further ones of training on the target.
        patch: of every row; empty: as planned.
    """

    target: str | tuple[str, ...]
    neighbour: str
    backbone: str = "{checkpoint}"
    first_stage: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    neighbour_settings: Mapping[str, Any] = field(default_factory=dict)
    target_settings: Mapping[str, Any] = field(default_factory=dict)
    patch: tuple[int, ...] = ()

    def rows(self) -> tuple[Row, ...]:
        """Return the second stage, then none, one and two stages, and the ablations of one."""
        return tuple(replace(row, patch=self.patch) for row in self._rows_as_planned())

    def _rows_as_planned(self) -> tuple[Row, ...]:
        of_target = {**self.settings, **self.target_settings}
        nodules = {
            **self.settings,
            "backbone_weights": self.backbone,
            **self.neighbour_settings,
        }
        second = Row(
            "nodules",
            self.neighbour,
            TRAINER,
            nodules,
            first_stage=self.first_stage,
            tested=False,
        )
        return (
            second,
            Row("none", self.target, TRAINER, of_target),
            self._one_stage("one-stage"),
            Row(
                "two-stages",
                self.target,
                TRAINER,
                of_target,
                first_stage=second.name,
                pretrained=True,
            ),
            self._ablation("A", gca=False, daf=False, deep_supervision=False),
            self._ablation("B", gca=True, daf=False, deep_supervision=False),
            self._ablation("C", gca=False, daf=True, deep_supervision=False),
            self._ablation("D", gca=False, daf=False, deep_supervision=True),
            self._ablation("E", gca=True, daf=False, deep_supervision=True),
            self._ablation("F", gca=False, daf=True, deep_supervision=True),
            self._ablation("G", gca=True, daf=True, deep_supervision=False),
        )

    def _one_stage(self, name: str, **settings: Any) -> Row:
        from_backbone = {
            **self.settings,
            **self.target_settings,
            "backbone_weights": self.backbone,
            **settings,
        }
        return Row(name, self.target, TRAINER, from_backbone, first_stage=self.first_stage)

    def _ablation(self, letter: str, gca: bool, daf: bool, deep_supervision: bool) -> Row:
        """Return a row of the paper's table 5; H is the row one-stage."""
        return self._one_stage(
            letter, use_gca=gca, use_daf=daf, use_deep_supervision=deep_supervision
        )
