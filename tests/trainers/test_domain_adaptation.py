"""Baselines of domain adaptation: MinEnt, judged maps, mean teacher and its rare-class sampling."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.trainers.adv_ent import AdvEntTrainer
from nnunet_ext.trainers.feature_space_da import FeatureSpaceDATrainer
from nnunet_ext.trainers.mean_teacher import MeanTeacherTrainer, case_probabilities, class_pixels
from nnunet_ext.trainers.min_ent import MinEntTrainer
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training.engine.label_free import augmented_view
from nnunet_ext.training.multi_stream_trainer import WORKERS_VARIABLE
from tests.miniature_plans import DATASET_JSON, batch, plans, trainer
from tests.miniature_raw import write_raw
from tests.miniature_streams import drawn, trainer_with_data

STREAMS = {"target_domain": ["Dataset998_Other"]}
FOUR_CLASSES = {
    **DATASET_JSON,
    "labels": {"background": 0, "lung": 1, "opacity": 2, "consolidation": 3},
}


def made_of(
    cls: type, root: Path, dataset_json: dict[str, Any] | None = None, **settings: Any
) -> Any:
    settings = {"num_epochs": 2, "num_iterations_per_epoch": 5, **settings}
    made = trainer(cls, root, plans(streams=STREAMS, settings=settings), dataset_json=dataset_json)
    made.inference_allowed_mirroring_axes = (0, 1)
    made.network.train()
    return made


def vector(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def nnunets_step(network: nn.Module, loss: torch.Tensor, made: Any) -> None:
    """One step of nnU-Net's optimizer from its start."""
    rate = 0.01 * (1 - made.current_epoch / 2) ** 0.9
    sgd = torch.optim.SGD(network.parameters(), rate, 0.99, nesterov=True, weight_decay=3e-5)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 12)
    sgd.step()


# --- MinEnt, AdvEnt, feature space


@pytest.mark.parametrize("dataset_json", [None, FOUR_CLASSES])
def test_minent_step_equals_plain_pytorch(
    tmp_path: Path, dataset_json: dict[str, Any] | None
) -> None:
    made = made_of(MinEntTrainer, tmp_path, dataset_json, entropy_weight=0.7)
    data = batch(made, ("target_domain",))
    twin = copy.deepcopy(made.network)
    segmentation = made.loss(twin(data["data"]), data["target"])
    p = twin(data["target_domain"]["data"])[0].softmax(1)
    entropy = 0.7 * -(p * p.log()).sum(1).mean() / math.log(p.shape[1])
    nnunets_step(twin, segmentation + entropy, made)

    result = made.train_step(data)
    assert result["entropy"] == pytest.approx(entropy.item()) and result["loss"] == pytest.approx(
        segmentation.item()
    )
    torch.testing.assert_close(vector(made.network), vector(twin))


def test_minent_without_weight_is_plain_nnunet(tmp_path: Path) -> None:
    ours, plain = (
        made_of(MinEntTrainer, tmp_path / "a", entropy_weight=0),
        made_of(PlainTrainer, tmp_path / "b"),
    )
    for seed in range(2):
        ours.train_step(batch(ours, ("target_domain",), seed))
        plain.train_step(batch(plain, seed=seed))
    torch.testing.assert_close(vector(ours.network), vector(plain.network), rtol=0, atol=0)


def test_advent_judges_the_self_information_of_each_class(tmp_path: Path) -> None:
    made = made_of(AdvEntTrainer, tmp_path, FOUR_CLASSES)
    images = batch(made)["data"]
    segmentation, judged = made.judged_map(images)
    p = segmentation[0].softmax(1)
    torch.testing.assert_close(judged, -p * p.log() / math.log(4))
    assert judged.shape == (2, 4, 16, 16) and made.judged_channels() == 4


def test_feature_space_judges_the_encoders_map(tmp_path: Path) -> None:
    made = made_of(FeatureSpaceDATrainer, tmp_path, judged_stride=2)
    images = batch(made)["data"]
    _, judged = made.judged_map(images)
    torch.testing.assert_close(judged, made.network.encoder(images)[1])
    assert made.judged_channels() == 8 and made.judged_size() == [8, 8]


