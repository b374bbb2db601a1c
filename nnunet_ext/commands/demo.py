"""``nnUNetv2_ext_demo``: the whole path on generated data, through the commands that users run."""

from __future__ import annotations

import argparse
import logging
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
PLAN = ("nnUNetv2_plan_and_preprocess", "-c", "2d", "--verify_dataset_integrity")
WINDOW = ("--window", "-1150", "250")
SETTINGS = (
    f"num_epochs={EPOCHS}",
    f"num_iterations_per_epoch={ITERATIONS}",
    "num_val_iterations_per_epoch=5",
    "save_every=2",
    f"{PRETRAIN}.num_epochs={PRETRAIN_EPOCHS}",
)
HOSPITAL_SETTINGS = (
    f"num_epochs={HOSPITAL_EPOCHS}",
    f"num_iterations_per_epoch={HOSPITAL_ITERATIONS}",
    "num_val_iterations_per_epoch=2",
    "save_every=2",
    "oversample_foreground_percent=1",  # few slices show a nodule
)
EPOCH_LINE = re.compile(r"Epoch (\d+)\s*$")


@command
def demo_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_demo``."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_demo",
        description="Generate miniature chest CT in the original download layouts, convert, plan, "
        "configure, train plain nnU-Net and RelationDrivenTrainer on the same budget, predict, "
        "evaluate and draw; about 8 minutes on two CPU cores. After an interruption, run it again: "
        "it continues.",
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
    parser.add_argument(
        "--downloads",
        action="store_true",
        help="instead: only write a generated miniature of every data set's download",
    )
    arguments = parser.parse_args(argv)
    root = Path(arguments.o).resolve()
    if arguments.downloads:
        _write_downloads(root)
        return 0

    device = arguments.device or _device()
    if arguments.hospital:
        HospitalDemo(root, device, steps=7).run()
    else:
        Demo(root, device).run()
    return 0


def _write_downloads(root: Path) -> None:
    """Write the miniatures, and print the folder of each.

    Raises:
        InputError: a miniature is there already.
    """
    from dataset_conversion.phantoms.miniatures import write_miniatures

    logging.getLogger("pydicom").setLevel(logging.ERROR)  # the challenge's UIDs are odd, as here
    try:
        folders = write_miniatures(root)
    except FileExistsError as error:
        raise InputError(f"{error.filename}: is there already; choose another -o") from error
    for folder in folders:
        print(folder)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Demo:
    """Run the steps below ``root``, each a command with its log in ``root/logs``."""

    root: Path
    device: str
    steps: int = 13
    done: int = field(default=0, init=False)

    def run(self) -> None:
        """Do all steps in order; finished ones are skipped.

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
        self.show(started, sorted((self.root / "report").iterdir()))

    def show(self, started: float, files: Iterable[Path]) -> None:
        """Print how long it took, and what to look at."""
        minutes = (time.monotonic() - started) / 60
        print(f"\nThe demo took {minutes:.1f} minutes on {self.device}. Look at:")
        for file in files:
            print(f"  {file}")

    def make_folders(self) -> None:
        """Make the folders of downloads, logs and nnU-Net, unless they are there."""
        for folder in ("downloads", "logs", "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def generate(self) -> None:
        """Generate miniatures of two downloads."""
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
        """Convert the downloads, plan, and configure."""
        downloads = self.root / "downloads"
        covid = ("-i", str(downloads / "COVID-SemiSeg"))
        lung = ("-i", str(downloads / "Task06_Lung"))
        unlabeled = ("-d", UNLABELED, "--unlabeled", "--name", "Unlabeled")
        self.call("nnUNetv2_ext_convert", "COVID-SemiSeg", *covid, "-d", INFECTION)
        self.call("nnUNetv2_ext_convert", "COVID-SemiSeg", *covid, *unlabeled)
        self.call("nnUNetv2_ext_convert", "MSD", *lung, "-d", NODULES, *WINDOW)

        planned = self.root / "nnUNet_preprocessed" / "planned"  # made when it has ended
        self.call(*PLAN, "-d", INFECTION, skip=planned.exists())
        planned.touch()
        streams = ("--general", NODULES, "--unlabeled", UNLABELED)
        self.call("nnUNetv2_ext_configure", "-d", INFECTION, *streams, "--set", *SETTINGS)

    def train(self, trainer: str, fold: str) -> None:
        """Train, or continue an interrupted training."""
        folder = self.results(trainer) / f"fold_{fold}"
        finished = (folder / "checkpoint_final.pth").is_file()
        begun = ["--c"] if any(folder.glob("checkpoint_*.pth")) else []
        epochs = PRETRAIN_EPOCHS if trainer == PRETRAIN else EPOCHS
        arguments = (INFECTION, "2d", fold, "-tr", trainer, "-device", self.device, *begun)
        self.call("nnUNetv2_train", *arguments, skip=finished, epochs=epochs)

    def predict(self, trainer: str) -> None:
        """Predict the held-out slices of the official test set."""
        images = self.dataset(self.root / "nnUNet_raw") / "imagesTs"
        arguments = ["-i", str(images), "-o", str(self.predictions(trainer))]
        arguments += ["-d", INFECTION, "-c", "2d", "-f", "0", "-tr", trainer]
        arguments += ["-device", self.device, "-npp", "1", "-nps", "1"]
        self.call("nnUNetv2_predict", *arguments)

    def report(self) -> None:
        """Write table and figures to ``root/report``."""
        report = self.root / "report"
        report.mkdir(exist_ok=True)
        reference = self.dataset(self.root / "nnUNet_raw") / "labelsTs"
        methods = {"plain": self.predictions(PLAIN), "relation-driven": self.predictions(RELATION)}
        named = [f"{name}={folder}" for name, folder in methods.items()]
        arguments = ("-r", str(reference), "-p", *named, "-o", str(report), "--overwrite")
        self.call("nnUNetv2_ext_evaluate", *arguments)
        self.announce("draw overlays, relation matrices and training curves")
        draw_overlays(reference, methods, report / "overlays.png")
        fold = self.results(RELATION) / "fold_0"
        for figure in ("relation_matrices.png", "training_terms.png"):
            shutil.copyfile(fold / figure, report / figure)
        print("\n" + (report / "summary.md").read_text())

    def announce(self, what: str) -> None:
        """Count the step and print what it does."""
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
            raise InputError(f"{log}: {name} failed: {last}; fix that and run the demo again")

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
        """Return nnU-Net's folders below the demo's, and two worker processes."""
        names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        folders = {name: str(self.root / name) for name in names}
        return command_environment(**folders, nnUNet_def_n_proc="2", nnUNet_n_proc_DA="2")

    @staticmethod
    def dataset(folder: Path) -> Path:
        """Return the infection data set's folder below one of nnU-Net's."""
        return next(folder.glob(f"Dataset{INFECTION}_*"))

    def results(self, trainer: str) -> Path:
        """Return a trainer's result folder, which need not exist yet."""
        name = self.dataset(self.root / "nnUNet_raw").name
        return self.root / "nnUNet_results" / name / f"{trainer}__nnUNetPlans__2d"

    def predictions(self, trainer: str) -> Path:
        """Return the folder of a trainer's predictions."""
        return self.root / "predictions" / trainer


