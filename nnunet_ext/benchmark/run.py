"""One run of a suite, a row with a seed: its files, its progress, and its stock commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.suite import DATASET_NAME, MadeData, Row, Suite
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.profiles import PROFILES
from nnunet_ext.files.atomic_json import write_json
from nnunet_ext.stock.commands import command_environment
from nnunet_ext.stock.training import Model, Training

PLANS = "nnUNetPlans"
SUITE_PLANS = "suitePlans"
NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class Place:
    """The folder of a suite's runs: nnU-Net's three folders, ``runs``, ``logs`` and ``report``."""

    root: Path
    device: str

    @property
    def raw(self) -> Path:
        """Raw data sets of the suite."""
        return self.root / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        """Plans and preprocessed data sets."""
        return self.root / "nnUNet_preprocessed"

    @property
    def results(self) -> Path:
        """nnU-Net's trained models."""
        return self.root / "nnUNet_results"

    def environment(self) -> dict[str, str]:
        """Return the environment of commands, with nnU-Net's folders below this one.

        Worker processes are few on the CPU, where they compete with the training.
        """
        folders = {name: str(self.root / name) for name in NNUNET_FOLDERS}
        environment = command_environment(**folders)
        if self.device == "cpu":
            # With one worker a continued training is exact.
            environment.setdefault("nnUNet_n_proc_DA", "1")
            environment.setdefault("nnUNet_def_n_proc", "1")
        return environment


