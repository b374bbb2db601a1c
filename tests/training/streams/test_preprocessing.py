"""Streams: what is written, when it is redone, what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.training.streams.location import Stream, stream_keys
from nnunet_ext.training.streams.preprocessing import preprocess_stream
from tests.miniature_plans import plans
from tests.miniature_raw import write_raw
from tests.places import REPOSITORY


class Place:
    """A labelled data set's preprocessed folder, its plans and one stream."""

    def __init__(
        self,
        root: Path,
        role: str = "general",
        dimension: int = 2,
        spacing_mm: float | None = None,
        recorded: str = "Dataset998_Other",
    ) -> None:
        self.root = root
        content = plans(dimension)
        if spacing_mm is not None:
            (configuration,) = content["configurations"].values()
            configuration["spacing"] = [spacing_mm] * dimension
            content["original_median_spacing_after_transp"] = [spacing_mm] * 3
        self.manager = PlansManager(content)
        (self.name,) = self.manager.available_configurations
        self.configuration = self.manager.get_configuration(self.name)
        self.stream = Stream.locate(role, recorded, root / "pre", self.configuration)

    def run(self, raw: Path, processes: int = 1) -> str:
        return preprocess_stream(self.stream, raw, self.manager, self.name, processes)

    def load(self, case: str) -> tuple[np.ndarray, np.ndarray, dict]:
        data, label, _, properties = nnUNetDatasetBlosc2(str(self.stream.folder), [case]).load_case(
            case
        )
        return data[:], label[:], properties


def test_labels_are_merged_to_lesion(tmp_path: Path) -> None:
    place = Place(tmp_path)
    raw = write_raw(
        tmp_path, "Dataset998_Other", 2, labels={"background": 0, "first": 1, "second": 2}
    )
    assert place.run(raw).endswith("2 cases, 2 new")
    for case in ("case_00", "case_01"):
        data, label, properties = place.load(case)
        assert data.shape == label.shape == (1, 1, 32, 32)
        assert set(np.unique(label)) == {0, 1} and len(properties["class_locations"][1]) > 0
        assert abs(data.mean()) < 1e-5 and data.std() == pytest.approx(
            1, abs=1e-4
        )  # the plans' z-score


def test_unlabelled_cases_need_no_label_and_have_no_foreground(tmp_path: Path) -> None:
    place = Place(tmp_path, "unlabeled")
    place.run(write_raw(tmp_path, "Dataset998_Other", 2, labelled=False))
    _, label, properties = place.load("case_00")
    assert properties["class_locations"] == {} and not (label > 0).any()


def test_volumes_in_mm_are_resampled_to_the_plans(tmp_path: Path) -> None:
    place = Place(tmp_path, dimension=3, spacing_mm=2.0)
    place.run(write_raw(tmp_path, "Dataset998_Other", 1, (8, 24, 20)))  # 2 x 1 x 1 mm
    data, label, _ = place.load("case_00")
    assert data.shape == label.shape == (1, 8, 12, 10)


def test_volumes_beside_images_without_spacing_keep_their_pixels(tmp_path: Path) -> None:
    place = Place(tmp_path)  # labelled data are PNG: spacing 999, 1, 1
    place.run(write_raw(tmp_path, "Dataset998_Other", 1, (6, 24, 20)))
    assert place.load("case_00")[0].shape == (1, 6, 24, 20)


def test_images_cannot_feed_volumes(tmp_path: Path) -> None:
    place = Place(tmp_path, dimension=3, spacing_mm=2.0)
    with pytest.raises(
        InputError, match=r"case_00_0000\.png: is a single slice, which fits only 2d plans"
    ):
        place.run(write_raw(tmp_path, "Dataset998_Other", 1))


def test_finished_work_is_skipped_and_changes_are_redone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    raw = write_raw(tmp_path, "Dataset998_Other", 3)
    place.run(raw)
    before = (place.stream.folder / "case_00.b2nd").stat().st_mtime_ns
    assert place.run(raw).endswith("done before")
    (raw / "labelsTr" / "case_01.png").touch()  # a source file changed
    assert place.run(raw).endswith("3 cases, 3 new")
    assert (place.stream.folder / "case_00.b2nd").stat().st_mtime_ns > before


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    place = Place(tmp_path)
    raw = write_raw(tmp_path, "Dataset998_Other", 3)
    place.run(raw)
    # what a kill before the third case leaves: no manifest, no such case, a half-written file aside
    (place.stream.folder / "stream.json").unlink()
    (place.stream.folder / "case_02.pkl").unlink()
    (place.stream.folder / "unfinished" / "case_02").mkdir(parents=True)
    (place.stream.folder / "unfinished" / "case_02" / "case_02.b2nd").write_bytes(b"half")
    with pytest.raises(InputError, match="is not preprocessed; run nnUNetv2_ext_configure"):
        place.stream.cases(place.manager, place.configuration)
    assert place.run(raw).endswith("3 cases, 1 new")
    assert place.load("case_02")[0].shape == (1, 1, 32, 32)


