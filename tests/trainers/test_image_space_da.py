"""Image-space adaptation: who learns from which loss, both orders against plain PyTorch, alpha = 0,
presets.
"""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nnunet_ext.errors import InputError
from nnunet_ext.networks.critics import ImagePatchCritic
from nnunet_ext.trainers.image_space_da import ImageSpaceDATrainer, patches_per_pixel
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training.multi_stream_trainer import WORKERS_VARIABLE
from tests.caught_losses import caught_losses
from tests.miniature_plans import DATASET_JSON, batch, plans, trainer
from tests.miniature_raw import write_raw
from tests.miniature_streams import drawn, trainer_with_data

STREAMS = {"target_domain": ["Dataset998_Other"]}
FOUR_CLASSES = {
    **DATASET_JSON,
    "labels": {"background": 0, "lung": 1, "opacity": 2, "consolidation": 3},
}
SOURCE_REAL, SOURCE_FAKE, TARGET_REAL, TARGET_FAKE = range(4)
every_order = pytest.mark.parametrize("order", ["simultaneous", "alternating"])


def image_space(
    root: Path,
    patch_size: tuple[int, ...] = (32, 32),
    dataset_json: dict[str, Any] | None = None,
    preset: str = "code",
    **settings: Any,
) -> Any:
    """The trainer on plans with levels of strides 1 to 16; preset ``code`` is the class's
    defaults.
    """
    small = {
        "critic_width": 4,
        "generator_width": 4,
        "num_epochs": 2,
        "num_iterations_per_epoch": 5,
    }
    content = plans(
        len(patch_size),
        patch_size=patch_size,
        features=(4, 4, 8, 8, 8),
        streams=STREAMS,
        settings={**small, **settings},
        preset=preset,
    )
    made = trainer(ImageSpaceDATrainer, root, content, dataset_json=dataset_json)
    made.network.train()
    return made


def parts(made: Any) -> dict[str, list[nn.Parameter]]:
    """θ_f, θ_c, θ_g and θ_d; nnU-Net's decoder also holds its encoder."""
    encoder = list(made.network.encoder.parameters())
    of_encoder = {id(parameter) for parameter in encoder}
    return {
        "f": encoder,
        "c": [
            parameter
            for parameter in made.network.decoder.parameters()
            if id(parameter) not in of_encoder
        ],
        "g": list(made.auxiliary_networks["generator"].parameters()),
        "d": list(made.auxiliary_networks["critic"].parameters()),
    }


def reached(loss: torch.Tensor, made: Any) -> str:
    """The parts that a loss has a gradient for."""
    names = ""
    for name, weights in parts(made).items():
        gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        if any(gradient is not None and gradient.any() for gradient in gradients):
            names += name
    return names


def weights_after_a_step(root: Path, **settings: Any) -> dict[str, torch.Tensor]:
    made = image_space(root, **settings)
    torch.manual_seed(1)
    made.train_step(batch(made, ("target_domain",)))
    return {
        name: nn.utils.parameters_to_vector(weights).detach()
        for name, weights in parts(made).items()
    }


# --- who learns from which loss


@pytest.mark.parametrize("patch_size", [(32, 32), (16, 16, 32)])
def test_what_each_loss_reaches_on_one_graph(tmp_path: Path, patch_size: tuple[int, ...]) -> None:
    """Nothing is detached here: the cross-domain loss reaches f through g and d, but never c."""
    made = image_space(tmp_path, patch_size, order="simultaneous")
    losses = caught_losses(made, batch(made, ("target_domain",)))
    assert {name: reached(loss, made) for name, loss in losses.items()} == {
        "segmentation": "fc",
        "adversarial": "fgd",
        "reconstruction": "fg",
        "realism": "fgd",
        "discriminator": "fgd",
    }


def test_what_each_loss_reaches_in_turn(tmp_path: Path) -> None:
    """Critic and generator work on detached features and images."""
    made = image_space(tmp_path, order="alternating")
    losses = caught_losses(made, batch(made, ("target_domain",)))
    assert {name: reached(loss, made) for name, loss in losses.items()} == {
        "segmentation": "fc",
        "adversarial": "fgd",
        "reconstruction": "g",
        "realism": "gd",
        "discriminator": "d",
    }


