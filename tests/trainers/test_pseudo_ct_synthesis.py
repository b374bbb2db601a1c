"""Pseudo-CT synthesis: who learns from which loss, two steps against plain PyTorch, pairs, windows,
presets.
"""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from nnunet_ext.errors import InputError
from nnunet_ext.networks.vgg_fcn import VGGFCN
from nnunet_ext.synthesis.matches import Matches, NearestSource, SimilarTargets, write_matches
from nnunet_ext.trainers.pseudo_ct_synthesis import PseudoCTSynthesisTrainer
from nnunet_ext.training.multi_stream_trainer import WORKERS_VARIABLE
from tests.caught_losses import caught_losses
from tests.miniature_plans import batch, plans, trainer
from tests.miniature_raw import write_raw
from tests.miniature_streams import drawn, trainer_with_data

STREAMS = {"target_domain": ["Dataset998_Other"]}
WINDOW = {"target_domain": "window(0,255)"}
SMALL = {"generator_width": 2, "critic_width": 2, "num_epochs": 2, "num_iterations_per_epoch": 5}


def synthesis(root: Path, preset: str = "recommended", patch: int = 16, **settings: Any) -> Any:
    content = plans(
        patch_size=(patch, patch),
        streams=STREAMS,
        normalizations=WINDOW,
        preset=preset,
        settings={**SMALL, **settings},
    )
    made = trainer(PseudoCTSynthesisTrainer, root, content)
    made.network.train()
    return made


def parts(made: Any) -> dict[str, list[nn.Parameter]]:
    """Encoders E, fusion F and decoders D (s: of MR, t: of CT), segmenters S and critics C."""
    there, back, others = (
        made.network.translator,
        made.auxiliary_networks["translators"],
        made.auxiliary_networks,
    )
    modules = {
        "Es": there.encoder,
        "Et": back.encoder,
        "F": there.fusion,
        "Dt": there.decoder,
        "Ds": back.decoder,
        "St": made.network.segmenter,
        "Ss": others["source_segmenter"],
        "Cf": others["feature_critic"],
        "Ct": others["target_critic"],
        "Cs": others["source_critic"],
    }
    return {name: list(module.parameters()) for name, module in modules.items()}


def owned(made: Any, player: str) -> set[str]:
    """The parts of which a player's optimizer holds parameters; each of them whole."""
    held = {id(parameter) for parameter in made.updaters[player].parameters()}
    names = {
        name
        for name, weights in parts(made).items()
        if any(id(weight) in held for weight in weights)
    }
    assert sum(len(parts(made)[name]) for name in names) == len(held)
    return names


def reached(loss: torch.Tensor, made: Any) -> set[str]:
    names = set()
    for name, weights in parts(made).items():
        gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        if any(gradient is not None and gradient.any() for gradient in gradients):
            names.add(name)
    return names


# --- who learns from which loss


def test_every_weight_has_one_owner(tmp_path: Path) -> None:
    made = synthesis(tmp_path)
    assert {player: owned(made, player) for player in made.updaters} == {
        "network": {"St"},
        "translators": {"Es", "Et", "F", "Dt", "Ds"},
        "source_segmenter": {"Ss"},
        "feature_critic": {"Cf"},
        "target_critic": {"Ct"},
        "source_critic": {"Cs"},
    }


def test_what_each_loss_reaches(tmp_path: Path) -> None:
    """Of these, an update moves the weights of its player alone; the encoders never follow the
    feature critic.
    """
    made = synthesis(tmp_path, image_pool=0, contrast_weight=1)
    losses = caught_losses(made, batch(made, ("target_domain",)))
    translators = {"Es", "Et", "F", "Dt", "Ds"}
    assert {name: reached(loss, made) for name, loss in losses.items()} == {
        "segmentation": {"Es", "F", "Dt", "St"},
        "reconstructed_segmentation": translators | {"Ss"},
        "adversarial": translators | {"Ct", "Cs"},
        "cycle": translators,
        "lesion": translators | {"St", "Ss"},
        "feature_domain": {"F", "Cf"},
        "identity": translators,
        "contrast": {"Es", "Et", "F", "Dt", "Ds"},
        "feature_discriminator": {"Es", "F", "Cf"},
        "target_discriminator": {"Es", "F", "Dt", "Ct"},
        "source_discriminator": {"Et", "F", "Ds", "Cs"},
    }


