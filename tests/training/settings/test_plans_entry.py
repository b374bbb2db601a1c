"""The entry in the plans: who wrote it, and what is refused."""

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.package import made_by
from nnunet_ext.training.settings.plans_entry import PLANS_KEY, PlansEntry, record_package
from tests.miniature_plans import plans


def test_package_and_version_are_written_and_read_over() -> None:
    entry = PlansEntry(settings={"num_epochs": 3})
    written = entry.into_plans(plans())
    assert written[PLANS_KEY]["made_by"] == made_by()
    assert made_by().startswith("nnunetv2-ext ")
    assert PlansEntry.from_plans(written) == entry


def test_plans_that_were_never_configured_name_the_package_once_they_are_trained() -> None:
    content = plans()
    del content[PLANS_KEY]
    record_package(content)
    assert (
        content[PLANS_KEY] == {"made_by": made_by()}
        and PlansEntry.from_plans(content) == PlansEntry()
    )


def test_an_entry_of_a_later_version_names_it() -> None:
    content = {PLANS_KEY: {"made_by": "nnunetv2-ext 9.1", "novelty": 1}}
    with pytest.raises(
        InputError, match=r"not written by nnunetv2-ext .*, but by nnunetv2-ext 9\.1: .*novelty"
    ):
        PlansEntry.from_plans(content)


@pytest.mark.parametrize(
    "entry",
    [
        [],
        7,
        "x",
        {"streams": []},
        {"streams": {"general": "x"}},
        {"settings": 1},
        {"preset": ["paper"]},
        {"normalizations": {"general": 1}},
    ],
)
def test_a_damaged_entry_is_one_line(entry: object) -> None:
    with pytest.raises(InputError, match="entry nnunet_ext is "):
        PlansEntry.from_plans({PLANS_KEY: entry})
