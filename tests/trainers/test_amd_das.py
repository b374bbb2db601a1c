"""Stage 2 of AMD-DAS: the judged map, untouched statistics, a step against plain PyTorch, pairs,
presets.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from nnunet_ext.errors import InputError
from nnunet_ext.networks.running_statistics import running_statistics
from nnunet_ext.networks.vgg_fcn import VGGFCN
from nnunet_ext.synthesis.matches import Matches, NearestSource, SimilarTargets, write_matches
from nnunet_ext.trainers.amd_das import AMDDASTrainer
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training.multi_stream_trainer import WORKERS_VARIABLE
from tests.caught_losses import caught_losses
from tests.miniature_plans import batch, plans, trainer
from tests.miniature_raw import write_raw
from tests.miniature_streams import drawn, trainer_with_data

STREAMS = {"target_domain": ["Dataset998_Other"]}
SMALL = {"critic_width": 4, "num_epochs": 2, "num_iterations_per_epoch": 5, "vgg_width": 2}


def made_of(root: Path, preset: str = "code", patch: int = 32, **settings: Any) -> Any:
    content = plans(
        patch_size=(patch, patch), streams=STREAMS, preset=preset, settings={**SMALL, **settings}
    )
    made = trainer(AMDDASTrainer, root, content)
    made.network.train()
    return made


def vector(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


@pytest.mark.parametrize(("segmenter", "channels"), [("plans", 4), ("vgg_fcn", 1)])
def test_the_judged_map_is_what_the_classifier_reads(
    tmp_path: Path, segmenter: str, channels: int
) -> None:
    made = made_of(tmp_path, segmenter=segmenter)
    segmentation, hidden = made.judged_map(batch(made)["data"])
    assert hidden.shape == (2, channels, 32, 32) and made.judged_channels() == channels
    torch.testing.assert_close(made.network.decoder.seg_layers[-1](hidden), segmentation)


def statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.named_buffers()}


def test_the_target_pass_leaves_the_statistics_untouched(tmp_path: Path) -> None:
    """They are those of a pass of the source images alone."""
    made = made_of(tmp_path)
    data = batch(made, ("target_domain",))
    twin = copy.deepcopy(made.network)
    twin(data["data"])
    made.train_step(data)
    ours, expected = statistics(made.network), statistics(twin)
    assert len(ours) == 15 and not torch.equal(
        ours["decoder.upsamplings.0.2.running_mean"], torch.zeros(16)
    )
    for name, value in ours.items():
        assert torch.equal(value, expected[name]), name
    assert all(module.training for module in made.network.modules())


def test_target_images_are_normalised_by_the_statistics(tmp_path: Path) -> None:
    """A target image's map does not depend on the others of its batch, as that of a source image
    does.
    """
    made = made_of(tmp_path)
    images = batch(made)["data"]
    made.judged_map(images)
    alone, together = (made.judged_map_of_target(part)[:1] for part in (images[:1], images))
    torch.testing.assert_close(alone, together)
    assert not torch.allclose(made.judged_map(images)[1][:1], made.judged_map(images[:1])[1])


def test_modules_in_evaluation_stay_there() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2).eval(), nn.InstanceNorm2d(2))
    with running_statistics(network):
        assert [module.training for module in network] == [False, False, True]
    assert [module.training for module in network] == [True, False, True]


def test_what_each_loss_reaches(tmp_path: Path) -> None:
    """The adversarial loss reaches everything below the classifier; an update moves its own player
    alone.
    """
    made = made_of(tmp_path, segmenter="plans")
    losses = caught_losses(made, batch(made, ("target_domain",)))
    head = list(made.network.decoder.seg_layers[-1].parameters())
    parts = {"encoder": list(made.network.encoder.parameters()), "head": head}
    parts["critic"] = list(made.auxiliary_networks["critic"].parameters())
    reached = {}
    for name, loss in losses.items():
        gradients = {
            p: torch.autograd.grad(loss, w, retain_graph=True, allow_unused=True)
            for p, w in parts.items()
        }
        reached[name] = {
            part
            for part, of_part in gradients.items()
            if any(g is not None and g.any() for g in of_part)
        }
    assert reached == {
        "segmentation": {"encoder", "head"},
        "adversarial": {"encoder", "critic"},
        "discriminator": {"encoder", "critic"},
    }


def test_two_steps_equal_plain_pytorch(tmp_path: Path) -> None:
    """In the order of the authors' code: segmentation, adversarial, step of S, step of D on the
    maps before it.
    """
    made = made_of(tmp_path, adversarial_weight=0.5, initial_lr=0.01)
    network, critic = copy.deepcopy(made.network), copy.deepcopy(made.auxiliary_networks["critic"])
    sgd = torch.optim.SGD(network.parameters(), 0.01, momentum=0.7)
    adam = torch.optim.Adam(critic.parameters(), 1e-3, (0.9, 0.99))
    for seed in range(2):
        data = batch(made, ("target_domain",), seed)
        data["forced"][:] = False
        result = made.train_step(data)

        output = network(data["data"], with_features=True)
        loss = functional.cross_entropy(output.segmentation, data["target"][:, 0].long())
        with running_statistics(network):
            target_map = network(data["target_domain"]["data"], with_features=True).decoder_map
        adversarial = 0.5 * functional.softplus(-critic(target_map)).mean()
        sgd.zero_grad()
        (loss + adversarial).backward()
        sgd.step()
        on_source, on_target = critic(output.decoder_map.detach()), critic(target_map.detach())
        discriminator = (
            functional.softplus(-on_source).mean() + functional.softplus(on_target).mean()
        ) / 2
        adam.zero_grad()
        discriminator.backward()
        adam.step()
        expected = {
            "segmentation": loss,
            "adversarial": adversarial,
            "discriminator": discriminator,
        }
        for name, value in expected.items():
            assert result[name] == pytest.approx(value.item(), rel=1e-4), name
    torch.testing.assert_close(vector(made.network), vector(network), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        vector(made.auxiliary_networks["critic"]), vector(critic), rtol=1e-3, atol=1e-5
    )


def test_without_adversary_the_planned_network_is_that_of_plain_nnunet(tmp_path: Path) -> None:
    content = plans(
        streams=STREAMS, preset="code", settings={"AMDDASTrainer.adversarial_weight": 0, **PLAIN}
    )
    ours, plain = (
        trainer(cls, tmp_path / cls.__name__, content) for cls in (AMDDASTrainer, PlainTrainer)
    )
    for seed in range(2):
        ours.train_step(batch(ours, ("target_domain",), seed))
        plain.train_step(batch(plain, seed=seed))
    torch.testing.assert_close(vector(ours.network), vector(plain.network), rtol=0, atol=0)


PLAIN = {
    "AMDDASTrainer.segmenter": "plans",
    "AMDDASTrainer.optimizer_kind": "nnunet",
    "initial_lr": 0.01,
    "segmentation_loss": "ce_dice",
    "enable_deep_supervision": True,
}


def test_its_weights_start_stock_nnunet(tmp_path: Path) -> None:
    """Instance transfer and fine-tuning: the planned network has stock keys."""
    made = made_of(tmp_path, "recommended")
    plain = trainer(PlainTrainer, tmp_path / "plain", plans(patch_size=(32, 32)))
    plain.network.load_state_dict(made.network.state_dict())


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_printed_presets(tmp_path: Path, preset: str) -> None:
    made = made_of(tmp_path, preset, matches_file=str(written_matches(tmp_path / "m.json")))
    assert isinstance(made.network, VGGFCN) and made.paired_batches == (preset == "paper")
    (group,) = made.updaters["network"].optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.7, 0)
    assert made.updaters["critic"].initial_rates == [0.01 if preset == "paper" else 0.001]
    assert all(
        updater.max_norm is None and updater.schedule is None for updater in made.updaters.values()
    )


# --- pairs


def written_matches(path: Path) -> Path:
    """Target slices 0 to 2 are nearest to source slice 0, slice 3 to source slice 1; none is to
    source slice 2.
    """
    similar = {
        f"case_{i:02d}": SimilarTargets((f"case_{i:02d}", "case_03"), (1.0, 2.0)) for i in range(3)
    }
    nearest = {
        f"case_{i:02d}": NearestSource("case_01" if i == 3 else "case_00", 1.0) for i in range(4)
    }
    write_matches(
        Matches(
            "Dataset001_MR", "Dataset998_Other", {}, similar, nearest, {"matched": ("case_00",)}
        ),
        path,
    )
    return path


def test_paired_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKERS_VARIABLE, "0")
    labelled = write_raw(tmp_path, "Dataset999_Miniature", 3)
    other = write_raw(tmp_path, "Dataset998_Other", 4, labelled=False, seed=1)
    path = written_matches(tmp_path / "matches.json")
    settings = {
        **SMALL,
        "paired_batches": True,
        "matches_file": str(path),
        "oversample_foreground_percent": 0.3,
    }
    content = plans(streams=STREAMS, settings=settings)
    made = trainer_with_data(AMDDASTrainer, tmp_path, content, labelled, target_domain=other)
    pairs = set()
    for data in drawn(made.get_dataloaders()[0], 20):
        partners = [str(key).split("/")[-1] for key in data["target_domain"]["keys"]]
        pairs |= {
            (int(str(key)[-2:]), int(partner[-2:]))
            for key, partner in zip(data["keys"], partners, strict=True)
        }
    assert pairs == {(0, 0), (0, 1), (0, 2), (1, 3), (2, 2)}


def test_paired_batches_without_matches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="paired_batches=true needs pairs"):
        made_of(tmp_path, "paper")


def test_a_training_goes_on_with_the_same_pairs_wherever_their_file_is(tmp_path: Path) -> None:
    path = written_matches(tmp_path / "matches.json")
    moved = written_matches(tmp_path / "moved.json")
    made = made_of(tmp_path, paired_batches=True, matches_file=str(path))
    checkpoint = tmp_path / "checkpoint.pth"
    made.save_checkpoint(str(checkpoint))

    other = made_of(tmp_path, paired_batches=True, matches_file=str(moved))
    other.logger.resume = True
    other.load_checkpoint(str(checkpoint))

    content = moved.read_text().replace('"distance": 1.0', '"distance": 3.0')
    moved.write_text(content)
    with pytest.raises(InputError, match="was written by another training: matches"):
        other.load_checkpoint(str(checkpoint))


def test_matches_that_are_not_used_do_not_count(tmp_path: Path) -> None:
    path = written_matches(tmp_path / "matches.json")
    assert "matches" not in made_of(tmp_path, matches_file=str(path)).identity()