def gradients_of_updates(made: Any, data: dict[str, Any]) -> list[tuple[set[str], set[str]]]:
    """For each of the step's updates: its players' parts, and the parts whose gradient changed."""
    seen: list[tuple[set[str], set[str]]] = []
    update = made.update

    def observed(*players: str, **losses: torch.Tensor) -> None:
        for weights in parts(made).values():
            for weight in weights:
                weight.grad = None
        update(*players, **losses)
        changed = {
            name
            for name, weights in parts(made).items()
            if any(w.grad is not None for w in weights)
        }
        seen.append((set().union(*(owned(made, player) for player in players)), changed))

    made.update = observed
    with pytest.raises(ValueError, match="no gradients"):
        made.train_step(data)
    return seen


def test_each_update_gives_gradients_to_its_players_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = synthesis(tmp_path)

    def no_step(updates: Any) -> None:
        raise ValueError("no gradients")

    monkeypatch.setattr(made, "_apply", no_step)
    seen = gradients_of_updates(made, batch(made, ("target_domain",)))
    assert len(seen) == 5
    for players, changed in seen:
        assert players == changed


def weights_after_a_step(root: Path, **settings: Any) -> dict[str, torch.Tensor]:
    made = synthesis(root, **settings)
    made.train_step(batch(made, ("target_domain",)))
    return {
        name: nn.utils.parameters_to_vector(weights).detach()
        for name, weights in parts(made).items()
    }


def test_critics_and_segmenters_do_not_follow_the_translators(tmp_path: Path) -> None:
    """Whatever the translators' losses weigh and however far they go, the others' step is the
    same.
    """
    first = weights_after_a_step(tmp_path / "a", preset="code", segmenter="plans")
    other = weights_after_a_step(
        tmp_path / "b",
        preset="code",
        segmenter="plans",
        cycle_weight=0.1,
        lesion_weight=0,
        feature_weight=1e3,
        translation_lr=0.3,
        critic_width=2,
    )
    for name in ("St", "Ss", "Cf"):
        assert torch.equal(first[name], other[name]), name
    for name in ("Es", "Et", "F", "Dt", "Ds"):
        assert not torch.equal(first[name], other[name]), name


# --- whole steps against plain PyTorch


