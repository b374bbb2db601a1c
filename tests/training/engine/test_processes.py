"""Two processes on the CPU train the same weights as one process with the global batch."""

import socket
from pathlib import Path

import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.trainers.plain import PlainTrainer
from tests.miniature_plans import plans, trainer
from tests.training.engine import two_processes

CASES = [(case, batch_dice) for case in two_processes.CASES for batch_dice in (True, False)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(two_processes.run, (2, root, port), nprocs=2)
    return root


@pytest.mark.parametrize(("case", "batch_dice"), CASES)
def test_two_processes_equal_one(case: str, batch_dice: bool, two: Path, tmp_path: Path) -> None:
    first, second = (
        torch.load(two / f"{case}_{batch_dice}_{rank}.pth", weights_only=False) for rank in (0, 1)
    )
    one = two_processes.train(case, tmp_path, batch_dice=batch_dice)
    start = two_processes.weights(trainer(type(one), tmp_path / "start", one.plans_manager.plans))
    expected = two_processes.weights(one)
    assert any(not torch.equal(start[name], value) for name, value in expected.items())
    for name, value in expected.items():
        assert torch.equal(first[0][name], second[0][name]), name
        torch.testing.assert_close(first[0][name], value, rtol=1e-4, atol=1e-6, msg=name)
    for term in one.loss_terms:
        logged = one.logger.get_value(term, None)
        assert first[1][term] == pytest.approx(
            second[1][term], rel=0, abs=0, nan_ok=True
        )  # NaN: not a term of this case
        assert first[1][term] == pytest.approx(logged, rel=1e-4, abs=1e-6, nan_ok=True)


def test_all_processes_start_from_the_first_ones_weights(two: Path) -> None:
    first, second = (torch.load(two / f"shared_{rank}.pth") for rank in (0, 1))
    assert {name.partition(".")[0] for name in first} >= {"network", "averaged", "discriminator"}
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_batches_that_cannot_be_shared_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(PlainTrainer, tmp_path, plans(batch_size=3))
    made.was_initialized, made.is_ddp = False, True
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    with pytest.raises(InputError, match="2 processes cannot share batches of 3 evenly"):
        made.initialize()


def test_batch_normalisation_is_refused_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = plans()
    architecture = content["configurations"]["2d"]["architecture"]["arch_kwargs"]
    architecture["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm2d"
    made = trainer(PlainTrainer, tmp_path, content)
    made.was_initialized, made.is_ddp = False, True
    for name, value in {
        "is_initialized": True,
        "get_world_size": 2,
        "get_rank": 0,
        "get_backend": "gloo",
    }.items():
        monkeypatch.setattr(f"torch.distributed.{name}", lambda value=value: value)
    with pytest.raises(
        InputError, match="batch normalisation is not shared by processes on the CPU"
    ):
        made.initialize()
