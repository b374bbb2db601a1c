"""Trainers on the CPU that compute in half precision, as on CUDA."""

import pytest
import torch

from nnunet_ext.training.multi_network_trainer import MultiNetworkTrainer


def under_autocast(
    made: MultiNetworkTrainer, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Let the steps of a trainer run under autocast to a half-precision type."""
    monkeypatch.setattr(
        made,
        "_autocast",
        lambda enabled=True: torch.autocast("cpu", dtype, enabled=enabled),
    )
