"""``nnUNetv2_ext_configure`` on tiny raw data and hand-written plans."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dataset_conversion.writing.case_writer import Record
from dataset_conversion.writing.journal import JOURNAL_NAME, start_journal
from nnunet_ext.commands.configure import configure_entry
from nnunet_ext.commands.list import list_entry
from nnunet_ext.own_trainers import trainers
from nnunet_ext.trainers.ncovsegnet import NCoVSegNetTrainer
from tests.miniature_plans import DATASET_JSON, plans, trainer
from tests.miniature_raw import write_raw


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A planned labelled data set 999, general ones 998 and 996, an unlabelled one 997."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_preprocessed" / "Dataset999_Miniature"
    folder.mkdir()
    content = plans()
    del content["nnunet_ext"]
    (folder / "nnUNetPlans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    raw = tmp_path / "nnUNet_raw"
    write_raw(raw, "Dataset998_General", 2, (4, 24, 24))
    write_raw(raw, "Dataset996_Second", 2, seed=1)
    write_raw(raw, "Dataset997_Unlabeled", 2, labelled=False)
    return folder


def configure(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        configure_entry(["-d", "999", "-np", "1", *arguments])
    return stop.value.code


def recorded(folder: Path, name: str = "nnUNetPlans") -> dict[str, Any]:
    entry = json.loads((folder / f"{name}.json").read_text()).get("nnunet_ext", {})
    assert not entry or entry.pop("made_by").startswith("nnunetv2-ext ")
    return entry


def test_streams_and_settings_land_in_the_plans(place: Path) -> None:
    assert (
        configure(
            "--general", "998", "Dataset996_Second", "--unlabeled", "997", "--set", "num_epochs=5"
        )
        == 0
    )
    assert recorded(place) == {
        "preset": "recommended",
        "streams": {
            "general": ["Dataset998_General", "Dataset996_Second"],
            "unlabeled": ["Dataset997_Unlabeled"],
        },
        "settings": {"num_epochs": 5},
        "normalizations": {},
        "regions": False,
    }
    for path in (
        "general/Dataset998_General",
        "general/Dataset996_Second",
        "unlabeled/Dataset997_Unlabeled",
    ):
        assert (place / "streams" / path / "nnUNetPlans_2d" / "case_01.b2nd").is_file()


def test_what_is_not_named_stays_until_reset(place: Path) -> None:
    configure("--general", "998", "--set", "num_epochs=5", "general_checkpoint=random")
    configure("--set", "num_epochs=6", "RelationDrivenTrainer.num_epochs=7", "--preset", "paper")
    assert recorded(place)["streams"] == {"general": ["Dataset998_General"]}
    assert recorded(place)["settings"] == {
        "num_epochs": 6,
        "general_checkpoint": "random",
        "RelationDrivenTrainer.num_epochs": 7,
    }
    assert recorded(place)["preset"] == "paper"
    configure("--reset")
    empty = {"streams": {}, "settings": {}, "normalizations": {}, "regions": False}
    assert recorded(place) == {"preset": "recommended", **empty}


def test_new_plans_leave_the_old_ones_alone(place: Path) -> None:
    assert configure("--set", "initial_lr=0.1", "-o", "slow") == 0
    assert recorded(place) == {} and recorded(place, "slow")["settings"] == {"initial_lr": 0.1}
    assert configure("--set", "num_epochs=9", "-o", "slow") == 0
    assert recorded(place, "slow")["settings"] == {"initial_lr": 0.1, "num_epochs": 9}
    written = json.loads((place / "slow.json").read_text())
    assert written["plans_name"] == "slow"
    assert (
        written["configurations"]["2d"]["data_identifier"] == "nnUNetPlans_2d"
    )  # same preprocessed data
    for other in ('{"plans_name": "other"}', '{"configurations": ["2d"]}'):
        (place / "other.json").write_text(other)
        assert configure("-o", "other") == 1
        assert (place / "other.json").read_text() == other


def sizes_in(folder: Path, name: str) -> tuple[list[int], int]:
    configuration = json.loads((folder / f"{name}.json").read_text())["configurations"]["2d"]
    return configuration["patch_size"], configuration["batch_size"]


def test_new_plans_have_another_patch_and_batch_until_reset(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """nnU-Net's network in these plans halves an image twice."""
    write_raw(place.parents[1] / "nnUNet_raw", "Dataset999_Miniature", 2)
    assert configure("-c", "2d", "-o", "small", "--patch", "8", "12", "--batch", "5") == 0
    assert "multiples" not in capsys.readouterr().out
    assert sizes_in(place, "small") == ([8, 12], 5)
    assert sizes_in(place, "nnUNetPlans") == ([16, 16], 2)

    assert configure("-o", "small", "--set", "num_epochs=9") == 0
    assert sizes_in(place, "small") == ([8, 12], 5)
    assert configure("-c", "2d", "-o", "small", "--patch", "10", "12") == 0
    assert "2d: nnU-Net's own network needs edges that are multiples of 4 4" in (
        capsys.readouterr().out
    )
    assert sizes_in(place, "small") == ([10, 12], 5)
    assert configure("-o", "small", "--reset") == 0
    assert sizes_in(place, "small") == ([16, 16], 2)