@dataclass
class HospitalDemo(Demo):
    """A model of nodules in chest CT, and a hospital's export through it."""

    def run(self) -> None:
        """Do all steps in order; a finished training is skipped.

        Raises:
            InputError: a step failed; names its log.
        """
        started = time.monotonic()
        self.make_folders()
        export = self.root / "downloads" / "export"
        results = self.root / "results"
        self.generate()
        lung = str(self.root / "downloads" / "Task06_Lung")
        self.call("nnUNetv2_ext_convert", "MSD", "-i", lung, "-d", NODULES)
        self.call(*PLAN, "-d", NODULES)
        self.call("nnUNetv2_ext_configure", "-d", NODULES, "--set", *HOSPITAL_SETTINGS)
        checkpoint = f"nnUNet_results/*/{PLAIN}__*__2d/fold_0/checkpoint_final.pth"
        finished = any(self.root.glob(checkpoint))
        training = (NODULES, "2d", "0", "-tr", PLAIN, "-device", self.device)
        self.call("nnUNetv2_train", *training, skip=finished, epochs=HOSPITAL_EPOCHS)

        model = ("-d", NODULES, "-c", "2d", "-tr", PLAIN, "-f", "0")
        options = ("-device", self.device, "--rules", "chest", "--orientation", "RAS", "--nifti")
        places = ("-i", str(export), "-o", str(results))
        self.call("nnUNetv2_ext_predict_dicom", *places, *model, *options)
        self.announce("results: DICOM SEG, structured report, captures with the volumes burnt in")
        self.show(started, sorted(results.glob("case-*/*")))

    def generate(self) -> None:
        """Generate a miniature download for training, and an export of one patient."""
        self.announce(
            "generate chest CT with nodules: MSD's layout for training, a hospital's export in "
            "DICOM"
        )
        if (self.root / "downloads" / "generated").exists():
            return
        from dataset_conversion.phantoms.hospital_export import write_export
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

    files = [file for file in sorted(reference.glob("*.png")) if read(file).any()]
    places = np.linspace(0, len(files) - 1, min(cases, len(files)))
    rows = []
    for file in [files[round(place)] for place in places]:
        image = read(reference.parent / "imagesTs" / f"{file.stem}_0000.png")
        predictions = {name: read(folder / file.name) for name, folder in methods.items()}
        rows.append(OverlayCase(file.stem, image, read(file), predictions))
    return overlay_figure(rows, figure)
