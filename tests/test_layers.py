"""Imports point one way between the folders of the packages, and in no circle among files."""

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.places import REPOSITORY

# A folder may import those of the lines above its own; all may import nnunet_ext's loose modules.
LAYERS = (
    "nnunet_ext.files nnunet_ext.losses",
    "nnunet_ext.dicom nnunet_ext.networks nnunet_ext.stock",
    "nnunet_ext.evaluation nnunet_ext.training",
    "nnunet_ext.hospital nnunet_ext.synthesis dataset_conversion",
    "nnunet_ext.trainers dataset_conversion.reading",
    "nnunet_ext.nnunetv2_trainers dataset_conversion.shaping",
    "dataset_conversion.datasets dataset_conversion.writing",
    "dataset_conversion.checking dataset_conversion.phantoms nnunet_ext.pseudo_labels",
    "nnunet_ext.benchmark nnunet_ext.configure nnunet_ext.crossval nnunet_ext.demo "
    "nnunet_ext.sharing",
    "nnunet_ext.commands",
)
HEIGHT = {folder: height for height, line in enumerate(LAYERS) for folder in line.split()}
LOOSE = "nnunet_ext"
EXCEPTIONS = (
    "nnunet_ext.canvas imports nnunet_ext.files",  # a figure is a whole file
    "nnunet_ext.own_trainers imports nnunet_ext.training",  # they are found by their base class
)


def modules_below(root: Path) -> dict[str, Path]:
    """Return the file of every module of the two packages by its dotted name."""
    found = {}
    for package in ("nnunet_ext", "dataset_conversion"):
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


def imports_of(file: Path, modules: Mapping[str, Path]) -> set[str]:
    """Return the packages' own modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found & modules.keys()


def folder_of(module: str, modules: Mapping[str, Path]) -> str:
    """Return the folder below a package, or the package of a loose module."""
    package, *inner = module.split(".")
    is_folder = len(inner) > 1 or modules[module].name == "__init__.py"
    return ".".join([package, *inner[:1]]) if inner and is_folder else package


def forbidden_imports(root: Path) -> list[str]:
    """Return a line for each import that points the wrong way."""
    modules = modules_below(root)
    found = []
    for module, file in modules.items():
        folder = folder_of(module, modules)
        for imported in sorted(imports_of(file, modules)):
            target = folder_of(imported, modules)
            if target in (folder, LOOSE):
                continue
            if folder == LOOSE or HEIGHT[target] >= HEIGHT[folder]:
                found.append(f"{module} imports {imported}")
    return found


def test_folders_import_only_what_lies_below_them() -> None:
    found = forbidden_imports(REPOSITORY)
    assert [line for line in found if not line.startswith(EXCEPTIONS)] == []


def test_no_circle_among_files() -> None:
    modules = modules_below(REPOSITORY)
    graph = {name: imports_of(file, modules) - {name} for name, file in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("importing", "imported"),
    [
        ("nnunet_ext/losses/adversarial.py", "nnunet_ext.training.phases"),
        ("nnunet_ext/training/phases.py", "nnunet_ext.trainers.plain"),
        ("dataset_conversion/reading/pictures.py", "dataset_conversion.writing.conversion"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, importing: str, imported: str) -> None:
    for name in (importing, imported.replace(".", "/") + ".py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        (file.parent / "__init__.py").write_text("")
    (tmp_path / importing).write_text(f"def late():\n    import {imported}\n")
    module = importing.removesuffix(".py").replace("/", ".")
    assert forbidden_imports(tmp_path) == [f"{module} imports {imported}"]
