"""Stock nnU-Net finds the trainers after ``pip install``, without variables; uninstalling leaves
nothing.
"""

import json
import os
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from nnunet_ext import discovery
from nnunet_ext.commands.doctor import doctor_entry, enable, trainer_names

ROOT = Path(__file__).parents[1]
FIND = """
import json, os, pickle
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
import sys
trainers = [find(name) for name in sys.argv[1:]]
assert all(find(t.__name__) is t and pickle.loads(pickle.dumps(t)) is t for t in trainers)
places = {t.__name__: [t.__module__, sys.modules[t.__module__].__file__] for t in trainers}
print(json.dumps(places))
"""


def bare_environment(**extra: str) -> dict[str, str]:
    """No variable of nnU-Net or Python."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet", "PYTHON", "COV"))}
    return {**kept, **extra}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no build folder stays behind."""
    folder = tmp_path_factory.mktemp("wheel")
    run = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
    ]
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    files = [ROOT / name for name in tracked.split("\0") if name] or [
        f for f in ROOT.rglob("*") if ".venv" not in f.parts
    ]
    for file in files:
        if file.is_file():
            target = source / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    subprocess.run([*run, str(source)], check=True)
    return next(folder.glob("*.whl"))


def members(wheel: Path) -> list[str]:
    """The files of a wheel, without those about it."""
    with zipfile.ZipFile(wheel) as file:
        return sorted(name for name in file.namelist() if ".dist-info/" not in name)


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    source = wheel.parent / "source"
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")

    options = ["--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(archive)], check=True)
    (rebuilt,) = tmp_path.glob("*.whl")
    assert members(rebuilt) == members(wheel)
    assert "nnunet_ext.pth" in members(wheel)


@pytest.fixture
def fresh(tmp_path: Path, wheel: Path) -> Path:
    """A new virtual environment with only our wheel; dependencies are borrowed from the running
    one.
    """
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    pip(python, "install", "--quiet", "--no-deps", str(wheel))
    (packages,) = environment.glob("lib/python*/site-packages")
    # path lines of a .pth do not run the borrowed folder's own .pth files
    borrowed = {
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *site.getsitepackages(),
    }
    (packages / "zz_borrowed.pth").write_text("\n".join(sorted(borrowed)))
    return python


def pip(python: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), *arguments],
        check=True,
        env=bare_environment(),
    )


def find(python: Path, *names: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-c", FIND, *names],
        capture_output=True,
        text=True,
        env=bare_environment(**extra),
        check=False,
        cwd="/",
    )


def test_installed_wheel_is_found_without_variables_and_removed_without_trace(fresh: Path) -> None:
    run = find(fresh, *trainer_names())
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert set(found) == set(trainer_names())
    for module, file in found.values():
        assert module.startswith("nnunet_ext.trainers.") and str(fresh.parents[1]) in file

    opted_out = find(fresh, "RelationDrivenTrainer", nnUNet_ext_disable="1")
    assert (
        opted_out.returncode != 0 and "Could not find requested nnunet trainer" in opted_out.stderr
    )

    pip(fresh, "uninstall", "--quiet", "--yes", "nnunetv2-ext")
    (packages,) = fresh.parents[1].glob("lib/python*/site-packages")
    assert [path.name for path in packages.iterdir()] == ["zz_borrowed.pth"]
    assert not list(fresh.parent.glob("nnUNetv2_ext_*"))