@dataclass(frozen=True)
class Run:
    """A row with a seed."""

    suite: Suite
    row: Row
    seed: int
    place: Place

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.row.name} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Predictions, scores, measurements and locks of the run."""
        of_row = self.place.root / "runs" / self.row.name
        return of_row / f"seed{self.seed}"

    @property
    def predictions(self) -> Path:
        """Of the test set; there when complete."""
        return self.folder / "predictions"

    @property
    def scores(self) -> Path:
        """Table of ``nnUNetv2_ext_evaluate``, one line per case and label."""
        return self.folder / "scores" / "cases.csv"

    @property
    def measured(self) -> Path:
        """Peak memory of the training."""
        return self.folder / "training.json"

    @property
    def failure(self) -> Path:
        """The last line of what failed, if something did."""
        return self.folder / "failure.txt"

    @property
    def log(self) -> Path:
        """Output of all commands."""
        logs = self.place.root / "logs"
        return logs / f"{self.plans}.txt"

    @property
    def plans(self) -> str:
        """Identifier of the run's own plans."""
        return f"{self.row.name}_seed{self.seed}"

    @property
    def finished(self) -> bool:
        """Trained, and scored if it is to be."""
        if self.row.tested:
            return self.scores.is_file()
        return self.training.trained

    def discard_checkpoints(self) -> None:
        """Delete the checkpoints that no run needs any more.

        The last one stays if others build on it.
        """
        training = self.training
        first_stages = {row.first_stage for row in self.suite.rows}
        is_first_stage = self.row.name in first_stages
        for checkpoint in training.folder.glob("checkpoint_*.pth"):
            is_last = checkpoint == training.checkpoint
            if is_last and is_first_stage:
                continue
            checkpoint.unlink()

    @property
    def reason(self) -> str:
        """Why there is no result."""
        if not self.failure.is_file():
            return "not run yet"
        return self.failure.read_text(encoding="utf-8").strip()

    @cached_property
    def first_stage(self) -> Run | None:
        """The run whose model this one builds on."""
        if not self.row.first_stage:
            return None
        row = self.suite.row(self.row.first_stage)
        return Run(self.suite, row, self.seed, self.place)

    @property
    def dataset(self) -> str:
        """Name of the labelled data set; one that a command makes is named after the row."""
        data = self.row.trains_on
        if isinstance(data, tuple):
            place = self.seed % len(data)
            return data[place]
        if isinstance(data, str):
            return data

        number = f"Dataset{self.dataset_number:03d}"
        made = sorted(self.place.raw.glob(f"{number}_*"))
        if made:
            return made[0].name
        return f"{number}_{self.row.name}"

    @property
    def dataset_number(self) -> int:
        """Number of the labelled data set."""
        data = self.row.trains_on
        if isinstance(data, MadeData):
            return data.number + self.seed
        match = DATASET_NAME.fullmatch(self.dataset)
        if match is None:
            raise InputError(
                f"suite {self.suite.name}: {self.row.name} trains on {self.dataset}, which is not "
                f"the name of a data set"
            )
        return int(match[1])

    @property
    def test_set(self) -> Path:
        """Raw data set with the images that the run predicts."""
        names = self.suite.test_sets
        place = self.seed % len(names)
        return self.place.raw / names[place]

    @property
    def training(self) -> Training:
        """nnU-Net's training of the run."""
        suite = self.suite
        model = Model(
            dataset=self.dataset,
            trainer=self.row.trainer,
            plans=self.plans,
            configuration=suite.configuration,
        )
        folder = model.folder(self.place.results)
        return Training(model, suite.fold, folder / f"fold_{suite.fold}")

    def make_data(self) -> list[str]:
        """Return the command that makes the labelled data set from the first stage's model."""
        data = self.row.trains_on
        assert isinstance(data, MadeData)
        return [self._filled(word) for word in data.command]

    def plan(self) -> list[str]:
        """Return the command that plans and preprocesses the labelled data set."""
        command = ["nnUNetv2_plan_and_preprocess", "-d", str(self.dataset_number)]
        command += ["-c", self.suite.configuration]
        command += ["-np", "1", "-npfp", "1"]
        return command

    def configure(self) -> list[str]:
        """Return the command for plans of the run's own, with its streams, settings and seed."""
        command = ["nnUNetv2_ext_configure", "-d", self.dataset]
        command += ["-p", SUITE_PLANS, "-o", self.plans]
        command += ["-c", self.suite.configuration]
        command += ["--reset", "--preset", self.row.preset]
        if self.row.patch:
            command.append("--patch")
            command += map(str, self.row.patch)

        for role, datasets in self.row.streams.items():
            command.append(f"--{role}")
            for dataset in datasets:
                command.append(self._filled(dataset))
        if self.row.normalize:
            command.append("--normalize")
            for role, kind in self.row.normalize.items():
                command.append(f"{role}={kind}")

        settings = {**self.suite.budget, **self.row.settings, "seed": self.seed}
        command.append("--set")
        for name, value in settings.items():
            command.append(f"{name}={self._filled(value)}")
        return command

    def train(self) -> list[str]:
        """Return the command that starts the training, or continues it."""
        training = self.training
        arguments = training.arguments(self.place.device)
        first = self.first_stage if self.row.pretrained else None
        if first is not None and not training.begun:
            weights = first.training.checkpoint
            arguments += ["-pretrained_weights", str(weights)]
        return arguments

    def predict(self, folder: Path) -> list[str]:
        """Return the command that predicts the test set."""
        images = self.test_set / "imagesTs"
        model = self.training.model
        command = ["nnUNetv2_predict"]
        command += ["-i", str(images), "-o", str(folder)]
        command += ["-d", model.dataset, "-c", model.configuration]
        command += ["-f", self.suite.fold]
        command += ["-tr", model.trainer, "-p", model.plans]
        command += ["-device", self.place.device]
        command += ["-npp", "1", "-nps", "1"]
        if PROFILES[self.suite.profile].soft:
            command.append("--save_probabilities")
        return command

    def evaluate(self) -> list[str]:
        """Return the command that scores the predictions as the suite's profile says."""
        reference = self.test_set / "labelsTs"
        predictions = f"{self.row.name}={self.predictions}"
        output = self.scores.parent
        command = ["nnUNetv2_ext_evaluate"]
        command += ["-r", str(reference), "-p", predictions]
        command += ["-o", str(output)]
        command += ["--profile", self.suite.profile, "--overwrite"]
        return command

    def _filled(self, value: Any) -> str:
        text = str(value)
        if "{" not in text:
            return text

        made = self.row.trains_on
        further = 0
        if isinstance(made, MadeData):
            further = made.further + self.seed
        names: dict[str, Any] = {
            "raw": self.place.raw,
            "device": self.place.device,
            "number": self.dataset_number,
            "further": further,
        }
        if self.first_stage is not None:
            training = self.first_stage.training
            names |= vars(training.model)
            names |= {"fold": training.number, "checkpoint": training.checkpoint}
        return text.format(**names)


def write_suite_plans(suite: Suite, folder: Path) -> None:
    """Copy nnU-Net's plans, with the suite's smaller network and batch where it names them.

    Fewer features than the planned network has stages leave its deepest stages out.
    """
    planned = folder / f"{PLANS}.json"
    plans = json.loads(planned.read_text(encoding="utf-8"))
    plans["plans_name"] = SUITE_PLANS

    configuration = plans["configurations"][suite.configuration]
    if suite.batch_size:
        configuration["batch_size"] = suite.batch_size
    if suite.features:
        architecture = configuration["architecture"]
        _shrink(architecture["arch_kwargs"], suite.features)
    write_json(plans, folder / f"{SUITE_PLANS}.json")


def _shrink(network: dict[str, Any], features: tuple[int, ...]) -> None:
    stages = min(len(features), network["n_stages"])
    network["n_stages"] = stages
    network["features_per_stage"] = list(features[:stages])
    for name in ("strides", "kernel_sizes", "n_conv_per_stage", "n_blocks_per_stage"):
        if name in network:
            network[name] = network[name][:stages]

    in_decoder = network["n_conv_per_stage_decoder"]
    network["n_conv_per_stage_decoder"] = in_decoder[: stages - 1]
