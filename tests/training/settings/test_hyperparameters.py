"""Declaration, validation and resolution of hyperparameters."""

from typing import Any, ClassVar, Literal

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.training.settings.hyperparameters import (
    Count,
    Fraction,
    Weight,
    declared,
    describe,
    parse,
    resolve,
    unknown,
)


class Base:
    required_streams: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"weight": 5.0}}
    epochs: Count = 3
    weight: Weight = 0.5


class Method(Base):
    kind: Literal["sum", "mean"] = "mean"
    share: Fraction = 0.25
    flag: bool = True
    path: str = "here"
    count = 7  # no annotation, no hyperparameter


def test_declared_are_the_annotated_attributes_of_all_bases() -> None:
    assert list(declared(Method)) == ["epochs", "weight", "kind", "share", "flag", "path"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "5", 5),
        ("weight", "0", 0.0),
        ("weight", "1e-3", 0.001),
        ("kind", "sum", "sum"),
        ("share", "1", 1.0),
        ("flag", "False", False),
        ("flag", "1", True),
        ("path", "a=b", "a=b"),
    ],
)
def test_text_becomes_its_type(name: str, text: str, value: Any) -> None:
    parsed = parse(name, text, declared(Method)[name])
    assert parsed == value and type(parsed) is type(value)
    assert parse(name, parsed, declared(Method)[name]) == value  # as it comes back from the plans


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("epochs", "0"),
        ("epochs", "2.5"),
        ("epochs", "many"),
        ("weight", "-1"),
        ("weight", "nan"),
        ("weight", "inf"),
        ("kind", "max"),
        ("share", "1.01"),
        ("flag", "yes"),
        ("epochs", 2.5),
        ("weight", None),
    ],
)
def test_impossible_values_are_refused_with_what_is_admitted(name: str, text: Any) -> None:
    hint = declared(Method)[name]
    with pytest.raises(InputError) as error:
        parse(name, text, hint)
    assert str(error.value) == f"{name}={text} is impossible: {name} is {describe(hint)}"


def test_order_is_default_preset_setting_scoped_setting() -> None:
    assert resolve(Method, "recommended", {})["weight"] == 0.5
    assert resolve(Method, "paper", {})["weight"] == 5.0
    assert resolve(Method, "paper", {"weight": 1})["weight"] == 1.0
    settings = {"Method.weight": 2, "weight": 1, "Other.weight": 3, "of_another_trainer": 4}
    assert resolve(Method, "paper", settings)["weight"] == 2.0
    assert "of_another_trainer" not in resolve(Method, "paper", settings)


def test_a_typo_gets_the_nearest_name_and_all_of_them() -> None:
    assert str(unknown("wieght", ["epochs", "weight"])) == (
        "unknown hyperparameter wieght (did you mean weight?); valid are: epochs, weight"
    )