class PlainStep:
    """The method in the order of the authors' code with copied weights: translators, critics,
    segmenters in turn.
    """

    def __init__(self, made: Any) -> None:
        self.loss = made.loss
        copied = copy.deepcopy(
            nn.ModuleList([made.network, *made.auxiliary_networks.values()])
        )  # keeps the sharing
        network, self.back, self.s_rec, self.d_fusion, self.d_ct, self.d_mr = copied
        self.there, self.s_ori = network.translator, network.segmenter
        translators = nn.ModuleList([self.there, self.back])
        self.adam = torch.optim.Adam(translators.parameters(), 2e-4, (0.5, 0.999))
        self.fusion_adam = torch.optim.Adam(self.d_fusion.parameters(), 1e-3, (0.9, 0.99))
        critics = [*self.d_ct.parameters(), *self.d_mr.parameters()]
        self.critic_adam = torch.optim.Adam(critics, 2e-4, (0.5, 0.999))
        self.sgd = torch.optim.SGD(
            [*self.s_ori.parameters(), *self.s_rec.parameters()], 0.1, momentum=0.7
        )

    def step(self, data: dict[str, Any]) -> dict[str, float]:
        m, c, y = data["data"], data["target_domain"]["data"], data["target"]
        fake_c, fake_m = self.there(m), self.back(c)
        again_m, again_c = self.back(fake_c), self.there(fake_m)
        hidden = self.back.fusion(self.back.encoder(c).detach())
        gan = [
            functional.mse_loss(d(f), torch.ones_like(d(f)))
            for d, f in ((self.d_ct, fake_c), (self.d_mr, fake_m))
        ]
        cycle = (again_m - m).abs().mean() + (again_c - c).abs().mean()
        same = (self.back(m) - m).abs().mean() + (self.there(c) - c).abs().mean()
        lesion = self.loss(self.s_ori(fake_c), y) + self.loss(self.s_rec(again_m), y)
        fooled = (self.d_fusion(hidden) - 1).square().mean()
        total = sum(gan) + 50 * cycle + 5 * same + 50 * lesion + 15 * fooled
        source_hidden = self.there.features(m).detach()
        fakes = fake_c.detach(), fake_m.detach(), again_m.detach(), hidden.detach()
        self.move(self.adam, total)

        fake_c, fake_m, again_m, hidden = fakes
        on_source, on_target = self.d_fusion(source_hidden), self.d_fusion(hidden)
        d_f = functional.softplus(-on_source).mean() + functional.softplus(on_target).mean()
        self.move(self.fusion_adam, d_f)
        d_ct = ((self.d_ct(c) - 1).square().mean() + self.d_ct(fake_c).square().mean()) / 2
        d_mr = ((self.d_mr(m) - 1).square().mean() + self.d_mr(fake_m).square().mean()) / 2
        self.move(self.critic_adam, d_ct + d_mr)
        segmentation = self.loss(self.s_ori(fake_c), y)
        self.move(self.sgd, segmentation + self.loss(self.s_rec(again_m), y))
        losses = {
            "adversarial": sum(gan),
            "cycle": 50 * cycle,
            "identity": 5 * same,
            "lesion": 50 * lesion,
            "feature_domain": 15 * fooled,
            "feature_discriminator": d_f,
            "target_discriminator": d_ct,
            "source_discriminator": d_mr,
            "segmentation": segmentation,
        }
        return {name: loss.item() for name, loss in losses.items()}

    @staticmethod
    def move(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_two_steps_equal_plain_pytorch(tmp_path: Path) -> None:
    """Also says that gradients do not add up over steps, and that the middle of the CT's window,
    which is exactly 0, is not background.
    """
    made = synthesis(tmp_path, "code", segmenter="plans")
    plain = PlainStep(made)
    for seed in range(2):
        data = batch(made, ("target_domain",), seed)
        data["target_domain"]["data"][..., :8] = 0
        expected = plain.step(data)
        result = made.train_step(data)
        for name, value in expected.items():
            assert result[name] == pytest.approx(value, rel=1e-4), name
    ours = [made.network.translator, made.network.segmenter, *made.auxiliary_networks.values()]
    twins = [
        plain.there,
        plain.s_ori,
        plain.back,
        plain.s_rec,
        plain.d_fusion,
        plain.d_ct,
        plain.d_mr,
    ]
    for module, twin in zip(ours, twins, strict=True):
        for (name, weight), other in zip(module.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(
                weight, other, rtol=1e-3, atol=2e-5, msg=f"{type(module).__name__}.{name}"
            )


# --- settings


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_printed_presets(tmp_path: Path, preset: str) -> None:
    made = synthesis(tmp_path, preset, patch=32, vgg_width=2)
    assert isinstance(made.network.segmenter, VGGFCN) and not made.enable_deep_supervision
    assert all(updater.max_norm is None for updater in made.updaters.values())
    paper = preset == "paper"
    assert (made.cycle_weight, made.identity_weight, made.gan_loss) == (
        (5, 0, "bce") if paper else (50, 5, "lsgan")
    )
    for player in ("network", "source_segmenter"):
        (group,) = made.updaters[player].optimizer.param_groups
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.7, 0)
    betas = {
        p: made.updaters[p].optimizer.param_groups[0]["betas"]
        for p in ("translators", "feature_critic")
    }
    assert betas["translators"] == (0.5, 0.99 if paper else 0.999)
    assert betas["feature_critic"] == ((0.5, 0.99) if paper else (0.9, 0.99))
    result = made.train_step(batch(made, ("target_domain",)))
    unused = {"contrast", "identity"} if paper else {"contrast"}
    used = set(made.loss_terms) - unused
    assert all(math.isfinite(result[term]) for term in used)


def test_the_contrast_loss_fades_over_the_first_quarter(tmp_path: Path) -> None:
    settings = {"num_epochs": 2, "num_iterations_per_epoch": 8, "contrast_weight": 50}
    made = synthesis(tmp_path, **settings)
    weights = []
    for iteration in range(6):
        made._iteration_in_epoch = iteration
        weights.append(made._contrast_weight_now())
    assert weights == [50, 37.5, 25, 12.5, 0, 0]


def test_preset_recommended_limits_the_segmenters_gradients_alone(tmp_path: Path) -> None:
    made = synthesis(tmp_path)
    limits = {player: updater.max_norm for player, updater in made.updaters.items()}
    assert {player for player, limit in limits.items() if limit} == {"network", "source_segmenter"}


def test_the_synthetic_image_stays_within_the_window_and_the_way_back_does_not(
    tmp_path: Path,
) -> None:
    made = synthesis(tmp_path)
    nn.init.constant_(made.network.translator.decoder.layers[-2].bias, 100.0)
    nn.init.constant_(made.auxiliary_networks["translators"].decoder.layers[-2].bias, 100.0)
    images = made.translate(*torch.randn(2, 1, 1, 16, 16))
    assert images.synthetic.abs().max() <= 1 and images.source_again.min() > 10


def test_independent_translators_share_nothing(tmp_path: Path) -> None:
    made = synthesis(tmp_path, shared_fusion=False)
    assert made.auxiliary_networks["translators"].fusion is not made.network.translator.fusion
    held = sum(parameter.numel() for parameter in made.updaters["translators"].parameters())
    shared = synthesis(tmp_path / "shared").updaters["translators"].parameters()
    fusion = sum(parameter.numel() for parameter in made.network.translator.fusion.parameters())
    assert held == sum(parameter.numel() for parameter in shared) + fusion


def test_nothing_is_scored_without_labels(tmp_path: Path) -> None:
    assert synthesis(tmp_path).scored_role is None


def test_translations_are_drawn(tmp_path: Path) -> None:
    made = synthesis(tmp_path, num_iterations_per_epoch=1)
    made.on_train_epoch_start()
    made.train_step(batch(made, ("target_domain",)))
    assert {row: len(pictures) for row, pictures in made._pictures.items()} == {
        "source": 3,
        "target": 3,
    }


# --- resuming


def test_a_resumed_training_has_every_network_and_the_pools(tmp_path: Path) -> None:
    made = synthesis(tmp_path / "made", image_pool=3, average_weights=0)
    for seed in range(3):
        made.train_step(batch(made, ("target_domain",), seed))
    made.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    twin = synthesis(tmp_path / "twin", image_pool=3, average_weights=0)
    twin.logger.resume = True
    twin.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    made.current_epoch += 1
    for one in (made, twin):
        one.on_train_epoch_start()
        for seed in range(3, 6):
            one.train_step(batch(one, ("target_domain",), seed))
    for (name, ours), theirs in zip(parts(made).items(), parts(twin).values(), strict=True):
        for weight, other in zip(ours, theirs, strict=True):
            assert torch.equal(weight, other), name
    for pool, other_pool in zip(made._pools.values(), twin._pools.values(), strict=True):
        assert all(torch.equal(*pair) for pair in zip(pool.images, other_pool.images, strict=True))


# --- data


def written_matches(
    path: Path, source: str = "Dataset999_Miniature", target: str = "Dataset998_Other"
) -> Path:
    """Source slice i is similar to target slices i and i + 1."""
    similar = {
        f"case_{i:02d}": SimilarTargets((f"case_{i:02d}", f"case_{i + 1:02d}"), (1.0, 2.0))
        for i in range(3)
    }
    nearest = {f"case_{i:02d}": NearestSource(f"case_{min(i, 2):02d}", 1.0) for i in range(4)}
    subsets = {"matched": ("case_00", "case_01", "case_02")}
    write_matches(Matches(source, target, {}, similar, nearest, subsets), path)
    return path


def with_data(root: Path, **settings: Any) -> Any:
    labelled = write_raw(root, "Dataset999_Miniature", 3)
    other = write_raw(root, "Dataset998_Other", 4, labelled=False, seed=1)
    settings = {**SMALL, "num_val_iterations_per_epoch": 1, **settings}
    content = plans(patch_size=(16, 16), streams=STREAMS, normalizations=WINDOW, settings=settings)
    return trainer_with_data(PseudoCTSynthesisTrainer, root, content, labelled, target_domain=other)


def test_pairs_are_similar_slices_and_labels_fit_their_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKERS_VARIABLE, "0")
    made = with_data(tmp_path, matches_file=str(written_matches(tmp_path / "matches.json")))
    batches, _ = made.get_dataloaders()
    pairs = set()
    for data in drawn(batches, 12):
        for place, key in enumerate(data["keys"]):
            number = int(str(key)[-2:])
            partner = str(data["target_domain"]["keys"][place]).split("/")[-1]
            pairs.add((number, int(partner[-2:])))
            image, target = data["data"][place, 0], data["target"][0][place, 0]
            stored, label, _, _ = batches.data_loader.labelled._data.load_case(str(key))
            inner = slice(8, 24)
            assert np.array_equal(image.numpy(), np.asarray(stored)[0, 0, inner, inner])
            assert np.array_equal(target.numpy(), np.asarray(label)[0, 0, inner, inner])
    assert pairs == {(i, i + further) for i in range(3) for further in (0, 1)}


