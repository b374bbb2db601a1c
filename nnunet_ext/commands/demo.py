"""``nnUNetv2_ext_demo``: the whole path on generated data, through the same commands a user
runs.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.stock.commands import command_environment, console_script

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INFECTION, UNLABELED, NODULES = "120", "121", "6"
PLAIN, PRETRAIN, RELATION = "PlainTrainer", "GeneralPretrainTrainer", "RelationDrivenTrainer"
EPOCHS, PRETRAIN_EPOCHS, ITERATIONS = 9, 5, 30
HOSPITAL_EPOCHS, HOSPITAL_ITERATIONS = 10, 25
EPOCH_LINE = re.compile(r"Epoch (\d+)\s*$")


@command
def demo_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_demo``."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_demo",
        description="Generate miniature chest CT in the original download layouts, convert, plan, "
        "configure, train "
        "plain nnU-Net and RelationDrivenTrainer on the same budget, predict, evaluate and draw; "
        "about 8 minutes on "
        "two CPU cores. Run again after an interruption: it goes on where it was.",
    )
    parser.add_argument(
        "-o", default="nnunet_ext_demo", metavar="FOLDER", help="default: ./nnunet_ext_demo"
    )
    parser.add_argument("-device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    parser.add_argument(
        "--hospital",
        action="store_true",
        help="instead: train on generated chest CT with nodules, and predict a generated hospital "
        "export (DICOM)",
    )
    arguments = parser.parse_args(argv)
    root, device = Path(arguments.o).resolve(), arguments.device or _device()
    if arguments.hospital:
        HospitalDemo(root, device, steps=7).run()
    else:
        Demo(root, device).run()
    return 0


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Demo:
    """Runs the steps below ``root``, each a stock or plugin command whose output goes to
    ``root/logs``.
    """

    root: Path
    device: str
    steps: int = 13
    done: int = field(default=0, init=False)

    def run(self) -> None:
        """All steps in order; finished ones are skipped.

        Raises:
            InputError: a step failed; names its log.
        """
        started = time.monotonic()
        self.make_folders()
        self.generate()
        self.prepare()
        for trainer, fold in ((PLAIN, "0"), (PRETRAIN, "all"), (RELATION, "0")):
            self.train(trainer, fold)
        for trainer in (PLAIN, RELATION):
            self.predict(trainer)
        self.report()
        assert self.done == self.steps
        print(
            f"\nThe demo took {(time.monotonic() - started) / 60:.1f} minutes on {self.device}. "
            f"Look at:"
        )
        for file in sorted((self.root / "report").iterdir()):
            print(f"  {file}")

    def make_folders(self) -> None:
        """Make the folders of downloads, logs and nnU-Net, unless they are there."""
        for folder in ("downloads", "logs", "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def generate(self) -> None:
        """Miniatures of two downloads."""
        downloads = self.root / "downloads"
        self.announce(
            "generate chest CT with infections (COVID-SemiSeg's layout) and with nodules (MSD's "
            "layout)"
        )
        if (downloads / "generated").exists():
            return
        from dataset_conversion.phantoms.slice_downloads import write_covid_semiseg, write_msd_lung

        write_covid_semiseg(downloads / "COVID-SemiSeg")
        write_msd_lung(downloads)
        (downloads / "generated").touch()

    def prepare(self) -> None:
        """From the downloads to configured plans."""
        covid, lung = (
            str(self.root / "downloads" / name) for name in ("COVID-SemiSeg", "Task06_Lung")
        )
        self.call("nnUNetv2_ext_convert", "COVID-SemiSeg", "-i", covid, "-d", INFECTION)
        self.call(
            "nnUNetv2_ext_convert",
            "COVID-SemiSeg",
            "-i",
            covid,
            "-d",
            UNLABELED,
            "--unlabeled",
            "--name",
            "Unlabeled",
        )
        self.call(
            "nnUNetv2_ext_convert", "MSD", "-i", lung, "-d", NODULES, "--window", "-1150", "250"
        )
        planned = (
            self.root / "nnUNet_preprocessed" / "planned"
        )  # made when all cases are preprocessed
        self.call(
            "nnUNetv2_plan_and_preprocess",
            "-d",
            INFECTION,
            "-c",
            "2d",
            "--verify_dataset_integrity",
            skip=planned.exists(),
        )
        planned.touch()
        self.call(
            "nnUNetv2_ext_configure",
            "-d",
            INFECTION,
            "--general",
            NODULES,
            "--unlabeled",
            UNLABELED,
            "--set",
            f"num_epochs={EPOCHS}",
            f"num_iterations_per_epoch={ITERATIONS}",
            "num_val_iterations_per_epoch=5",
            "save_every=2",
            f"{PRETRAIN}.num_epochs={PRETRAIN_EPOCHS}",
        )

    def train(self, trainer: str, fold: str) -> None:
        """One training; continues an interrupted one."""
        folder = self.results(trainer) / f"fold_{fold}"
        finished = (folder / "checkpoint_final.pth").is_file()
        begun = ["--c"] if any(folder.glob("checkpoint_*.pth")) else []
        epochs = PRETRAIN_EPOCHS if trainer == PRETRAIN else EPOCHS
        arguments = (INFECTION, "2d", fold, "-tr", trainer, "-device", self.device, *begun)
        self.call("nnUNetv2_train", *arguments, skip=finished, epochs=epochs)

    def predict(self, trainer: str) -> None:
        """Predict the held-out slices of the official test set."""
        images = str(self.dataset(self.root / "nnUNet_raw") / "imagesTs")
        self.call(
            "nnUNetv2_predict",
            "-i",
            images,
            "-o",
            str(self.predictions(trainer)),
            "-d",
            INFECTION,
            "-c",
            "2d",
            "-f",
            "0",
            "-tr",
            trainer,
            "-device",
            self.device,
            "-npp",
            "1",
            "-nps",
            "1",
        )

    def report(self) -> None:
        """Table and figures in ``root/report``."""
        report = self.root / "report"
        report.mkdir(exist_ok=True)
        reference = self.dataset(self.root / "nnUNet_raw") / "labelsTs"
        methods = {"plain": self.predictions(PLAIN), "relation-driven": self.predictions(RELATION)}
        named = [f"{name}={folder}" for name, folder in methods.items()]
        self.call(
            "nnUNetv2_ext_evaluate",
            "-r",
            str(reference),
            "-p",
            *named,
            "-o",
            str(report),
            "--overwrite",
        )
        self.announce("draw overlays, relation matrices and training curves")
        draw_overlays(reference, methods, report / "overlays.png")
        fold = self.results(RELATION) / "fold_0"
        for figure in ("relation_matrices.png", "training_terms.png"):
            shutil.copyfile(fold / figure, report / figure)
        print("\n" + (report / "summary.md").read_text())

    # --- how a step runs
    # --------------------------------------------------------------------------------------------

    def announce(self, what: str) -> None:
        """Count the step and say what it does."""
        self.done += 1
        print(f"[{self.done:2}/{self.steps}] {what}", flush=True)

    def call(self, name: str, *arguments: str, skip: bool = False, epochs: int = 0) -> None:
        """Run a console script of this environment; a training shows its epochs.

        Raises:
            InputError: it failed; names the log.
        """
        shown = " ".join([name, *arguments]).replace(str(self.root), self.root.name)
        self.announce(shown + ("   (done before)" if skip else ""))
        if skip:
            return
        log = self.root / "logs" / f"{self.done:02}_{name}.log"
        with (
            log.open("w") as file,
            subprocess.Popen(
                [console_script(name), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.environment(),
            ) as process,
        ):
            assert process.stdout is not None
            self.follow(process.stdout, file, epochs)
        if process.returncode != 0:
            last = (log.read_text().strip().splitlines() or ["no output"])[-1]
            raise InputError(f"{log}: {name} failed: {last}; mend that and run the demo again")

    @staticmethod
    def follow(output: Iterable[str], log: TextIO, epochs: int) -> None:
        """Copy the output to the log; count epochs on a progress bar."""
        from tqdm import tqdm

        with tqdm(total=epochs, unit="epoch", leave=False, disable=not epochs) as bar:
            for line in output:
                log.write(line)
                match = EPOCH_LINE.search(line)
                if match:
                    bar.update(int(match[1]) - bar.n)

    def environment(self) -> dict[str, str]:
        """nnU-Net's folders below the demo's, two worker processes."""
        folders = {
            name: str(self.root / name)
            for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        }
        return command_environment(**folders, nnUNet_def_n_proc="2", nnUNet_n_proc_DA="2")

    # --- where things lie
    # -------------------------------------------------------------------------------------------

    @staticmethod
    def dataset(folder: Path) -> Path:
        """The infection data set's folder below one of nnU-Net's."""
        return next(folder.glob(f"Dataset{INFECTION}_*"))

    def results(self, trainer: str) -> Path:
        """A trainer's result folder, which need not exist yet."""
        name = self.dataset(self.root / "nnUNet_raw").name
        return self.root / "nnUNet_results" / name / f"{trainer}__nnUNetPlans__2d"

    def predictions(self, trainer: str) -> Path:
        """Where a trainer's predictions go."""
        return self.root / "predictions" / trainer


