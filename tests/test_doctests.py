"""Runs the examples in docstrings of both packages."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("nnunet_ext", "dataset_conversion")
OPTIONAL = {"pydicom", "highdicom", "defusedxml", "cc3d", "distributed"}


def modules_with_examples() -> list[str]:
    names = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if ">>> " in file.read_text(encoding="utf-8"):
                names.append(".".join(file.relative_to(ROOT).with_suffix("").parts))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_show(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"needs {error.name}")
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed  # the report is in the captured output
