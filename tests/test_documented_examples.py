"""The complete examples of the documentation, run as they stand on the page."""

import importlib.util
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from dataset_conversion import datasets
from dataset_conversion.writing.conversion import convert
from tests.miniature_plans import batch, plans, trainer
from tests.places import REPOSITORY

BLOCK = re.compile(
    r'^```python title="(?P<file>[^"]+)"\n(?P<code>.*?)^```', re.MULTILINE | re.DOTALL
)


def example(page: str, tmp_path: Path) -> Path:
    """Write the only titled block of a page into a file of that name."""
    (found,) = BLOCK.finditer((REPOSITORY / "docs" / page).read_text(encoding="utf-8"))
    file = tmp_path / Path(found["file"]).name
    file.write_text(found["code"], encoding="utf-8")
    return file


@contextmanager
def imported(file: Path) -> Iterator[ModuleType]:
    """A module from a file, known by its name while it is used."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[file.stem]


def write_download(folder: Path, scans: int, masks: int) -> None:
    """Write volumes of noise in HU; the first ``masks`` of them have a mask."""
    chance = np.random.default_rng(0)
    mask = np.zeros((8, 9, 6), np.uint8)
    mask[2:5, 2:6, 1:4] = 1
    affine_mm = np.diag([1.0, 1.0, 2.0, 1.0])

    for name in ("scans", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(scans):
        scan = chance.integers(-1000, 400, mask.shape).astype(np.int16)
        file = folder / "scans" / f"P{number:02d}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(scan, affine_mm), file)
    for number in range(masks):
        file = folder / "masks" / f"P{number:02d}_nodules.nii.gz"
        nibabel.save(nibabel.Nifti1Image(mask, affine_mm), file)


def test_the_data_set_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = example("add_a_data_set.md", tmp_path)
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    download = tmp_path / "download"
    write_download(download, scans=3, masks=2)

    try:
        converter = datasets.converter_named("example-nodules")(download)
        result = convert(converter, tmp_path / "Dataset160_Example")
        unlabeled = replace(converter, unlabeled=True)
        others = convert(unlabeled, tmp_path / "Dataset161_Example")
    finally:
        sys.modules.pop(f"{datasets.__name__}.{source.stem}", None)

    assert result.problems == [] and result.count_by_part["Tr"] == 2
    verify_dataset_integrity(str(tmp_path / "Dataset160_Example"), 1)
    assert others.problems == [] and others.count_by_part["Un"] == 1


def test_the_trainer_trains(tmp_path: Path) -> None:
    with imported(example("add_a_trainer.md", tmp_path)) as module:
        settings = {"critic_width": 4}
        streams = {"target_domain": ["Dataset998_Other"]}
        content = plans(2, streams=streams, settings=settings)
        made = trainer(module.OutputAlignmentTrainer, tmp_path, content)

        critic = made.auxiliary_networks["critic"]
        first = {
            network: [weight.clone() for weight in network.parameters()]
            for network in (made.network, critic)
        }
        terms = made.train_step(batch(made, ("target_domain",)))

    assert all(math.isfinite(terms[name]) for name in made.loss_terms)
    for network, weights in first.items():
        moved = [not torch.equal(*pair) for pair in zip(weights, network.parameters(), strict=True)]
        assert any(moved)
