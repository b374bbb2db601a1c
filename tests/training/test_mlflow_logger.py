"""MLflow through nnU-Net's logger: off unless asked, one run per training, no path, no stop."""

import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from nnunet_ext.errors import InputError
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.training.mlflow_logger import ENABLED, EXPERIMENT, RUN_FILE, SERVER, MLflowLogger
from tests.miniature_plans import plans, trainer


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """MLflow that keeps its runs in a folder, as it does on request."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv(SERVER, (tmp_path / "runs").as_uri())
    monkeypatch.setenv(ENABLED, "1")
    return MlflowClient((tmp_path / "runs").as_uri())


def runs_in(client: MlflowClient, experiment: str = "nnunet") -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def curve(client: MlflowClient, run: Any, name: str) -> list[tuple[int, float]]:
    history = client.get_metric_history(run.info.run_id, name)
    return [(metric.step, metric.value) for metric in history]


def test_nnunets_logger_fills_one_run(client: MlflowClient, tmp_path: Path) -> None:
    made = trainer(PlainTrainer, tmp_path, plans(settings={"seed": 3}))
    for epoch, dice in enumerate((0.5, 1.0)):
        made.logger.log("train_losses", -dice, epoch)
        made.logger.log("mean_fg_dice", dice, epoch)
        made.logger.log("dice_per_class_or_region", [dice], epoch)
    made.logger.log_summary("final_val/class_(1, 2)_dice", 0.75)
    made.on_train_end()

    (run,) = runs_in(client)
    assert curve(client, run, "train_losses") == [(0, -0.5), (1, -1.0)]
    # nnU-Net's moving average: 0.9 of the last value and 0.1 of the new one
    assert curve(client, run, "ema_fg_dice") == [(0, 0.5), (1, 0.9 * 0.5 + 0.1 * 1.0)]
    assert curve(client, run, "dice_per_class_or_region/class_1") == [(0, 0.5), (1, 1.0)]
    assert run.data.metrics["final_val/class__1_ 2__dice"] == 0.75
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "PlainTrainer 0"
    expected = {"seed": "3", "trainer": "PlainTrainer", "configuration": "2d", "batch_size": "2"}
    assert expected.items() <= run.data.params.items()
    assert str(tmp_path) not in str(run.data.params)


def test_off_unless_asked(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENABLED)
    made = trainer(PlainTrainer, tmp_path, plans())
    assert made.logger.loggers == []
    assert client.get_experiment_by_name("nnunet") is None


def logger(client: Any, folder: Path, resume: bool = False) -> MLflowLogger:
    return MLflowLogger(client, folder, resume, {"trainer": "T", "file": "a" * 9999})


def test_a_continued_training_continues_its_run(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EXPERIMENT, "lungs")
    first = logger(client, tmp_path)
    for epoch in range(3):
        first.log("loss", float(epoch), epoch)
    # killed after epoch 2; the checkpoint is of epoch 1
    second = logger(client, tmp_path, resume=True)
    for epoch in range(1, 4):
        second.log("loss", float(epoch), epoch)
    validation = logger(client, tmp_path)
    validation.log_summary("final", 0.5)

    (run,) = runs_in(client, "lungs")
    assert curve(client, run, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert run.data.metrics["final"] == 0.5

    logger(client, tmp_path).log("loss", 0.0, 0)  # a training from the start has a run of its own
    assert len(runs_in(client, "lungs")) == 2


class Failing:
    """An MLflow that is gone after the run has begun."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def log_metric(self, *arguments: object, **more: object) -> None:
        self.calls += 1
        raise ConnectionError("no route to host\nat all")


def test_a_server_that_fails_later_does_not_end_a_training(
    client: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = Failing(client)
    made = logger(failing, tmp_path)
    for epoch in range(3):
        made.log("loss", 1.0, epoch)
    made.log_summary("final", 1.0)
    made.end()
    assert failing.calls == 1
    assert capsys.readouterr().err == (
        "note: MLflow fails (no route to host); the training goes on without it\n"
    )


def test_what_is_missing_is_one_line(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RUN_FILE).write_text("{}")
    with pytest.raises(InputError, match="has no 'run_id'; remove it"):
        logger(client, tmp_path, resume=True).log("loss", 1.0, 5)
    with pytest.raises(InputError, match=r"MLflow cannot be used .* start its server"):
        logger(None, tmp_path / "absent").log("loss", 1.0, 0)

    monkeypatch.setenv(ENABLED, "yes")
    with pytest.raises(InputError, match=f"{ENABLED}=yes: is neither 0 nor 1"):
        trainer(PlainTrainer, tmp_path / "a", plans())
    monkeypatch.setenv(ENABLED, "1")
    monkeypatch.delenv(SERVER)
    with pytest.raises(InputError, match=f"{SERVER} is not; export {SERVER}=http"):
        trainer(PlainTrainer, tmp_path / "b", plans())
    monkeypatch.setenv(SERVER, "http://localhost:1")
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(InputError, match="mlflow is not installed; pip install mlflow-skinny"):
        trainer(PlainTrainer, tmp_path / "c", plans())
