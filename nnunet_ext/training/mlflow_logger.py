"""A training's curves in MLflow, beside nnU-Net's Weights & Biases, through nnU-Net's own logger.

Off unless ``nnUNet_mlflow_enabled`` is 1. MLflow is imported and asked only then.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError, first_line
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.files.json_files import read_object

ENABLED = "nnUNet_mlflow_enabled"
SERVER = "MLFLOW_TRACKING_URI"  # MLflow's own
EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"  # MLflow's own
DEFAULT_EXPERIMENT = "nnunet"
RUN_FILE = "mlflow_run.json"  # in the fold's folder: which run continues
LONGEST_VALUE = 500  # characters of a parameter that every MLflow takes
NOT_IN_A_NAME = re.compile(r"[^\w\-. /]", re.ASCII)


def is_enabled() -> bool:
    """Return whether the user wants MLflow.

    Raises:
        InputError: the variable is neither 0 nor 1.
    """
    value = os.environ.get(ENABLED, "0").lower()
    if value not in ("0", "1", "false", "true"):
        raise InputError(f"{ENABLED}={value}: is neither 0 nor 1")
    return value in ("1", "true")


def mlflow_logger(folder: Path, resume: bool, config: Mapping[str, Any]) -> MLflowLogger:
    """Return a logger that nnU-Net's logger passes its values on to.

    Args:
        folder: of the fold's results.
        resume: the training is continued, and so is its run.
        config: what is known of the training from the start.

    Raises:
        InputError: MLflow is not installed, or nothing says where it keeps its runs.
    """
    server = os.environ.get(SERVER)
    if not server:
        raise InputError(
            f"{ENABLED} is set, but {SERVER} is not; export {SERVER}=http://SERVER:5000, or unset "
            f"{ENABLED}"
        )
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise InputError(
            f"{ENABLED} is set, but mlflow is not installed; pip install mlflow-skinny, or unset "
            f"{ENABLED}"
        ) from error
    return MLflowLogger(MlflowClient(server), folder, resume, config)


class MLflowLogger:
    """What nnU-Net calls a logger: ``update_config``, ``log`` and ``log_summary``.

    The run is made with the first value, so that a validation alone adds to the training's run. A
    server that cannot be reached then ends the training; one that fails later does not.

    Args:
        client: MLflow's.
        folder: of the fold's results.
        resume: the training is continued.
        config: parameters of the run.
    """

    def __init__(self, client: Any, folder: Path, resume: bool, config: Mapping[str, Any]) -> None:
        self._client = client
        self._file = folder / RUN_FILE
        self._resume = resume
        self._config = dict(config)
        self._run: str | None = None
        self._has_failed = False
        self._done: dict[str, int] = {}  # the last step of each curve that the run already has

    def update_config(self, config: Mapping[str, Any]) -> None:
        """Add parameters: numbers and texts, also those of one group."""
        for name, value in config.items():
            if isinstance(value, Mapping):
                self.update_config(value)
            else:
                self._config.setdefault(name, value)

    def log(self, key: str, value: Any, step: int) -> None:
        """Log the value of a curve at an epoch, once."""
        run = self._run or self._begin(self._resume or step > 0)
        name = NOT_IN_A_NAME.sub("_", key)
        if self._has_failed:
            return
        with self._failures_noted():
            if step > self._last_step(run, name):
                self._client.log_metric(run, name, float(value), step=step)

    def log_summary(self, key: str, value: Any) -> None:
        """Log a value of the whole training, such as the final validation's."""
        run = self._run or self._begin(continues=True)
        if self._has_failed:
            return
        with self._failures_noted():
            self._client.log_metric(run, NOT_IN_A_NAME.sub("_", key), float(value))

    def end(self) -> None:
        """Mark the run as finished."""
        if self._run is not None and not self._has_failed:
            with self._failures_noted():
                self._client.set_terminated(self._run)

    @contextmanager
    def _failures_noted(self) -> Iterator[None]:
        """Let the training go on where MLflow fails, without asking it again."""
        try:
            yield
        except Exception as error:  # a network and a server may raise anything
            self._has_failed = True
            reason = first_line(error)[:200]
            sys.stderr.write(f"note: MLflow fails ({reason}); the training goes on without it\n")

    def _last_step(self, run: str, name: str) -> int:
        """Return the last epoch of a curve that a continued run has; -1 if it has none."""
        if self._resume and name not in self._done:
            history = self._client.get_metric_history(run, name)
            self._done[name] = max((metric.step for metric in history), default=-1)
        return self._done.get(name, -1)

    def _begin(self, continues: bool) -> str:
        """Find the training's run, or make one.

        Raises:
            InputError: the server cannot be reached, or refuses.
        """
        try:
            self._run = (self._earlier_run() if continues else None) or self._new_run()
        except InputError:
            raise
        except Exception as error:  # a network and a server may raise anything
            raise InputError(
                f"{SERVER}={os.environ.get(SERVER)}: MLflow cannot be used "
                f"({first_line(error)[:200]}); start its server, or unset {ENABLED}"
            ) from error
        return self._run

    def _earlier_run(self) -> str | None:
        if not self._file.is_file():
            return None
        shape = {"run_id": str}
        run: str = read_object(self._file, "remove it; a new run begins", shape)["run_id"]
        self._client.get_run(run)  # it may have been deleted
        return run

    def _new_run(self) -> str:
        name = os.environ.get(EXPERIMENT) or DEFAULT_EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            number = self._client.create_experiment(name)
        else:
            number = experiment.experiment_id
        title = " ".join(str(self._config.get(key, "")) for key in ("trainer", "fold"))
        run: str = self._client.create_run(number, run_name=title).info.run_id
        for key, value in self._config.items():
            text = str(value)[:LONGEST_VALUE]
            self._client.log_param(run, NOT_IN_A_NAME.sub("_", key), text)
        write_json({"run_id": run}, self._file)
        return run
