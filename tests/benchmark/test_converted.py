"""Parts of data sets that users have converted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_ext.benchmark.converted import Converted, write_one_slice_per_scan
from nnunet_ext.errors import InputError
from nnunet_ext.files.json_files import read_json
from tests.miniature_raw import write_raw

SLICES = Converted("Dataset541_Slices", "nnUNetv2_ext_convert MSD -i DOWNLOAD -d 541")
OTHERS = Converted("Dataset542_Others")


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The suite's folder, beside the user's."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setenv("nnUNet_raw", str(theirs))
    ours = tmp_path / "ours"
    ours.mkdir()
    yield ours


def write_slices(theirs: Path, name: str, scans: dict[str, int]) -> None:
    """Write as many slices of each scan, and the table that says of which scan they are."""
    folder = write_raw(theirs, name, sum(scans.values()))
    volumes = [scan for scan, count in scans.items() for _ in range(count)]
    lines = [f"case_{place:02d},{scan}" for place, scan in enumerate(volumes)]
    (folder / "conversion.csv").write_text("\n".join(["case,volume", *lines]) + "\n")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_missing_data_set_names_the_command_that_makes_it(raw: Path) -> None:
    with pytest.raises(InputError, match="convert it first: nnUNetv2_ext_convert MSD -i DOWNLOAD"):
        SLICES.link(raw)
    assert list(raw.iterdir()) == []


def test_a_part_holds_links_to_its_cases(tmp_path: Path, raw: Path) -> None:
    write_slices(tmp_path / "theirs", SLICES.name, {"a": 2, "b": 2})
    part = raw / "Dataset551_Part"
    SLICES.write_part(part, ["case_00"], ["case_01", "case_03"])

    assert names(part / "imagesTr") == ["case_00_0000.png"]
    assert names(part / "labelsTr") == ["case_00.png"]
    assert names(part / "imagesTs") == ["case_01_0000.png", "case_03_0000.png"]
    assert names(part / "labelsTs") == ["case_01.png", "case_03.png"]
    original = tmp_path / "theirs" / SLICES.name / "labelsTr" / "case_03.png"
    assert (part / "labelsTs" / "case_03.png").read_bytes() == original.read_bytes()
    description = read_json(part / "dataset.json", "")
    assert description["numTraining"] == 1 and description["name"] == part.name
    assert (part / "conversion.csv").is_file()  # says which cases are one patient's


def test_an_incomplete_data_set_is_refused(tmp_path: Path, raw: Path) -> None:
    write_slices(tmp_path / "theirs", SLICES.name, {"a": 2})
    with pytest.raises(InputError, match="lacks 1 cases, first case_07"):
        SLICES.write_part(raw / "Dataset551_Part", ["case_00"], ["case_07"])
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize(("wanted", "written"), [(3, 3), (100, 5)])
def test_every_drawn_slice_is_of_another_scan(
    tmp_path: Path, raw: Path, wanted: int, written: int
) -> None:
    write_slices(tmp_path / "theirs", SLICES.name, {"a": 4, "b": 1, "c": 3})
    write_slices(tmp_path / "theirs", OTHERS.name, {"a": 2, "d": 2})
    first = {"Dataset551_A": SLICES, "Dataset552_B": OTHERS}
    again = {"Dataset553_A": SLICES, "Dataset554_B": OTHERS}
    write_one_slice_per_scan(first, raw, wanted)
    write_one_slice_per_scan(again, raw, wanted)

    drawn = []
    for name, dataset in first.items():
        scan_of = {
            case: scan for scan, cases in dataset.slices_of_scans().items() for case in cases
        }
        for file in names(raw / name / "labelsTr"):
            drawn.append((name, scan_of[file.removesuffix(".png")]))
    assert len(drawn) == len(set(drawn)) == written
    assert names(raw / "Dataset551_A" / "labelsTr") == names(raw / "Dataset553_A" / "labelsTr")


def test_slices_without_their_scans_are_refused(tmp_path: Path, raw: Path) -> None:
    write_raw(tmp_path / "theirs", SLICES.name, 2)
    with pytest.raises(InputError, match=r"conversion.csv: no such file; convert the data set"):
        write_one_slice_per_scan({"Dataset551_A": SLICES}, raw, 1)
