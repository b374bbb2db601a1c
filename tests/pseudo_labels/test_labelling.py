"""Data sets of pseudo-labels from predictions written by hand, read again by nnU-Net."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from nnunet_ext.errors import InputError
from nnunet_ext.losses.entropy import entropy_map
from nnunet_ext.pseudo_labels.domains import (
    LabelledSource,
    folds_with,
    labelled_source,
    target_cases,
)
from nnunet_ext.pseudo_labels.labelling import KEPT, Criteria, Round, write_round
from nnunet_ext.pseudo_labels.new_data_sets import NewDataSets, new_name
from nnunet_ext.pseudo_labels.prediction import PredictedCase, TrainedModel, mean_entropy
from nnunet_ext.pseudo_labels.selection import STEPS
from nnunet_ext.pseudo_labels.splitting import write_split
from nnunet_ext.stock.training import Model
from nnunet_ext.training.streams.raw_cases import unlabelled_cases
from tests.miniature_plans import DATASET_JSON, plans
from tests.miniature_raw import write_raw

SOURCE, TARGET = "Dataset999_Miniature", "Dataset998_Target"
ALL = Criteria(keep_cases=1, keep_voxels=1, background=0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Raw source and target, and the plans of a model; no network is needed here."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    write_raw(tmp_path / "nnUNet_raw", SOURCE, 5, (8, 8))
    write_raw(tmp_path / "nnUNet_raw", TARGET, 4, (8, 8), labelled=False, seed=1)
    folder = model_of(tmp_path).folder
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans()))
    (folder / "dataset.json").write_text(
        json.dumps({**DATASET_JSON, "labels": {"background": 0, "lesion": 1}})
    )
    return tmp_path


def model_of(root: Path) -> TrainedModel:
    model = Model(SOURCE, "PlainTrainer", "nnUNetPlans", "2d")
    return TrainedModel(model, root / "nnUNet_results", ("0",), "checkpoint_final.pth", "cpu")


def predictions(root: Path, shares: list[float], confidences: list[float]) -> list[PredictedCase]:
    """One per target case: a share of lesion, sure to a degree on half of it and 0.1 less on the
    rest.
    """
    raw = root / "nnUNet_raw" / TARGET
    cases = unlabelled_cases(raw, json.loads((raw / "dataset.json").read_text()))
    folder = root / "predicted"
    folder.mkdir(exist_ok=True)
    predicted = []
    for case, share, sure in zip(cases, shares, confidences, strict=True):
        label = (np.arange(64) < round(64 * share)).astype(np.uint8)
        confidence = np.where(np.arange(64) < round(32 * share), sure, sure - 0.1)
        confidence[label == 0] = 0.95
        made = PredictedCase(case, folder / f"{case.name}.png")
        Image.fromarray(label.reshape(8, 8)).save(made.label_file)
        steps = np.rint(confidence * STEPS).astype(np.uint16).reshape(1, 8, 8)
        np.savez(made.numbers, confidence=steps, entropy=1 - sure)
        predicted.append(made)
    return predicted


def round_of(
    root: Path, criteria: Criteria, predicted: list[PredictedCase], source: bool = True
) -> Round:
    folders = (root / name / SOURCE for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    return Round(model_of(root), predicted, criteria, labelled_source(*folders) if source else None)


def written(root: Path) -> Path:
    folder = root / "nnUNet_raw" / "Dataset130_New"
    folder.mkdir()
    return folder


def require_valid(folder: Path) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(folder), num_processes=1)


def label_of(folder: Path, case: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "labelsTr" / f"{case}.png"))


def test_confident_cases_and_voxels_beside_the_labelled_cases(place: Path) -> None:
    predicted = predictions(place, [0.5, 0.25, 0.5, 0], [0.9, 0.6, 0.8, 0.9])
    folder = written(place)
    judged, thresholds = write_round(round_of(place, Criteria(0.67, 0.5, 0.9), predicted), folder)

    assert [case.outcome for case in judged] == [
        KEPT,
        "not among the most confident",
        KEPT,
        "no foreground",
    ]
    # case_00: 16 voxels of 0.9 and 16 of 0.8; case_02: 16 of 0.8 and 16 of 0.7; half of the 64 have
    # 0.8 or more, and so do the 16 further ones of equal confidence
    assert thresholds == pytest.approx({"background": 0.9, "lesion": 0.8}, abs=1 / STEPS)
    expected = np.repeat([1, 1, 0], [16, 16, 32]), np.repeat([1, 2, 0], [16, 16, 32])
    for case, label in zip(("pseudo_case_00", "pseudo_case_02"), expected, strict=True):
        assert label_of(folder, case).ravel().tolist() == label.tolist()

    content = json.loads((folder / "dataset.json").read_text())
    assert (
        content["labels"] == {"background": 0, "lesion": 1, "ignore": 2}
        and content["numTraining"] == 7
    )
    require_valid(folder)
    table = pd.read_csv(folder / "pseudo_labels.csv")
    assert table["case"].tolist() == [f"pseudo_case_0{number}" for number in range(4)]
    assert table["image"][0] == f"{TARGET}/imagesUn/case_00_0000.png"
    assert (
        table["kept_lesion"].dropna().tolist() == [1, 0.5]
        and table["confidence"].round(4)[0] == 0.85
    )


def test_validation_has_only_truly_labelled_cases(place: Path) -> None:
    predicted = predictions(place, [0.5] * 4, [0.9] * 4)
    folder = written(place)
    write_round(round_of(place, ALL, predicted), folder)
    folds = json.loads((folder / "splits_final.json").read_text())
    true, pseudo = {f"case_0{n}" for n in range(5)}, {f"pseudo_case_0{n}" for n in range(4)}
    assert len(folds) == 5
    for fold in folds:
        assert len(fold["val"]) == 1 and set(fold["val"]) <= true
        assert set(fold["train"]) == (true | pseudo) - set(fold["val"])


def test_the_folds_in_force_stay(place: Path) -> None:
    preprocessed = place / "nnUNet_preprocessed" / SOURCE
    preprocessed.mkdir()
    fold = {"train": ["case_00", "case_01", "gone"], "val": ["case_04"]}
    (preprocessed / "splits_final.json").write_text(json.dumps([fold]))
    source = labelled_source(place / "nnUNet_raw" / SOURCE, preprocessed)
    assert source.folds == [{"train": ["case_00", "case_01"], "val": ["case_04"]}]
    assert folds_with(source.folds, ["p"]) == [
        {"train": ["case_00", "case_01", "p"], "val": ["case_04"]}
    ]


def test_all_voxels_need_no_ignore_label(place: Path) -> None:
    folder = written(place)
    write_round(
        round_of(place, ALL, predictions(place, [0.5] * 4, [0.9] * 4), source=False), folder
    )
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "lesion": 1,
    }
    assert not (folder / "splits_final.json").exists()
    require_valid(folder)


def test_a_case_without_a_confident_voxel_is_left_out(place: Path) -> None:
    """The first case is all lesion and less sure than half of all lesion voxels; the last has
    none.
    """
    predicted = predictions(place, [1, 0.75, 0.75, 0], [0.6, 0.9, 0.9, 0.9])
    folder = written(place)
    judged, _ = write_round(
        round_of(place, Criteria(1, 0.3, 0.9, keep_empty=True), predicted), folder
    )
    assert [case.outcome for case in judged] == ["no voxel is confident enough", KEPT, KEPT, KEPT]
    assert sorted(path.name for path in (folder / "labelsTr").glob("pseudo*")) == [
        f"pseudo_case_0{number}.png" for number in (1, 2, 3)
    ]
    assert math.isnan(judged[3].confidence) and not label_of(folder, "pseudo_case_03").any()


def test_nothing_to_learn_is_refused(place: Path) -> None:
    predicted = predictions(place, [0] * 4, [0.9] * 4)
    with pytest.raises(InputError, match="no target case has a voxel"):
        write_round(round_of(place, Criteria(1, 0.5, 0.9), predicted), written(place))
    with pytest.raises(InputError, match="no target case has a voxel"):
        write_round(
            round_of(place, Criteria(1, 0.5, 0.96, keep_empty=True), predicted),
            written_again(place),
        )


def written_again(root: Path) -> Path:
    folder = root / "nnUNet_raw" / "Dataset131_New"
    folder.mkdir()
    return folder


def test_a_second_round_drops_the_labels_of_the_first(place: Path) -> None:
    folder = written(place)
    write_round(round_of(place, ALL, predictions(place, [0.5] * 4, [0.9] * 4)), folder)
    source = labelled_source(folder, place / "none")
    assert [case.name for case in source.cases] == [f"case_0{number}" for number in range(5)]
    assert all(
        set(fold["train"] + fold["val"]) <= {case.name for case in source.cases}
        for fold in source.folds
    )


def test_labelled_images_are_the_same_files(place: Path) -> None:
    folder = written(place)
    write_round(round_of(place, ALL, predictions(place, [0.5] * 4, [0.9] * 4)), folder)
    for part, name in (("imagesTr", "case_00_0000.png"), ("labelsTr", "case_00.png")):
        assert (folder / part / name).samefile(place / "nnUNet_raw" / SOURCE / part / name)


def test_easy_and_hard_cases(place: Path) -> None:
    predicted = predictions(place, [0.5] * 4, [0.9, 0.7, 0.8, 0.6])
    easy, hard = written(place), written_again(place)
    assert write_split(model_of(place), predicted, 0.5, easy, hard) == (2, 2)
    assert sorted(path.name for path in (easy / "labelsTr").iterdir()) == [
        "case_00.png",
        "case_02.png",
    ]
    assert sorted(path.name for path in (hard / "imagesUn").iterdir()) == [
        "case_01_0000.png",
        "case_03_0000.png",
    ]
    ranking = pd.read_csv(hard / "entropy_ranking.csv")
    assert ranking["case"].tolist() == ["case_00", "case_02", "case_01", "case_03"]
    assert ranking["part"].tolist() == ["easy", "easy", "hard", "hard"]
    require_valid(easy)


def test_mean_entropy_is_that_of_the_loss() -> None:
    probabilities = torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    probabilities /= probabilities.sum(0)
    assert mean_entropy(probabilities.numpy()) == pytest.approx(
        float(entropy_map(probabilities[None]).mean()), rel=1e-6
    )


# --- bad input
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "2 channels"),
        ({"shape": (8, 8, 8)}, r"end in \.nii\.gz"),
    ],
)
def test_a_target_that_the_model_cannot_read_is_refused(
    place: Path, changes: dict[str, Any], message: str
) -> None:
    raw = write_raw(place / "nnUNet_raw", "Dataset997_Other", 2, labelled=False, **changes)
    with pytest.raises(InputError, match=message):
        target_cases(raw, model_of(place).dataset_json, SOURCE)


def test_a_labelled_target_is_used_without_its_labels(place: Path) -> None:
    raw = write_raw(place / "nnUNet_raw", "Dataset997_Labelled", 2)
    cases, notes = target_cases(raw, model_of(place).dataset_json, SOURCE)
    assert [case.label for case in cases] == [None, None]
    assert notes == [
        "Dataset997_Labelled has no imagesUn: its imagesTr are used, its labels are ignored"
    ]
    with pytest.raises(InputError, match="is the labelled data set itself"):
        target_cases(place / "nnUNet_raw" / SOURCE, model_of(place).dataset_json, SOURCE)


def test_a_damaged_description_is_named(place: Path) -> None:
    """Of the target, of the model's own data and of the model, in one line with advice."""
    target = place / "nnUNet_raw" / TARGET
    description = model_of(place).dataset_json
    (target / "dataset.json").write_text('{"labels": ')
    with pytest.raises(
        InputError, match=r"Target/dataset\.json: is not readable as JSON .*convert"
    ):
        target_cases(target, description, SOURCE)

    source = place / "nnUNet_raw" / SOURCE
    (source / "dataset.json").write_text("[]")
    with pytest.raises(InputError, match=r"Miniature/dataset\.json: .*convert the data set again"):
        labelled_source(source, place / "nnUNet_preprocessed" / SOURCE)

    (model_of(place).folder / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match=r"dataset\.json: .*train the model again"):
        _ = model_of(place).dataset_json


