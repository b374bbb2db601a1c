"""Work on many items in worker processes that can be interrupted."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from nnunet_ext.errors import InputError, first_line

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_worker_processes(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with ``function(item)`` when it is done, in this process if one is enough.

    ``function`` must be importable (or a ``functools.partial`` of such) and should return its
    errors: an exception ends the iteration. Leaving the iteration, also by Ctrl-C, cancels what has
    not begun.

    Raises:
        InputError: a worker process died.
    """
    if processes == 1 or len(items) < 2:
        for item in items:
            yield item, function(item)
        return

    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # spawn, because the threads of SimpleITK and torch do not survive a fork
    pool = ProcessPoolExecutor(min(processes, len(items)), mp_context=get_context("spawn"))
    try:
        futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        why = "usually because it ran out of memory"
        raise InputError(f"a worker process died, {why}; run again with a smaller -np") from error
    finally:
        pool.shutdown(cancel_futures=True)


def on_dask_cluster(
    function: Callable[[Item], Result], items: Sequence[Item], address: str
) -> Iterator[tuple[Item, Result]]:
    """Do the same on a Dask cluster, whose workers see the same folders under the same names.

    Raises:
        InputError: Dask is not installed, no scheduler answers, or a worker died.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise InputError("--dask needs Dask: pip install 'nnunetv2-ext[dask]'") from error
    try:
        client = Client(address, timeout="5s")
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask {address}: no scheduler answers there ({first_line(error)})"
        ) from error
    with client:
        futures = {client.submit(function, item, pure=False): item for item in items}
        for future in as_completed(futures):
            if future.status != "finished":
                client.cancel(list(futures))
                raise InputError(f"a Dask worker failed: {first_line(future.exception())}")
            yield futures[future], future.result()