@every_order
def test_generator_and_critic_do_not_follow_the_extractors_loss(tmp_path: Path, order: str) -> None:
    """Whatever alpha is, their step is the same."""
    little, much = (
        weights_after_a_step(tmp_path / str(w), order=order, adversarial_weight=w)
        for w in (0.1, 1e4)
    )
    assert torch.equal(little["g"], much["g"]) and torch.equal(little["d"], much["d"])
    assert not torch.equal(little["f"], much["f"])


@every_order
def test_the_classifier_does_not_follow_the_cross_domain_loss(tmp_path: Path, order: str) -> None:
    little, much = (
        weights_after_a_step(
            tmp_path / str(w), order=order, adversarial_weight=w, optimizer_kind="adam"
        )
        for w in (0.1, 1e4)
    )
    assert torch.equal(little["c"], much["c"]) and not torch.equal(little["f"], much["f"])


def test_nobody_moves_before_the_end_of_a_simultaneous_step(tmp_path: Path) -> None:
    """How far critic and generator go makes no difference to the network's step, as it does in
    turn.
    """
    for order, expected in (("simultaneous", True), ("alternating", False)):
        slow, fast = (
            weights_after_a_step(
                tmp_path / f"{order}{lr}",
                order=order,
                auxiliary_lr=lr,
                adversarial_reduction="mean",
            )
            for lr in (1e-5, 1e-2)
        )
        assert torch.equal(slow["f"], fast["f"]) == expected
        assert torch.equal(slow["c"], fast["c"])


@every_order
def test_samples_with_forced_lesion_are_not_judged(tmp_path: Path, order: str) -> None:
    made = image_space(tmp_path, order=order)
    data = batch(made, ("target_domain",))
    assert data["forced"].tolist() == [False, True]
    losses = []
    for _ in range(2):
        torch.manual_seed(1)  # of dropout
        losses.append(caught_losses(made, data))
        data["data"][1] += torch.randn_like(data["data"][1])
    first, second = losses
    for name in ("adversarial", "reconstruction", "realism", "discriminator"):
        assert torch.equal(first[name], second[name]), name
    assert first["segmentation"] != second["segmentation"]


# --- the losses


def test_which_class_each_loss_asks_for(tmp_path: Path) -> None:
    """Closed form: every patch has the same four logits, so cross entropy with class k is log Σ
    exp(z) - z_k.
    """
    made = image_space(tmp_path, adversarial_reduction="mean", adversarial_weight=0.1)
    z = {"source": [0.0, 1.0, -1.0, 3.0], "target": [2.0, 0.5, 0.0, -2.0]}
    zero = [0.0] * 4
    images = {domain: torch.ones(1, 1, 16, 16) for domain in z}
    real = {domain: torch.zeros(1, 4, 2, 2) for domain in z}
    fake = {
        domain: torch.tensor(logits)[None, :, None, None].expand(1, 4, 2, 2)
        for domain, logits in z.items()
    }

    def cross_entropy(logits: list[float], label: int) -> float:
        return math.log(sum(math.exp(logit) for logit in logits)) - logits[label]

    discriminator = (
        cross_entropy(zero, SOURCE_REAL)
        + cross_entropy(zero, TARGET_REAL)
        + cross_entropy(z["source"], SOURCE_FAKE)
        + cross_entropy(z["target"], TARGET_FAKE)
    )
    within_domain = cross_entropy(z["source"], SOURCE_REAL) + cross_entropy(
        z["target"], TARGET_REAL
    )
    cross_domain = cross_entropy(z["source"], TARGET_REAL) + cross_entropy(z["target"], SOURCE_REAL)

    assert made.discriminator_loss(real, fake).item() == pytest.approx(discriminator)
    rebuilt = {
        "source": torch.full((1, 1, 16, 16), 0.75),
        "target": torch.full((1, 1, 16, 16), 3.0),
    }
    generator = made.generator_losses(images, rebuilt, fake)
    assert generator["realism"].item() == pytest.approx(
        4 / 256 * within_domain
    )  # 4 patches, 256 pixels
    assert generator["reconstruction"].item() == pytest.approx(0.25 + 2.0)
    assert made.cross_domain_loss(images, fake).item() == pytest.approx(0.1 * cross_domain)


