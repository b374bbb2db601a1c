"""The table "you have ... -> use ..." is the same in README and site, and names what exists."""

import re

import pytest

from nnunet_ext.own_trainers import trainers
from tests.places import REPOSITORY

TABLE = re.compile(r"\| you have .*?\n\n", re.DOTALL)


def table_of(page: str) -> str:
    (found,) = TABLE.findall((REPOSITORY / page).read_text(encoding="utf-8"))
    return found


def test_readme_and_site_say_the_same() -> None:
    assert table_of("README.md").replace("](docs/", "](") == table_of("docs/index.md")


def test_it_names_trainers_commands_and_pages_that_exist() -> None:
    table = table_of("README.md")
    names = set(re.findall(r"`(\w+)`", table))
    commands = {name for name in names if name.startswith("nnUNetv2_ext_")}
    declared = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for command in commands:
        assert f"\n{command} = " in declared
    assert names - commands <= set(trainers())
    for page in re.findall(r"\]\((\S+?)\)", table):
        assert (REPOSITORY / page).is_file(), page


@pytest.mark.parametrize("name", sorted(trainers()))
def test_every_method_for_users_is_in_it(name: str) -> None:
    """Others are stages of a method, or what one compares with."""
    advice = trainers()[name].use_when
    if not advice.startswith(("you compare", "you train")):
        assert f"`{name}`" in table_of("README.md")
