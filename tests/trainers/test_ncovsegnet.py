"""NCoVSegNetTrainer: a step against plain PyTorch, rates, schedule, labels, and the transfer of a
backbone.
"""

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.nn import functional

from nnunet_ext.errors import InputError
from nnunet_ext.losses.structure import boundary_weight
from nnunet_ext.trainers.ncovsegnet import RESNET50, NCoVSegNetTrainer, size_at
from nnunet_ext.training.settings.hyperparameters import resolve
from tests.miniature_plans import DATASET_JSON, batch, plans, trainer
from tests.miniature_raw import write_raw
from tests.miniature_streams import trainer_with_data

SMALL = {"width": 1 / 16}
SMALL_CHANNELS = (4, 8, 16, 32)  # of timm's ResNet at this width


def made(
    root: Path,
    edge: int = 64,
    batch_size: int = 2,
    labels: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    content = plans(patch_size=(edge, edge), batch_size=batch_size, settings={**SMALL, **settings})
    dataset_json = {**DATASET_JSON, **({"labels": labels} if labels else {})}
    return trainer(NCoVSegNetTrainer, root, content, dataset_json=dataset_json)


def log_of(one: Any) -> str:
    (file,) = Path(one.output_folder).glob("training_log*.txt")
    return file.read_text()


# --- the step


def reference_loss(logits: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy and Dice of one output, written out with sums over the whole image."""
    z, g = logits[:, 1] - logits[:, 0], mask[:, 0]
    weight = boundary_weight(mask)[:, 0]
    cross_entropy = functional.softplus(z) - g * z
    bce = (weight * cross_entropy).sum((1, 2)) / weight.sum((1, 2))
    p = torch.sigmoid(z)
    dice = 1 - (2 * (weight * p * g).sum((1, 2)) + 1) / ((weight * (p + g)).sum((1, 2)) + 1)
    return bce.mean(), dice.mean()


def test_a_step_is_three_steps_of_plain_pytorch(tmp_path: Path) -> None:
    """Copied weights, Adam, three sizes, four outputs; the log has means over sizes and outputs."""
    one = made(tmp_path, edge=96)
    network = copy.deepcopy(one.network)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    data = batch(one)
    logged = one.train_step(data)

    bces, dices = [], []
    for edge in (64, 96, 128):
        images, masks = (
            functional.interpolate(
                tensor.float(), size=(edge, edge), mode="bilinear", align_corners=True
            )
            for tensor in (data["data"], data["target"])
        )
        terms = [reference_loss(output, masks) for output in network(images)]
        bce, dice = (sum(column) / 4 for column in zip(*terms, strict=True))
        optimizer.zero_grad()
        (bce + dice).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        bces.append(bce.item())
        dices.append(dice.item())

    assert logged["bce"] == pytest.approx(sum(bces) / 3, rel=1e-4)
    assert logged["dice"] == pytest.approx(sum(dices) / 3, rel=1e-4)
    assert logged["loss"] == pytest.approx(logged["bce"] + logged["dice"], rel=1e-5)
    for (name, own), reference in zip(
        one.network.named_parameters(), network.parameters(), strict=True
    ):
        # Adam's first steps have the length of the rate, even where a gradient is all rounding
        torch.testing.assert_close(own, reference, atol=6.1e-4, rtol=0, msg=name)
        assert (own - reference).abs().mean() < 2e-5, name


def test_sizes_are_the_papers() -> None:
    assert [size_at(rate, (352, 352))[0] for rate in (0.75, 1, 1.25)] == [256, 352, 448]
    assert size_at(0.75, (32, 96)) == (32, 64) and size_at(1, (40, 56)) == (40, 56)


def test_one_random_rate_is_one_update(tmp_path: Path) -> None:
    one = made(tmp_path, edge=96, rates="random")
    seen, steps, update = set(), [], type(one).update
    one.update = lambda *players, **losses: (steps.append(losses), update(one, *players, **losses))
    one.network.register_forward_hook(lambda module, inputs, output: seen.add(inputs[0].shape[-1]))
    for seed in range(8):
        one.train_step(batch(one, seed=seed))
    assert len(steps) == 8 and seen == {64, 96, 128}


def test_every_parameter_learns_in_nnunets_training_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net sets deep supervision when a training starts; all four outputs stay supervised."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    content = plans(
        patch_size=(64, 64),
        settings={
            **SMALL,
            "num_epochs": 1,
            "num_iterations_per_epoch": 1,
            "num_val_iterations_per_epoch": 1,
        },
    )
    raw = write_raw(tmp_path, "Dataset999_Miniature", 2, (64, 64))
    one = trainer_with_data(NCoVSegNetTrainer, tmp_path, content, raw)
    preprocessed = Path(one.preprocessed_dataset_folder_base)
    (preprocessed / "dataset_fingerprint.json").write_text("{}")  # which nnU-Net copies
    before = {name: weight.clone() for name, weight in one.network.named_parameters()}
    one.run_training()
    assert len(one.network.outputs) == 4
    for name, weight in one.network.named_parameters():
        assert weight.grad is not None and weight.grad.any(), name
        assert not torch.equal(weight, before[name]), name


def test_the_papers_network_trains_on_one_image(tmp_path: Path) -> None:
    """ResNet-50 at full width: 168.2 million parameters, every one of them with a gradient after a
    real step.
    """
    one = made(tmp_path, batch_size=1, width=1, rates="random")
    assert round(sum(weight.numel() for weight in one.network.parameters()) / 1e6, 1) == 168.2
    one.set_deep_supervision_enabled(one.enable_deep_supervision)
    assert math.isfinite(one.train_step(batch(one))["loss"])
    dead = [
        name
        for name, weight in one.network.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert not dead


def test_the_rate_falls_once_in_log_and_optimizer(tmp_path: Path) -> None:
    one = made(tmp_path, num_epochs=4, num_iterations_per_epoch=2, rates="random")
    rates = []
    for epoch in range(4):
        one.current_epoch = epoch
        one.on_train_epoch_start()
        for seed in range(2):
            one.train_step(batch(one, seed=seed))
            rates.append(one.optimizer.param_groups[0]["lr"])
    expected = [1e-4, 1e-4, 1e-5, 1e-5]
    assert one.logger.get_value("lrs", step=None) == pytest.approx(expected)
    assert rates == pytest.approx([rate for rate in expected for _ in range(2)])


def test_presets_give_the_papers_and_the_codes_schedule(tmp_path: Path) -> None:
    """The code's epochs are ``range(1, 100)``, so its epoch 50 is our 49."""
    for preset, expected in (
        ("paper", {49: 1.0, 50: 0.1, 99: 0.1}),
        ("code", {48: 1.0, 49: 0.1, 50: 0.01, 54: 1e-6, 59: 1e-11}),
    ):
        values = resolve(NCoVSegNetTrainer, preset, {})
        one = made(
            tmp_path / preset,
            num_iterations_per_epoch=10,
            **{n: values[n] for n in values if n in CHOSEN},
        )
        schedule = one.updaters["network"].schedule
        assert schedule is not None and one.max_gradient_norm("network") is None
        for epoch, factor in expected.items():
            assert schedule(10 * epoch) == schedule(10 * epoch + 9) == pytest.approx(factor)


CHOSEN = ("num_epochs", "decay_after", "decay_every_epoch", "clip_gradients")


# --- labels


def test_several_classes_are_each_against_the_rest(tmp_path: Path) -> None:
    one = made(tmp_path, labels={"background": 0, "ggo": 1, "consolidation": 2})
    target = torch.randint(0, 3, (2, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    masks = one.loss.masks(target)
    logits = torch.randn(2, 3, 64, 64)
    bce, dice = one.loss.terms(logits, masks)
    both = [reference_loss(logits[:, [0, label]], (target == label).float()) for label in (1, 2)]
    assert bce.item() == pytest.approx(sum(b.item() for b, _ in both) / 2, rel=1e-5)
    assert dice.item() == pytest.approx(sum(d.item() for _, d in both) / 2, rel=1e-5)
    assert one.network.eval()(torch.randn(1, 1, 64, 64)).shape[1] == 3
    assert len(one.network.outputs[0].weight) == 2


@pytest.mark.parametrize("unweighted", [False, True])
def test_ignored_pixels_take_no_part(unweighted: bool, tmp_path: Path) -> None:
    one = made(
        tmp_path,
        labels={"background": 0, "infection": 1, "ignore": 2},
        legacy_unweighted_bce=unweighted,
    )
    target = torch.zeros(2, 1, 64, 64, dtype=torch.long)
    target[..., :32, :] = 1
    target[..., 48:, :] = 2
    logits = torch.randn(2, 2, 64, 64)
    changed = logits.clone()
    changed[..., 48:, :] += torch.tensor([0.0, 3.0])[:, None, None]
    assert one.loss(logits, target).item() == pytest.approx(one.loss(changed, target).item())


@pytest.mark.parametrize("edge", [32, 64, 96])
def test_ignored_pixels_leak_neither_into_resized_masks_nor_into_weights(
    edge: int, tmp_path: Path
) -> None:
    """Everything that is known is lesion, so nothing counted is background or at a border."""
    one = made(tmp_path, labels={"background": 0, "infection": 1, "ignore": 2})
    target = torch.ones(2, 1, 64, 64, dtype=torch.long)
    target[..., 43:, :] = 2
    masks = one.loss.masks(target).resized((edge, edge))
    share = masks.counted.mean().item()
    assert 0.6 < share < 43 / 64 + 0.01
    assert (masks.foreground[masks.counted == 1] > 0.999).all()

    nearly = torch.full((2, 2, edge, edge), -3.0)
    nearly[:, 1] = 3.0
    bce, _ = one.loss.terms(nearly, masks)
    assert bce.item() == pytest.approx(math.log1p(math.exp(-6)), rel=1e-3)
    weight = boundary_weight(masks.foreground, counted=masks.counted)
    torch.testing.assert_close(weight * masks.counted, masks.counted)


def test_the_plans_tell_inference_that_labels_are_regions(tmp_path: Path) -> None:
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    dataset_json = {**DATASET_JSON, "labels": regions, "regions_class_order": [1, 2]}
    one = trainer(
        NCoVSegNetTrainer,
        tmp_path,
        plans(patch_size=(64, 64), settings=SMALL),
        dataset_json=dataset_json,
    )
    again = NCoVSegNetTrainer.build_network_architecture(
        one.plans_manager, one.configuration_manager, 1, 2, False
    )
    again.load_state_dict(one.network.state_dict())
    assert len(again.outputs[0].weight) == 2


# --- what is refused


def test_what_cannot_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match="a batch of one patch of 63 x 63 leaves batch normalisation a single value per "
        r"channel once it is resized to 32 x 32; use a batch of two, or .* an edge of at least 64",
    ):
        made(tmp_path / "one", edge=63, batch_size=1)
    with pytest.raises(InputError, match=r"set NCoVSegNetTrainer\.enable_deep_supervision=false"):
        made(tmp_path / "two", enable_deep_supervision=True)
    with pytest.raises(InputError, match=r"set NCoVSegNetTrainer\.proportion_weight=0"):
        made(tmp_path / "four", proportion_weight=0.5)
    with pytest.raises(
        InputError, match=r"width=2 is impossible: width is a number from 0\.03125 to 1"
    ):
        made(tmp_path / "three", width=2)


# --- stage one of the transfer


def imagenet_like(channels: tuple[int, ...] = SMALL_CHANNELS) -> torch.nn.Module:
    """A ResNet-50 of three input channels with a classifier, and statistics as after a training."""
    torch.manual_seed(7)
    source = timm.create_model("resnet50", channels=channels, num_classes=10)
    for name, buffer in source.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return source


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_tensor_of_the_backbone_is_transferred(suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = imagenet_like().state_dict()
    file = tmp_path / f"resnet50{suffix}"
    save_file(source, file) if suffix == ".safetensors" else torch.save(
        {"state_dict": source}, file
    )
    one, random = made(tmp_path / "one", backbone_weights=str(file)), made(tmp_path / "random")

    own, start = one.network.state_dict(), random.network.state_dict()
    for name, value in own.items():
        theirs = name.removeprefix("backbone.")
        if theirs == "conv1.weight":
            torch.testing.assert_close(value, source[theirs].sum(1, keepdim=True))
        elif name.startswith("backbone.") and ".se." not in name:
            assert torch.equal(value, source[theirs]), name
        else:
            assert torch.equal(value, start[name]), (
                name
            )  # the channel attention and everything behind the backbone
    backbone = [name for name in own if name.startswith("backbone.")]
    assert len(backbone) == 334 and set(source) - {"fc.weight", "fc.bias"} <= {
        n[9:] for n in backbone
    }

    log = log_of(one)
    assert f"The backbone starts from {file}: 334 tensors, 317 copied, 1 adapted, 16 random" in log
    assert "conv1.weight (3 input channels summed to 1)" in log and "layer4.2.se.conv.weight" in log
    assert "The backbone starts with random weights" in log_of(random)


def test_a_file_that_counts_the_children_fits(tmp_path: Path) -> None:
    """As ``nn.Sequential(*resnet.children())`` inside of another module writes it."""
    source = imagenet_like()
    counted = torch.nn.ModuleDict(
        {"backbone": torch.nn.Sequential(*source.children())}
    ).state_dict()
    assert "backbone.4.0.conv1.weight" in counted
    torch.save(counted, tmp_path / "counted.pth")
    one = made(tmp_path / "one", backbone_weights=str(tmp_path / "counted.pth"))
    own = one.network.backbone.state_dict()
    assert torch.equal(
        own["layer4.2.bn3.running_var"], source.state_dict()["layer4.2.bn3.running_var"]
    )
    assert "334 tensors, 317 copied, 1 adapted, 16 random" in log_of(one)


def test_an_own_checkpoint_gives_its_backbone_and_nothing_else(tmp_path: Path) -> None:
    source, file = made(tmp_path / "source"), tmp_path / "checkpoint.pth"
    torch.save({"network_weights": source.network.state_dict()}, file)
    one = made(tmp_path / "one", backbone_weights=str(file), seed=1)
    theirs, ours = source.network.state_dict(), one.network.state_dict()
    assert "tensors, 334 copied, 0 adapted, 0 random" in log_of(one)
    assert all(
        torch.equal(theirs[name], ours[name]) for name in ours if name.startswith("backbone.")
    )
    convolutions = [name for name in ours if name.startswith("contexts.") and ours[name].ndim == 4]
    assert not any(torch.equal(theirs[name], ours[name]) for name in convolutions)


def test_a_grey_image_gives_the_features_that_it_gave_in_the_source(tmp_path: Path) -> None:
    source = imagenet_like()
    torch.save(source.state_dict(), tmp_path / "resnet50.pth")
    one = made(tmp_path / "one", backbone_weights=str(tmp_path / "resnet50.pth"), use_eca=False)
    grey = torch.randn(2, 1, 64, 64)
    features = one.network.backbone.eval()(grey)[-1]
    torch.testing.assert_close(features, source.eval().forward_features(grey.expand(-1, 3, -1, -1)))


ADVICE = re.escape(RESNET50)


def test_a_backbone_of_another_width_is_refused(tmp_path: Path) -> None:
    torch.save(imagenet_like((8, 16, 32, 64)).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(
        InputError,
        match=r"wide\.pth: \d+ of 334 weights have another shape \(another network\), .* in the "
        rf"network; {ADVICE}$",
    ):
        made(tmp_path / "one", backbone_weights=str(tmp_path / "wide.pth"))
    with pytest.raises(InputError, match=rf"none\.pth: no such checkpoint; {ADVICE}$"):
        made(tmp_path / "two", backbone_weights=str(tmp_path / "none.pth"))


def test_a_resnet_of_other_depth_is_refused(tmp_path: Path) -> None:
    shallow = timm.create_model("resnet50", channels=SMALL_CHANNELS, layers=(3, 4, 4, 3))
    torch.save(shallow.state_dict(), tmp_path / "shallow.pth")
    with pytest.raises(InputError, match=rf"lacks .* weights of the layer3 .*; {ADVICE}$"):
        made(tmp_path / "one", backbone_weights=str(tmp_path / "shallow.pth"))
    deep = timm.create_model("resnet50", channels=SMALL_CHANNELS, layers=(3, 4, 7, 3))
    torch.save(deep.state_dict(), tmp_path / "deep.pth")
    with pytest.raises(InputError, match=r"has 18 weights more .* first layer3\.6\.conv1\.weight"):
        made(tmp_path / "two", backbone_weights=str(tmp_path / "deep.pth"))


def test_a_continued_training_does_not_read_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "resnet50.pth"
    torch.save(imagenet_like().state_dict(), file)
    one = made(tmp_path / "one", backbone_weights=str(file), rates="random")
    one.train_step(batch(one))
    one.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    file.unlink()

    content = plans(
        patch_size=(64, 64), settings={**SMALL, "rates": "random", "backbone_weights": str(file)}
    )
    again = NCoVSegNetTrainer(
        {**content, "continue_training": True},
        "2d",
        0,
        copy.deepcopy(DATASET_JSON),
        torch.device("cpu"),
    )
    again.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


def test_stage_two_starts_everything_with_nnunets_own_option(tmp_path: Path) -> None:
    """Stock ``-pretrained_weights`` takes the head over, too, since it is not called
    ``seg_layers``.
    """
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    first, second = made(tmp_path / "first", seed=1), made(tmp_path / "second", seed=2)
    first.save_checkpoint(str(tmp_path / "lidc.pth"))
    load_pretrained_weights(second.network, str(tmp_path / "lidc.pth"))
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
