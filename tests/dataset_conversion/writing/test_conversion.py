"""The core: interruption, repetition, refusal. The data sets stand in for any other."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.converter import Inventory, LoadedCase, SourceCase
from dataset_conversion.datasets.covid_semiseg import CovidSemiSeg
from dataset_conversion.datasets.generic import Generic
from dataset_conversion.datasets.msd import MSD
from dataset_conversion.phantoms.volume_downloads import save_nifti
from dataset_conversion.writing import case_writer
from dataset_conversion.writing.case_writer import TEMPORARY_PREFIX
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.journal import JOURNAL_NAME, read_header, read_records
from dataset_conversion.writing.summary import Summary
from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import new_dataset_folder
from tests.another_process import another_process
from tests.places import REPOSITORY

TRAIN_IMAGES = "Dataset/TrainingSet/LungInfection-Train/Doctor-label/Imgs"
# A conversion slow enough to be killed midway.
SLOW = """
import sys, time
from pathlib import Path
from dataset_conversion.writing import case_writer
from dataset_conversion.writing.conversion import convert
from dataset_conversion.datasets.covid_semiseg import CovidSemiSeg
check = case_writer.check_written_png
case_writer.check_written_png = lambda *arguments: (time.sleep(0.05), check(*arguments))
convert(CovidSemiSeg(Path(sys.argv[1])), Path(sys.argv[2]))
"""


class Converter(CovidSemiSeg):
    """COVID-SemiSeg that remembers which cases were read."""

    read: list[str] = []  # noqa: RUF012

    def read_case(self, case: SourceCase) -> LoadedCase:
        self.read.append(case.id)
        return super().read_case(case)


@pytest.fixture
def converter(covid: Path) -> Converter:
    Converter.read.clear()
    return Converter(covid)


@pytest.fixture
def folder(raw: Path) -> Path:
    return raw / "Dataset120_X"


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(f"{TEMPORARY_PREFIX}*")]


def test_kill_and_resume(
    converter: Converter, folder: Path, raw: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(converter.source), str(folder)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    deadline = time.monotonic() + 30
    while len(read_records(folder)) < 2 or not leftovers(folder):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = read_records(folder)
    assert 2 <= len(done) < 6
    assert leftovers(folder)
    assert not (folder / "dataset.json").exists()  # nnU-Net takes no unfinished data set
    names = [name for records in done.values() for record in records for name in record.outputs]
    times = {name: (folder / name).stat().st_mtime_ns for name in names}

    summary = convert(converter, folder)
    assert summary.skipped == sorted(done)
    assert sorted(converter.read) == summary.converted
    assert not set(converter.read) & set(done)
    assert times == {name: (folder / name).stat().st_mtime_ns for name in times}
    assert leftovers(folder) == []
    convert(converter, raw / "at_once" / folder.name)
    assert contents(folder) == contents(raw / "at_once" / folder.name)


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_failure_at_any_rename_leaves_no_half_case(
    converter: Converter, folder: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    original, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        calls.append(target)
        if "Tr" in str(target) and len([call for call in calls if "Tr" in str(call)]) == failing:
            raise OSError(28, "No space left on device")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(InputError, match="No space left on device"):
        convert(converter, folder)
    assert leftovers(folder) == []
    images = {path.name.removesuffix("_0000.png") for path in (folder / "imagesTr").iterdir()}
    labels = {path.name.removesuffix(".png") for path in (folder / "labelsTr").iterdir()}
    assert images <= labels  # the label comes first
    assert set(read_records(folder)) == images
    monkeypatch.undo()
    assert len(convert(converter, folder).converted) == 6 - len(images)


def test_a_written_file_that_reads_back_otherwise_is_no_case(
    converter: Converter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = case_writer.write_png
    monkeypatch.setattr(case_writer, "write_png", lambda path, values: write(path, values // 2))
    summary = convert(converter, folder)
    assert len(summary.problems) == 6
    assert "reads back with other pixels" in summary.problems[0]
    assert list(folder.glob("*Tr/*")) == []
    assert not (folder / "dataset.json").exists()


def test_second_run_reads_nothing_and_changes_nothing(
    converter: Converter, folder: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    convert(converter, folder)
    before = contents(folder)
    converter.read.clear()
    summary = convert(converter, folder)
    assert (len(summary.skipped), summary.converted, converter.read) == (6, [], [])
    assert contents(folder) == before


def test_lost_and_fixed_files_are_converted(converter: Converter, folder: Path) -> None:
    mask = converter.source / TRAIN_IMAGES / "../GT/1.png"
    good = mask.read_bytes()
    mask.write_bytes(b"damaged")
    assert len(convert(converter, folder).problems) == 1
    mask.write_bytes(good)
    (folder / "labelsTr/slice_000.png").unlink()
    assert convert(converter, folder).converted == ["slice_000", "slice_001"]
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 4


def test_a_changed_source_is_converted_again(converter: Converter, folder: Path) -> None:
    convert(converter, folder)
    before = (folder / "imagesTr/slice_000_0000.png").read_bytes()
    shutil.copy(
        converter.source / TRAIN_IMAGES / "1.jpg", converter.source / TRAIN_IMAGES / "0.jpg"
    )
    shutil.copy(
        converter.source / TRAIN_IMAGES / "../GT/1.png",
        converter.source / TRAIN_IMAGES / "../GT/0.png",
    )
    summary = convert(converter, folder)
    assert (summary.problems, summary.converted) == ([], ["slice_000"])
    assert "1 cases to convert again: their files changed or more came (slice_000)" in summary.notes
    assert (folder / "imagesTr/slice_000_0000.png").read_bytes() != before
    assert convert(converter, folder).converted == []


def test_a_fixed_mask_of_equal_size_is_converted_again(folder: Path, tmp_path: Path) -> None:
    """Uncompressed files keep their size; another time alone is no change."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for case in "ab":
            save_nifti(
                tmp_path / kind / f"{case}.nii",
                np.zeros((4, 5, 6), np.uint8),
                (1.0, 1.0, 2.0),
                "LPS",
            )
    converter = Generic(tmp_path, images="images", masks="masks")
    convert(converter, folder)
    os.utime(tmp_path / "masks/a.nii", ns=(0, 0))
    assert convert(converter, folder).converted == []
    content = bytearray((tmp_path / "masks/a.nii").read_bytes())
    content[-1] = 1
    (tmp_path / "masks/a.nii").write_bytes(content)
    assert convert(converter, folder).converted == ["a"]
    assert read_records(folder)["a"][0].label_voxels == {"0": 119, "1": 1}


