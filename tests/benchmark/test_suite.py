"""Declarations of suites, those of the package and broken ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_ext.benchmark.adaptation import intra_domain, self_trained
from nnunet_ext.benchmark.published import Published, PublishedTable
from nnunet_ext.benchmark.run import Place, Run, write_suite_plans
from nnunet_ext.benchmark.runner import prepare
from nnunet_ext.benchmark.suite import SUITES, MadeData, Row, Suite, found, load_suite, unavailable
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.profiles import PROFILES
from nnunet_ext.own_trainers import trainers
from nnunet_ext.training.settings.hyperparameters import declared, parse
from nnunet_ext.training.settings.plans_entry import ROLES
from tests import miniature_plans
from tests.miniature_raw import write_raw

NAMES = [path.stem.replace("_", "-") for path in SUITES.glob("[a-z]*.py")]
TARGET = "Dataset120_Target"
BASELINE = Row("baseline", TARGET)
PSEUDO = Row(
    "pseudo",
    MadeData(
        300,
        (
            *(
                "nnUNetv2_ext_convert",
                "-d",
                "{number}",
                "-i",
                "{raw}/{dataset}",
                "-m",
                "{trainer}__{plans}",
            ),
            *("-device", "{device}"),
        ),
    ),
    settings={"general_checkpoint": "{checkpoint}"},
    first_stage="baseline",
)
TWO_STAGES = (
    self_trained("self", "baseline", "Dataset503_X", 600),
    intra_domain("intra", "baseline", "Dataset503_X", 700, 750),
)


def published(row: str, *values: float) -> PublishedTable:
    line = Published("theirs", values, row)
    return PublishedTable("Some 2020, table 1", "Measured.", "", "lesion", ("Dice",), (line,))


def suite(**changes: object) -> Suite:
    """Of two rows, on discs."""
    base = Suite(
        "mini",
        "a test",
        lambda raw: write_raw(raw, TARGET, 5) and None,
        (BASELINE, PSEUDO),
        TARGET,
        {"num_epochs": 2},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_suites_of_the_package_are_sound(name: str) -> None:
    """What a trainer of this installation would refuse after hours is found here."""
    declaration = load_suite(name)
    assert declaration.name == name
    assert declaration.metric in PROFILES[declaration.profile].metrics
    own = trainers()
    for row in declaration.rows:
        assert set(row.streams) <= set(ROLES)
        assert unavailable(declaration, row) == ""
        trainer = own[row.trainer]
        assert set(trainer.required_streams) <= set(row.streams), row.name
        for setting, value in {**declaration.budget, **row.settings}.items():
            if "{" not in str(value):
                parse(setting, value, declared(trainer)[setting])


@pytest.mark.parametrize("name", NAMES)
def test_published_figures_are_shares(name: str) -> None:
    for table in load_suite(name).published:
        for line in table.lines:
            assert all(0 < value < 1 for value in line.values), (table.source, line.method)
        for text in (table.source, table.measured, table.differs):
            assert text


def test_rows_of_another_installation_are_named() -> None:
    assert (
        unavailable(suite(), Row("x", TARGET, "NoSuchTrainer"))
        == "this installation has no NoSuchTrainer"
    )
    assert "PlainTrainer has no setting no_such" in unavailable(
        suite(), Row("x", TARGET, settings={"no_such": 1})
    )
    broken = replace(BASELINE, trainer="NoSuchTrainer")
    assert "no NoSuchTrainer" in unavailable(
        suite(rows=(broken, PSEUDO)), replace(PSEUDO, settings={})
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": (Row("a__b", TARGET),)}, "use letters and digits"),
        ({"rows": (BASELINE, BASELINE)}, "two rows are called baseline"),
        ({"rows": (PSEUDO, BASELINE)}, "builds on baseline, which is not a row above it"),
        ({"rows": (replace(PSEUDO, first_stage=""),)}, "no first_stage to make them from"),
        (
            {"rows": (BASELINE, replace(PSEUDO, streams={"target_domain": ("{further}",)}))},
            "that nothing makes",
        ),
        ({"upper": "target-only"}, "there is no row target-only"),
        ({"features": (8, 16)}, "three stages or more"),
        ({"profile": "plane"}, "there is no profile plane; there are plain, "),
        ({"metric": "dyce"}, "there is no metric dyce; there are dice, "),
        ({"metric": "hd95"}, "profile plain does not measure hd95, but dice, "),
        ({"rows": (Row("later", TARGET, pretrained=True),)}, "names no first_stage to start from"),
        (
            {"rows": (Row("folds", (TARGET,) * 3),), "test_set": (TARGET,) * 2},
            "3 data sets in turn, and there are 2 test sets",
        ),
        ({"published": (published("baseline", 0.5, 0.6),)}, "theirs has 2 figures for 1 columns"),
        ({"published": (published("best", 0.5),)}, "theirs names the row best, which does not"),
    ],
)
def test_impossible_declarations_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        suite(**changes)


def test_an_unknown_suite_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are .*phantom-da"):
        load_suite("phantom-db")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InputError, match="declares no SUITE"):
        load_suite(str(tmp_path / "empty.py"))


def test_commands_of_a_run_that_builds_on_another(tmp_path: Path) -> None:
    """Every seed has its own data, plans and first stage."""
    run = Run(suite(), PSEUDO, 2, Place(tmp_path, "cpu"))
    raw = tmp_path / "nnUNet_raw"
    assert run.make_data() == [
        "nnUNetv2_ext_convert",
        "-d",
        "302",
        "-i",
        f"{raw}/{TARGET}",
        "-m",
        "PlainTrainer__baseline_seed2",
        "-device",
        "cpu",
    ]
    first = tmp_path / "nnUNet_results" / TARGET / "PlainTrainer__baseline_seed2__2d" / "fold_0"
    assert run.configure()[-3:] == [
        "num_epochs=2",
        f"general_checkpoint={first / 'checkpoint_final.pth'}",
        "seed=2",
    ]
    (raw / "Dataset302_Made").mkdir(parents=True)
    assert run.train()[:4] == ["nnUNetv2_train", "Dataset302_Made", "2d", "0"]
    assert run.plan()[:3] == ["nnUNetv2_plan_and_preprocess", "-d", "302"]
    run.training.folder.mkdir(parents=True)
    (run.training.folder / "checkpoint_latest.pth").touch()
    assert run.train()[-1] == "--c"


def test_seeds_take_the_folds_in_turn(tmp_path: Path) -> None:
    folds = ("Dataset121_A", "Dataset122_B")
    crossed = suite(rows=(Row("row", folds),), test_set=folds)
    runs = [Run(crossed, crossed.row("row"), seed, Place(tmp_path, "cpu")) for seed in range(3)]
    assert [run.dataset for run in runs] == ["Dataset121_A", "Dataset122_B", "Dataset121_A"]
    assert [run.dataset_number for run in runs] == [121, 122, 121]
    assert [run.test_set.name for run in runs] == ["Dataset121_A", "Dataset122_B", "Dataset121_A"]
    assert str(tmp_path / "nnUNet_raw" / "Dataset122_B" / "imagesTs") in runs[1].predict(tmp_path)


@pytest.mark.parametrize(("profile", "soft"), [("plain", False), ("infnet", True)])
def test_soft_maps_are_predicted_where_they_are_measured(
    tmp_path: Path, profile: str, soft: bool
) -> None:
    run = Run(suite(profile=profile), BASELINE, 0, Place(tmp_path, "cpu"))
    assert ("--save_probabilities" in run.predict(tmp_path)) == soft


def test_a_row_may_have_another_patch(tmp_path: Path) -> None:
    row = Row("small", TARGET, patch=(16, 24))
    command = Run(suite(rows=(row,)), row, 1, Place(tmp_path, "cpu")).configure()
    place = command.index("--patch")
    assert command[place + 1 : place + 3] == ["16", "24"]
    declared = suite(rows=(row, BASELINE)).declared()["rows"]
    assert declared["small"]["patch"] == [16, 24] and "patch" not in declared["baseline"]


def test_a_row_may_name_its_raw_folder_and_normalise_a_stream(tmp_path: Path) -> None:
    """Also one that builds on no other."""
    row = Row(
        "adapted",
        TARGET,
        settings={"matches_file": "{raw}/pairs.json"},
        streams={"target_domain": (TARGET,)},
        normalize={"target_domain": "window(0,80)"},
    )
    command = Run(suite(rows=(row,)), row, 1, Place(tmp_path, "cpu")).configure()
    assert command[command.index("--normalize") + 1] == "target_domain=window(0,80)"
    assert f"matches_file={tmp_path / 'nnUNet_raw'}/pairs.json" in command
    declared = suite(rows=(row, BASELINE)).declared()["rows"]
    assert (
        declared["adapted"]["normalize"] == row.normalize
        and "normalize" not in declared["baseline"]
    )


def test_a_pretrained_row_starts_from_its_first_stage(tmp_path: Path) -> None:
    later = Row("later", TARGET, first_stage="baseline", pretrained=True)
    pair = suite(rows=(BASELINE, later), discard_checkpoints=True)
    first, second = (
        Run(pair, pair.row(name), 1, Place(tmp_path, "cpu")) for name in ("baseline", "later")
    )
    assert second.train()[-2:] == ["-pretrained_weights", str(first.training.checkpoint)]
    assert "-pretrained_weights" not in first.train()

    for run in (first, second):
        run.training.folder.mkdir(parents=True)
        for name in ("best", "latest", "final"):
            (run.training.folder / f"checkpoint_{name}.pth").touch()
    assert "-pretrained_weights" not in second.train()  # continued
    for run in (first, second):
        run.discard_checkpoints()
    assert [path.name for path in first.training.folder.iterdir()] == ["checkpoint_final.pth"]
    assert list(second.training.folder.iterdir()) == []


def test_rows_of_two_stages_have_data_of_their_own_for_every_seed(tmp_path: Path) -> None:
    declared = suite(rows=(BASELINE, *TWO_STAGES))
    place = Place(tmp_path, "cpu")
    trained, split = (Run(declared, row, 3, place) for row in TWO_STAGES)
    model = [
        "-d",
        TARGET,
        "-c",
        "2d",
        "-tr",
        "PlainTrainer",
        "-p",
        "baseline_seed3",
        "-f",
        "0",
        "-device",
        "cpu",
    ]
    shares = ["--keep-cases", "0.5", "--keep-voxels", "0.8", "--background", "0.9"]
    expected = [
        "nnUNetv2_ext_pseudo_label",
        *model,
        "-i",
        "Dataset503_X",
        "-o",
        "603",
        "--name",
        "self",
        *shares,
    ]
    assert trained.make_data() == expected
    numbers = ["-o", "703", "--hard", "753", "--name", "intra"]
    assert split.make_data() == [
        "nnUNetv2_ext_split_target",
        *model,
        "-i",
        "Dataset503_X",
        *numbers,
    ]
    configured = split.configure()
    assert (
        configured[configured.index("--target_domain") + 1] == "753"
        and split.row.trainer == "AdvEntTrainer"
    )


def test_data_and_declaration_of_a_folder_stay(tmp_path: Path) -> None:
    place = Place(tmp_path, "cpu")
    prepare(suite(), place)
    written = place.raw / TARGET / "dataset.json"
    stamp = written.stat().st_mtime_ns
    prepare(suite(rows=(BASELINE, PSEUDO, Row("more", TARGET))), place)  # further rows are welcome
    assert written.stat().st_mtime_ns == stamp
    assert set(json.loads((tmp_path / "suite.json").read_text())["rows"]) == {
        "baseline",
        "pseudo",
        "more",
    }
    with pytest.raises(InputError, match="another suite or budget"):
        prepare(suite(budget={"num_epochs": 3}), place)
    with pytest.raises(InputError, match="row more was declared differently"):
        prepare(suite(rows=(Row("more", TARGET, settings={"initial_lr": 0.1}),)), place)


def test_data_cut_short_by_a_kill_are_written_again(tmp_path: Path) -> None:
    place = Place(tmp_path, "cpu")
    (tmp_path / ".raw.unfinished" / TARGET).mkdir(parents=True)
    prepare(suite(), place)
    assert (place.raw / TARGET / "dataset.json").is_file()


def test_found_data_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setenv("nnUNet_raw", str(theirs))
    with pytest.raises(InputError, match="convert it first"):
        found(TARGET)(tmp_path)
    write_raw(theirs, TARGET, 2)
    prepare(suite(write_data=found(TARGET)), Place(tmp_path / "suite", "cpu"))
    assert (tmp_path / "suite" / "nnUNet_raw" / TARGET / "imagesTr" / "case_00_0000.png").is_file()


@pytest.mark.parametrize("residual", [False, True])
def test_smaller_plans_are_a_network_of_nnunet(tmp_path: Path, residual: bool) -> None:
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    plans = miniature_plans.plans(features=(4, 8, 16, 32), residual=residual)
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans))
    write_suite_plans(suite(features=(2, 3, 4), batch_size=5), tmp_path)
    written = json.loads((tmp_path / "suitePlans.json").read_text())
    configuration = written["configurations"]["2d"]
    architecture = configuration["architecture"]
    assert written["plans_name"] == "suitePlans" and configuration["batch_size"] == 5
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        input_channels=1,
        output_channels=2,
        deep_supervision=False,
    )
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)
    assert network.encoder.output_channels == [2, 3, 4]
