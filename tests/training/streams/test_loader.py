"""The joined loader: one draw per stream, random numbers by index, failures that reach the main
process.
"""

import os
import signal
import time
from typing import Any

import numpy as np
import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.training.streams.loader import MultiStreamLoader, WorkerPool


class Loader:
    """Counts what it gives."""

    def __init__(self, name: str) -> None:
        self.name, self.drawn, self.thread = name, 0, -1

    def __next__(self) -> dict[str, Any]:
        self.drawn += 1
        return {"data": f"{self.name} {self.drawn}", "target": 0}

    def set_thread_id(self, thread_id: int) -> None:
        self.thread = thread_id


class RandomLoader(Loader):
    """Gives a random number."""

    def __next__(self) -> dict[str, Any]:
        return {"data": float(np.random.rand())}  # noqa: NPY002  as nnU-Net draws


class FailingLoader(Loader):
    """Raises what it was given at the third draw."""

    def __init__(self, error: Exception) -> None:
        super().__init__("failing")
        self.error = error

    def __next__(self) -> dict[str, Any]:
        if self.drawn == 2:
            raise self.error
        return super().__next__()


def numbers(count: int, **arguments: Any) -> list[float]:
    loader = MultiStreamLoader(RandomLoader("random"), {}, **arguments)
    return [next(loader)["data"] for _ in range(count)]


def test_joined_loader_draws_every_stream_once_and_passes_the_thread_on() -> None:
    labelled, general = Loader("labelled"), Loader("general")
    joined = MultiStreamLoader(labelled, {"general": general})
    next(joined)
    expected = {"data": "labelled 2", "target": 0, "general": {"data": "general 2", "target": 0}}
    assert next(joined) == expected
    joined.set_thread_id(3)
    assert labelled.thread == general.thread == 3


def test_streams_without_labels_bring_none() -> None:
    joined = MultiStreamLoader(
        Loader("labelled"), {"unlabeled": Loader("u"), "target_domain": Loader("t")}
    )
    drawn = next(joined)
    assert drawn["unlabeled"] == {"data": "u 1"} and drawn["target_domain"] == {"data": "t 1"}


def test_a_batch_follows_from_its_index() -> None:
    whole = numbers(6)
    assert len(set(whole)) == 6 and numbers(3, first=3) == whole[3:]
    assert numbers(6, seed=(1,)) != whole


def test_several_workers_share_the_indices() -> None:
    whole, shared = numbers(6), set()
    for thread in range(2):
        loader = MultiStreamLoader(RandomLoader("random"), {}, workers=2)
        loader.set_thread_id(thread)
        shared |= {next(loader)["data"] for _ in range(3)}
    assert shared == set(whole)


def pool(labelled: Any) -> WorkerPool:
    return WorkerPool(MultiStreamLoader(labelled, {}, workers=1), None, 1, 2, wait_time=0.002)


def test_a_worker_gives_the_same_batches_in_order() -> None:
    with_worker = pool(RandomLoader("random"))
    assert [next(with_worker)["data"] for _ in range(4)] == numbers(4)
    with_worker._finish()


def test_a_workers_exception_is_the_one_that_is_seen() -> None:
    failing = pool(FailingLoader(ValueError("case_7 is broken")))
    next(failing), next(failing)
    with pytest.raises(RuntimeError, match="ValueError: case_7 is broken"):
        next(failing)
    wrong = pool(FailingLoader(InputError("case_7.b2nd: gone")))
    next(wrong), next(wrong)
    with pytest.raises(InputError, match=r"^case_7\.b2nd: gone$"):
        next(wrong)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_worker_is_said_to_be_killed() -> None:
    killed = pool(RandomLoader("random"))
    next(killed)
    os.kill(killed._processes[0].pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    with pytest.raises(InputError, match=r"a data loading worker was killed \(exit codes \[-9\]\)"):
        while time.monotonic() < deadline:
            next(killed)