def test_sums_as_printed_weigh_patches_against_pixels(tmp_path: Path) -> None:
    """512 x 512 pixels make 64 x 64 patches: alpha N_p / N_x = 0.1 / 64."""
    image = {"target": torch.zeros(1, 1, 512, 512)}
    patches = {"target": ImagePatchCritic(nn.Conv2d, 1, width=1)(image["target"])}
    assert patches["target"].shape == (1, 4, 64, 64)
    assert 0.1 * patches_per_pixel(image, patches) == pytest.approx(0.0015625, rel=1e-12)


def test_a_mean_over_patches_is_the_sum_times_pixels_per_patch(tmp_path: Path) -> None:
    images = {domain: torch.randn(1, 1, 32, 32) for domain in ("source", "target")}
    fake = {domain: torch.randn(1, 4, 4, 4) for domain in images}
    as_sum = image_space(tmp_path / "sum", adversarial_reduction="paper_sum").cross_domain_loss(
        images, fake
    )
    as_mean = image_space(tmp_path / "mean", adversarial_reduction="mean").cross_domain_loss(
        images, fake
    )
    torch.testing.assert_close(as_mean, 64 * as_sum)


def test_losses_are_the_printed_sums_up_to_one_factor(tmp_path: Path) -> None:
    """Eq. 4 and 6 in plain sums over pixels and patches of one image, divided by the number of
    pixels.
    """
    made = image_space(tmp_path)
    images = {domain: torch.randn(1, 1, 32, 32) for domain in ("source", "target")}
    rebuilt = {domain: torch.randn(1, 1, 32, 32) for domain in images}
    fake = {domain: torch.randn(1, 4, 4, 4) for domain in images}
    log_d = {domain: logits.log_softmax(1)[0] for domain, logits in fake.items()}

    l1 = sum((rebuilt[domain] - images[domain]).abs().sum() for domain in images)
    within_domain = -log_d["source"][SOURCE_REAL].sum() - log_d["target"][TARGET_REAL].sum()
    cross_domain = -log_d["source"][TARGET_REAL].sum() - log_d["target"][SOURCE_REAL].sum()

    generator = made.generator_losses(images, rebuilt, fake)
    torch.testing.assert_close(sum(generator.values()), (l1 + within_domain) / 32**2)
    torch.testing.assert_close(made.cross_domain_loss(images, fake), 0.1 * cross_domain / 32**2)


# --- whole steps against plain PyTorch