def test_a_changed_source_that_is_damaged_costs_nothing(converter: Converter, folder: Path) -> None:
    convert(converter, folder)
    before = (folder / "imagesTr/slice_000_0000.png").read_bytes()
    (converter.source / TRAIN_IMAGES / "0.jpg").write_bytes(b"damaged")
    (problem,) = convert(converter, folder).problems
    assert "0.jpg: cannot be read" in problem and problem.endswith(
        "; what an earlier run made of it is kept"
    )
    assert (folder / "imagesTr/slice_000_0000.png").read_bytes() == before
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 4


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_task_does_not_join(
    lung: Path,
    brain: Path,
    folder: Path,
    overwrite: bool,
    contents: Callable[[Path], dict[str, bytes]],
) -> None:
    convert(MSD(lung), folder)
    before = contents(folder)
    with pytest.raises(InputError, match="holds MSD_Lung and is not changed"):
        convert(MSD(brain), folder, overwrite=overwrite)
    assert contents(folder) == before


def test_a_download_without_any_earlier_case_does_not_join(
    lung: Path, folder: Path, tmp_path: Path
) -> None:
    convert(MSD(lung), folder)
    other = Path(shutil.copytree(lung, tmp_path / "other"))
    for file in other.rglob("*lung_*.nii.gz"):
        file.rename(file.with_name(file.name.replace("lung_", "chest_")))
    (other / "dataset.json").write_text(
        (other / "dataset.json").read_text().replace("lung_", "chest_")
    )
    with pytest.raises(InputError, match="holds 4 cases, and none of them is in"):
        convert(MSD(other), folder)


