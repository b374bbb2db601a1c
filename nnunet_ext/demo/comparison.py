"""Plain nnU-Net and `RelationDrivenTrainer` on generated chest CT, with equally many steps."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from nnunet_ext.demo.overlays import draw_overlays
from nnunet_ext.demo.steps import PLAN, Steps

INFECTION, UNLABELED, GENERAL = "120", "121", "130"
PLAIN, PRETRAIN, RELATION = "PlainTrainer", "GeneralPretrainTrainer", "RelationDrivenTrainer"
WINDOW = ("--window", "-1150", "250")

# Few labelled slices with faint lesions, and many volumes with denser ones.
N_LABELLED, N_TEST, N_UNLABELED, N_VOLUMES = 4, 40, 6, 30
WIDTH, VOLUME_SHAPE = 96, (96, 80, 3)
EPOCHS, PRETRAIN_EPOCHS, ITERATIONS = 12, 24, 30
SETTINGS = (
    f"num_epochs={EPOCHS}",
    f"num_iterations_per_epoch={ITERATIONS}",
    "num_val_iterations_per_epoch=2",
    "save_every=2",
    f"{PRETRAIN}.num_epochs={PRETRAIN_EPOCHS}",
)


class TrainerComparison:
    """Generate, convert, plan, configure, train, predict, evaluate and draw."""

    def __init__(self, root: Path, device: str) -> None:
        self.root = root
        self.device = device
        self.steps = Steps(root, device, count=13)

    def run(self) -> None:
        """Do all steps in order; finished ones are skipped.

        Raises:
            InputError: a step failed; names its log.
        """
        self.steps.make_folders()
        self.generate()
        self.convert()
        self.plan()

        self.train(PLAIN)
        self.train(PRETRAIN)
        self.train(RELATION)
        self.predict(PLAIN)
        self.predict(RELATION)

        self.report()
        files = sorted(self.report_folder.iterdir())
        self.steps.show(files)

    def generate(self) -> None:
        """Generate miniatures of two downloads."""
        from dataset_conversion.phantoms.anatomy import STRONG_NOISE_HU
        from dataset_conversion.phantoms.slice_downloads import write_covid_semiseg
        from dataset_conversion.phantoms.volume_downloads import write_mosmed

        self.steps.announce(
            "generate slices with faint infections (COVID-SemiSeg's layout), and volumes with "
            "denser ones (MosMed's layout)"
        )
        downloads = self.steps.downloads
        generated = downloads / "few_labels_generated"
        if generated.exists():
            return

        write_covid_semiseg(
            downloads / "COVID-SemiSeg",
            n_labelled=N_LABELLED,
            n_test=N_TEST,
            n_unlabeled=N_UNLABELED,
            size=WIDTH,
            is_faint=True,
        )
        write_mosmed(
            downloads / "MosMed",
            n_masked=N_VOLUMES,
            n_unmasked=0,
            shape=VOLUME_SHAPE,
            noise_hu=STRONG_NOISE_HU,
        )
        generated.touch()

    def convert(self) -> None:
        """Convert the downloads to labelled and unlabelled raw data sets."""
        downloads = self.steps.downloads
        covid = ["nnUNetv2_ext_convert", "COVID-SemiSeg"]
        covid += ["-i", str(downloads / "COVID-SemiSeg")]
        self.steps.call(*covid, "-d", INFECTION)
        self.steps.call(*covid, "-d", UNLABELED, "--unlabeled", "--name", "Unlabeled")

        mosmed = ["nnUNetv2_ext_convert", "MosMed"]
        mosmed += ["-i", str(downloads / "MosMed")]
        self.steps.call(*mosmed, "-d", GENERAL, *WINDOW)

    def plan(self) -> None:
        """Plan, preprocess and configure the streams."""
        planned = self.root / "nnUNet_preprocessed" / "planned"  # made when it has ended
        self.steps.call(*PLAN, "-d", INFECTION, skip=planned.exists())
        planned.touch()

        configure = ["nnUNetv2_ext_configure", "-d", INFECTION]
        configure += ["--general", GENERAL]
        configure += ["--unlabeled", UNLABELED]
        configure += ["--set", *SETTINGS]
        self.steps.call(*configure)

    def train(self, trainer: str) -> None:
        """Train on all labelled cases, or continue an interrupted training."""
        folder = self.results(trainer) / "fold_all"
        finished = (folder / "checkpoint_final.pth").is_file()
        begun = any(folder.glob("checkpoint_*.pth"))
        epochs = PRETRAIN_EPOCHS if trainer == PRETRAIN else EPOCHS

        train = ["nnUNetv2_train", INFECTION, "2d", "all"]
        train += ["-tr", trainer, "-device", self.device]
        if begun:
            train.append("--c")
        self.steps.call(*train, skip=finished, epochs=epochs)

    def predict(self, trainer: str) -> None:
        """Predict the held-out slices of the official test set."""
        images = self.raw_dataset / "imagesTs"
        predictions = self.predictions(trainer)
        predict = ["nnUNetv2_predict"]
        predict += ["-i", str(images), "-o", str(predictions)]
        predict += ["-d", INFECTION, "-c", "2d", "-f", "all"]
        predict += ["-tr", trainer]
        predict += ["-device", self.device]
        predict += ["-npp", "1", "-nps", "1"]
        self.steps.call(*predict)

    def report(self) -> None:
        """Write table and figures to ``root/report``."""
        self.report_folder.mkdir(exist_ok=True)
        reference = self.raw_dataset / "labelsTs"
        methods = {
            "plain": self.predictions(PLAIN),
            "relation-driven": self.predictions(RELATION),
        }
        self.evaluate(reference, methods)

        self.steps.announce("draw overlays, relation matrices and training curves")
        draw_overlays(reference, methods, self.report_folder / "overlays.png")
        fold = self.results(RELATION) / "fold_all"
        for figure in ("relation_matrices.png", "training_terms.png"):
            shutil.copyfile(fold / figure, self.report_folder / figure)

        summary = (self.report_folder / "summary.md").read_text()
        print(f"\n{summary}")

    def evaluate(self, reference: Path, methods: Mapping[str, Path]) -> None:
        """Compare the predictions of both trainers with the reference."""
        evaluate = ["nnUNetv2_ext_evaluate", "-r", str(reference), "-p"]
        for name, folder in methods.items():
            evaluate.append(f"{name}={folder}")
        evaluate += ["-o", str(self.report_folder)]
        evaluate += ["--overwrite"]
        self.steps.call(*evaluate)

    @property
    def report_folder(self) -> Path:
        """The folder of table and figures."""
        return self.root / "report"

    @property
    def raw_dataset(self) -> Path:
        """The raw folder of the slices with infections; it must exist."""
        raw = self.root / "nnUNet_raw"
        (folder,) = raw.glob(f"Dataset{INFECTION}_*")
        return folder

    def results(self, trainer: str) -> Path:
        """Return a trainer's result folder, which need not exist yet."""
        dataset = self.raw_dataset.name
        folder = self.root / "nnUNet_results" / dataset
        return folder / f"{trainer}__nnUNetPlans__2d"

    def predictions(self, trainer: str) -> Path:
        """Return the folder of a trainer's predictions."""
        return self.root / "predictions" / trainer