@dataclass
class HospitalDemo(Demo):
    """A model of nodules in chest CT, and a hospital's export through it."""

    def run(self) -> None:
        """All steps in order; a finished training is skipped.

        Raises:
            InputError: a step failed; names its log.
        """
        started = time.monotonic()
        self.make_folders()
        export, results = self.root / "downloads" / "export", self.root / "results"
        self.generate()
        lung = str(self.root / "downloads" / "Task06_Lung")
        self.call("nnUNetv2_ext_convert", "MSD", "-i", lung, "-d", NODULES)
        self.call(
            "nnUNetv2_plan_and_preprocess", "-d", NODULES, "-c", "2d", "--verify_dataset_integrity"
        )
        self.call(
            "nnUNetv2_ext_configure",
            "-d",
            NODULES,
            "--set",
            f"num_epochs={HOSPITAL_EPOCHS}",
            f"num_iterations_per_epoch={HOSPITAL_ITERATIONS}",
            "num_val_iterations_per_epoch=2",
            "save_every=2",
            "oversample_foreground_percent=1",  # few slices show a nodule
        )
        finished = next(
            self.root.glob(f"nnUNet_results/*/{PLAIN}__*__2d/fold_0/checkpoint_final.pth"), None
        )
        training = (NODULES, "2d", "0", "-tr", PLAIN, "-device", self.device)
        self.call("nnUNetv2_train", *training, skip=finished is not None, epochs=HOSPITAL_EPOCHS)

        model = ("-d", NODULES, "-c", "2d", "-tr", PLAIN, "-f", "0")
        options = ("-device", self.device, "--rules", "chest", "--orientation", "RAS", "--nifti")
        self.call(
            "nnUNetv2_ext_predict_dicom", "-i", str(export), "-o", str(results), *model, *options
        )
        self.announce("results: DICOM SEG, structured report, captures with the volumes burnt in")
        print(
            f"\nThe demo took {(time.monotonic() - started) / 60:.1f} minutes on {self.device}. "
            f"Look at:"
        )
        for file in sorted(results.glob("case-*/*")):
            print(f"  {file}")

    def generate(self) -> None:
        """Miniature of a download for training, and an export of one patient."""
        self.announce(
            "generate chest CT with nodules: MSD's layout for training, a hospital's export in "
            "DICOM"
        )
        if (self.root / "downloads" / "generated").exists():
            return
        from dataset_conversion.phantoms.dicom_downloads import write_export
        from dataset_conversion.phantoms.slice_downloads import write_msd_lung

        write_msd_lung(self.root / "downloads")
        write_export(self.root / "downloads" / "export")
        (self.root / "downloads" / "generated").touch()


def draw_overlays(
    reference: Path, methods: dict[str, Path], figure: Path, cases: int = 4
) -> Figure:
    """Draw some test slices with the methods' hits and errors, spread evenly over the set."""
    import numpy as np
    from PIL import Image

    from nnunet_ext.evaluation.report.figures import OverlayCase, overlay_figure

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image)

    files = sorted(reference.glob("*.png"))
    files = [file for file in files if read(file).any()]
    chosen = [files[round(i)] for i in np.linspace(0, len(files) - 1, min(cases, len(files)))]
    rows = [
        OverlayCase(
            file.stem,
            read(reference.parent / "imagesTs" / f"{file.stem}_0000.png"),
            read(file),
            {name: read(folder / file.name) for name, folder in methods.items()},
        )
        for file in chosen
    ]
    return overlay_figure(rows, figure)
