"""What nnUNetv2_ext_list says of every trainer."""

import pytest

from nnunet_ext.commands.list import list_entry
from nnunet_ext.own_trainers import trainers
from nnunet_ext.training.settings.hyperparameters import declared


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        list_entry(list(arguments))
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_trainer_has_advice(capsys: pytest.CaptureFixture[str]) -> None:
    overview = printed(capsys)
    for name, trainer in trainers().items():
        assert trainer.use_when, name
        assert f"{name}\n    use it when {trainer.use_when}\n" in overview


def test_streams_are_options_of_configure(capsys: pytest.CaptureFixture[str]) -> None:
    assert "streams: --general [--unlabeled]; configurations: 2d, 3d" in printed(capsys)


@pytest.mark.parametrize("name", sorted(trainers()))
def test_one_trainer_in_full(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainers()[name]
    text = printed(capsys, name)
    assert "Reference:" in text
    for preset in trainer.presets:
        assert f"Preset {preset}: " in text
    for setting in declared(trainer):
        assert f"    {setting}={getattr(trainer, setting)}  (" in text


def test_an_unknown_trainer_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        list_entry(["NoSuchTrainer"])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "nnUNetv2_ext_list: error: NoSuchTrainer: no such trainer; there are AdvEntTrainer, "
    )
