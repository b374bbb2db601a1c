"""What a suite declares: data, rows, budget, and how they are measured. Each suite is one small
file.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import environment_folder

SUITES = Path(__file__).with_name("suites")
DATASET_NAME = re.compile(r"Dataset(\d{3,})_[\w.-]+")


@dataclass(frozen=True)
class MadeData:
    """A labelled data set that a command makes from the model of a row's first stage, such as one
    of pseudo-labels.

    Every seed has its own: ``number + seed``. Words of ``command`` may hold ``{number}`` (of the
    new data set), ``{further}`` (of an unlabelled one that the same command makes, ``further +
    seed``; the row's streams may be called ``{further}``, too), ``{raw}`` (the folder of raw data
    sets), ``{device}`` and, of the first stage's model, ``{dataset}``, ``{plans}``, ``{trainer}``,
    ``{configuration}``, ``{fold}`` and ``{checkpoint}``.
    """

    number: int
    command: tuple[str, ...]
    further: int = 0


@dataclass(frozen=True)
class Row:
    """One line of the table: a trainer with its data, streams and settings, trained once per seed.

    ``trains_on`` is a raw data set of the suite, or several, of which every seed takes one in turn.
    ``streams`` are data sets by role. A row with a ``first_stage`` builds on that row's model of
    the same seed: its settings may name it as ``{checkpoint}``, and the folder of raw data sets as
    ``{raw}``. With ``pretrained``, it starts from that model by nnU-Net's ``-pretrained_weights``.
    A row that is not ``tested`` is only the first stage of others. ``normalize`` gives streams a
    normalisation of their own, as ``nnUNetv2_ext_configure`` takes it.
    """

    name: str
    trains_on: str | tuple[str, ...] | MadeData
    trainer: str = "PlainTrainer"
    settings: Mapping[str, Any] = field(default_factory=dict)
    streams: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preset: str = "recommended"
    first_stage: str = ""
    tested: bool = True
    normalize: Mapping[str, str] = field(default_factory=dict)
    pretrained: bool = False


@dataclass(frozen=True)
class Suite:
    """Rows that are trained on the same budget and predict the same test set.

    ``write_data`` puts nnU-Net raw data sets into a folder; ``test_set`` is that with imagesTs and
    labelsTs. Several of both, as many for every row, are a cross-validation: seed k trains and
    tests on the k-th, in turn. ``budget`` are settings of all rows. ``features`` and ``batch_size``
    replace those of nnU-Net's plans, where given, so that a run takes minutes. ``lower`` and
    ``upper`` name the rows between which a gap is to be closed. ``metric`` of ``profile`` (see
    ``nnUNetv2_ext_evaluate``) is what the table shows. With ``discard_checkpoints`` those that no
    run needs any more are deleted, where networks are large.
    """

    name: str
    title: str
    write_data: Callable[[Path], None]
    rows: tuple[Row, ...]
    test_set: str | tuple[str, ...]
    budget: Mapping[str, Any]
    lower: str = ""
    upper: str = ""
    features: tuple[int, ...] = ()
    batch_size: int = 0
    configuration: str = "2d"
    fold: str = "0"
    profile: str = "plain"
    metric: str = "dice"
    seeds: int = 5
    discard_checkpoints: bool = False

    def __post_init__(self) -> None:
        if (
            0 < len(self.features) < 3
        ):  # nnU-Net's deep supervision gives the last output no weight: 0 / 0
            raise InputError(
                f"suite {self.name}: features {self.features}: name three stages or more"
            )
        for row in self.rows:
            if isinstance(row.trains_on, tuple) and len(row.trains_on) != len(self.test_sets):
                raise InputError(
                    f"suite {self.name}: {row.name} trains on {len(row.trains_on)} data sets in "
                    f"turn, and there are "
                    f"{len(self.test_sets)} test sets; name as many of both"
                )
        names = [row.name for row in self.rows]
        for number, row in enumerate(self.rows):
            if not re.fullmatch(r"[A-Za-z0-9]+([.-][A-Za-z0-9]+)*", row.name):
                raise InputError(
                    f"suite {self.name}: row {row.name!r}: use letters and digits, joined by - or ."
                )
            if row.name in names[:number]:
                raise InputError(f"suite {self.name}: two rows are called {row.name}")
            if row.first_stage and row.first_stage not in names[:number]:
                raise InputError(
                    f"suite {self.name}: {row.name} builds on {row.first_stage}, no row above it"
                )
            if row.pretrained and not row.first_stage:
                raise InputError(
                    f"suite {self.name}: {row.name} is pretrained, but names no first_stage to "
                    f"start from"
                )
            if isinstance(row.trains_on, MadeData) and not row.first_stage:
                raise InputError(
                    f"suite {self.name}: {row.name} has data made, but no first_stage to make "
                    f"them from"
                )
            if _names_further(row) and not (
                isinstance(row.trains_on, MadeData) and row.trains_on.further
            ):
                raise InputError(
                    f"suite {self.name}: {row.name} names {{further}}, a data set that nothing "
                    f"makes"
                )
        for name in filter(None, (self.lower, self.upper)):
            if name not in names:
                raise InputError(
                    f"suite {self.name}: there is no row {name} between which a gap is measured"
                )

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Data sets with imagesTs and labelsTs; seed k takes the k-th, in turn."""
        return (self.test_set,) if isinstance(self.test_set, str) else self.test_set

    def row(self, name: str) -> Row:
        """The row of that name.

        Raises:
            InputError: there is none.
        """
        rows = {row.name: row for row in self.rows}
        if name not in rows:
            raise InputError(f"suite {self.name} has no row {name}; it has {', '.join(rows)}")
        return rows[name]

    def declared(self) -> dict[str, Any]:
        """What must stay the same for runs to stand in one table, as plain JSON; rows apart from
        the rest.
        """
        shared = {
            name: getattr(self, name)
            for name in ("name", "test_set", "batch_size", "configuration", "fold", "profile")
        }
        shared |= {"budget": dict(self.budget), "features": list(self.features)}
        return {"shared": shared, "rows": {row.name: _declared(row) for row in self.rows}}