def test_options_may_change_while_no_case_is_done(lung: Path, folder: Path) -> None:
    for file in (lung / "imagesTr").glob("lung_*"):
        file.write_bytes(b"damaged")
    for file in (lung / "imagesTs").glob("lung_*"):
        file.unlink()
    assert convert(MSD(lung), folder).converted == []
    assert convert(MSD(lung, slices="all"), folder).converted == []
    assert read_header(folder / JOURNAL_NAME)["settings"]["slices"] == "all"  # type: ignore[index]


def test_the_download_is_no_place_for_the_result(lung: Path) -> None:
    with pytest.raises(InputError, match="is nnUNet_raw and the download"):
        convert(MSD(lung), lung / "Dataset120_X")


def test_a_case_under_another_name_is_not_kept_beside_itself(
    converter: Converter, folder: Path
) -> None:
    convert(converter, folder)
    journal = folder / JOURNAL_NAME
    journal.write_text(journal.read_text().replace("slice_000", "slice_900"))
    for file in folder.glob("*/slice_000*"):
        file.rename(file.with_name(file.name.replace("slice_000", "slice_900")))
    with pytest.raises(
        InputError,
        match=r"what was converted as slice_900 is now called slice_000; add --overwrite",
    ):
        convert(converter, folder)
    summary = convert(converter, folder, overwrite=True)
    assert summary.problems == [] and not list(folder.glob("*/slice_900*"))


class Odd(CovidSemiSeg):
    """A converter that meets what nobody thought of."""

    def read_case(self, case: SourceCase) -> LoadedCase:
        if case.id == "slice_001":
            raise OverflowError("int too large")
        return super().read_case(case)


def test_an_unforeseen_error_is_the_line_of_its_case(converter: Converter, folder: Path) -> None:
    summary = convert(Odd(converter.source), folder)
    assert len(summary.problems) == 1 and len(summary.converted) == 5
    assert "1.jpg: OverflowError: int too large; please report" in summary.problems[0]


def test_half_line_of_the_journal_is_dropped(converter: Converter, folder: Path) -> None:
    convert(converter, folder)
    journal = folder / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-30])
    assert len(convert(converter, folder).converted) == 1
    assert len(read_records(folder)) == 6
    assert [bool(json.loads(line)) for line in journal.read_text().splitlines()] == [True] * 7


def test_other_options_are_refused_unless_overwritten(converter: Converter, folder: Path) -> None:
    convert(converter, folder)
    other = CovidSemiSeg(converter.source, labels_wanted="ggo,consolidation")
    with pytest.raises(InputError, match=r"other options \(labels_wanted=infection\).*--overwrite"):
        convert(other, folder)
    (folder / "my notes.txt").write_text("kept")
    assert len(convert(other, folder, overwrite=True).converted) == 6
    assert "ggo" in (folder / "dataset.json").read_text()
    assert (folder / "my notes.txt").read_text() == "kept"