def test_a_bad_case_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    place = Place(tmp_path)
    raw = write_raw(tmp_path, "Dataset998_Other", 3)
    good = (raw / "imagesTr" / "case_01_0000.png").read_bytes()
    (raw / "imagesTr" / "case_01_0000.png").write_bytes(good[:40])
    with pytest.raises(
        InputError, match=r"1 of 3 cases failed, the others are done: .*case_01_0000\.png"
    ):
        place.run(raw, processes=2)
    assert (place.stream.folder / "case_02.pkl").is_file() and not (
        place.stream.folder / "case_01.pkl"
    ).exists()
    assert not (place.stream.folder / "stream.json").exists()


def test_changed_plans_and_lost_files_are_noticed_at_training(tmp_path: Path) -> None:
    place = Place(tmp_path)
    raw = write_raw(tmp_path, "Dataset998_Other", 2)
    place.run(raw)
    arguments = ("general", ["Dataset998_Other"], str(tmp_path / "pre"))
    keys = stream_keys(*arguments, place.manager, place.configuration)
    assert keys == [
        "Dataset998_Other/nnUNetPlans_2d/case_00",
        "Dataset998_Other/nnUNetPlans_2d/case_01",
    ]
    other = Place(tmp_path, spacing_mm=3.0)
    with pytest.raises(InputError, match="preprocessed with other plans"):
        stream_keys(*arguments, other.manager, other.configuration)
    (place.stream.folder / "case_01.b2nd").unlink()
    with pytest.raises(InputError, match=r"1 preprocessed cases are missing, e\.g\. case_01"):
        stream_keys(*arguments, place.manager, place.configuration)


