"""What a suite declares: data, rows, budget, and how they are measured.

Each suite is one small file.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from nnunet_ext.benchmark.converted import Converted
from nnunet_ext.benchmark.published import PublishedTable
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.metrics.declarations import METRICS
from nnunet_ext.evaluation.profiles import PROFILES

SUITES = Path(__file__).with_name("suites")
ROW_NAME = re.compile(r"[A-Za-z0-9]+([.-][A-Za-z0-9]+)*")
DATASET_NAME = re.compile(r"Dataset(\d{3,})_[\w.-]+")


@dataclass(frozen=True)
class MadeData:
    """A labelled data set that a command makes from the model of a row's first stage.

    Pseudo-labels are an example. Every seed has its own data set, ``number + seed``.

    Words of ``command`` may hold ``{number}`` (of the new data set), ``{further}`` (of an
    unlabelled one that the same command makes, ``further + seed``; the row's streams may be called
    ``{further}``, too), ``{raw}`` (the folder of raw data sets), ``{device}`` and, of the first
    stage's model, ``{dataset}``, ``{plans}``, ``{trainer}``, ``{configuration}``, ``{fold}`` and
    ``{checkpoint}``.
    """

    number: int
    command: tuple[str, ...]
    further: int = 0


@dataclass(frozen=True)
class Row:
    """One line of the table: a trainer with its data, streams and settings, trained once per seed.

    Args:
        name: of the row.
        trains_on: raw data set of the suite, or several, of which every seed takes one in turn.
        trainer: nnU-Net's ``-tr``.
        settings: of the trainer. They may name the first stage's model as ``{checkpoint}``, and the
            folder of raw data sets as ``{raw}``.
        streams: data sets by role.
        preset: of the settings.
        first_stage: row on whose model of the same seed this one builds.
        tested: whether it stands in the table; if not, it is only the first stage of others.
        normalize: a normalisation of the streams' own, as ``nnUNetv2_ext_configure`` takes it.
        pretrained: whether it starts from the first stage's model by nnU-Net's
            ``-pretrained_weights``.
        patch: replaces that of the suite's plans, for a trainer with a network of its own; empty:
            as planned.
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
    patch: tuple[int, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Rows that are trained on the same budget and predict the same test set.

    Several data sets and as many test sets are a cross-validation: seed k trains and tests on the
    k-th, in turn. Test sets may share cases: equal names are the same case.

    Args:
        name: of the suite.
        title: what it is about.
        write_data: puts nnU-Net raw data sets into a folder.
        rows: of the table.
        test_set: raw data set with imagesTs and labelsTs, or several.
        budget: settings of all rows.
        lower: row from which a gap is to be closed.
        upper: row up to which it is.
        features: replace those of nnU-Net's plans, so that a run takes minutes; none: as planned.
        batch_size: replaces that of nnU-Net's plans; 0: as planned.
        configuration: of nnU-Net.
        fold: of nnU-Net.
        profile: of ``nnUNetv2_ext_evaluate``.
        metric: what the table shows.
        seeds: trained networks per row.
        discard_checkpoints: whether those that no run needs any more are deleted, where networks
            are large.
        published: figures of papers, which the report shows under the suite's own.
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
    published: tuple[PublishedTable, ...] = ()

    def __post_init__(self) -> None:
        # nnU-Net's deep supervision gives the last of two outputs no weight: 0 / 0.
        stages = len(self.features)
        if 0 < stages < 3:
            self._refuse(f"features {self.features}: name three stages or more")
        if self.metric not in METRICS:
            known = ", ".join(METRICS)
            self._refuse(f"there is no metric {self.metric}; there are {known}")
        if self.profile not in PROFILES:
            known = ", ".join(PROFILES)
            self._refuse(f"there is no profile {self.profile}; there are {known}")
        measured = PROFILES[self.profile].metrics
        if self.metric not in measured:
            known = ", ".join(measured)
            self._refuse(f"profile {self.profile} does not measure {self.metric}, but {known}")

        names: list[str] = []
        for row in self.rows:
            self._check_name(row, above=names)
            self._check_data(row)
            self._check_first_stage(row, above=names)
            names.append(row.name)
        for name in (self.lower, self.upper):
            if name and name not in names:
                self._refuse(f"there is no row {name} between which a gap is measured")
        for table in self.published:
            self._check_published(table, names)

    def _refuse(self, why: str) -> NoReturn:
        raise InputError(f"suite {self.name}: {why}")

    def _check_name(self, row: Row, above: Sequence[str]) -> None:
        if not ROW_NAME.fullmatch(row.name):
            self._refuse(f"row {row.name!r}: use letters and digits, joined by - or .")
        if row.name in above:
            self._refuse(f"two rows are called {row.name}")

    def _check_data(self, row: Row) -> None:
        data = row.trains_on
        tests = len(self.test_sets)
        if isinstance(data, tuple) and tests > 1 and len(data) != tests:
            self._refuse(
                f"{row.name} trains on {len(data)} data sets in turn, and there are {tests} test "
                f"sets; name as many of both, or one test set"
            )

        makes_further = isinstance(data, MadeData) and data.further
        if _names_further(row) and not makes_further:
            self._refuse(f"{row.name} names {{further}}, a data set that nothing makes")

    def _check_first_stage(self, row: Row, above: Sequence[str]) -> None:
        if row.first_stage:
            if row.first_stage not in above:
                self._refuse(f"{row.name} builds on {row.first_stage}, which is not a row above it")
            return
        if row.pretrained:
            self._refuse(f"{row.name} is pretrained, but names no first_stage to start from")
        if isinstance(row.trains_on, MadeData):
            self._refuse(f"{row.name} has data made, but no first_stage to make them from")

    def _check_published(self, table: PublishedTable, names: Sequence[str]) -> None:
        for line in table.lines:
            if len(line.values) != len(table.columns):
                self._refuse(
                    f"{table.source}: {line.method} has {len(line.values)} figures for "
                    f"{len(table.columns)} columns"
                )
            if line.row and line.row not in names:
                self._refuse(
                    f"{table.source}: {line.method} names the row {line.row}, which does not exist"
                )

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Data sets with imagesTs and labelsTs; seed k takes the k-th, in turn."""
        if isinstance(self.test_set, str):
            return (self.test_set,)
        return self.test_set

    def row(self, name: str) -> Row:
        """Return the row of that name.

        Raises:
            InputError: there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = [row.name for row in self.rows]
        raise InputError(f"suite {self.name} has no row {name}; it has {', '.join(names)}")

    def declared(self) -> dict[str, Any]:
        """Return what must stay the same for runs to stand in one table, as plain JSON.

        Rows are apart from the rest.
        """
        shared = {
            "name": self.name,
            "test_set": self.test_set,
            "batch_size": self.batch_size,
            "configuration": self.configuration,
            "fold": self.fold,
            "profile": self.profile,
            "budget": dict(self.budget),
            "features": list(self.features),
        }
        rows = {row.name: _declared(row) for row in self.rows}
        return {"shared": shared, "rows": rows}


def _names_further(row: Row) -> bool:
    for datasets in row.streams.values():
        for dataset in datasets:
            if "{further}" in dataset:
                return True
    return False


def _declared(row: Row) -> dict[str, Any]:
    declared: dict[str, Any] = {
        "trainer": row.trainer,
        "preset": row.preset,
        "first_stage": row.first_stage,
    }
    if row.pretrained:
        declared["pretrained"] = True
    if row.normalize:
        declared["normalize"] = dict(row.normalize)
    if row.patch:
        declared["patch"] = list(row.patch)

    declared["trains_on"] = row.trains_on
    if isinstance(row.trains_on, MadeData):
        made = dict(vars(row.trains_on))
        made["command"] = list(row.trains_on.command)
        declared["trains_on"] = made
    declared["settings"] = dict(row.settings)
    declared["streams"] = {role: list(datasets) for role, datasets in row.streams.items()}
    return declared


def load_suite(name: str) -> Suite:
    """Return the suite of that name, or the one declared as ``SUITE`` in a Python file.

    Raises:
        InputError: there is none.
    """
    path = Path(name)
    if not name.endswith(".py"):
        stem = name.replace("-", "_")
        path = SUITES / f"{stem}.py"

    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        known = sorted(file.stem.replace("_", "-") for file in SUITES.glob("[a-z]*.py"))
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
    """Return why the row or what it builds on cannot be trained here; empty if it can."""
    from nnunet_ext.own_trainers import trainers
    from nnunet_ext.training.settings.hyperparameters import declared

    trainer = trainers().get(row.trainer)
    if trainer is None:
        return f"this installation has no {row.trainer}"

    known = declared(trainer)
    missing = []
    for name in row.settings:
        setting = name.rpartition(".")[2]
        if setting not in known:
            missing.append(name)
    if missing:
        return f"{row.trainer} has no setting {', '.join(missing)} in this installation"

    if not row.first_stage:
        return ""
    first = suite.row(row.first_stage)
    return unavailable(suite, first)


def found(*datasets: str | Converted) -> Callable[[Path], None]:
    """Return what links data sets that the user has converted, from ``nnUNet_raw``."""

    def link(raw: Path) -> None:
        for dataset in datasets:
            converted = Converted(dataset) if isinstance(dataset, str) else dataset
            converted.link(raw)

    return link
