"""The proportion loss as a setting of any trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.losses.proportion import proportion_loss, region_proportion_loss
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training.segmentation_loss import LossWithProportions, lesion_segmentation_loss
from tests.miniature_plans import DATASET_JSON, batch, plans, trainer

REGIONS = {
    **DATASET_JSON,
    "labels": {"background": 0, "whole": [1, 2], "core": 2},
    "regions_class_order": [1, 2],
}


def plain(root: Path, dataset_json: dict[str, Any] | None = None, **settings: Any) -> Any:
    torch.manual_seed(0)
    return trainer(PlainTrainer, root, plans(settings=settings), dataset_json=dataset_json)


@pytest.mark.parametrize(
    "settings", [{}, {"segmentation_loss": "ce"}, {"enable_deep_supervision": False}]
)
@pytest.mark.parametrize("norm", ["l2", "kl"])
def test_the_finest_output_gets_the_weighted_loss(
    settings: dict[str, Any], norm: str, tmp_path: Path
) -> None:
    made = plain(tmp_path, proportion_weight=0.5, proportion_norm=norm, **settings)
    bare = plain(tmp_path, **settings)
    data = batch(made)
    output = made.network(data["data"])
    deep = made.enable_deep_supervision
    logits, target = (output[0], data["target"][0]) if deep else (output, data["target"])
    expected = bare.loss(output, data["target"]) + 0.5 * proportion_loss(logits, target, norm)  # type: ignore[arg-type]
    torch.testing.assert_close(made.loss(output, data["target"]), expected)

    result = made.train_step(data)
    assert result["segmentation"] == pytest.approx(expected.item())
    assert result["proportion"] == pytest.approx(0.5 * proportion_loss(logits, target, norm).item())  # type: ignore[arg-type]
    assert made.logged_terms == ("segmentation", "proportion")


def test_without_weight_the_loss_is_nnunets(tmp_path: Path) -> None:
    made = plain(tmp_path)
    stock = nnUNetTrainer._build_loss(made)
    data = batch(made)
    output = made.network(data["data"])
    assert type(made.loss) is type(stock) and not isinstance(made.loss, LossWithProportions)
    assert torch.equal(made.loss(output, data["target"]), stock(output, data["target"]))
    assert made.logged_terms == ("segmentation",)


def test_ignored_pixels_take_no_part(tmp_path: Path) -> None:
    labels = {"background": 0, "infection": 1, "ignore": 2}
    made = plain(tmp_path, {**DATASET_JSON, "labels": labels}, proportion_weight=1.0)
    logits = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = batch(made)["target"][0]
    target[..., 8:] = 2
    loss = made.loss.proportion(logits, target)
    assert loss.item() == pytest.approx(proportion_loss(logits[..., :8], target[..., :8]).item())
    loss.backward()
    assert not logits.grad[..., 8:].any()


@pytest.mark.parametrize("ignores", [False, True])
def test_regions(ignores: bool, tmp_path: Path) -> None:
    labels = {**REGIONS["labels"], "ignore": 3} if ignores else REGIONS["labels"]
    made = plain(tmp_path, {**REGIONS, "labels": labels}, proportion_weight=1.0)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 16, 16, generator=generator)
    regions = torch.randint(0, 2, (2, 2, 16, 16), generator=generator)
    ignored = torch.zeros(2, 1, 16, 16, dtype=torch.long)
    ignored[..., 8:] = 1
    target = torch.cat((regions, ignored), 1) if ignores else regions
    width = 8 if ignores else 16
    expected = region_proportion_loss(logits[..., :width], regions[..., :width])
    torch.testing.assert_close(made.loss.proportion(logits, target), expected)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_lesions_have_dice_and_cross_entropy_without_the_backgrounds_dice(
    batch_dice: bool,
) -> None:
    generator = torch.Generator().manual_seed(0)
    lesion = torch.randint(0, 2, (3, 1, 8, 8), generator=generator)
    logits = torch.randn(3, 2, 8, 8, generator=generator)
    loss = lesion_segmentation_loss(batch_dice, is_ddp=False)

    log_probabilities = logits.log_softmax(1)
    cross_entropy = -log_probabilities.gather(1, lesion).mean()
    predicted = log_probabilities[:, 1:].exp()
    axes = (0, 1, 2, 3) if batch_dice else (1, 2, 3)
    hits = (predicted * lesion).sum(axes)
    sizes = predicted.sum(axes) + lesion.sum(axes)
    dice = ((2 * hits + 1e-5) / (sizes + 1e-5)).mean()
    torch.testing.assert_close(loss(logits, lesion), cross_entropy - dice)
