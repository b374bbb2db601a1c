"""nnU-Net's folders and commands on generated data, for whole runs: tests and benchmarks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dataset_conversion.phantoms import write_covid_semiseg, write_msd_lung


class Workplace:
    """nnU-Net's three folders and its commands as subprocesses of this environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = {name: root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        for folder in self.folders.values():
            folder.mkdir(parents=True, exist_ok=True)

    def environment(self, **extra: str) -> dict[str, str]:
        plain = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
        folders = {name: str(folder) for name, folder in self.folders.items()}
        return {**plain, **folders, "nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1", "OMP_NUM_THREADS": "1", **extra}

    def start(self, name: str, *arguments: object, **extra: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).parent / name), *map(str, arguments)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment(**extra),
            cwd=self.root, start_new_session=True,
        )  # fmt: skip

    def run(self, name: str, *arguments: object, **extra: str) -> str:
        process = self.start(name, *arguments, **extra)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, f"{name} {arguments}\n{output}"
        return output

    def fold(self, dataset: str, trainer: str, configuration: str, fold: str = "0") -> Path:
        return self.folders["nnUNet_results"] / dataset / f"{trainer}__nnUNetPlans__{configuration}" / f"fold_{fold}"


def prepared_slices(root: Path, settings: list[str]) -> Workplace:
    """2d: converted phantom downloads, planned and configured; labelled 120, general 6, unlabelled 121."""
    place = Workplace(root)
    covid = write_covid_semiseg(place.root / "covid", n_labelled=6, n_test=2, n_unlabeled=4, size=64)
    lung = write_msd_lung(place.root, n_train=2, n_test=0, shape=(64, 64, 8))
    place.run("nnUNetv2_ext_convert", "COVID-SemiSeg", "-i", covid, "-d", 120, "--name", "Infection")
    place.run("nnUNetv2_ext_convert", "COVID-SemiSeg", "-i", covid, "-d", 121, "--unlabeled", "--name", "Unlabeled")
    place.run("nnUNetv2_ext_convert", "MSD", "-i", lung, "-d", 6)
    place.run("nnUNetv2_plan_and_preprocess", "-d", 120, "-c", "2d", "-np", 1, "--verify_dataset_integrity")
    place.run(
        "nnUNetv2_ext_configure", "-d", 120, "--general", 6, "--unlabeled", 121, "-np", 1, "--set", *settings
    )  # fmt: skip
    return place


def pretrain_once(place: Workplace, configuration: str) -> None:
    checkpoint = (
        place.fold("Dataset120_Infection", "GeneralPretrainTrainer", configuration, "all") / "checkpoint_final.pth"
    )
    if not checkpoint.is_file():
        place.run("nnUNetv2_train", 120, configuration, "all", "-tr", "GeneralPretrainTrainer", "-device", "cpu")
    assert checkpoint.is_file()


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """SIGKILL the training and its workers as soon as the condition holds."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "the training never came that far"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
