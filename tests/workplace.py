"""nnU-Net's folders and commands on generated data, for whole runs: tests and benchmarks."""

import time
from collections.abc import Callable
from pathlib import Path

from dataset_conversion.phantoms.slice_downloads import write_covid_semiseg, write_msd_lung
from nnunet_ext.files.locks import held
from nnunet_ext.keyed_names import KEY_VARIABLE
from nnunet_ext.own_trainers import trainers
from nnunet_ext.stock.commands import command_environment
from tests.forked_commands import FORKED, TIMEOUT_SECONDS, Command
from tests.miniature_raw import write_raw

DATASET = "Dataset120_Infection"
FEW_STEPS = [
    "num_epochs=3",
    "num_iterations_per_epoch=2",
    "num_val_iterations_per_epoch=1",
    "save_every=1",
]


class Workplace:
    """nnU-Net's three folders and the commands of this environment; results on the data of another
    place if given.
    """

    def __init__(self, root: Path, data: "Workplace | None" = None, forked: bool = FORKED) -> None:
        self.root = root
        self.forked = forked
        self.folders = {
            name: root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        }
        if data:
            self.folders |= {
                name: data.folders[name] for name in ("nnUNet_raw", "nnUNet_preprocessed")
            }
        for folder in self.folders.values():
            folder.mkdir(parents=True, exist_ok=True)

    def environment(self, **extra: str) -> dict[str, str]:
        mine = command_environment()
        plain = {
            name: mine[name]
            for name in mine
            if not name.startswith("nnUNet") or name == KEY_VARIABLE
        }
        folders = {name: str(folder) for name, folder in self.folders.items()}
        workers = {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1"}
        return {**plain, **folders, **workers, "OMP_NUM_THREADS": "1", **extra}

    def start(self, name: str, *arguments: object, **extra: str) -> Command:
        words = [str(argument) for argument in arguments]
        return Command(name, words, self.environment(**extra), self.root, self.forked)

    def run(self, name: str, *arguments: object, **extra: str) -> str:
        command = self.start(name, *arguments, **extra)
        code = command.wait()
        assert code == 0, f"{name} {arguments}: {code}\n{command.output}"
        return command.output

    def refused(self, name: str, *arguments: object) -> str:
        """The error line of a command that must fail, in one line and without traceback."""
        command = self.start(name, *arguments)
        assert command.wait() == 1
        return error_line(command)

    def predict(self, output: Path, *which: object) -> None:
        """Predict the test images, or else the training images, of the data set on the CPU."""
        raw = self.folders["nnUNet_raw"] / DATASET
        images = raw / "imagesTs" if (raw / "imagesTs").is_dir() else raw / "imagesTr"
        processes = 0 if self.forked else 1
        pools = ("-npp", processes, "-nps", processes)
        self.run(
            "nnUNetv2_predict",
            "-i",
            images,
            "-o",
            output,
            "-device",
            "cpu",
            "--disable_tta",
            *pools,
            *which,
        )

    def fold(self, dataset: str, trainer: str, configuration: str, fold: str = "0") -> Path:
        return (
            self.folders["nnUNet_results"]
            / dataset
            / f"{trainer}__nnUNetPlans__{configuration}"
            / f"fold_{fold}"
        )


def miniature_settings() -> list[str]:
    """What trainers declare to be small, as ``nnUNetv2_ext_configure --set`` takes it."""
    return [
        f"{trainer}.{name}={value}"
        for trainer, cls in trainers().items()
        for name, value in cls.miniature.settings.items()
    ]


def prepared_slices(root: Path, settings: list[str]) -> Workplace:
    """2d: converted phantom downloads, planned and configured; labelled 120, general 6, unlabelled
    and target 121.

    The first process that comes prepares them, others wait for it.
    """
    place = Workplace(root)
    prepared = root / "prepared"
    with held(root / "lock"):
        if not prepared.exists():
            _prepare_slices(place, settings)
        prepared.touch()
    return place


def _prepare_slices(place: Workplace, settings: list[str]) -> None:
    covid = write_covid_semiseg(
        place.root / "covid", n_labelled=6, n_test=2, n_unlabeled=4, size=64
    )
    lung = write_msd_lung(place.root, n_train=2, n_test=0, shape=(64, 64, 8))

    place.run(
        "nnUNetv2_ext_convert", "COVID-SemiSeg", "-i", covid, "-d", 120, "--name", "Infection"
    )
    place.run(
        "nnUNetv2_ext_convert",
        "COVID-SemiSeg",
        "-i",
        covid,
        "-d",
        121,
        "--unlabeled",
        "--name",
        "Unlabeled",
    )
    place.run("nnUNetv2_ext_convert", "MSD", "-i", lung, "-d", 6)

    streams = ("--general", 6, "--unlabeled", 121, "--target_domain", 121)
    place.run(
        "nnUNetv2_plan_and_preprocess",
        "-d",
        120,
        "-c",
        "2d",
        "-np",
        1,
        "--verify_dataset_integrity",
    )
    place.run(
        "nnUNetv2_ext_configure",
        "-d",
        120,
        *streams,
        "-np",
        1,
        "--set",
        *settings,
        *miniature_settings(),
    )


def prepared_volumes(root: Path, settings: list[str]) -> Workplace:
    """3d_fullres: tiny volumes, written directly; labelled 120, general 6, unlabelled and of
    another domain 121.
    """
    place = Workplace(root)
    raw = place.folders["nnUNet_raw"]
    write_raw(raw, DATASET, 5, (16, 32, 32))
    write_raw(raw, "Dataset006_Lung", 2, (16, 32, 32), seed=1)
    write_raw(raw, "Dataset121_Target", 2, (16, 32, 32), labelled=False, seed=2)

    place.run("nnUNetv2_plan_and_preprocess", "-d", 120, "-c", "3d_fullres", "-np", 1)
    streams = ("--general", 6, "--unlabeled", 121, "--target_domain", 121)
    place.run(
        "nnUNetv2_ext_configure",
        "-d",
        120,
        *streams,
        "-np",
        1,
        "--set",
        *settings,
        *miniature_settings(),
    )
    return place


def pretrain(place: Workplace, configuration: str) -> Path:
    """Train the first stage of the relation-driven method; returns its checkpoint."""
    trainer = "GeneralPretrainTrainer"
    place.run("nnUNetv2_train", 120, configuration, "all", "-tr", trainer, "-device", "cpu")
    return place.fold(DATASET, trainer, configuration, "all") / "checkpoint_final.pth"


def kill_when(command: Command, condition: Callable[[], bool]) -> bool:
    """SIGKILL the training and its workers as soon as the condition holds; False where it ended
    before.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if not command.running:
            return False
        assert time.monotonic() < deadline, f"the training never came that far:\n{command.output}"
        time.sleep(0.02)
    command.kill()
    return True


def error_line(command: Command) -> str:
    """The error with which a command ended: its last line, without a traceback."""
    line = command.output.splitlines()[-1]
    assert "error: " in line and "Traceback" not in command.output, command.output
    return line