def test_a_judged_stride_that_the_network_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"judged_stride=8: .* no level of stride 8; its levels have strides 1, 2, 4;",
    ):
        made_of(FeatureSpaceDATrainer, tmp_path)


# --- mean teacher


def test_the_teacher_is_the_moving_average_of_the_student(tmp_path: Path) -> None:
    """Decay 1 - 1 / n in the n-th step, at most ``teacher_decay``."""
    made = made_of(MeanTeacherTrainer, tmp_path, teacher_decay=0.6)
    teacher = made.auxiliary_networks["teacher"]
    assert torch.equal(vector(teacher), vector(made.network))
    expected = vector(teacher)
    for step in range(4):
        made.train_step(batch(made, ("target_domain",), seed=step))
        decay = min(0.6, 1 - 1 / (step + 1))
        expected = decay * expected + (1 - decay) * vector(made.network)
        torch.testing.assert_close(vector(teacher), expected)
    assert not torch.equal(vector(teacher), vector(made.network))
    assert not teacher.training and not any(weight.requires_grad for weight in teacher.parameters())


def test_mean_teacher_step_equals_plain_pytorch(tmp_path: Path) -> None:
    made = made_of(MeanTeacherTrainer, tmp_path, FOUR_CLASSES, confidence=0.3, rampup_fraction=0.5)
    made.current_epoch, made._iteration_in_epoch = 0, 2  # of a ramp-up of 5
    data = batch(made, ("target_domain",))
    images = data["target_domain"]["data"]
    student = copy.deepcopy(made.network)
    p = made.auxiliary_networks["teacher"](images)
    p = (p[0] if isinstance(p, list) else p).softmax(1)

    torch.manual_seed(3)
    view, flipped = augmented_view(images, (0, 1))
    log_q = student(view)[0].flip(flipped).log_softmax(1)
    picked = [
        (b, y, x)
        for b in range(2)
        for y in range(16)
        for x in range(16)
        if p[b, :, y, x].max() > 0.3
    ]
    losses = [-log_q[b, p[b, :, y, x].argmax(), y, x] for b, y, x in picked]
    consistency = math.exp(-5 * (1 - 2 / 5) ** 2) * torch.stack(losses).mean()
    segmentation = made.loss(student(data["data"]), data["target"])
    nnunets_step(student, segmentation + consistency, made)

    torch.manual_seed(3)
    result = made.train_step(data)
    assert 0 < len(picked) < 512 and result["kept_fraction"] == pytest.approx(len(picked) / 512)
    assert result["consistency"] == pytest.approx(consistency.item(), rel=1e-5)
    torch.testing.assert_close(vector(made.network), vector(student))


def test_where_the_teacher_is_never_sure_the_target_has_no_influence(tmp_path: Path) -> None:
    ours, plain = (
        made_of(MeanTeacherTrainer, tmp_path / "a", confidence=1),
        made_of(PlainTrainer, tmp_path / "b"),
    )
    for seed in range(2):
        result = ours.train_step(batch(ours, ("target_domain",), seed))
        plain.train_step(batch(plain, seed=seed))
        assert result["kept_fraction"] == result["consistency"] == 0
    torch.testing.assert_close(vector(ours.network), vector(plain.network), rtol=0, atol=0)


def test_the_consistency_weight_grows_and_stays(tmp_path: Path) -> None:
    """The same step of the same networks at iterations 0, 2, 5 and 8; the ramp-up takes 0.4 of 10
    iterations.
    """
    shares = []
    for epoch, iteration in ((0, 0), (0, 2), (1, 0), (1, 3)):
        made = made_of(MeanTeacherTrainer, tmp_path, confidence=0, consistency_weight=3.0)
        made.current_epoch, made._iteration_in_epoch = epoch, iteration
        torch.manual_seed(3)
        shares.append(made.train_step(batch(made, ("target_domain",)))["consistency"])
    expected = [math.exp(-5), math.exp(-5 * 0.5**2), 1, 1]
    assert [share / shares[-1] for share in shares] == pytest.approx(expected)


