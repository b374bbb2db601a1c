"""Rows that suites share for labels of one modality and images of another: AMD-DAS's tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunet_ext.benchmark.suite import MadeData, Row

WINDOW = {"target_domain": "window(0,80)"}  # of the brain, in HU
CYCLE_GAN = {"shared_fusion": False, "feature_weight": 0}


@dataclass(frozen=True)
class ModalityTransfer:
    """The data sets of such a comparison, and how long its networks train.

    "One stage" is nnU-Net trained on pseudo-CT, "two stages" also aligns it with real CT.

    Args:
        source: labelled data set, MR.
        target: labelled CT, for an upper bound.
        unlabeled_target: CT without labels.
        matches: file with the similar slices, as a setting names it.
        synthesis: settings of stage 1.
        training: settings of every training that is tested.
    """

    source: str
    target: str
    unlabeled_target: str
    matches: str
    synthesis: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> tuple[Row, ...]:
        """Return the rows of tables 2 to 4, the paper's own synthesis before the others."""
        matched = {"matches_file": self.matches}
        return (
            Row("mri-baseline", self.source, settings=self.training),
            Row("das-on-mr", self.source, "AMDDASTrainer", self.training, self._stream),
            self._synthesis("synthesis", **matched),
            self._one_stage("one-stage", 600, "synthesis"),
            self._two_stages("two-stages", 610, "synthesis"),
            self._two_stages("two-stages-matched", 620, "synthesis", *self._subset("matched")),
            self._two_stages("two-stages-random", 630, "synthesis", *self._subset("random")),
            Row("target-only", self.target, settings=self.training),
            self._synthesis("synthesis-cyclegan", **CYCLE_GAN, lesion_weight=0),
            self._one_stage("cyclegan", 640, "synthesis-cyclegan"),
            self._two_stages("cyclegan-das", 650, "synthesis-cyclegan"),
            self._synthesis("synthesis-mask-cyclegan", **CYCLE_GAN),
            self._one_stage("mask-cyclegan", 660, "synthesis-mask-cyclegan"),
            self._two_stages("mask-cyclegan-das", 670, "synthesis-mask-cyclegan"),
            self._synthesis("synthesis-matched-mask-cyclegan", **CYCLE_GAN, **matched),
            self._one_stage("matched-mask-cyclegan", 680, "synthesis-matched-mask-cyclegan"),
            self._two_stages("matched-mask-cyclegan-das", 690, "synthesis-matched-mask-cyclegan"),
        )

    def contrast_rows(self) -> tuple[Row, ...]:
        """Return the paper's synthesis with a contrast loss, which is not in the paper."""
        return (
            self._synthesis("synthesis-contrast", matches_file=self.matches, contrast_weight=50),
            self._one_stage("one-stage-contrast", 720, "synthesis-contrast"),
            self._two_stages("two-stages-contrast", 730, "synthesis-contrast"),
        )

    def unmatched_rows(self) -> tuple[Row, ...]:
        """Return the two further sets of table 4."""
        rest = self._subset("unmatched")
        of_rest = self._subset("unmatched_random")
        return (
            self._two_stages("two-stages-unmatched", 700, "synthesis", *rest),
            self._two_stages("two-stages-unmatched-random", 710, "synthesis", *of_rest),
        )

    @property
    def _stream(self) -> dict[str, tuple[str, ...]]:
        return {"target_domain": (self.unlabeled_target,)}

    def _subset(self, name: str) -> tuple[str, ...]:
        return ("--matches", self.matches, "--subset", name)

    def _synthesis(self, name: str, **settings: Any) -> Row:
        """Stage 1 with the paper's losses; it is only the first stage of others: it segments MR."""
        return Row(
            name,
            self.source,
            "PseudoCTSynthesisTrainer",
            {**self.synthesis, "contrast_weight": 0, **settings},
            self._stream,
            tested=False,
            normalize=WINDOW,
        )

    def _one_stage(self, name: str, number: int, synthesis: str, *options: str) -> Row:
        """Plain nnU-Net on pseudo-CT."""
        data = _pseudo_ct(number, *options)
        return Row(name, data, settings=self.training, first_stage=synthesis)

    def _two_stages(self, name: str, number: int, synthesis: str, *options: str) -> Row:
        """Pseudo-CT, aligned with real CT."""
        data = _pseudo_ct(number, *options)
        return Row(name, data, "AMDDASTrainer", self.training, self._stream, first_stage=synthesis)


def _pseudo_ct(number: int, *options: str) -> MadeData:
    words = (
        "nnUNetv2_ext_synthesize -d {dataset} -tr {trainer} -c {configuration} -f {fold} -p "
        "{plans} -o {number}"
    )
    return MadeData(number, (*words.split(), "-device", "{device}", *options))
