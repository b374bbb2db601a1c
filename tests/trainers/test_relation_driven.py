"""Algorithm 1: which loss changes which weights, and one whole step against a plain
re-implementation.
"""

import copy
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.losses.relation import relation_consistency, relation_matrix
from nnunet_ext.networks.segmentation import finest
from nnunet_ext.trainers.general_pretrain import GeneralPretrainTrainer
from nnunet_ext.trainers.relation_driven import RelationDrivenTrainer
from nnunet_ext.training.engine.schedules import gaussian_rampup
from nnunet_ext.training.segmentation_loss import lesion_segmentation_loss
from nnunet_ext.training.weights.checkpoint_files import load_encoder
from tests.caught_losses import caught_losses
from tests.miniature_plans import DATASET_JSON, batch, plans, trainer

STREAMS = {"general": ["Dataset998_General"]}
BOTH = {**STREAMS, "unlabeled": ["Dataset997_Unlabeled"]}


def relation_driven(
    root: Path,
    streams: dict[str, list[str]] = STREAMS,
    dimension: int = 2,
    dataset_json: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    torch.manual_seed(0)
    settings = {
        "general_checkpoint": "random",
        "num_epochs": 2,
        "num_iterations_per_epoch": 5,
        **settings,
    }
    content = plans(dimension, streams=streams, settings=settings)
    made = trainer(RelationDrivenTrainer, root, content, dataset_json=dataset_json)
    made.network.train()
    return made


def parts(made: Any) -> dict[str, list[torch.nn.Parameter]]:
    """θ_G, θ_T, θ_D, the general head; nnU-Net's decoder also holds its encoder, which is θ_T."""
    target = {id(parameter) for parameter in made.network.encoder.parameters()}
    return {
        "general": list(made.network.encoder_general.parameters()),
        "target": list(made.network.encoder.parameters()),
        "decoder": [p for p in made.network.decoder.parameters() if id(p) not in target],
        "general head": [p for head in made.auxiliary_networks.values() for p in head.parameters()],
    }


@pytest.mark.parametrize("streams", [STREAMS, BOTH])
@pytest.mark.parametrize("dimension", [2, 3])
def test_each_loss_moves_only_its_weights(
    tmp_path: Path, streams: dict[str, list[str]], dimension: int
) -> None:
    made = relation_driven(tmp_path, streams, dimension)
    terms = caught_losses(made, batch(made, tuple(streams)))
    owners = {
        "segmentation": {"target", "decoder"},
        "general_relation": {"general"},
        "target_relation": {"target"},
        "general_segmentation": {"target", "decoder", "general head"},
    }
    assert set(terms) == set(owners)
    for term, owned in owners.items():
        made.network.zero_grad(set_to_none=True)
        terms[term].backward(retain_graph=True)
        moved = {
            name
            for name, weights in parts(made).items()
            if any(p.grad is not None for p in weights)
        }
        assert moved == owned, term

    made.network.zero_grad(set_to_none=True)
    terms["general_segmentation"].backward(retain_graph=True)
    for parameter in made.network.decoder.seg_layers.parameters():
        assert parameter.grad is None  # the target's heads


@pytest.mark.parametrize("streams", [STREAMS, BOTH])
def test_one_backward_equals_three_separate_updates(
    tmp_path: Path, streams: dict[str, list[str]]
) -> None:
    made = relation_driven(tmp_path, streams, general_segmentation_weight=0.0)
    data = batch(made, tuple(streams))
    terms = caught_losses(made, data)
    by_algorithm_1 = {}
    for part, owned in {
        "general": ["general_relation"],
        "target": ["segmentation", "target_relation"],
        "decoder": ["segmentation"],
    }.items():
        total = torch.stack([terms[term] for term in owned]).sum()
        # the lowest decoder head has deep-supervision weight 0 and no gradient
        by_algorithm_1[part] = torch.autograd.grad(
            total, parts(made)[part], retain_graph=True, allow_unused=True
        )
    made.network.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    assert not parts(made)["general head"]
    for part, gradients in by_algorithm_1.items():
        for parameter, expected in zip(parts(made)[part], gradients, strict=True):
            if expected is None:
                assert parameter.grad is None or not parameter.grad.any()
            else:
                torch.testing.assert_close(parameter.grad, expected)


def test_the_general_stream_is_segmented_as_if_it_were_predicted_by_its_own_head(
    tmp_path: Path,
) -> None:
    made = relation_driven(tmp_path, general_segmentation_weight=0.5)
    data = batch(made, ("general",))
    terms = caught_losses(made, data)
    made.network.decoder.seg_layers[-1] = made.auxiliary_networks["general_head"]
    predicted = finest(made.network(data["general"]["data"]))
    loss = lesion_segmentation_loss(made.configuration_manager.batch_dice, is_ddp=False)
    expected = 0.5 * loss(predicted, data["general"]["target"])
    torch.testing.assert_close(terms["general_segmentation"], expected)


def test_one_step_equals_plain_pytorch(tmp_path: Path) -> None:
    """Algorithm 1 written out with copied weights, three gradients and nnU-Net's optimizer."""
    made = relation_driven(tmp_path, general_segmentation_weight=0.0)
    made.current_epoch, made._iteration_in_epoch = 1, 2  # t = 7 / 10
    data = batch(made, ("general",))
    twin = copy.deepcopy(made.network)
    rate = made.initial_lr * (1 - 1 / 2) ** 0.9  # that of epoch 1 of 2
    optimizer = torch.optim.SGD(
        twin.parameters(), rate, 0.99, nesterov=True, weight_decay=made.weight_decay
    )
    weight = gaussian_rampup(7, 10)
    x, other = data["data"], data["general"]["data"]
    r_g_n, r_g_c = (relation_matrix(twin.encoder_general(stream)[-1]) for stream in (other, x))
    skips = twin.encoder(x)
    fused = torch.cat((twin.encoder_general(x)[-1].detach(), skips[-1]), 1)
    segmentation = made.loss(twin.decoder([*skips[:-1], fused]), data["target"])
    general = weight * relation_consistency(r_g_n, r_g_c)
    target = -weight * relation_consistency(r_g_c.detach(), relation_matrix(skips[-1]))
    (segmentation + target).backward()
    general.backward()
    torch.nn.utils.clip_grad_norm_(twin.encoder_general.parameters(), 12)
    torch.nn.utils.clip_grad_norm_(twin.decoder.parameters(), 12)  # holds the target encoder, too
    optimizer.step()

    result = made.train_step(data)
    assert result["loss"] == result["segmentation"] == pytest.approx(segmentation.item())
    assert result["general_relation"] == pytest.approx(general.item())
    assert result["target_relation"] == pytest.approx(target.item()) and target.item() < 0
    for (name, ours), theirs in zip(
        made.network.named_parameters(), twin.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_without_general_relation_the_general_encoder_is_frozen(tmp_path: Path) -> None:
    """The multi-encoder row of the paper's tables: both relation losses off."""
    made = relation_driven(tmp_path, general_relation_weight=0, target_relation_weight=0)
    before = copy.deepcopy(made.network.encoder_general.state_dict())
    made.train_step(batch(made, ("general",)))
    for name, value in made.network.encoder_general.state_dict().items():
        assert torch.equal(value, before[name])


def test_unlabelled_images_enter_both_relation_losses_as_an_average(tmp_path: Path) -> None:
    made = relation_driven(tmp_path, BOTH)
    data = batch(made, ("general", "unlabeled"))
    features = made.network(
        data["data"], data["general"]["data"], data["unlabeled"]["data"]
    ).features
    general, target = made.relation_distances(features)
    r = {name: relation_matrix(value) for name, value in features._asdict().items()}
    pulled = [
        relation_consistency(r["general_on_general"], r[f"general_on_{s}"])
        for s in ("labelled", "unlabeled")
    ]
    pushed = [
        relation_consistency(r[f"general_on_{s}"], r[f"target_on_{s}"])
        for s in ("labelled", "unlabeled")
    ]
    torch.testing.assert_close(general, sum(pulled) / 2)
    torch.testing.assert_close(target, sum(pushed) / 2)


def test_presets(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {"general_checkpoint": "random"}
    made = trainer(
        RelationDrivenTrainer, tmp_path, plans(streams=STREAMS, settings=settings, preset="paper")
    )
    assert (made.relation_reduction, made.rampup_squared) == ("sum", False)


def test_missing_pretraining_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="nnUNetv2_train Dataset999_Miniature 2d all -tr GeneralPretrainTrainer"
    ):
        relation_driven(tmp_path, general_checkpoint="pretrained")


def test_missing_stream_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="nnUNetv2_ext_configure -d Dataset999_Miniature -p nnUNetPlans --general"
    ):
        relation_driven(tmp_path, {})


def test_general_encoder_starts_from_a_checkpoint(tmp_path: Path) -> None:
    source = relation_driven(tmp_path / "source")
    path = tmp_path / "checkpoint.pth"
    source.save_checkpoint(str(path))
    made = relation_driven(
        tmp_path / "made", general_checkpoint=str(path), pretrained_part="general_encoder"
    )
    for ours, theirs in zip(
        made.network.encoder_general.parameters(), source.network.encoder.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def general_network(root: Path) -> tuple[Any, Path]:
    """A general network, and its checkpoint."""
    torch.manual_seed(1)
    path = root / "checkpoint.pth"
    made = trainer(GeneralPretrainTrainer, root / "source", plans(streams=STREAMS))
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # not as every network begins
    made.save_checkpoint(str(path))
    return made, path


def test_the_whole_network_starts_as_the_general_network(tmp_path: Path) -> None:
    """The decoder ignores the general features at first, so both compute the same."""
    source, path = general_network(tmp_path)
    made = relation_driven(tmp_path / "made", general_checkpoint=str(path))
    assert made.pretrained_part == "network"

    image = torch.randn(1, 1, 16, 16)
    made.network.eval()
    source.network.eval()
    with torch.no_grad():
        torch.testing.assert_close(made.network(image), source.network(image))
    for name, value in made.auxiliary_networks["general_head"].state_dict().items():
        assert torch.equal(value, source.network.decoder.seg_layers[-1].state_dict()[name])


def test_a_compiled_network_starts_as_the_general_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net compiles on CUDA, before the weights are filled."""
    source, path = general_network(tmp_path)
    compile_network = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module: compile_network(module, backend="aot_eager")
    )
    monkeypatch.setattr(RelationDrivenTrainer, "_do_i_compile", lambda self: self.loss is None)
    made = relation_driven(tmp_path / "made", general_checkpoint=str(path))
    monkeypatch.undo()
    assert type(made.network).__name__ == "OptimizedModule"
    for ours, theirs in zip(
        made.module_of("network").encoder.parameters(),
        source.network.encoder.parameters(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("labels", "filled"),
    [
        ({"background": 0, "first": 1, "second": 2}, "encoder_general, general_head"),
        ({"background": 0, "whole": [1, 2], "core": 2}, "encoder_general, general_head"),
        ({"background": 0, "lesion": 1}, "encoder_general, general_head, heads"),
    ],
)
def test_heads_of_another_meaning_stay_random(
    tmp_path: Path, labels: dict[str, Any], filled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three classes have another shape; two regions have another meaning, in the same shape."""
    source, path = general_network(tmp_path)
    dataset_json = {**DATASET_JSON, "labels": labels, "regions_class_order": [1, 2]}
    if "whole" not in labels:
        del dataset_json["regions_class_order"]
    made = relation_driven(
        tmp_path / "made", dataset_json=dataset_json, general_checkpoint=str(path)
    )
    finest = source.network.decoder.seg_layers[-1].weight
    assert torch.equal(made.auxiliary_networks["general_head"].weight, finest)
    is_filled = torch.equal(made.network.decoder.seg_layers[-1].weight, finest)
    assert is_filled == filled.endswith("heads")
    assert f"start from {path}: decoder, encoder, {filled}" in capsys.readouterr().out


def test_heads_of_three_classes_leave_the_general_head_random(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    labels = {"background": 0, "first": 1, "second": 2}
    source = relation_driven(tmp_path / "source", dataset_json={**DATASET_JSON, "labels": labels})
    source.save_checkpoint(str(path))
    before = relation_driven(tmp_path / "before").auxiliary_networks["general_head"]
    made = relation_driven(tmp_path / "made", general_checkpoint=str(path))
    assert torch.equal(made.auxiliary_networks["general_head"].weight, before.weight)


def test_unreadable_misfit_and_hostile_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"checkpoint\.pth: not a readable checkpoint"):
        relation_driven(tmp_path, general_checkpoint=str(path))
    torch.save(
        {"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": torch.zeros(1)}}, path
    )
    with pytest.raises(InputError, match="encoder weights do not fit"):
        relation_driven(tmp_path, general_checkpoint=str(path))
    torch.save({"network_weights": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        relation_driven(tmp_path, general_checkpoint=str(path))
    assert not (tmp_path / "sprung").exists()


def test_checkpoints_of_numpy_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    encoder = torch.nn.Linear(1, 1)
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"network_weights": weights, "_best_ema": np.float64(0.5)}, path)
    stored = {}
    with zipfile.ZipFile(path) as archive:
        stored = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in stored.items():
            archive.writestr(
                name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            )
    filled = torch.nn.Linear(1, 1)
    load_encoder(filled, path, "")
    assert torch.equal(filled.weight, encoder.weight)


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_relation_matrices_of_first_and_latest_epoch_are_kept(tmp_path: Path) -> None:
    made = relation_driven(tmp_path)
    stored = Path(made.output_folder) / "relation_matrices.npz"
    firsts = []
    for epoch in range(3):
        made.current_epoch = epoch
        made.on_train_epoch_start()
        made.on_train_epoch_end([made.train_step(batch(made, ("general",), seed=epoch))])
        with np.load(stored) as kept:
            assert (kept["first_epoch"], kept["last_epoch"]) == (0, epoch)
            firsts.append(kept["first_target_on_labelled"])
            np.testing.assert_array_equal(
                kept["last_target_on_labelled"], made._relations["target_on_labelled"]
            )
    assert np.array_equal(firsts[0], firsts[2])


def test_iteration_follows_from_the_epoch(tmp_path: Path) -> None:
    made = relation_driven(tmp_path)
    made.current_epoch = 1
    made.on_train_epoch_start()
    weights = [
        made.train_step(batch(made, ("general",)))["general_relation_weight_now"] for _ in range(3)
    ]
    assert weights == pytest.approx([gaussian_rampup(step, 10) for step in (5, 6, 7)])
    assert made.total_iterations == 10


def test_pretraining_under_other_plans_is_refused(tmp_path: Path) -> None:
    results = tmp_path / "nnUNet_results" / "Dataset999_Miniature"
    checkpoint = (
        results / "GeneralPretrainTrainer__nnUNetPlans__2d" / "fold_all" / "checkpoint_final.pth"
    )
    checkpoint.parent.mkdir(parents=True)
    pretrained = relation_driven(tmp_path / "pretrained", seed=1)
    pretrained.save_checkpoint(str(checkpoint))

    relation_driven(tmp_path, general_checkpoint="pretrained", seed=1)
    with pytest.raises(InputError, match="seed is 2, was 1"):
        relation_driven(tmp_path, general_checkpoint="pretrained", seed=2)

    other = {"general": ["Dataset996_Other"]}
    with pytest.raises(
        InputError, match=r"general is .*Dataset996_Other.*, was .*Dataset998_General"
    ):
        relation_driven(tmp_path, other, general_checkpoint="pretrained", seed=1)


def test_a_named_checkpoint_is_not_questioned(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    relation_driven(tmp_path / "pretrained", seed=1).save_checkpoint(str(path))
    relation_driven(tmp_path / "made", general_checkpoint=str(path), seed=2)