def test_intensities_are_augmented_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKERS_VARIABLE, "0")
    kinds = {}
    for wanted in (False, True):
        made = with_data(tmp_path / str(wanted), intensity_augmentation=wanted)
        loader = made.get_dataloaders()[0].data_loader
        kinds[wanted] = {
            type(step).__name__ for step in loader.further["target_domain"].transforms.transforms
        }
    assert "RandomTransform" in kinds[True] and "RandomTransform" not in kinds[False]
    assert {"MaskImageTransform"} <= kinds[False]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"source": "Dataset001_Foreign"},
            "matches of Dataset001_Foreign, not of Dataset999_Miniature",
        ),
        (
            {"target": "Dataset002_Foreign"},
            "Dataset002_Foreign, which is not in the target_domain stream",
        ),
    ],
)
def test_matches_of_other_data_sets_are_refused(
    tmp_path: Path, names: dict[str, str], message: str
) -> None:
    made = with_data(
        tmp_path, matches_file=str(written_matches(tmp_path / "matches.json", **names))
    )
    with pytest.raises(InputError, match=message):
        made.matches("target_domain")


def test_a_target_case_that_is_gone_is_named(tmp_path: Path) -> None:
    path = written_matches(tmp_path / "matches.json")
    path.write_text(path.read_text().replace("case_03", "case_77"))
    made = with_data(tmp_path, matches_file=str(path))
    with pytest.raises(InputError, match="has no case case_77"):
        made.matches("target_domain")


def test_a_checkpoint_is_not_continued_with_other_matches(tmp_path: Path) -> None:
    path = written_matches(tmp_path / "matches.json")
    made = synthesis(tmp_path, matches_file=str(path))
    before = made.identity()
    content = json.loads(path.read_text())
    content["parameters"] = {"n": 1}
    path.write_text(json.dumps(content))
    assert made.identity()["matches"] != before["matches"]