def test_a_patch_of_352_in_a_real_planning(place: Path, tmp_path: Path) -> None:
    """nnU-Net halves images of 352 x 352 six times, so it plans the next multiple of 64; nCoVSegNet
    halves them five times.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
    )

    write_raw(tmp_path / "nnUNet_raw", "Dataset999_Miniature", 2, (352, 352))
    extract_fingerprints([999], num_processes=1)
    plan_experiments([999])
    assert sizes_in(place, "nnUNetPlans")[0] == [384, 384]

    assert configure("-c", "2d", "-o", "as_paper", "--patch", "352", "352", "--batch", "4") == 0
    assert sizes_in(place, "as_paper") == ([352, 352], 4)
    content = json.loads((place / "as_paper.json").read_text())
    content["nnunet_ext"]["settings"] = {"width": 1 / 16}
    made = trainer(NCoVSegNetTrainer, tmp_path / "training", content, dataset_json=DATASET_JSON)
    assert made.configuration_manager.patch_size == [352, 352] and made.batch_size == 4


USERS_TRAINER = '''
import sibling
from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer
from nnunet_ext.training.settings.hyperparameters import Weight

class MyTrainer(MultiStreamTrainer):
    """Mine."""

    my_weight: "Weight" = sibling.DEFAULT
'''


def test_hyperparameters_of_a_trainer_of_the_users_own(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my_trainers"
    folder.mkdir()
    (folder / "mine.py").write_text(USERS_TRAINER)
    (folder / "sibling.py").write_text("DEFAULT = 0.5")
    (folder / "broken.py").write_text("import nothing_of_that_name")
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    assert configure("--set", "my_weight=2", "MyTrainer.num_epochs=7") == 0
    captured = capsys.readouterr()
    assert recorded(place)["settings"] == {"my_weight": 2.0, "MyTrainer.num_epochs": 7}
    assert "MyTrainer: ready" in captured.out
    assert (
        "broken.py: its trainers are left out, it cannot be imported (No module named"
        in captured.err
    )
    assert configure("--set", "my_weight=-1") == 1
    assert "my_weight is a number at least 0" in capsys.readouterr().err

    with pytest.raises(SystemExit):
        list_entry(["MyTrainer"])
    assert "my_weight=0.5  (a number at least 0)" in capsys.readouterr().out
    assert "MyTrainer" not in trainers()


def test_settings_alone_touch_no_stream(place: Path) -> None:
    """Neither other configurations' folders nor raw data are needed to change a number."""
    plans_file = place / "nnUNetPlans.json"
    content = json.loads(plans_file.read_text())
    content["configurations"] |= plans(3)["configurations"]
    plans_file.write_text(json.dumps(content))
    assert configure("--general", "996", "-c", "2d") == 0
    (place.parents[1] / "nnUNet_raw" / "Dataset996_Second").rename(place / "moved")
    assert configure("--set", "num_epochs=3") == 0
    assert [folder.name for folder in (place / "streams/general/Dataset996_Second").iterdir()] == [
        "nnUNetPlans_2d"
    ]