def test_overwrite_with_fewer_cases_leaves_none_behind(converter: Converter, folder: Path) -> None:
    convert(converter, folder)
    (converter.source / TRAIN_IMAGES / "3.jpg").unlink()
    (converter.source / TRAIN_IMAGES / "../GT/3.png").unlink()
    kept = convert(converter, folder)
    assert kept.notes == ["1 cases of an earlier run are no longer in the download; they are kept"]
    convert(converter, folder, overwrite=True)
    assert not list(folder.rglob("slice_003*"))
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_of_others_are_left_alone(
    converter: Converter,
    folder: Path,
    lung: Path,
    overwrite: bool,
    contents: Callable[[Path], dict[str, bytes]],
) -> None:
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "imagesTr/a_0000.png").write_bytes(b"precious")
    with pytest.raises(InputError, match="was made by something else"):
        convert(converter, folder, overwrite=overwrite)
    (folder / JOURNAL_NAME).write_text("{}\n")
    with pytest.raises(InputError, match="was made by something else"):
        convert(converter, folder, overwrite=overwrite)
    shutil.rmtree(folder)
    convert(MSD(lung), folder)
    before = contents(folder)
    with pytest.raises(InputError, match="was made by MSD"):
        convert(converter, folder, overwrite=overwrite)
    assert contents(folder) == before


def test_foreign_case_in_our_folder(converter: Converter, folder: Path) -> None:
    convert(converter, folder)
    (folder / "imagesTr/foreign_0000.png").touch()
    with pytest.raises(InputError, match=r"foreign_0000\.png: was not made by this conversion"):
        convert(converter, folder, overwrite=True)
    assert (folder / "imagesTr/slice_000_0000.png").is_file()


def test_doctored_journal_deletes_nothing_outside(
    converter: Converter, folder: Path, tmp_path: Path
) -> None:
    convert(converter, folder)
    victim = tmp_path / "victim.png"
    victim.touch()
    journal = folder / JOURNAL_NAME
    lines = journal.read_text().splitlines()
    entry = {**json.loads(lines[1]), "case": "evil"}
    entry["records"][0]["outputs"] = {"../../victim.png": 0, "imagesTr/../../x": 0}
    journal.write_text("\n".join([*lines, json.dumps(entry)]) + "\n")
    convert(converter, folder, overwrite=True)
    assert victim.is_file()


def test_one_writer_at_a_time(converter: Converter, folder: Path) -> None:
    folder.mkdir()
    with (
        another_process(folder),
        pytest.raises(InputError, match=r"another conversion is writing it \(process \d+ on"),
    ):
        convert(converter, folder)
    convert(converter, folder)


def test_id_taken_by_another_name(raw: Path) -> None:
    assert new_dataset_folder(raw, 7, "X") == raw / "Dataset007_X"
    (raw / "Dataset007_Y").mkdir()
    with pytest.raises(InputError, match=r"Dataset007_Y: already has the id 7"):
        new_dataset_folder(raw, 7, "X")
    (raw.parent / "nnUNet_preprocessed/Dataset008_Y").mkdir()
    with pytest.raises(InputError, match=r"Dataset008_Y: already has the id 8"):
        new_dataset_folder(raw, 8, "X")
    for name in ("../X", "a b", "", "ä", "__"):
        with pytest.raises(InputError, match="--name"):
            new_dataset_folder(raw, 9, name)
    for number in (0, 1000, -3):
        with pytest.raises(InputError, match="from 1 to 999"):
            new_dataset_folder(raw, number, "X")


def test_dry_run_writes_nothing(converter: Converter, folder: Path) -> None:
    summary = convert(converter, folder, dry_run=True)
    assert isinstance(summary, Summary)
    assert summary.count_by_part == {"Tr": 4, "Ts": 2}
    assert converter.read == []
    assert not folder.exists()


def test_ids_that_clash_on_other_file_systems(
    converter: Converter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = converter.find_cases()
    first, second, *_ = found.cases
    twins = [
        first,
        SourceCase(first.id.upper(), "Tr", second.image_files, second.label_files),
        *found.cases[2:],
    ]
    monkeypatch.setattr(Converter, "find_cases", lambda self: Inventory(twins))
    summary = convert(converter, folder)
    assert len(summary.problems) == 2
    assert "would both become case" in summary.problems[0]
    assert len(summary.converted) == 4
