"""The progress of an nnU-Net training, and the stock command that continues it."""

from dataclasses import dataclass
from pathlib import Path

FINAL_CHECKPOINT = "checkpoint_final.pth"
TRAINING_LOCK = ".training.lock"  # in the fold's folder, held by the process that trains it
_UNFINISHED = ("checkpoint_latest.pth", "checkpoint_best.pth")


@dataclass(frozen=True)
class Model:
    """A trainer with plans, on a data set."""

    dataset: str
    trainer: str
    plans: str
    configuration: str

    def folder(self, results: Path) -> Path:
        """Return nnU-Net's result folder of the model."""
        dataset = results / self.dataset
        name = f"{self.trainer}__{self.plans}__{self.configuration}"
        return dataset / name


@dataclass(frozen=True)
class Training:
    """One fold of a model; ``folder`` is nnU-Net's, ``fold_NUMBER`` below that of the model."""

    model: Model
    number: str
    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The file that nnU-Net writes after the last epoch, before it validates."""
        return self.folder / FINAL_CHECKPOINT

    @property
    def trained(self) -> bool:
        """Whether the last epoch has ended."""
        return self.checkpoint.is_file()

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        checkpoints = [self.folder / name for name in _UNFINISHED]
        return any(map(Path.is_file, checkpoints))

    def arguments(self, device: str) -> list[str]:
        """Return the stock command that finishes the fold: it starts, continues or validates."""
        model = self.model
        arguments = ["nnUNetv2_train", model.dataset, model.configuration, self.number]
        arguments += ["-tr", model.trainer]
        arguments += ["-p", model.plans]
        arguments += ["-device", device]
        if self.trained:
            arguments.append("--val")
        elif self.begun:
            arguments.append("--c")
        return arguments