class PlainStep:
    """The method with copied weights, written out: three gradients, three optimizers."""

    def __init__(self, made: Any) -> None:
        self.loss, self.levels = made.loss, [2, 3, 4]  # strides 4, 8, 16
        self.network = copy.deepcopy(made.network)
        self.generator = copy.deepcopy(made.auxiliary_networks["generator"])
        self.critic = copy.deepcopy(made.auxiliary_networks["critic"])
        self.sgd = torch.optim.SGD(
            self.network.parameters(), 0.01, 0.99, nesterov=True, weight_decay=3e-5
        )
        self.adams = {
            module: torch.optim.Adam(module.parameters(), 1e-4, (0.7, 0.999))
            for module in (self.generator, self.critic)
        }

    def set_rates(self, epoch: int, iteration: int, epochs: int, iterations: int) -> None:
        """nnU-Net's polynomial: for the network per epoch, for the others per iteration."""
        self.sgd.param_groups[0]["lr"] = 0.01 * (1 - epoch / epochs) ** 0.9
        for adam in self.adams.values():
            adam.param_groups[0]["lr"] = 1e-4 * (1 - iteration / iterations) ** 0.9

    def judge(self, image: torch.Tensor, label: int) -> torch.Tensor:
        logits = self.critic(image)
        return functional.cross_entropy(logits, torch.full((len(logits), *logits.shape[2:]), label))

    def rebuild(self, features: list[torch.Tensor], size: torch.Size) -> torch.Tensor:
        return self.generator([features[level] for level in self.levels], size)

    def gradients(self, module: nn.Module, loss: torch.Tensor) -> None:
        weights = list(module.parameters())
        gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        nn.utils.clip_grad_norm_(weights, 12)

    def encode(
        self, data: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, list, list, torch.Tensor]:
        """Images and features of unforced source samples and of the target, and the segmentation
        loss.
        """
        of_all = self.network.encoder(data["data"])
        segmentation = self.loss(self.network.decoder(of_all), data["target"])
        source, target = data["data"][:1], data["target_domain"]["data"]
        return (
            source,
            target,
            [level[:1] for level in of_all],
            self.network.encoder(target),
            segmentation,
        )

    def critic_loss(self, source: Any, target: Any, fake_s: Any, fake_t: Any) -> torch.Tensor:
        on_source = self.judge(source, SOURCE_REAL) + self.judge(fake_s, SOURCE_FAKE)
        on_target = self.judge(target, TARGET_REAL) + self.judge(fake_t, TARGET_FAKE)
        return on_source + on_target

    def generator_loss(self, source: Any, target: Any, fake_s: Any, fake_t: Any) -> torch.Tensor:
        distance = (fake_s - source).abs().mean() + (fake_t - target).abs().mean()
        return distance + (self.judge(fake_s, SOURCE_REAL) + self.judge(fake_t, TARGET_REAL)) / 64

    def cross_domain_loss(self, fake_s: Any, fake_t: Any) -> torch.Tensor:
        return 0.1 / 64 * (self.judge(fake_s, TARGET_REAL) + self.judge(fake_t, SOURCE_REAL))

    def simultaneous(self, data: dict[str, Any]) -> dict[str, torch.Tensor]:
        source, target, f_s, f_t, segmentation = self.encode(data)
        fake_s, fake_t = (self.rebuild(f, source.shape[2:]) for f in (f_s, f_t))
        cross_domain = self.cross_domain_loss(fake_s, fake_t)
        self.gradients(
            self.critic, discriminator := self.critic_loss(source, target, fake_s, fake_t)
        )
        self.gradients(self.generator, self.generator_loss(source, target, fake_s, fake_t))
        self.gradients(self.network, segmentation + cross_domain)
        for optimizer in (self.sgd, *self.adams.values()):
            optimizer.step()
        return {
            "segmentation": segmentation,
            "adversarial": cross_domain,
            "discriminator": discriminator,
        }

    def alternating(self, data: dict[str, Any]) -> dict[str, torch.Tensor]:
        source, target, f_s, f_t, segmentation = self.encode(data)
        fakes = [self.rebuild(f, source.shape[2:]) for f in (f_s, f_t)]
        self.gradients(self.critic, discriminator := self.critic_loss(source, target, *fakes))
        self.adams[self.critic].step()
        self.gradients(self.generator, self.generator_loss(source, target, *fakes))
        self.adams[self.generator].step()
        cross_domain = self.cross_domain_loss(
            *(self.rebuild(f, source.shape[2:]) for f in (f_s, f_t))
        )
        self.gradients(self.network, segmentation + cross_domain)
        self.sgd.step()
        return {
            "segmentation": segmentation,
            "adversarial": cross_domain,
            "discriminator": discriminator,
        }


