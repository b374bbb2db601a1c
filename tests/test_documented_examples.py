"""The complete examples of the documentation, run as they stand on the page."""

import importlib.util
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch

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