def test_damaged_folds_are_named(place: Path) -> None:
    source = place / "nnUNet_raw" / SOURCE
    (source / "splits_final.json").write_text('[{"train": ["a"]}]')
    with pytest.raises(InputError, match=r"splits_final\.json: is not a list of folds.*restore it"):
        labelled_source(source, place / "nnUNet_preprocessed" / SOURCE)


def test_a_case_that_lacks_a_channel_is_refused(place: Path) -> None:
    raw = write_raw(place / "nnUNet_raw", "Dataset997_Twice", 2, labelled=False)
    (raw / "imagesUn" / "case_01_0001.png").write_bytes(
        (raw / "imagesUn" / "case_01_0000.png").read_bytes()
    )
    with pytest.raises(InputError, match="case has 2 channels"):
        target_cases(raw, model_of(place).dataset_json, SOURCE)


def test_names_that_collide_are_refused(place: Path) -> None:
    predicted = predictions(place, [0.5] * 4, [0.9] * 4)
    plan = round_of(place, ALL, predicted)
    assert plan.source is not None
    twin = LabelledSource(
        [*plan.source.cases, type(plan.source.cases[0])("pseudo_case_00", ["x"], "y.png")], []
    )
    with pytest.raises(InputError, match="has the name of a pseudo-labelled case"):
        write_round(Round(plan.model, predicted, ALL, twin), written(place))


