"""The two phases: who learns from what, the switch between them, the codebooks, and one step in
plain PyTorch.
"""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from nnunet_ext.errors import InputError
from nnunet_ext.networks.segmentation import finest
from nnunet_ext.trainers.vq_semi_supervised import VQSemiSupervisedTrainer
from tests.caught_losses import caught_losses
from tests.half_precision import under_autocast
from tests.miniature_plans import DATASET_JSON, batch, plans, trainer

STREAMS = {"unlabeled": ["Dataset998_Unlabeled"]}
PHASE_1, PHASE_2 = 0, 1  # iterations, with semi_start=1


def vq(
    root: Path,
    preset: str = "recommended",
    dataset_json: dict[str, Any] | None = None,
    dimension: int = 2,
    **own: Any,
) -> Any:
    torch.manual_seed(0)
    settings = {
        **VQSemiSupervisedTrainer.miniature.settings,
        "num_epochs": 4,
        "num_iterations_per_epoch": 2,
        **own,
    }
    content = plans(dimension, streams=STREAMS, settings=settings, preset=preset)
    made = trainer(VQSemiSupervisedTrainer, root, content, dataset_json=dataset_json)
    made.on_train_epoch_start()
    return made


def data_for(made: Any, seed: int = 0) -> dict[str, Any]:
    return batch(made, made.roles_in_use(), seed)


def in_phase_2(made: Any) -> Any:
    made._iteration_in_epoch = PHASE_2
    return made


def parts(made: Any) -> dict[str, list[torch.nn.Parameter]]:
    """Everything that learns, by owner, as the optimizers hold it."""
    codes = [parameter for codebook in made.all_codebooks for parameter in codebook.parameters()]
    ids = {id(parameter) for parameter in codes}
    decoder = [p for p in made.updaters["reconstruction"].parameters() if id(p) not in ids]
    return {
        "network": made.updaters["network"].parameters(),
        "codes": codes,
        "decoder": decoder,
        "discriminator": made.updaters["discriminator"].parameters(),
    }


# --- who learns from what


@pytest.mark.parametrize("dimension", [2, 3])
def test_which_term_reaches_which_weights(tmp_path: Path, dimension: int) -> None:
    """The discriminator's term and the adversarial one share a graph; the optimizers keep them
    apart, see below.
    """
    made = in_phase_2(vq(tmp_path, dimension=dimension))
    torch.nn.init.normal_(made.network.mix.weight, std=0.3)
    terms = caught_losses(made, data_for(made))
    reached = {
        "segmentation": {"network"},
        "reconstruction": {"network", "decoder"},
        "codebook": {"codes"},
        "commitment": {"network"},
        "adversarial": {"network", "discriminator"},
        "pseudo_labels": {"network"},
        "pseudo_proportion": {"network"},
        "discriminator": {"network", "discriminator"},
    }
    assert set(terms) == set(reached)
    for term, expected in reached.items():
        gradients = {
            name: torch.autograd.grad(terms[term], weights, retain_graph=True, allow_unused=True)
            for name, weights in parts(made).items()
        }
        found = {
            name
            for name, of_part in gradients.items()
            if any(g is not None and g.any() for g in of_part)
        }
        assert found == expected, term


def test_each_owner_moves_along_its_own_terms(tmp_path: Path) -> None:
    """One step against separate gradients: the discriminator is untouched by the network's terms,
    and vice versa.
    """
    made = in_phase_2(vq(tmp_path))
    torch.nn.init.normal_(made.network.mix.weight, std=0.3)
    data = data_for(made)
    terms = caught_losses(made, data)
    against = terms.pop("discriminator")
    total = torch.stack(list(terms.values())).sum()
    expected = {}
    for name, weights in parts(made).items():
        loss = against if name == "discriminator" else total
        expected[name] = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)

    made.train_step(data)
    for name, weights in parts(made).items():
        for parameter, gradient in zip(weights, expected[name], strict=True):
            if gradient is not None:
                torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_no_weight_decay_on_codes(tmp_path: Path) -> None:
    made = vq(tmp_path, weight_decay=0.1)
    (codes,) = parts(made)["codes"]
    owners = [
        (player, group["weight_decay"])
        for player, updater in made.updaters.items()
        for group in updater.optimizer.param_groups
        if any(parameter is codes for parameter in group["params"])
    ]
    assert owners == [("reconstruction", 0)]


