"""One loader that joins labelled batches with those of further streams, and its workers."""

import random
import signal
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter

from nnunet_ext.errors import InputError
from nnunet_ext.training.engine.random_numbers import seeded_random_numbers
from nnunet_ext.training.streams.location import UNLABELLED_ROLES
from nnunet_ext.training.streams.sampling import StreamDataLoader

FAILURE = "failure"  # key of what a worker returns instead of a batch


class MultiStreamLoader:
    """Join every labelled batch with a batch of each further stream.

    The labelled batch keeps nnU-Net's keys, each further stream is a dict under its role.

    All streams are drawn in the same worker processes, so nnU-Net starts, pins and stops a single
    pool. The random numbers of a batch depend on its index, so a resumed training gets the batches
    that it would have got without the interruption.

    Args:
        labelled: loader of the labelled stream.
        further: role -> loader.
        seed: seeds the batches' random numbers, together with the index.
        first: index of the first batch.
        workers: number of processes that share the indices; 0 means this process.
        matches: role -> key of a labelled case -> keys of that stream's cases. One of them is drawn
            at random for the same place in the batch.
    """

    def __init__(
        self,
        labelled: StreamDataLoader,
        further: dict[str, StreamDataLoader],
        seed: tuple[int, ...] = (0,),
        first: int = 0,
        workers: int = 0,
        matches: dict[str, dict[str, list[str]]] | None = None,
    ) -> None:
        self.labelled = labelled
        self.further = further
        self.seed = seed
        self.first = first
        self.workers = workers
        self.matches = matches or {}
        self._thread = 0
        self._drawn = 0

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        workers = max(self.workers, 1)
        index = self.first + self._drawn * workers + self._thread
        self._drawn += 1
        try:
            return self._batch(index)
        except Exception as error:
            if self.workers == 0:
                raise
            wrong_input = str(error) if isinstance(error, InputError) else None
            return {FAILURE: (wrong_input, traceback.format_exc())}

    def _batch(self, index: int) -> dict:
        with seeded_random_numbers(*self.seed, index):
            batch = next(self.labelled)
            for role, loader in self.further.items():
                if role in self.matches:
                    loader.demanded_keys = self._matching_keys(role, batch["keys"])
                stream_batch = next(loader)
                if role in UNLABELLED_ROLES:
                    stream_batch.pop("target", None)  # nnU-Net's loader makes an empty one
                batch[role] = stream_batch
        return batch

    def _matching_keys(self, role: str, labelled_keys: Iterable[str]) -> list[str]:
        matches = self.matches[role]
        drawn = []
        for key in labelled_keys:
            candidates = matches[key]
            drawn.append(random.choice(candidates))
        return drawn

    def set_thread_id(self, thread_id: int) -> None:
        """Tell every loader the number of this worker process; nnU-Net's workers call this."""
        self._thread = thread_id
        loaders = [self.labelled, *self.further.values()]
        for loader in loaders:
            loader.set_thread_id(thread_id)


class WorkerPool(NonDetMultiThreadedAugmenter):
    """nnU-Net's workers; the main process raises an exception that says what went wrong in one."""

    def __next__(self) -> Any:
        """Return the next batch of any worker.

        Raises:
            InputError: wrong input met by a worker, or a worker that was killed.
            RuntimeError: any other exception of a worker, with its traceback.
        """
        processes = list(self._processes)  # gone when the pool has shut down
        try:
            batch = super().__next__()
        except RuntimeError as error:
            exit_codes = {process.exitcode for process in processes if process.exitcode}
            codes = sorted(exit_codes)
            memory = ""
            if -signal.SIGKILL in codes:
                memory = (
                    ", usually because it ran out of memory (fewer workers: nnUNet_n_proc_DA=4)"
                )
            raise InputError(
                f"a data loading worker was killed (exit codes {codes}){memory}; continue with --c"
            ) from error

        if FAILURE not in batch:
            return batch

        wrong_input, trace = batch[FAILURE]
        self._finish()
        if wrong_input:
            raise InputError(wrong_input)
        raise RuntimeError(f"a data loading worker failed:\n{trace}")
