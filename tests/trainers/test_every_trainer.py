"""Common checks of every trainer that nnU-Net can find; a new trainer is checked on the day it
appears.
"""

import ast
import inspect
import io
import math
import pickle
import pkgutil
from pathlib import Path
from typing import Any

import nnunetv2
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

import nnunet_ext.trainers
from nnunet_ext.errors import InputError
from nnunet_ext.own_trainers import trainers
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import PRESETS, declared, resolve
from nnunet_ext.training.settings.plans_entry import ROLES
from tests.miniature_plans import batch, plans, trainer

EVERY_TRAINER = list(trainers().values())
every_trainer = pytest.mark.parametrize("cls", EVERY_TRAINER, ids=lambda cls: cls.__name__)
every_trainer_in_its_dimensions = pytest.mark.parametrize(
    ("cls", "dimension"),
    [(cls, int(name[0])) for cls in EVERY_TRAINER for name in cls.configurations],
    ids=lambda value: value if isinstance(value, int) else value.__name__,
)


def miniature_of(cls: type, dimension: int | None = None, **settings: Any) -> dict[str, Any]:
    """The smallest plans that meet every part of a method."""
    dimension = dimension or int(cls.configurations[0][0])
    return plans(
        dimension,
        patch_size=(cls.miniature.edge,) * dimension,
        features=cls.miniature.features,
        streams={role: ["Dataset998_Other"] for role in cls.required_streams},
        settings={**cls.miniature.settings, **cls.without_first_stage, **settings},
    )


def made_on_miniature_plans(
    cls: type, root: Path, dimension: int | None = None, **settings: Any
) -> Any:
    torch.manual_seed(0)
    return trainer(cls, root, miniature_of(cls, dimension, **settings))


def images_for(made: Any) -> torch.Tensor:
    return torch.randn(1, 1, *made.configuration_manager.patch_size)


def test_every_trainer_of_the_package_is_exported() -> None:
    modules = [module.name for module in pkgutil.iter_modules(nnunet_ext.trainers.__path__)]
    defined = set()
    for name in modules:
        module = __import__(f"nnunet_ext.trainers.{name}", fromlist=["_"])
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, nnUNetTrainer)
                and value.__module__ == module.__name__
            ):
                defined.add(value)
    assert defined == set(EVERY_TRAINER) and defined