def test_the_users_own_folder_stays_in_force_beside_ours(fresh: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n\n"
        "class MyTrainer(nnUNetTrainer):\n    pass\n"
    )
    code = FIND.replace(
        "assert all", "0 and all"
    )  # a class in a folder of the user's does not pickle: nnU-Net's way
    run = subprocess.run(
        [
            str(fresh),
            "-c",
            code.replace("sys.modules[t.__module__].__file__", "''"),
            "MyTrainer",
            "PlainTrainer",
        ],
        capture_output=True,
        text=True,
        env=bare_environment(nnUNet_extTrainer=str(own)),
        check=False,
        cwd="/",
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["MyTrainer"][0] == "mine"


def search_variable_of_startup_file(folder: Path) -> str:
    """Return ``nnUNet_extTrainer`` as a fresh interpreter has it after the folder's .pth files."""
    code = (
        "import os, site, sys\n"
        f"site.addsitedir({str(folder)!r})\n"
        "assert not [name for name in sys.modules if name.startswith('nnunet_ext')]\n"
        "print(os.environ.get('nnUNet_extTrainer', ''))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "dev", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=bare_environment(),
    )
    assert run.stderr == ""
    return run.stdout.removesuffix("\n")


def test_the_startup_file_imports_nothing_of_the_package(tmp_path: Path) -> None:
    """Otherwise an installed package would hide that of a clone in which tests run."""
    package = tmp_path / "nnunet_ext"
    package.mkdir()
    for source in ("nnunet_ext.pth", "discovery.py"):
        folder = tmp_path if source.endswith(".pth") else package
        (folder / source).write_text((ROOT / "nnunet_ext" / source).read_text())
    assert search_variable_of_startup_file(tmp_path) == str(package / "nnunetv2_trainers")


def test_a_left_over_startup_file_is_harmless(tmp_path: Path) -> None:
    """As after deleting the package by hand: the interpreter starts, silently."""
    (tmp_path / "nnunet_ext.pth").write_text((ROOT / "nnunet_ext" / "nnunet_ext.pth").read_text())
    assert search_variable_of_startup_file(tmp_path) == ""


@pytest.mark.parametrize("given", [None, "", "/a", f"/a{os.pathsep}/b"])
def test_activate_appends_once(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_ext_disable", raising=False)
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    if given is not None:
        monkeypatch.setenv("nnUNet_extTrainer", given)
    for _ in range(2):
        discovery.activate()
        assert os.environ["nnUNet_extTrainer"].split(os.pathsep) == [
            *[folder for folder in (given or "").split(os.pathsep) if folder],
            discovery.TRAINER_FOLDER,
        ]


def test_the_search_folder_holds_one_module_and_importing_setup_does_nothing() -> None:
    assert [p.name for p in Path(discovery.TRAINER_FOLDER).iterdir() if p.suffix == ".py"] == [
        "nnunet_ext_trainers.py"
    ]
    run = subprocess.run(
        [sys.executable, "-c", "import setup"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == run.stderr == ""


def test_enable_lists_the_startup_file_for_uninstall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "x.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("nnunet_ext/__init__.py,,\n")

    class File:
        @staticmethod
        def locate() -> Path:
            return record

    monkeypatch.setattr("importlib.metadata.files", lambda name: [File])
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    for _ in range(2):
        assert enable() == tmp_path / "nnunet_ext.pth"
    assert record.read_text() == "nnunet_ext/__init__.py,,\nnnunet_ext.pth,,\n"
    assert search_variable_of_startup_file(tmp_path) == discovery.TRAINER_FOLDER


class TestDoctor:
    """``nnUNetv2_ext_doctor`` in this environment."""

    @pytest.fixture(autouse=True)
    def folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("nnUNet_ext_disable", raising=False)
        monkeypatch.setenv("nnUNet_extTrainer", discovery.TRAINER_FOLDER)
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (tmp_path / variable).mkdir()
            monkeypatch.setenv(variable, str(tmp_path / variable))

    @staticmethod
    def examine(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            doctor_entry([])
        return stop.value.code, capsys.readouterr().out

    def test_all_is_well(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, printed = self.examine(capsys)
        assert code == 0, printed
        assert "RelationDrivenTrainer: nnunet_ext.trainers.relation_driven" in printed
        assert "nnunetv2 2.8" in printed and "0 problems" in printed

    @pytest.mark.parametrize(
        ("variable", "value", "mend"),
        [
            ("nnUNet_raw", "", "export nnUNet_raw=/path/to/nnUNet_raw"),
            ("nnUNet_results", "/nowhere/results", "mkdir -p /nowhere/results"),
            ("nnUNet_extTrainer", "", "nnUNetv2_ext_doctor --enable"),
            (
                "nnUNet_extTrainer",
                f"{ROOT}{os.pathsep}{discovery.TRAINER_FOLDER}",
                "the folder that holds only your trainers",
            ),
        ],
    )
    def test_each_problem_has_its_mend(
        self,
        variable: str,
        value: str,
        mend: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv(variable, value)
        code, printed = self.examine(capsys)
        assert code == 1 and mend in printed