# --- the losses


def test_second_phase_in_plain_pytorch(tmp_path: Path) -> None:
    """Eq. 2 and 11-14 written out, preset paper: no deep supervision, cross entropy, labels from
    the network.
    """
    made = in_phase_2(vq(tmp_path, "paper"))
    data = data_for(made)
    x, u, y = data["data"], data["unlabeled"]["data"], data["target"][:, 0].long()
    judge, decoder = (
        made.auxiliary_networks["discriminator"],
        made.auxiliary_networks["reconstruction"],
    )
    with torch.no_grad():
        for layer in (judge.layers[0], judge.layers[-1]):
            layer.weight.mul_(50)  # so that some pixels are rejected
        judge.layers[-1].bias.fill_(-1.3)

    def confidence(maps: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(judge(maps), size=maps.shape[2:], mode="bilinear").sigmoid()[
            :, 0
        ]

    def shares(labels: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [torch.stack([(image == c).float().mean() for c in range(2)]) for image in labels]
        )

    outputs = [made.network(images, with_codes=True) for images in (x, u)]
    p_x, p_u = (output.segmentation.softmax(1) for output in outputs)
    cross_entropy = -p_x.gather(1, y[:, None]).log().mean()
    proportion = (shares(y) - p_x.mean((2, 3))).square().sum(1).mean()
    pseudo = p_u.argmax(1)
    kept = confidence(p_u) > 0.2
    assert 0 < kept.float().mean() < 1
    log_p = p_u.gather(1, pseudo[:, None])[:, 0].log()
    rebuilt = [decoder(output.codes, x.shape[2:]) for output in outputs]
    levels = [level for output in outputs for level in output.levels]
    distance = sum((level.features - level.codes).square().mean() for level in levels) / 2
    one_hot = torch.stack((1 - y, y), 1).float()
    expected = {
        "segmentation": cross_entropy + 0.5 * proportion,
        "reconstruction": ((rebuilt[0] - x).square().mean() + (rebuilt[1] - u).square().mean()) / 2,
        "codebook": distance,
        "commitment": 0.25 * distance,
        "adversarial": -0.01 * (confidence(p_x).log().mean() + confidence(p_u).log().mean()),
        "pseudo_labels": -0.1 * log_p[kept].mean(),
        "discriminator": -(1 - confidence(p_x)).log().mean() - confidence(one_hot).log().mean(),
    }
    terms = caught_losses(made, data)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert terms["pseudo_proportion"].item() > 0


def test_a_discriminator_of_labels_does_not_see_how_sure_a_prediction_is(tmp_path: Path) -> None:
    """One-hot maps, whatever the softmax; the gradient is that of the softmax."""
    made = vq(tmp_path, judged_maps="labels")
    logits = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    unsure, sure = ((factor * logits).softmax(1).requires_grad_() for factor in (0.1, 10.0))
    labels = logits.argmax(1)
    one_hot = torch.stack((labels == 0, labels == 1), 1).float()
    for probabilities in (unsure, sure):
        shown = made.as_judged(probabilities)
        torch.testing.assert_close(shown, one_hot)
        torch.testing.assert_close(made.judge(shown), made.judge(one_hot))
    weights = torch.randn(one_hot.shape, generator=torch.Generator().manual_seed(1))
    (weights * made.as_judged(unsure)).sum().backward()
    torch.testing.assert_close(unsure.grad, weights)


def test_second_phase_with_a_discriminator_of_labels(tmp_path: Path) -> None:
    """Eq. 12-14 written out with the one-hot predictions in the place of S(.)."""
    made = in_phase_2(vq(tmp_path, "paper", judged_maps="labels"))
    data = data_for(made)
    x, u, y = data["data"], data["unlabeled"]["data"], data["target"][:, 0].long()
    judge = made.auxiliary_networks["discriminator"]
    with torch.no_grad():
        judge.layers[0].weight.mul_(50)  # so that the shapes matter

    def confidence(labels: torch.Tensor) -> torch.Tensor:
        maps = torch.stack((labels == 0, labels == 1), 1).float()
        logits = functional.interpolate(judge(maps), size=labels.shape[1:], mode="bilinear")
        return logits.sigmoid()

    on_x, on_u = (confidence(made.network(images).argmax(1)) for images in (x, u))
    on_y = confidence(y)
    expected = {
        "adversarial": -0.01 * (on_x.log().mean() + on_u.log().mean()),
        "discriminator": -(1 - on_x).log().mean() - on_y.log().mean(),
    }
    terms = caught_losses(made, data)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6, msg=name)
    weights = made.updaters["network"].parameters()
    gradients = torch.autograd.grad(terms["adversarial"], weights, allow_unused=True)
    assert any(gradient is not None and gradient.any() for gradient in gradients)