def test_labels_can_be_chosen_and_organs_are_pointed_out(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(
        place.parents[1] / "nnUNet_raw",
        "Dataset003_Liver",
        2,
        labels={"background": 0, "liver": 1, "cancer": 2},
    )
    assert configure("--general", "3") == 0
    assert "liver, cancer all become lesion; if one is an organ" in capsys.readouterr().out
    assert configure("--general", "3=cancer") == 0
    assert recorded(place)["streams"]["general"] == ["Dataset003_Liver=cancer"]
    assert configure("--general", "3=tumour") == 1
    assert "Dataset003_Liver has no label tumour; it has liver, cancer" in capsys.readouterr().err


def test_a_stream_gets_a_normalization_of_its_own_and_loses_it_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = place / "streams" / "unlabeled" / "Dataset997_Unlabeled"
    assert configure("--unlabeled", "997", "--normalize", "unlabeled=window(0, 80.0)") == 0
    assert recorded(place)["normalizations"] == {"unlabeled": "window(0,80)"}
    assert "unlabeled: Dataset997_Unlabeled, normalized by window(0,80)" in capsys.readouterr().out
    assert [folder.name for folder in streams.iterdir()] == ["nnUNetPlans_2d_window_0_80"]

    assert configure("--set", "num_epochs=5") == 0
    assert recorded(place)["normalizations"] == {"unlabeled": "window(0,80)"}
    assert configure("--normalize", "unlabeled=plans") == 0
    assert recorded(place)["normalizations"] == {}
    assert (streams / "nnUNetPlans_2d" / "stream.json").is_file()


def test_plans_of_before_normalizations_are_read(place: Path) -> None:
    plans_file = place / "nnUNetPlans.json"
    content = json.loads(plans_file.read_text())
    content["nnunet_ext"] = {"preset": "paper", "streams": {}, "settings": {"num_epochs": 5}}
    plans_file.write_text(json.dumps(content))
    assert configure("--set", "seed=1") == 0
    assert recorded(place)["settings"] == {"num_epochs": 5, "seed": 1}


def test_a_checkpoint_path_is_made_absolute(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (place / "mine.pth").touch()
    assert configure("--set", "general_checkpoint=mine.pth") == 0
    assert recorded(place)["settings"]["general_checkpoint"] == str(place / "mine.pth")


def test_show_prints_and_changes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure("--general", "998", "--set", "num_epochs=5")
    before = (place / "nnUNetPlans.json").read_bytes()
    assert configure("--show") == 0
    printed = capsys.readouterr().out
    assert "general: Dataset998_General" in printed and "num_epochs = 5" in printed
    assert "RelationDrivenTrainer: ready" in printed
    assert (place / "nnUNetPlans.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--general", "123"], "data set 123 is in none of nnUNet_raw, nnUNet_preprocessed"),
        (["--general", "lung"], "lung: not a data set"),
        (
            ["--general", "Dataset123_Lung"],
            "Dataset123_Lung/dataset.json: no such file; convert the data set first",
        ),
        (["--general", "999"], "is the labelled data set itself"),
        (["--general", "997"], "imagesTr: no such folder; labelled images belong in imagesTr"),
        (
            ["--general", "995"],
            "2 channels (lung-window CT, lung-window CT), but Dataset999_Miniature has 1",
        ),
        (["--unlabeled", "998"], "imagesUn: no such folder"),
        (
            ["-p", "nnUNetResEncUNetLPlans"],
            "no such plans; run nnUNetv2_plan_and_preprocess -d 999 first",
        ),
        (["-c", "3d_fullres"], "has no configuration 3d_fullres to train; it has 2d"),
        (
            ["--set", "num_epoch=5"],
            "unknown hyperparameter num_epoch (did you mean num_epochs?); valid are: ",
        ),
        (
            ["--set", "num_epochs=0"],
            "num_epochs=0 is impossible: num_epochs is a whole number at least 1",
        ),
        (["--set", "Nobody.num_epochs=2"], "unknown trainer Nobody; valid are: AdvEntTrainer"),
        (
            ["--set", "PlainTrainer.general_checkpoint=random"],
            "unknown hyperparameter PlainTrainer.general_checkpoint",
        ),
        (["--set", "num_epochs"], "write NAME=VALUE"),
        (
            ["--set", "general_checkpoint=none.pth"],
            "none.pth: no such file; general_checkpoint is pretrained, random or a file's path",
        ),
        (
            ["--normalize", "window(0,80)"],
            "write ROLE=window(LOW,HIGH), ROLE one of general, unlabeled, target_domain",
        ),
        (
            ["--normalize", "unlabeled=window(0,80)"],
            "there is no unlabeled stream; name its data sets with --unlabeled",
        ),
        (
            ["--normalize", "general=window(80,0)", "--general", "996"],
            "the first bound must lie below the second",
        ),
        (
            ["--normalize", "general=zscore", "--general", "996"],
            "valid are window(LOW,HIGH), e.g. window(0,80), and p",
        ),
        (["-o", "../evil"], "-o ../evil: use letters and digits"),
        (["-o", "a__b"], "-o a__b: use letters and digits"),
        (["--patch", "8", "8"], "name new plans with -o and their configuration with -c"),
        (["--batch", "4", "-o", "small"], "name new plans with -o and their configuration with"),
        (["-c", "2d", "-o", "small", "--patch", "8"], "--patch 8: 2d needs 2 numbers"),
        (["-np", "0"], "-np 0: needs at least one process"),
    ],
)
def test_wrong_input_is_one_line_and_changes_nothing(
    place: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(place.parents[1] / "nnUNet_raw", "Dataset995_TwoChannels", 1, channels=2)
    before = (place / "nnUNetPlans.json").read_bytes()
    assert configure(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert (
        len(
            [
                line
                for line in error.splitlines()
                if line.startswith("nnUNetv2_ext_configure: error: ")
            ]
        )
        == 1
    )
    assert (place / "nnUNetPlans.json").read_bytes() == before


def test_a_labelled_target_domain_is_used_without_its_labels(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configure("--target_domain", "996") == 0
    assert (
        "Dataset996_Second has no imagesUn: its imagesTr are used, its labels are ignored"
        in capsys.readouterr().out
    )
    stream = (
        place / "streams" / "target_domain" / "Dataset996_Second" / "nnUNetPlans_2d" / "stream.json"
    )
    sources = json.loads(stream.read_text())["sources"]
    assert [Path(source).parent.name for source in sources] == ["imagesTr", "imagesTr"]


def test_the_labelled_data_set_is_no_target_domain_of_its_own(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(place.parents[1] / "nnUNet_raw", place.name, 2)
    assert configure("--target_domain", "999") == 1
    assert "is the labelled data set itself and has no imagesUn" in capsys.readouterr().err


def test_a_target_domain_of_another_unit_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = place.parents[1] / "nnUNet_raw"
    (raw / place.name).mkdir()
    for folder, unit in (
        (place.name, "HU"),
        ("Dataset997_Unlabeled", "grey values 0..255 of a CT window"),
    ):
        record_unit(raw / folder, unit)
    assert configure("--target_domain", "997") == 1
    assert (
        "997_Unlabeled has grey values 0..255, Dataset999_Miniature Hounsfield units; convert both"
        in (capsys.readouterr().err)
    )
    assert recorded(place) == {}
    assert configure("--target_domain", "997", "--normalize", "target_domain=window(0,80)") == 0
    record_unit(raw / "Dataset997_Unlabeled", "HU (estimated)")
    assert configure("--target_domain", "997", "--normalize", "target_domain=plans") == 0


def record_unit(folder: Path, unit: str) -> None:
    """As a conversion of one case notes it."""
    record = Record("x", "x", "Tr", {}, {}, {}, {}, folder.name, "", unit, [], [], {})
    start_journal(folder / JOURNAL_NAME, {"converter": folder.name, "settings": {}})
    with (folder / JOURNAL_NAME).open("a") as journal:
        journal.write(json.dumps({"case": "x", "records": [asdict(record)]}) + "\n")


def test_unset_folders_are_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    assert configure("--general", "998") == 1
    assert "nnUNet_preprocessed is not set; export nnUNet_preprocessed=" in capsys.readouterr().err


def test_streams_that_share_images_are_told_or_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = place.parents[1] / "nnUNet_raw"
    (raw / "Dataset999_Miniature").mkdir()
    for folder, collection in (
        ("Dataset999_Miniature", "COVID-SemiSeg"),
        ("Dataset998_General", "SIRM-slices"),
    ):
        start_journal(
            raw / folder / JOURNAL_NAME,
            {"converter": "x", "settings": {}, "collection": collection},
        )
    assert configure("--general", "996", "998", "--forbid-overlap") == 1
    assert recorded(place) == {}
    assert (
        "998_General overlaps with Dataset999_Miniature: its 98 labelled slices"
        in capsys.readouterr().err
    )
    assert configure("--general", "996", "998") == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "overlaps" in line]
    assert note.endswith("results on Dataset999_Miniature may be optimistic")
