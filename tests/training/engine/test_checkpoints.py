"""Differences are named by their path."""

from nnunet_ext.training.engine.checkpoints import differences


def test_differences() -> None:
    saved = {
        "streams": {"general": ["A"]},
        "hyperparameters": {"seed": 0},
        "plans": {"batch_size": 2},
    }
    now = {"streams": {}, "hyperparameters": {"seed": 1}, "plans": {"batch_size": 2}}
    assert differences(saved, saved) == []
    assert differences(saved, now) == [
        "hyperparameters.seed is 1, was 0",
        "streams.general is absent, was ['A']",
    ]