def test_slices_do_not_fit_plans_that_swap_the_axes(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.manager.plans["transpose_forward"] = [2, 0, 1]
    with pytest.raises(InputError, match="fits only 2d plans of axial slices"):
        place.run(write_raw(tmp_path, "Dataset998_Other", 1))


def test_volumes_follow_the_plans_axes(tmp_path: Path) -> None:
    place = Place(tmp_path, dimension=3, spacing_mm=1.0)
    place.manager.plans["transpose_forward"] = [1, 0, 2]
    raw = write_raw(tmp_path, "Dataset998_Other", 1, (8, 24, 20))  # 2 x 1 x 1 mm
    place.run(raw)
    data, label, _ = place.load("case_00")
    assert data.shape == label.shape == (1, 24, 16, 20)
    source = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTr" / "case_00.nii.gz")))
    assert np.argwhere(label[0]).mean(0) == pytest.approx(
        np.argwhere(source).mean(0)[[1, 0, 2]] * [1, 2, 1], abs=1.0
    )


def test_only_named_labels_become_lesion(tmp_path: Path) -> None:
    raw = write_raw(
        tmp_path, "Dataset998_Other", 2, labels={"background": 0, "organ": 1, "cancer": 2}
    )
    place = Place(tmp_path, recorded="Dataset998_Other=cancer")
    place.run(raw)
    assert not place.load("case_00")[1].any() and place.load("case_01")[1].any()  # organ, cancer
    all_labels = Place(tmp_path)
    assert all_labels.run(raw).endswith("2 new")
    assert all_labels.load("case_00")[1].any()
    with pytest.raises(
        InputError, match="Dataset998_Other has no label tumour; it has organ, cancer"
    ):
        Place(tmp_path, recorded="Dataset998_Other=tumour").run(raw)


@pytest.mark.parametrize("recorded", ["../evil", "Dataset1_X", "Dataset998_../../x", ""])
def test_impossible_names_in_the_plans_are_refused(tmp_path: Path, recorded: str) -> None:
    with pytest.raises(InputError, match="impossible stream"):
        Place(tmp_path, recorded=recorded)


def test_lost_files_are_made_again(tmp_path: Path) -> None:
    place = Place(tmp_path)
    raw = write_raw(tmp_path, "Dataset998_Other", 2)
    place.run(raw)
    for lost in ("case_01.b2nd", "case_00_seg.b2nd"):
        (place.stream.folder / lost).unlink()
    assert place.run(raw).endswith("2 cases, 2 new")
    assert len(place.stream.cases(place.manager, place.configuration)) == 2


def test_an_error_without_a_message_is_named_by_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("nnunet_ext.training.streams.preprocessing.preprocess_case", out_of_memory)
    with pytest.raises(InputError, match=r"2 of 2 cases failed.*: MemoryError; .*: MemoryError"):
        Place(tmp_path).run(write_raw(tmp_path, "Dataset998_Other", 2))


@pytest.mark.parametrize(
    ("role", "break_it", "message"),
    [
        (
            "general",
            lambda raw: (raw / "labelsTr" / "case_01.png").unlink(),
            "case_01.png: label of case case_01 is missing",
        ),
        (
            "unlabeled",
            lambda raw: None,
            "imagesUn: no such folder; unlabelled images belong in imagesUn",
        ),
        ("general", lambda raw: _add_ignore_label(raw), "has an ignore label"),
        ("general", lambda raw: _rename(raw, "scan1.png"), "scan1.png: has no channel number"),
        (
            "general",
            lambda raw: _rename(raw, "case_01_0001.png"),
            "case_00|has 2 channels|label of case",
        ),
    ],
)
def test_raw_data_that_cannot_serve_are_refused(
    tmp_path: Path, role: str, break_it, message: str
) -> None:
    raw = write_raw(tmp_path, "Dataset998_Other", 2)
    break_it(raw)
    with pytest.raises(InputError, match=message):
        Place(tmp_path, role).run(raw)


def _add_ignore_label(raw: Path) -> None:
    content = json.loads((raw / "dataset.json").read_text())
    content["labels"]["ignore"] = 2
    (raw / "dataset.json").write_text(json.dumps(content))


def _rename(raw: Path, name: str) -> None:
    (raw / "imagesTr" / "case_00_0000.png").rename(raw / "imagesTr" / name)


def test_two_choices_of_lesions_do_not_share_a_folder(tmp_path: Path) -> None:
    raw = write_raw(
        tmp_path, "Dataset998_Other", 2, labels={"background": 0, "first": 1, "second": 2}
    )
    first = Place(tmp_path, recorded="Dataset998_Other=first")
    first.run(raw)
    lesion_voxels = first.load("case_00")[1].sum()

    second = Place(tmp_path, recorded="Dataset998_Other=second")
    second.run(raw)
    assert first.load("case_00")[1].sum() == lesion_voxels
    assert len({place.stream.folder for place in (first, second, Place(tmp_path))}) == 3


@pytest.mark.parametrize(
    "identifier", ["../../victim", "/victim", "..", ".hidden", "a\\b", "a\x1b[2J", ""]
)
def test_plans_cannot_lead_out_of_the_preprocessed_folder(tmp_path: Path, identifier: str) -> None:
    content = plans(2)
    (configuration,) = content["configurations"].values()
    configuration["data_identifier"] = identifier
    manager = PlansManager(content)
    (name,) = manager.available_configurations
    with pytest.raises(InputError, match="data_identifier"):
        Stream.locate("general", "Dataset998_Other", tmp_path, manager.get_configuration(name))


def test_a_folder_of_somebody_else_is_not_deleted(tmp_path: Path) -> None:
    place = Place(tmp_path)
    precious = place.stream.folder / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(InputError, match="move them elsewhere"):
        place.run(write_raw(tmp_path, "Dataset998_Other", 2))
    assert precious.read_text() == "mine"


def test_case_names_cannot_lead_out_of_the_stream(tmp_path: Path) -> None:
    raw = write_raw(tmp_path, "Dataset998_Other", 2)
    content = json.loads((raw / "dataset.json").read_text())
    images = sorted(str(file) for file in (raw / "imagesTr").iterdir())
    label = str(next((raw / "labelsTr").iterdir()))
    content["dataset"] = {"../../evil": {"images": images[:1], "label": label}}
    (raw / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"case '\.\./\.\./evil' is a path"):
        Place(tmp_path).run(raw)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
def test_a_full_disk_is_not_blamed_on_the_images(tmp_path: Path) -> None:
    """No file may grow beyond a few bytes, as on a full disk."""
    raw = write_raw(tmp_path / "raw", "Dataset998_Other", 2, (64, 64))
    code = f"""
import resource, sys
from pathlib import Path
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunet_ext.errors import InputError
from nnunet_ext.training.streams.location import Stream
from nnunet_ext.training.streams.preprocessing import preprocess_stream
from tests.miniature_plans import plans
manager = PlansManager(plans())
configuration = manager.get_configuration("2d")
stream = Stream.locate("general", "Dataset998_Other", {str(tmp_path)!r}, configuration)
stream.folder.mkdir(parents=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
preprocess_stream(stream, Path({str(raw)!r}), manager, "2d", 1)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1 and "cannot write" in last and "Traceback" not in ended.stderr, (
        ended.stderr
    )