@every_trainer
def test_name_is_free_and_survives_nnunets_folder_names(cls: type) -> None:
    assert "__" not in cls.__name__ and cls.__name__.endswith("Trainer")
    upstream = Path(nnunetv2.__path__[0], "training", "nnUNetTrainer").rglob("*.py")
    classes = {
        node.name
        for file in upstream
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    assert cls.__name__ not in classes


@every_trainer
def test_signatures_are_nnunets(cls: type) -> None:
    assert inspect.signature(cls.__init__) == inspect.signature(nnUNetTrainer.__init__)
    ours, theirs = (
        inspect.signature(c.build_network_architecture).parameters for c in (cls, nnUNetTrainer)
    )
    assert list(ours) == list(theirs)
    assert isinstance(inspect.getattr_static(cls, "build_network_architecture"), staticmethod)


@every_trainer
def test_class_lives_where_it_is_written_and_pickles(cls: type) -> None:
    assert cls.__module__.startswith("nnunet_ext.trainers.") and issubclass(cls, MultiStreamTrainer)
    assert pickle.loads(pickle.dumps(cls)) is cls


@every_trainer
def test_docstring_names_its_source(cls: type) -> None:
    assert "Reference:" in (cls.__doc__ or "")


@every_trainer
def test_hyperparameters_have_defaults_and_presets_resolve(cls: type) -> None:
    hints = declared(cls)
    assert all(hasattr(cls, name) for name in hints) and "num_epochs" in hints
    for preset in PRESETS:
        assert set(resolve(cls, preset, {})) == set(hints)
    assert set(cls.presets) <= set(PRESETS)
    assert set(cls.required_streams) <= set(ROLES)


@every_trainer_in_its_dimensions
def test_steps_give_finite_terms_and_move_the_network(
    cls: type, dimension: int, tmp_path: Path
) -> None:
    made = made_on_miniature_plans(cls, tmp_path, dimension)
    before = [parameter.clone() for parameter in made.network.parameters()]
    results = [made.train_step(batch(made, cls.required_streams, seed)) for seed in range(2)]
    for term in {*made.loss_terms, *made.diagnostics, "loss"}:
        values = [result[term] for result in results]
        assert not any(math.isinf(value) for value in values), term
        assert not all(math.isnan(value) for value in values), f"{term} is absent in all phases"
    assert any(
        not torch.equal(b, a) for b, a in zip(before, made.network.parameters(), strict=True)
    )


@every_trainer
def test_configurations_that_the_method_is_not_made_for_are_refused(
    cls: type, tmp_path: Path
) -> None:
    for dimension in {2, 3} - {int(name[0]) for name in cls.configurations}:
        with pytest.raises(InputError, match=f"{cls.__name__} trains .*, not "):
            made_on_miniature_plans(cls, tmp_path, dimension)


@every_trainer_in_its_dimensions
def test_inference_network_strictly_loads_what_training_saves(
    cls: type, dimension: int, tmp_path: Path
) -> None:
    """The stock predictor's way: static builder, deep supervision off, strict load, one tensor
    out.
    """
    made = made_on_miniature_plans(cls, tmp_path, dimension, average_weights=0.5)
    made.train_step(batch(made, cls.required_streams))
    made.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    checkpoint = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    manager = PlansManager(made.plans_manager.plans)
    configuration = manager.get_configuration(made.configuration_name)
    network = cls.build_network_architecture(manager, configuration, 1, 2, False)
    network.load_state_dict(checkpoint["network_weights"])
    x = images_for(made)
    made.set_deep_supervision_enabled(False)
    torch.testing.assert_close(network.eval()(x), made.evaluated_network.eval()(x))
    made.set_deep_supervision_enabled(True)
    made.network.train()
    # a network with side outputs of its own returns a list while it trains, too
    assert isinstance(made.network(x), list) or not made.enable_deep_supervision


@every_trainer
def test_saved_and_loaded_trainers_take_the_same_next_step(cls: type, tmp_path: Path) -> None:
    made = made_on_miniature_plans(cls, tmp_path / "made")
    made.train_step(batch(made, cls.required_streams, seed=1))
    made.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    twin = made_on_miniature_plans(cls, tmp_path / "twin")
    twin.logger.resume = True
    twin.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    made.current_epoch += 1  # saved at the end of an epoch
    for one in (made, twin):
        one.on_train_epoch_start()
        one.result = one.train_step(batch(one, cls.required_streams, seed=2))
    assert made.result == twin.result
    for ours, theirs in zip(made.network.parameters(), twin.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@every_trainer
def test_several_channels_and_region_labels(cls: type, tmp_path: Path) -> None:
    """The labelled data set may have any of nnU-Net's label kinds; heads are then sigmoid."""
    dataset_json = {
        "channel_names": {"0": "first", "1": "second"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "regions_class_order": [1, 2],
        "numTraining": 10,
        "file_ending": ".nii.gz",
    }
    content = miniature_of(cls)
    (configuration,) = content["configurations"].values()
    configuration |= {
        "normalization_schemes": ["ZScoreNormalization"] * 2,
        "use_mask_for_norm": [False, False],
    }
    made = trainer(cls, tmp_path, content, dataset_json=dataset_json)
    data = batch(made, cls.required_streams)
    if made.label_manager.has_regions:
        target = data["target"]
        levels = target if isinstance(target, list) else [target]
        levels = [torch.cat((level, level), 1) for level in levels]
        data["target"] = levels if isinstance(target, list) else levels[0]
    assert math.isfinite(made.train_step(data)["loss"])
    made.set_deep_supervision_enabled(False)
    assert made.network.eval()(data["data"]).shape[1] == 2


@every_trainer
def test_trains_under_torch_compile(
    cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net compiles on CUDA; here the graphs of forward and backward are captured, without code
    generation.
    """
    compile_network = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module: compile_network(module, backend="aot_eager")
    )
    eager = made_on_miniature_plans(cls, tmp_path / "eager")
    monkeypatch.setattr(
        cls, "_do_i_compile", lambda self: self.loss is None and self.optimizer is None
    )  # the network
    made = made_on_miniature_plans(cls, tmp_path)
    monkeypatch.undo()
    assert type(made.network).__name__ == "OptimizedModule"
    for seed in range(2):
        results = []
        for one in (made, eager):
            torch.manual_seed(seed)  # of dropout and random views
            results.append(one.train_step(batch(one, cls.required_streams, seed)))
        ours, theirs = results
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5, nan_ok=True)
    names = [name for name, _ in made.module_of("network").named_parameters()]
    assert not any("_orig_mod" in name for name in names)
    made.network.eval()
    made.set_deep_supervision_enabled(False)
    assert isinstance(made.network(images_for(made)), torch.Tensor)
    made.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["network_weights"]
    assert not any(name.startswith("_orig_mod") for name in saved)


@every_trainer
def test_a_kill_while_saving_keeps_the_previous_checkpoint(
    cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_on_miniature_plans(cls, tmp_path)
    path = tmp_path / "checkpoint.pth"
    made.save_checkpoint(str(path))
    before = path.read_bytes()

    save = torch.save

    def killed(checkpoint: dict, file: Any) -> None:
        if isinstance(file, io.BytesIO):
            return save(checkpoint, file)
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        made.save_checkpoint(str(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "cls", [c for c in EVERY_TRAINER if c.required_streams], ids=lambda cls: cls.__name__
)
def test_a_missing_stream_gives_the_advice(cls: type, tmp_path: Path) -> None:
    options = " ".join(f"--{role} DATASET_ID" for role in cls.required_streams)
    advice = f"nnUNetv2_ext_configure -d Dataset999_Miniature -p nnUNetPlans {options}"
    with pytest.raises(InputError, match=advice):
        trainer(cls, tmp_path, plans(int(cls.configurations[0][0])))


def test_the_package_imports_light() -> None:
    """nnU-Net imports the trainers at every command; figures, tables and metrics wait until they
    are needed.
    """
    import subprocess
    import sys

    code = (
        "import sys, nnunetv2.training.nnUNetTrainer.nnUNetTrainer; before = set(sys.modules);"
        "import nnunet_ext.trainers.relation_driven, nnunet_ext.trainers.plain;"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) == {"nnunet_ext"}
