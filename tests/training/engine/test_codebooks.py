"""Codebooks over a training: start from data, restart of dead codes."""

import pytest
import torch

from nnunet_ext.networks.codebook import Codebook
from nnunet_ext.training.engine.codebooks import drawn_features, maintain_codebook, start_codebook


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_positions_are_drawn_once_unless_there_are_too_few() -> None:
    rows = torch.arange(6.0)[:, None]
    assert len(set(drawn_features(rows, 6, generator()).flatten().tolist())) == 6
    many = drawn_features(rows, 14, generator()).flatten().tolist()
    assert len(many) == 14 and all(many.count(value) in (2, 3) for value in range(6))


def test_every_code_starts_as_a_feature() -> None:
    rows = torch.randn(20, 3, generator=generator())
    codebook = Codebook(8, 3)
    start_codebook(codebook, rows, generator())
    distances = (codebook.codes.detach()[:, None] - rows).abs().amax(2).amin(1)
    assert not distances.any()
    assert set(codebook(rows.T[None]).indices.flatten().tolist()) == set(range(8))


@pytest.mark.parametrize("learnt", [True, False])
def test_a_dead_code_is_restarted_when_its_use_has_faded(learnt: bool) -> None:
    """Use 1 / K x decay^n falls below a tenth of 1 / K at 0.5^4."""
    codebook = Codebook(2, 1, learnt)
    codebook.replace(torch.ones(2, dtype=torch.bool), torch.tensor([[0.0], [50.0]]))
    rows = torch.linspace(-1, 1, 8)[:, None]
    restarts = []
    for seed in range(4):
        indices = codebook(rows.T[None]).indices.flatten()
        restarts.append(int(maintain_codebook(codebook, rows, indices, 0.5, 0.1, generator(seed))))
    assert restarts == [0, 0, 0, 1]
    assert (rows == codebook.codes[1]).any()
    torch.testing.assert_close(codebook.use[1], torch.tensor(0.5))


def test_nothing_is_restarted_at_zero() -> None:
    codebook = Codebook(2, 1)
    codebook.replace(torch.ones(2, dtype=torch.bool), torch.tensor([[0.0], [50.0]]))
    rows = torch.zeros(4, 1)
    for _ in range(50):
        indices = torch.zeros(4, dtype=torch.long)
        assert maintain_codebook(codebook, rows, indices, 0.5, 0.0, generator()) == 0
    assert codebook.codes.flatten().tolist() == [0.0, 50.0]