@every_order
def test_two_steps_equal_plain_pytorch(tmp_path: Path, order: str) -> None:
    made = image_space(tmp_path, order=order)
    made.auxiliary_networks["generator"].eval()  # without dropout
    made.current_epoch = 1
    plain = PlainStep(made)
    for iteration in range(2):
        data = batch(made, ("target_domain",), seed=iteration)
        plain.set_rates(epoch=1, iteration=5 + iteration, epochs=2, iterations=10)
        expected = getattr(plain, order)(data)
        result = made.train_step(data)
        for name, value in expected.items():
            assert result[name] == pytest.approx(value.item(), rel=1e-5), name
    ours = (made.network, made.auxiliary_networks["generator"], made.auxiliary_networks["critic"])
    for module, twin in zip(ours, (plain.network, plain.generator, plain.critic), strict=True):
        for (name, weight), other in zip(module.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(weight, other, msg=f"{type(module).__name__}.{name}")


def test_diagnostics_are_what_their_names_say(tmp_path: Path) -> None:
    made = image_space(tmp_path)
    made.auxiliary_networks["generator"].eval()
    data = batch(made, ("target_domain",))
    plain = PlainStep(made)
    source, target, f_s, f_t, segmentation = plain.encode(data)
    fake_s, fake_t = (plain.rebuild(f, source.shape[2:]) for f in (f_s, f_t))
    norms = []
    for loss in (plain.cross_domain_loss(fake_s, fake_t), segmentation):
        gradients = torch.autograd.grad(
            loss, list(plain.network.encoder.parameters()), retain_graph=True
        )
        norms.append(math.sqrt(sum(gradient.square().sum().item() for gradient in gradients)))

    def share_called_real(*images: torch.Tensor) -> float:
        probabilities = torch.cat([plain.critic(image) for image in images]).softmax(1)
        real = probabilities[:, SOURCE_REAL] + probabilities[:, TARGET_REAL]
        return (real > 0.5).float().mean().item()

    result = made.train_step(data)
    assert result["adversarial_gradient_ratio"] == pytest.approx(norms[0] / norms[1], rel=1e-4)
    balance = (share_called_real(source, target) + 1 - share_called_real(fake_s, fake_t)) / 2
    assert result["discriminator_balance"] == pytest.approx(balance)
    assert math.isnan(
        made.train_step(data)["adversarial_gradient_ratio"]
    )  # costs time: once an epoch


@every_order
def test_four_classes(tmp_path: Path, order: str) -> None:
    made = image_space(tmp_path, dataset_json=FOUR_CLASSES, order=order)
    data = batch(made, ("target_domain",))
    data["target"] = [torch.randint(0, 4, level.shape) for level in data["target"]]
    for _ in range(2):
        result = made.train_step(data)
        assert all(math.isfinite(result[term]) for term in made.loss_terms)
    assert made.network(data["data"])[0].shape[1] == 4


def test_images_and_their_reconstructions_are_drawn(tmp_path: Path) -> None:
    made = image_space(tmp_path, num_iterations_per_epoch=1)
    made.on_train_epoch_start()
    data = batch(made, ("target_domain",))
    made.train_step(data)
    assert {row: len(pictures) for row, pictures in made._pictures.items()} == {
        "source": 2,
        "target": 2,
    }
    torch.testing.assert_close(torch.tensor(made._pictures["source"][0]), data["data"][0, 0])


# --- alpha = 0


def test_without_adversary_the_weights_are_those_of_plain_and_of_stock_nnunet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through nnU-Net's loaders and augmentation, difference 0."""
    labelled = write_raw(tmp_path, "Dataset999_Miniature", 3)
    other = write_raw(tmp_path, "Dataset998_Other", 2, labelled=False)
    monkeypatch.setenv(WORKERS_VARIABLE, "0")
    settings = {
        "adversarial_weight": 0,
        "augmentation": "nnunet",
        "num_val_iterations_per_epoch": 1,
    }
    content = plans(
        patch_size=(32, 32), features=(4, 4, 8, 8, 8), streams=STREAMS, settings=settings
    )
    ours, plain = (
        trainer_with_data(cls, tmp_path / cls.__name__, content, labelled, target_domain=other)
        for cls in (ImageSpaceDATrainer, PlainTrainer)
    )
    stock = trainer(nnUNetTrainer, tmp_path / "stock", content)
    stock.network.load_state_dict(ours.network.state_dict())

    drawn_by_ours, drawn_by_plain = (drawn(made.get_dataloaders()[0], 3) for made in (ours, plain))
    for of_ours, of_plain in zip(drawn_by_ours, drawn_by_plain, strict=True):
        assert "target_domain" not in of_ours and torch.equal(of_ours["data"], of_plain["data"])
        ours.train_step(of_ours)
        plain.train_step(of_plain)
        stock.train_step(of_plain)
    for weight, of_plain, of_stock in zip(
        ours.network.parameters(),
        plain.network.parameters(),
        stock.network.parameters(),
        strict=True,
    ):
        assert torch.equal(weight, of_plain) and torch.equal(weight, of_stock)


def test_without_adversary_nothing_is_built_or_computed(tmp_path: Path) -> None:
    flops = []
    for cls in (ImageSpaceDATrainer, PlainTrainer):
        content = plans(
            streams=STREAMS, settings={"adversarial_weight": 0}
        )  # three levels are enough
        made = trainer(cls, tmp_path, content)
        assert (
            made.auxiliary_networks == {}
            and made.roles_in_use() == []
            and set(made.updaters) == {"network"}
        )
        with FlopCounterMode(display=False) as counter:
            made.train_step(batch(made))
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 0


# --- settings


def test_preset_paper(tmp_path: Path) -> None:
    content = plans(patch_size=(32, 32), features=(4, 4, 8, 8, 8), streams=STREAMS, preset="paper")
    made = trainer(ImageSpaceDATrainer, tmp_path, content)
    assert isinstance(made.loss, RobustCrossEntropyLoss) and not made.enable_deep_supervision
    assert (made.order, made.adversarial_weight, made.total_iterations) == (
        "alternating",
        0.1,
        100_000,
    )
    assert made.adversarial_reduction == "paper_sum" and made.averaged_network is None
    assert set(made.updaters) == {"network", "generator", "critic"}
    for updater in made.updaters.values():
        assert isinstance(updater.optimizer, torch.optim.Adam) and updater.max_norm is None
        (group,) = updater.optimizer.param_groups
        assert (
            updater.initial_rates == [1e-5]
            and group["betas"] == (0.9, 0.999)
            and group["weight_decay"] == 0
        )
        factors = [updater.schedule(iteration) for iteration in (0, 9_999, 10_000, 99_999)]
        assert factors == pytest.approx([1, 1, 0.8, 0.8**9])


def test_preset_recommended(tmp_path: Path) -> None:
    made = image_space(tmp_path, preset="recommended")
    assert isinstance(made.loss.loss, DC_and_CE_loss) and made.averaged_network is not None
    assert (
        isinstance(made.updaters["network"].optimizer, torch.optim.SGD)
        and made.average_weights == 0.999
    )
    assert made.updaters["network"].max_norm == 12 and made.order == "simultaneous"


@pytest.mark.parametrize(
    ("patch_size", "preset"), [((32, 32), "recommended"), ((16, 16, 16), "paper")]
)
def test_the_papers_extractor_trains(
    tmp_path: Path, patch_size: tuple[int, ...], preset: str
) -> None:
    """It has one output: deep supervision is off whatever the settings say."""
    made = image_space(tmp_path, patch_size, preset=preset, extractor="paper")
    assert [len(made.network.encoder.convolutions), made.network.encoder.output_channels[3]] == [
        4,
        512,
    ]
    assert not made.enable_deep_supervision
    data = batch(made, ("target_domain",))
    assert isinstance(data["target"], torch.Tensor)
    before = nn.utils.parameters_to_vector(made.network.parameters()).detach()
    result = made.train_step(data)
    assert all(math.isfinite(result[term]) for term in made.loss_terms)
    assert not torch.equal(before, nn.utils.parameters_to_vector(made.network.parameters()))


@pytest.mark.parametrize(
    ("levels", "strides"), [("1-3", [1, 2, 4]), ("2-4", [2, 4, 8]), ("3-5", [4, 8, 16])]
)
def test_levels_of_table_3(tmp_path: Path, levels: str, strides: list[int]) -> None:
    made = image_space(tmp_path, generator_levels=levels)
    data = batch(made, ("target_domain",))
    features = made.network(data["data"], with_features=True).features
    sizes = [features[level].shape[-1] for level in made._levels()]
    assert sizes == [32 // stride for stride in strides]
    assert math.isfinite(made.train_step(data)["reconstruction"])


def test_a_network_without_the_level_is_refused_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"generator_levels=3-5: .* no level of stride 8; its .* strides 1, 2, 4; "
    ):
        trainer(ImageSpaceDATrainer, tmp_path, plans(streams=STREAMS))