# --- rare-class sampling


def test_a_class_is_drawn_first_and_then_a_case_that_shows_it() -> None:
    """Frequencies 0.8, 0.15 and 0.05; at T = 0.5 the classes have weights exp(2 (1 - f)) over their
    sum.
    """
    pixels = np.array([[60, 0, 0], [10, 15, 0], [5, 0, 5], [5, 0, 0]])
    weights = np.exp(2 * (1 - np.array([0.8, 0.15, 0.05])))
    background, common, rare = weights / weights.sum()
    expected = [background / 4, background / 4 + common, background / 4 + rare, background / 4]
    np.testing.assert_allclose(case_probabilities(pixels, 0.5), expected)
    np.testing.assert_allclose(case_probabilities(pixels, 0.01).sum(), 1)


def test_a_class_that_no_case_shows_is_never_drawn() -> None:
    pixels = np.array([[6, 0, 2], [8, 0, 0]])
    np.testing.assert_allclose(
        case_probabilities(pixels, 0.5), case_probabilities(pixels[:, ::2], 0.5)
    )


@pytest.mark.parametrize("temperature", [0, 1])
def test_cases_with_rare_classes_are_drawn_more_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """Of five preprocessed slices the first alone shows a lesion."""
    monkeypatch.setenv(WORKERS_VARIABLE, "0")
    labelled = write_raw(tmp_path, "Dataset999_Miniature", 5)
    for case in range(1, 5):
        Image.new("L", (32, 32)).save(labelled / "labelsTr" / f"case_{case:02d}.png")
    other = write_raw(tmp_path, "Dataset998_Other", 2, labelled=False)
    settings = {"rare_class_temperature": temperature, "num_epochs": 1}
    content = plans(patch_size=(32, 32), streams=STREAMS, settings=settings)
    made = trainer_with_data(MeanTeacherTrainer, tmp_path, content, labelled, target_domain=other)

    batches, _ = made.get_dataloaders()
    loader = batches.data_loader.labelled
    if not temperature:
        assert loader.sampling_probabilities is None
        return
    segmentations = [np.asarray(loader._data.load_case(case)[1]) for case in loader.indices]
    lesion = [int((segmentation == 1).sum()) for segmentation in segmentations]
    assert lesion[0] > 0 and not any(lesion[1:])
    counted = np.array([[32 * 32 - pixels, pixels] for pixels in lesion])
    np.testing.assert_array_equal(class_pixels(loader._data, [1]), counted)

    f = lesion[0] / (5 * 32 * 32)
    drawn_for_lesion = math.exp(1 - f) / (math.exp(f) + math.exp(1 - f))
    expected = drawn_for_lesion + (1 - drawn_for_lesion) / 5
    assert loader.sampling_probabilities[0] == pytest.approx(expected)
    names = [str(case) for data in drawn(batches, 40) for case in data["keys"]]
    assert names.count("case_00") / len(names) == pytest.approx(expected, abs=0.15)


def test_a_target_smaller_than_the_batch_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One target slice, labelled but for nobody's eyes, stands at every place of a batch of
    four.
    """
    monkeypatch.setenv(WORKERS_VARIABLE, "0")
    labelled = write_raw(tmp_path, "Dataset999_Miniature", 5)
    other = write_raw(tmp_path, "Dataset998_Other", 1, seed=1)
    content = plans(patch_size=(32, 32), batch_size=4, streams=STREAMS, settings={"num_epochs": 1})
    made = trainer_with_data(MinEntTrainer, tmp_path, content, labelled, target_domain=other)
    batches, _ = made.get_dataloaders()
    (data,) = drawn(batches, 1)
    target = data["target_domain"]
    assert "target" not in target and target["data"].shape == (4, 1, 32, 32)
    assert len({str(key) for key in target["keys"]}) == 1 and len(target["keys"]) == 4