def test_the_prediction_of_a_flipped_view_is_flipped_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view that is the image itself, mirrored, gives pseudo-labels of the unmirrored image."""
    made = in_phase_2(vq(tmp_path, unlabeled_view=True, pseudo_label_mean="classes"))
    data = data_for(made)
    monkeypatch.setattr(made, "random_view", lambda images: (images.flip(3), [3]))
    images = data["unlabeled"]["data"]
    seen, flipped = made._seen_view(images)
    assert torch.equal(seen.flip(flipped), images)

    shown = made.network(images.flip(3))
    expected = finest(shown).flip(3)
    given = []
    original = made.semi_supervised_losses

    def observed(labelled: Any, target: Any, unlabelled: torch.Tensor, images: Any) -> Any:
        given.append(unlabelled)
        return original(labelled, target, unlabelled, images)

    monkeypatch.setattr(made, "semi_supervised_losses", observed)
    made.train_step(data)
    torch.testing.assert_close(given[0], expected)


def test_rejected_pixels_have_no_gradient_and_do_not_count(tmp_path: Path) -> None:
    """Rejecting the right half equals an image that has no right half."""
    made = vq(tmp_path)
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    own = torch.softmax(torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(1)), 1)
    made.pseudo_labels_from = "network"
    judged = torch.full((2, 1, 16, 16), math.log(0.3 / 0.7))
    judged[..., 8:] = math.log(0.1 / 0.9)
    pseudo = made.pseudo_labels(images, own, judged)
    assert pseudo.kept[..., :8].all() and not pseudo.kept[..., 8:].any()
    assert torch.equal(pseudo.labels, own.argmax(1))

    from nnunet_ext.losses.consistency import pseudo_label_loss
    from nnunet_ext.losses.proportion import proportion_loss

    logits = torch.randn(2, 2, 16, 16, requires_grad=True)
    terms = [
        (pseudo_label_loss(logits, pseudo.labels, pseudo.kept), functional.cross_entropy),
        (proportion_loss(logits, pseudo.labels, "l2", pseudo.kept), proportion_loss),
    ]
    for loss, plain in terms:
        (gradient,) = torch.autograd.grad(loss, logits)
        assert not gradient[..., 8:].any() and gradient[..., :8].any()
        torch.testing.assert_close(loss, plain(logits[..., :8], pseudo.labels[..., :8]))


def test_pseudo_labels_come_from_the_averaged_network(tmp_path: Path) -> None:
    made = vq(tmp_path)
    made.train_step(data_for(made))
    made.train_step(data_for(made, 1))
    images = data_for(made)["unlabeled"]["data"]
    output = made.averaged_network(images)
    expected = (output[0] if isinstance(output, list) else output).softmax(1)
    with torch.no_grad():
        own = made.probabilities(made.network(images))
    pseudo = made.pseudo_labels(images, own, made.judge(own))
    torch.testing.assert_close(pseudo.probabilities, expected)
    assert not torch.allclose(pseudo.probabilities, own)
    torch.testing.assert_close(pseudo.confidence, made.judge(expected).sigmoid())


def test_pseudo_labels_from_no_average_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"pseudo_labels_from=average needs an averaged network: set average_weights",
    ):
        vq(tmp_path, average_weights=0)


def test_true_maps_show_the_prediction_where_labels_say_ignore(tmp_path: Path) -> None:
    labels = {"background": 0, "infection": 1, "ignore": 2}
    made = vq(tmp_path, dataset_json={**DATASET_JSON, "labels": labels})
    target = torch.tensor([[[[0, 1], [2, 1]]]])
    predicted = torch.tensor([0.3, 0.7]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    maps = made.true_maps(target, predicted)
    torch.testing.assert_close(maps[0, 1], torch.tensor([[0.0, 1.0], [0.7, 1.0]]))
    torch.testing.assert_close(maps[0].sum(0), torch.ones(2, 2))


# --- the switch


def epoch(made: Any, number: int) -> list[dict[str, Any]]:
    made.current_epoch = number
    made.on_train_epoch_start()
    results = [made.train_step(data_for(made, 10 * number + step)) for step in range(2)]
    made.on_train_epoch_end(results)
    return results


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_the_second_phase_begins_at_its_iteration(tmp_path: Path, start: int) -> None:
    made = vq(tmp_path, semi_start=start)
    results = [result for number in range(3) for result in epoch(made, number)]
    began = [not math.isnan(result["adversarial"]) for result in results]
    assert began == [iteration >= start for iteration in range(6)]
    assert began == [not math.isnan(result["discriminator"]) for result in results]
    log = Path(made.log_file).read_text()
    assert f"Iteration {start}: semi-supervised learning begins" in log


def test_a_resume_exactly_at_the_switch(tmp_path: Path) -> None:
    """Killed after epoch 1; iteration 4, the first of epoch 2, begins phase 2."""
    made = vq(tmp_path / "made", semi_start=4)
    for number in range(2):
        epoch(made, number)
    made.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    twin = vq(tmp_path / "twin", semi_start=4)
    twin.logger.resume = True
    twin.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert "begins" not in Path(twin.log_file).read_text()
    for number in (2, 3):
        one, other = epoch(made, number), epoch(twin, number)
        for ours, theirs in zip(one, other, strict=True):
            assert ours == theirs and not math.isnan(ours["adversarial"])
    assert (
        Path(twin.log_file).read_text().count("Iteration 4: semi-supervised learning begins") == 1
    )
    for ours, theirs in zip(
        made.network.state_dict().values(), twin.network.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_discriminator_waits_for_the_second_phase(tmp_path: Path) -> None:
    made = vq(tmp_path, semi_start=1)
    before = copy.deepcopy(made.auxiliary_networks["discriminator"].state_dict())
    for moved in (False, True):
        made.train_step(data_for(made))
        now = made.auxiliary_networks["discriminator"].state_dict()
        assert all(torch.equal(value, before[name]) for name, value in now.items()) != moved


# --- the codebooks


def test_codes_start_as_features_of_the_first_batch(tmp_path: Path) -> None:
    made = vq(tmp_path, restart_below=0, reconstruction_lr=0)
    data = data_for(made)
    maps = made.network.project(made.network.encoder(data["data"]))
    features = torch.cat([level.movedim(1, -1).reshape(-1, 4) for level in maps]).detach()
    made.train_step(data)
    codes = made.network.codebooks[0].codes.detach()
    distances = (codes[:, None] - features).abs().amax(2).amin(1)
    assert distances.max() < 1e-6


def test_codes_start_in_full_precision_under_autocast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = vq(tmp_path / "single")
    half = vq(tmp_path / "half")
    under_autocast(half, monkeypatch, torch.bfloat16)
    images = data_for(single)["data"]
    single.start_codebooks(images)
    with half._autocast():
        half.start_codebooks(images)
    assert torch.equal(half.all_codebooks[0].codes, single.all_codebooks[0].codes)


def test_moving_codebooks_follow_the_features_that_were_quantised(tmp_path: Path) -> None:
    """Two codebooks without gradient: e = m / N after the step, of features from before it."""
    made = vq(tmp_path, codebook_kind="ema", codebooks="separate", restart_below=0, semi_start=9)
    made.train_step(data_for(made))
    data = data_for(made, 1)
    before = copy.deepcopy(made.network)
    result = made.train_step(data)
    assert math.isnan(result["codebook"]) and made.all_codebooks[0].codes.requires_grad is False

    levels = before(data["data"], with_codes=True).levels
    for book, old, level in zip(made.network.codebooks, before.codebooks, levels, strict=True):
        rows, indices = (
            level.features.movedim(1, -1).reshape(-1, 4).detach(),
            level.indices.flatten(),
        )
        chosen = functional.one_hot(indices, 8).float()
        use = 0.99 * old.use + 0.01 * chosen.mean(0)
        sums = 0.99 * old.sums + 0.01 * chosen.T @ rows / len(rows)
        torch.testing.assert_close(book.use, use)
        torch.testing.assert_close(book.codes, sums / use[:, None], rtol=1e-4, atol=1e-5)


def test_dead_codes_restart_and_are_counted(tmp_path: Path) -> None:
    made = vq(tmp_path, codebook_decay=0.0)  # use is that of the latest batch
    made.train_step(data_for(made))
    far = torch.tensor([0, 1, 2])
    with torch.no_grad():
        made.network.codebooks[0].codes[far] = 1e3
    result = made.train_step(data_for(made, 1))
    assert result["restarted_codes"] >= 3
    assert made.network.codebooks[0].codes.abs().max() < 100
    assert 0 < result["codebook_use"] <= 1


# --- settings and log


def test_every_row_of_the_ablation_is_a_setting(tmp_path: Path) -> None:
    backbone = {"use_vq": False, "proportion_weight": 0, "semi_supervised": False}
    rows = {
        "backbone": {},
        "VVM": {"use_vq": True},
        "Lprop": {"proportion_weight": 0.5},
        "SSA": {"semi_supervised": True},
        "all": {"use_vq": True, "proportion_weight": 0.5, "semi_supervised": True},
    }
    adversarial = {"adversarial", "pseudo_labels", "pseudo_proportion", "discriminator"}
    terms = {
        "VVM": {"reconstruction", "codebook", "commitment"},
        "SSA": adversarial,
        "Lprop": {"proportion"},
    }
    terms["all"] = set.union(*terms.values())
    for row, settings in rows.items():
        made = in_phase_2(vq(tmp_path / row, **{**backbone, **settings}))
        assert ("unlabeled" in made.roles_in_use()) == (row in ("SSA", "all"))
        result = made.train_step(data_for(made))
        found = {
            name
            for name in (*made.loss_terms, "proportion")
            if not math.isnan(result.get(name, math.nan))
        }
        assert found == {"segmentation"} | terms.get(row, set()), row
        assert set(made.auxiliary_networks) == {
            *(["reconstruction"] if row in ("VVM", "all") else []),
            *(["discriminator"] if row in ("SSA", "all") else []),
        }


def test_presets(tmp_path: Path) -> None:
    made = {
        preset: vq(tmp_path / preset, preset, semi_start=1000)
        for preset in ("recommended", "paper", "code")
    }
    assert (
        made["recommended"].enable_deep_supervision and made["recommended"].average_weights == 0.999
    )
    for preset in ("paper", "code"):
        assert not made[preset].enable_deep_supervision and made[preset].segmentation_loss == "ce"
        (group,) = made[preset].optimizer.param_groups
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.01, 0.9, False)
        assert group["weight_decay"] == 1e-4
    assert len(made["code"].all_codebooks) == 2 and not made["code"].all_codebooks[0].learnt


@pytest.mark.parametrize(
    ("fractions", "warning"),
    [
        ([1.0, 0.995], "rejects no pseudo-label"),
        ([0.0, 0.001], "rejects all pseudo-labels"),
        ([1.0, 0.5], None),
        ([0.5, 0.0], None),
        ([math.nan, 1.0], None),
        ([1.0], None),
    ],
)
def test_a_stuck_fraction_is_warned_about(
    tmp_path: Path, fractions: list[float], warning: str | None
) -> None:
    made = vq(tmp_path)
    for number, fraction in enumerate(fractions):
        made.current_epoch = number
        made.on_train_epoch_start()
        result = dict.fromkeys(made.step_terms, 1.0) | {"loss": 1.0, "retained_fraction": fraction}
        made.on_train_epoch_end([result])
    log = Path(made.log_file).read_text()
    assert ("Warning" in log) == (warning is not None)
    assert warning is None or warning in log


def test_reconstructions_and_confidence_are_drawn_from_the_first_epoch(tmp_path: Path) -> None:
    made = vq(tmp_path, semi_start=1)
    epoch(made, 0)
    assert set(made._pictures) == {"reconstruction", "confidence"}
    assert len(made._pictures["confidence"]) == 4
    assert (Path(made.output_folder) / "pictures" / "epoch_0000.png").is_file()