def _names_further(row: Row) -> bool:
    return any("{further}" in dataset for datasets in row.streams.values() for dataset in datasets)


def _declared(row: Row) -> dict[str, Any]:
    made = row.trains_on
    data = {**vars(made), "command": list(made.command)} if isinstance(made, MadeData) else made
    streams = {role: list(datasets) for role, datasets in row.streams.items()}
    named: dict[str, Any] = {
        "trainer": row.trainer,
        "preset": row.preset,
        "first_stage": row.first_stage,
    }
    named |= {"pretrained": True} if row.pretrained else {}
    named |= {"normalize": dict(row.normalize)} if row.normalize else {}
    return {**named, "trains_on": data, "settings": dict(row.settings), "streams": streams}


def load_suite(name: str) -> Suite:
    """The suite of that name, or the one declared as ``SUITE`` in a Python file.

    Raises:
        InputError: there is none.
    """
    known = sorted(path.stem.replace("_", "-") for path in SUITES.glob("[a-z]*.py"))
    path = Path(name) if name.endswith(".py") else SUITES / f"{name.replace('-', '_')}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError(
            f"{name}: no such suite; there are {', '.join(known)}, or give a .py file that "
            f"declares SUITE"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    suite = getattr(module, "SUITE", None)
    if not isinstance(suite, Suite):
        raise InputError(f"{path}: declares no SUITE")
    return suite


def unavailable(suite: Suite, row: Row) -> str:
    """Why this installation cannot train the row or what it builds on; empty if it can."""
    from nnunet_ext.own_trainers import trainers
    from nnunet_ext.training.settings.hyperparameters import declared

    trainer = trainers().get(row.trainer)
    if trainer is None:
        return f"this installation has no {row.trainer}"
    known = declared(trainer)
    if missing := [name for name in row.settings if name.rpartition(".")[2] not in known]:
        return f"{row.trainer} has no setting {', '.join(missing)} in this installation"
    return unavailable(suite, suite.row(row.first_stage)) if row.first_stage else ""


def found(*datasets: str) -> Callable[[Path], None]:
    """Data that the user has converted: links to raw data sets in ``nnUNet_raw``."""

    def link(raw: Path) -> None:
        theirs = environment_folder("nnUNet_raw")
        for name in datasets:
            if not (theirs / name / "dataset.json").is_file():
                raise InputError(
                    f"{theirs / name}: no such data set; convert it first (nnUNetv2_ext_convert "
                    f"--list)"
                )
            (raw / name).symlink_to((theirs / name).resolve())

    return link
