"""A model of nodules in chest CT, and a hospital's export through it."""

from __future__ import annotations

from pathlib import Path

from nnunet_ext.demo.steps import PLAN, Steps

NODULES, TRAINER = "6", "PlainTrainer"
EPOCHS, ITERATIONS = 10, 25
SETTINGS = (
    f"num_epochs={EPOCHS}",
    f"num_iterations_per_epoch={ITERATIONS}",
    "num_val_iterations_per_epoch=2",
    "save_every=2",
    "oversample_foreground_percent=1",  # few slices show a nodule
)


class HospitalExport:
    """Generate, convert, plan, configure, train, and predict the export."""

    def __init__(self, root: Path, device: str) -> None:
        self.root = root
        self.device = device
        self.steps = Steps(root, device, count=7)

    def run(self) -> None:
        """Do all steps in order; a finished training is skipped.

        Raises:
            InputError: a step failed; names its log.
        """
        self.steps.make_folders()
        self.generate()
        self.prepare()
        self.train()

        results = self.root / "results"
        self.predict(self.steps.downloads / "export", results)
        self.steps.announce(
            "results: DICOM SEG, structured report, captures with the volumes burnt in"
        )
        files = sorted(results.glob("case-*/*"))
        self.steps.show(files)

    def generate(self) -> None:
        """Generate a miniature download for training, and an export of one patient."""
        from dataset_conversion.phantoms.hospital_export import write_export
        from dataset_conversion.phantoms.slice_downloads import write_msd_lung

        self.steps.announce(
            "generate chest CT with nodules: MSD's layout for training, a hospital's export in "
            "DICOM"
        )
        downloads = self.steps.downloads
        generated = downloads / "generated"
        if generated.exists():
            return
        write_msd_lung(downloads)
        write_export(downloads / "export")
        generated.touch()

    def prepare(self) -> None:
        """Convert the download, plan, preprocess and configure."""
        lung = self.steps.downloads / "Task06_Lung"
        convert = ["nnUNetv2_ext_convert", "MSD"]
        convert += ["-i", str(lung), "-d", NODULES]
        self.steps.call(*convert)

        self.steps.call(*PLAN, "-d", NODULES)

        configure = ["nnUNetv2_ext_configure", "-d", NODULES]
        configure += ["--set", *SETTINGS]
        self.steps.call(*configure)

    def train(self) -> None:
        """Train, unless that is done."""
        checkpoint = f"nnUNet_results/*/{TRAINER}__*__2d/fold_0/checkpoint_final.pth"
        finished = any(self.root.glob(checkpoint))
        train = ["nnUNetv2_train", NODULES, "2d", "0"]
        train += ["-tr", TRAINER, "-device", self.device]
        self.steps.call(*train, skip=finished, epochs=EPOCHS)

    def predict(self, export: Path, results: Path) -> None:
        """Predict the export and write what goes back to the hospital."""
        predict = ["nnUNetv2_ext_predict_dicom"]
        predict += ["-i", str(export), "-o", str(results)]
        predict += ["-d", NODULES, "-c", "2d"]
        predict += ["-tr", TRAINER, "-f", "0"]
        predict += ["-device", self.device]
        predict += ["--rules", "chest", "--orientation", "RAS"]
        predict += ["--nifti", "--html"]
        self.steps.call(*predict)
