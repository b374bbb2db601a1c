"""``nnUNetv2_ext_doctor``: is everything in place, and if not, what fixes it?"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nnunet_ext
from nnunet_ext.commands.entry import command
from nnunet_ext.discovery import (
    OPT_OUT_VARIABLE,
    SEARCH_VARIABLE,
    TRAINER_FOLDER,
    is_disabled,
    search_folders,
)
from nnunet_ext.errors import InputError
from nnunet_ext.printable import counted

DISTRIBUTION = "nnunetv2-ext"
PACKAGES = (
    DISTRIBUTION,
    "nnunetv2",
    "torch",
    "batchgenerators",
    "dynamic-network-architectures",
    "acvl-utils",
)
FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
PACKAGE_FOLDER = Path(nnunet_ext.__file__).parent
STARTUP_FILE = PACKAGE_FOLDER / "nnunet_ext.pth"
BESIDE_STARTUP_FILE = "os.path.join(sitedir, 'nnunet_ext', 'discovery.py')"  # as written in it

# Runs in a fresh interpreter, as nnU-Net's own commands do: prints one JSON line after nnU-Net's
# search messages.
RESOLVE = """
import json, pickle, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
found = {}
for name in sys.argv[1:]:
    try:
        trainer = find(name)
        pickle.dumps(trainer)
        found[name] = ["ok", trainer.__module__]
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        found[name] = ["failed", f"{type(error).__name__}: {first[:160]}"]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Problem:
    """Something wrong, and the command that fixes it."""

    what: str
    fix: str


@command
def doctor_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_doctor``."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_doctor",
        description="Print versions, folders and where each trainer is found; for each problem, "
        "what fixes it.",
    )
    parser.add_argument(
        "--enable",
        action="store_true",
        help="let nnU-Net find the trainers after an editable install (pip install -e), which "
        "brings no start-up file",
    )
    parser.add_argument(
        "-m", type=Path, metavar="ZIP", help="also: a model that you were given, and what it needs"
    )
    arguments = parser.parse_args(argv)
    if arguments.enable:
        print(f"wrote {enable()}; pip uninstall {DISTRIBUTION} removes it")
        return 0

    problems = [*_report_packages(), *_report_clashes(), *_report_folders(), *_report_trainers()]
    if arguments.m:
        problems += _report_model(arguments.m)
    for problem in problems:
        print(f"\nPROBLEM  {problem.what}\n    fix  {problem.fix}")
    print(f"\n{counted(len(problems), 'problem')}")
    return 1 if problems else 0


def enable() -> Path:
    """Write the start-up file into site-packages and list it among the distribution's files.

    It names the place of this package, which after an editable install is not beside it.

    Raises:
        InputError: nnunet_ext is not installed, or site-packages cannot be written.
    """
    target = Path(sysconfig.get_path("purelib")) / STARTUP_FILE.name
    here = repr(str(PACKAGE_FOLDER / "discovery.py"))
    quoted = here.replace("\\", r"\\").replace('"', r"\"")  # the file holds its code in quotes
    line = STARTUP_FILE.read_text().replace(BESIDE_STARTUP_FILE, quoted)
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
        target.write_text(line)
        for file in files:
            record = Path(str(file.locate()))
            if record.name == "RECORD" and f"{target.name},," not in record.read_text():
                record.write_text(record.read_text() + f"{target.name},,\n")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"{DISTRIBUTION} is not installed in {sys.prefix}; run pip install -e . there"
        ) from error
    except OSError as error:
        raise InputError(
            f"{target}: {error.strerror}; install into a virtual environment of your own"
        ) from error
    return target


def _report_packages() -> Iterator[Problem]:
    python, *_ = sys.version.split()
    install = f"{sys.executable} -m pip install"
    print(f"python {python}  {sys.executable}")
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
            print(f"{name} {version}")
        except importlib.metadata.PackageNotFoundError:
            source = "." if name == DISTRIBUTION else f"'{name}{_supported(name)}'"
            yield Problem(f"{name} is not installed", f"{install} {source}")

    folder = Path(nnunet_ext.__file__).parent
    print(f"nnunet_ext from {folder}")
    nnunet = importlib.util.find_spec("nnunetv2")
    if nnunet is not None and nnunet.submodule_search_locations:
        folders = list(nnunet.submodule_search_locations)
        print(f"nnunetv2 from {folders[0]}")

    supported = _supported("nnunetv2")
    if nnunet is None or not supported:
        return
    version = importlib.metadata.version("nnunetv2")
    if not _satisfies(version, supported):
        yield Problem(
            f"nnunetv2 {version} is not tested with this version; it needs {supported}",
            f"{install} 'nnunetv2{supported}'",
        )