# --- new data sets
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "title"), [("0x", "A"), ("1000", "A"), ("130", "a/b"), ("130", ""), ("000", "A")]
)
def test_impossible_names_are_refused(number: str, title: str) -> None:
    with pytest.raises(InputError):
        new_name(number, title, "-o")


def test_a_number_in_use_is_refused_in_every_folder(place: Path) -> None:
    raw = place / "nnUNet_raw"
    (place / "nnUNet_results" / "Dataset130_Old").mkdir()
    with (
        pytest.raises(InputError, match="the number 130 is in use"),
        NewDataSets(raw, ("Dataset130_New",)).reserved(),
    ):
        pass
    assert not list(raw.glob(".*"))


def test_a_move_that_was_cut_short_is_finished(place: Path) -> None:
    """Killed between the moves of two data sets: the same command again brings the second."""
    raw = place / "nnUNet_raw"
    new = NewDataSets(raw, ("Dataset130_Easy", "Dataset131_Hard"))
    with new.reserved():
        first, second = new.begin()
        (first / "a").touch()
        (second / "b").touch()
        (new.work / "whole").touch()
        first.rename(raw / first.name)
    with new.reserved():
        assert new.whole
        new.publish()
    assert (raw / "Dataset130_Easy" / "a").exists() and (raw / "Dataset131_Hard" / "b").exists()
    assert not new.work.exists()


def test_what_a_killed_run_left_is_removed(place: Path) -> None:
    new = NewDataSets(place / "nnUNet_raw", ("Dataset130_New",))
    with new.reserved():
        (new.begin()[0] / "half").touch()
    with new.reserved():
        assert not new.whole
        (folder,) = new.begin()
        assert not list(folder.iterdir())
