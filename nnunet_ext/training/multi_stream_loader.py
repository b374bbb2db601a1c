"""One loader that joins every labelled batch with a batch of each further stream."""

from collections.abc import Iterator

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader


class MultiStreamLoader:
    """Wraps nnU-Net's loaders: the labelled batch keeps nnU-Net's keys, each further stream is a dict under its role.

    All streams are drawn in the same worker processes, so nnU-Net starts, pins and stops a single pool.
    """

    def __init__(self, labelled: nnUNetDataLoader, further: dict[str, nnUNetDataLoader]) -> None:
        self.labelled = labelled
        self.further = further

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        batch = next(self.labelled)
        for role, loader in self.further.items():
            batch[role] = next(loader)
        return batch

    def set_thread_id(self, thread_id: int) -> None:
        """Called by nnU-Net's worker processes; passed on to every loader."""
        for loader in (self.labelled, *self.further.values()):
            loader.set_thread_id(thread_id)