def _report_clashes() -> Iterator[Problem]:
    """Name other packages called nnunet_ext; Lifelong-nnUNet has one, for nnU-Net v1."""
    name = PACKAGE_FOLDER.name
    for other in importlib.metadata.packages_distributions().get(name, []):
        if _canonical(other) != DISTRIBUTION:
            yield Problem(
                f"{other} installs a package {name}, too: each breaks the other",
                f"{sys.executable} -m pip uninstall {other}, then install {DISTRIBUTION} again; or "
                "give each an environment of its own",
            )

    for folder in dict.fromkeys(map(os.path.abspath, sys.path)):
        other_package = Path(folder, name, "__init__.py")
        if other_package.is_file() and not other_package.parent.samefile(PACKAGE_FOLDER):
            yield Problem(
                f"{other_package.parent} is another package called {name}: Python may import it in "
                "place of this one",
                f"take {folder} out of PYTHONPATH, or start elsewhere",
            )


def _canonical(distribution: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(distribution)


def _supported(name: str) -> str:
    """Return the version range that our metadata ask for, e.g. ``<2.9,>=2.8``."""
    from packaging.requirements import Requirement

    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    for text in requirements:
        requirement = Requirement(text)
        if requirement.name == name:
            return str(requirement.specifier)
    return ""


def _satisfies(version: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)


def _report_folders() -> Iterator[Problem]:
    for variable in FOLDER_VARIABLES:
        value = os.environ.get(variable, "")
        print(f"{variable}={value}")
        if not value:
            yield Problem(f"{variable} is not set", f"export {variable}=/path/to/{variable}")
        elif not Path(value).is_dir():
            yield Problem(f"{variable}: {value} is not a folder", f"mkdir -p {value}")
        elif not os.access(value, os.W_OK):
            yield Problem(
                f"{variable}: {value} cannot be written",
                f"chmod u+w {value}, or export another folder",
            )


def _report_trainers() -> Iterator[Problem]:
    folders = search_folders()
    print(f"{SEARCH_VARIABLE}={os.pathsep.join(folders)}")
    for folder in folders:
        if not Path(folder).is_dir():
            yield Problem(
                f"{SEARCH_VARIABLE}: {folder} is not a folder, nnU-Net skips it",
                f"unset {SEARCH_VARIABLE}",
            )
        elif (Path(folder) / "setup.py").is_file():
            yield Problem(
                f"{SEARCH_VARIABLE}: {folder} holds a setup.py, and nnU-Net imports every module "
                f"of the folder",
                f"export {SEARCH_VARIABLE}=the folder that holds only your trainers",
            )
    if TRAINER_FOLDER not in folders:
        fix = f"unset {OPT_OUT_VARIABLE}" if is_disabled() else "nnUNetv2_ext_doctor --enable"
        yield Problem(
            f"nnU-Net does not find our trainers: {SEARCH_VARIABLE} lacks {TRAINER_FOLDER}", fix
        )
        return
    yield from _report_search()


def _report_search() -> Iterator[Problem]:
    """Let nnU-Net find each trainer, in a fresh interpreter."""
    command = [sys.executable, "-c", RESOLVE, *trainer_names()]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        lines = run.stderr.strip().splitlines() or ["no message"]
        supported = _supported("nnunetv2")
        fix = f"{sys.executable} -m pip install 'nnunetv2{supported}'"
        yield Problem(f"nnU-Net's trainer search fails: {lines[-1]}", fix)
        return

    last_line = run.stdout.splitlines()[-1]
    found = json.loads(last_line)
    for name, (state, where) in found.items():
        print(f"{name}: {where}")
        if state != "ok":
            yield Problem(f"{name} is not found: {where}", _trainer_advice(where))
        elif not where.startswith("nnunet_ext."):
            yield Problem(
                f"{name} comes from {where}, not from nnunet_ext", f"unset {SEARCH_VARIABLE}"
            )


def _report_model(archive: Path) -> Iterator[Problem]:
    """Say what is in a zip, and what it needs that is not here."""
    from nnunet_ext.sharing.received import (
        missing_for,
        predicts_with_nnunet_alone,
        read_received,
    )

    with tempfile.TemporaryDirectory() as temporary:
        models = read_received(archive, Path(temporary))
    for model in models:
        made_by = f", made by {model.made_by}" if model.made_by else ""
        alone = "; nnU-Net alone predicts with it" if predicts_with_nnunet_alone(model) else ""
        print(f"{archive}: {model.place} as {model.trainer}{made_by}{alone}")
        missing = missing_for(model)
        if missing:
            yield Problem(*missing)


def trainer_names() -> list[str]:
    """Return the names that the re-export module imports, read without importing torch."""
    import ast

    (module,) = Path(TRAINER_FOLDER).glob("*.py")
    names = []
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names]
    return names


def _trainer_advice(error: str) -> str:
    if "torchvision" in error:
        return (
            "install torch and torchvision of one build: pip install --force-reinstall torch "
            "torchvision"
        )
    return f"{sys.executable} -m pip install --force-reinstall --no-deps .   (in the clone)"
