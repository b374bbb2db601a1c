"""Files as people have them: read where that is unambiguous, and otherwise called what they are."""

import csv
import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from dataset_conversion.checking.verification import verify
from dataset_conversion.datasets.generic import Generic
from dataset_conversion.datasets.lidc_idri import LidcIdri, slices_of_outlines
from dataset_conversion.datasets.lits import LiTS
from dataset_conversion.datasets.msd import MSD
from dataset_conversion.datasets.nsclc_pleural_effusion import NsclcPleuralEffusion
from dataset_conversion.datasets.rsna_ich import RsnaIch
from dataset_conversion.phantoms.haemorrhage_downloads import write_rsna
from dataset_conversion.reading.haemorrhage_table import read_table
from dataset_conversion.reading.label_values import integer_labels, rounded_labels
from dataset_conversion.reading.lidc_annotations import read_annotations
from dataset_conversion.reading.pictures import read_colours
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.line_kinds import LineKinds
from dataset_conversion.writing.result_files import CT_OF_UNKNOWN_UNIT
from dataset_conversion.writing.splits import with_patients
from nnunet_ext.dicom.reading.folder_scan import scan
from nnunet_ext.dicom.reading.series import Rules, acquisitions_of
from nnunet_ext.errors import InputError

AFFINE_MM = np.diag([-1.0, -1, 3, 1])
LESION = np.zeros((8, 7, 5), np.uint8)
LESION[2:5, 1:4, 1:3] = 1
HU = np.where(LESION == 1, 50, -900).astype(np.int16)


def generic(folder: Path, mask: np.ndarray, image: np.ndarray = HU, channel: str = "CT") -> Generic:
    for name, voxels in (("images", image), ("masks", mask)):
        (folder / name).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(voxels, AFFINE_MM), folder / name / "a.nii.gz")
    return Generic(folder, images="images", masks="masks", channel=channel)


@pytest.mark.parametrize("off", [0.99999994, 1.0000001, 0.9992, 1.0008])
def test_labels_that_are_whole_but_for_rounding(tmp_path: Path, off: float) -> None:
    summary = convert(generic(tmp_path / "in", LESION * np.float32(off)), tmp_path / "Dataset120_X")
    assert summary.problems == []
    assert "are rounded" in summary.warnings.most_common()[0][0]
    written = np.asarray(nibabel.load(tmp_path / "Dataset120_X/labelsTr/a.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert np.array_equal(written, LESION)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (LESION * np.float32(0.998), "not whole numbers, such as 0.99800"),
        (LESION * np.float32(1.7), "such as 1.7000"),
        (np.where(LESION, np.nan, 0).astype(np.float32), "NaN or infinite"),
        (np.where(LESION, np.inf, 0).astype(np.float32), "NaN or infinite"),
        (
            LESION.astype(np.int16) * -1,
            "holds the negative value -1; a mask holds whole numbers from 0",
        ),
        (LESION.astype(np.complex64), "holds complex numbers"),
    ],
)
def test_what_is_no_label_is_said_with_enough_digits(
    tmp_path: Path, mask: np.ndarray, words: str
) -> None:
    (problem,) = convert(generic(tmp_path / "in", mask), tmp_path / "Dataset120_X").problems
    assert words in problem
    assert "download it again" not in problem


def test_the_refused_value_differs_from_the_declared_ones() -> None:
    with pytest.raises(InputError, match=r"holds label values 0\.99999994; declared are 0, 1"):
        integer_labels(np.array([0, 0.99999994], np.float32), [0, 1])
    assert rounded_labels(LESION) == (LESION, ())


def test_pairs_of_header_and_image(tmp_path: Path) -> None:
    converter = generic(tmp_path / "in", LESION)
    (tmp_path / "in/masks/a.nii.gz").unlink()
    nibabel.save(nibabel.Nifti1Pair(LESION, AFFINE_MM), tmp_path / "in/masks/a.img")
    with pytest.raises(
        InputError, match=r"holds pairs \.hdr/\.img \(a\.hdr\); save each as one file"
    ):
        converter.find_cases()
    shutil.rmtree(tmp_path / "in/images")
    shutil.copytree(tmp_path / "in/masks", tmp_path / "in/images")
    with pytest.raises(InputError, match=r"holds pairs \.hdr/\.img"):
        Generic(tmp_path / "in", images="images", masks="masks").find_cases()


def picture_mask(folder: Path, name: str, mask: Image.Image, **options: object) -> Generic:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    Image.fromarray(np.full((16, 16), 90, np.uint8)).save(folder / "images/a.png")
    mask.save(folder / "masks" / name, **options)
    return Generic(folder, images="images", masks="masks")


SPOT = np.zeros((16, 16), np.uint8)
SPOT[4:9, 5:11] = 255
FULL, OPAQUE = np.full_like(SPOT, 255), np.dstack([SPOT, SPOT, SPOT, np.full_like(SPOT, 255)])


@pytest.mark.parametrize(
    ("name", "mask", "words"),
    [
        (
            "a.jpg",
            Image.fromarray(np.random.default_rng(0).permutation(SPOT)),
            "is JPEG, which changes the values",
        ),
        ("a.png", Image.fromarray(np.dstack([FULL, SPOT])), "has transparent pixels"),
        ("a.png", Image.fromarray(np.dstack([SPOT, SPOT, SPOT, SPOT])), "has transparent pixels"),
    ],
    ids=["JPEG", "grey and alpha", "RGBA"],
)
def test_masks_whose_values_are_uncertain(
    tmp_path: Path, name: str, mask: Image.Image, words: str
) -> None:
    (problem,) = convert(
        picture_mask(tmp_path / "in", name, mask), tmp_path / "Dataset120_X"
    ).problems
    assert words in problem


@pytest.mark.parametrize(
    "mask", [Image.fromarray(OPAQUE), Image.fromarray(np.dstack([SPOT, FULL]))]
)
def test_opaque_masks_are_read(tmp_path: Path, mask: Image.Image) -> None:
    assert (
        convert(picture_mask(tmp_path / "in", "a.png", mask), tmp_path / "Dataset120_X").problems
        == []
    )


def test_a_transparent_palette_is_no_mask(tmp_path: Path) -> None:
    palette = Image.fromarray(SPOT // 255, "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "a.png", transparency=0)
    with pytest.raises(InputError, match="transparent pixels"):
        read_colours(tmp_path / "a.png")


@pytest.mark.parametrize("channel", ["CT", "ct"])
def test_only_hounsfield_units_are_called_ct(tmp_path: Path, channel: str) -> None:
    converter = generic(tmp_path / "in", LESION, (HU + 1024).astype(np.int16), channel)
    summary = convert(converter, tmp_path / "Dataset120_X")
    assert f'"0": "{CT_OF_UNKNOWN_UNIT}"' in (tmp_path / "Dataset120_X/dataset.json").read_text()
    assert any("no case is in HU" in note for note in summary.notes)
    assert verify(tmp_path / "Dataset120_X").problems == []


def test_a_label_without_background_is_a_finding(tmp_path: Path) -> None:
    summary = convert(generic(tmp_path / "in", np.ones_like(LESION)), tmp_path / "Dataset120_X")
    assert summary.full == ["a"]
    assert any(
        "1 labels without background" in finding
        for finding in verify(tmp_path / "Dataset120_X").findings
    )


@pytest.mark.parametrize("value", ["1.7", "true", "1.0", '"1"', "[1, 2.5]", "[true]"])
def test_labels_of_dataset_json_are_whole_numbers(tmp_path: Path, value: str) -> None:
    convert(generic(tmp_path / "in", LESION), tmp_path / "Dataset120_X")
    file = tmp_path / "Dataset120_X/dataset.json"
    file.write_text(file.read_text().replace('"lesion": 1', f'"lesion": {value}'))
    with pytest.raises(InputError, match="is not an integer"):
        verify(tmp_path / "Dataset120_X")


def unpacked(task: Path) -> None:
    for file in [*task.rglob("*.nii.gz")]:
        if not file.name.startswith("."):
            file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
            file.unlink()


def numbered(task: Path) -> None:
    for file in [*task.glob("images*/*.nii.gz")]:
        if not file.name.startswith("."):
            file.rename(file.with_name(file.name.replace(".nii.gz", "_0000.nii.gz")))


def rounded(task: Path) -> None:
    for file in task.glob("labelsTr/[!.]*.nii.gz"):
        image = nibabel.load(file)
        voxels = np.asarray(image.dataobj).astype(np.float32) * np.float32(0.99999994)  # type: ignore[attr-defined]
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), file)  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", [unpacked, numbered, rounded])
def test_a_task_as_programs_unpack_it(
    lung: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    convert(MSD(lung), tmp_path / "before/Dataset006_X")
    change(lung)
    summary = convert(MSD(lung), tmp_path / "after/Dataset006_X")
    assert summary.problems == []
    assert not any("not in dataset.json" in note for note in summary.notes)
    for name in ("imagesTr/lung_001_0000", "labelsTr/lung_001"):
        before, after = (
            nibabel.load(tmp_path / run / f"Dataset006_X/{name}.nii.gz")
            for run in ("before", "after")
        )
        assert np.array_equal(np.asarray(before.dataobj), np.asarray(after.dataobj))  # type: ignore[attr-defined]
        assert np.array_equal(before.affine, after.affine)  # type: ignore[attr-defined]


def test_a_task_compressed_twice(lung: Path, tmp_path: Path) -> None:
    for file in lung.rglob("lung*.nii.gz"):
        file.write_bytes(gzip.compress(file.read_bytes()))
    problems = convert(MSD(lung), tmp_path / "Dataset006_X").problems
    assert len(problems) == 4
    assert all("is compressed twice; unpack it once" in problem for problem in problems)


def test_a_number_that_a_list_gives_twice(lung: Path) -> None:
    file = lung / "dataset.json"
    file.write_text(file.read_text().replace('"1": "cancer"', '"1": "cancer", "01": "node"'))
    with pytest.raises(InputError, match="'labels' gives one number twice"):
        MSD(lung).find_cases()


def test_exact_copies_are_used_once_and_others_named(tmp_path: Path) -> None:
    write_rsna(tmp_path / "in")
    shutil.copytree(tmp_path / "in/stage_2_train", tmp_path / "in/stage_2_train_images")
    summary = convert(RsnaIch(tmp_path / "in"), tmp_path / "Dataset120_X")
    assert summary.problems == [] and len(summary.converted) == 27
    assert "21 exact copies of cases are left out" in summary.notes
    changed = next(iter((tmp_path / "in/stage_2_train_images").iterdir()))
    changed.write_bytes(changed.read_bytes()[:-2] + b"\1\1")
    problems = (
        RsnaIch(tmp_path / "in"),
        convert(RsnaIch(tmp_path / "in"), tmp_path / "Dataset121_X").problems,
    )
    assert len(problems[1]) == 2
    assert (
        "would both become case" in problems[1][0]
        and "and differ; remove one of them" in problems[1][0]
    )


def long_rows(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def wide(text: str) -> str:
    kinds = ["any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural"]
    values: dict[str, dict[str, str]] = {}
    for name, value in long_rows(text)[1:]:
        image, _, kind = name.rpartition("_")
        values.setdefault(image, {})[kind] = value
    rows = [[image, *(of[kind] for kind in kinds)] for image, of in values.items()]
    return "".join(",".join(row) + "\n" for row in [["Image", *kinds], *rows])


TABLES: dict[str, Callable[[str], str]] = {
    "index": lambda text: "".join(
        f"{index or ''},{line}\n" for index, line in enumerate(text.splitlines())
    ),
    "semicolon": lambda text: text.replace(",", ";"),
    "tab": lambda text: text.replace(",", "\t"),
    "space": lambda text: text.replace("ID,Label", "ID, Label"),
    "spaces": lambda text: text.replace(",", " , "),
    "blank lines": lambda text: text + "\n\n",
    "decimals": lambda text: text.replace(",0\n", ",0.0\n").replace(",1\n", ",1.0\n"),
    "quoted": lambda text: "".join(
        '"' + line.replace(",", '","') + '"\n' for line in text.splitlines()
    ),
    "small letters": lambda text: text.replace("ID,Label", "id,label"),
    "mark and CR LF": lambda text: "\ufeff" + text.replace("\n", "\r\n"),
    "wide": wide,
}


@pytest.mark.parametrize("change", TABLES.values(), ids=TABLES)
def test_the_challenges_table_as_programs_save_it(
    tmp_path: Path, change: Callable[[str], str]
) -> None:
    write_rsna(tmp_path)
    file = tmp_path / "stage_2_train.csv"
    expected = read_table([file]).types
    file.write_text(change(file.read_text()), encoding="utf-8", newline="")
    assert read_table([file]).types == expected
    assert len(expected) == 18


def test_a_table_with_another_header_is_named_with_what_is_expected(tmp_path: Path) -> None:
    write_rsna(tmp_path)
    (tmp_path / "stage_2_train.csv").write_text("slice|kind\nID_1|any\n")
    with pytest.raises(
        InputError, match=r"stage_2_train\.csv begins with 'slice\|kind'\), expected columns ID"
    ):
        RsnaIch(tmp_path, haemorrhage="any").find_cases()
    (note,) = [note for note in RsnaIch(tmp_path).find_cases().notes if "table" in note]
    assert note.startswith("a table is not read: stage_2_train.csv begins with 'slice|kind'")


def edited(folder: Path, old: str, new: str) -> list[Path]:
    files = [
        file for file in folder.rglob("[!.]*.xml") if "IdriReadMessage" not in file.read_text()
    ]
    for file in files:
        file.write_text(re.sub(old, new, file.read_text()))
    return files


@pytest.fixture
def lidc(lidc_original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lidc_original, tmp_path / "lidc"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"<imageZposition>[^<]*", "<imageZposition>"),
        (r"<imageZposition>[^<]*", "<imageZposition>NaN"),
        (r"Coord>(\d+)<", r"Coord>\1.0<"),
        (r"<imageSOP_UID>[^<]*", "<imageSOP_UID>"),
    ],
    ids=["no height", "height is NaN", "12.0", "no image"],
)
def test_outlines_need_an_image_or_a_height(lidc: Path, tmp_path: Path, old: str, new: str) -> None:
    edited(lidc, old, new)
    summary = convert(LidcIdri(lidc), tmp_path / "Dataset130_X")
    assert summary.problems == []
    assert summary.label_voxels["nodule"] == 3 * 420


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"<inclusion>[A-Z]*</inclusion>", "", "inclusion is absent, expected TRUE or FALSE"),
        (r"Coord>(\d+)<", r"Coord>\1.5<", "Coord is .*5, not a pixel"),
        (
            r"<(imageZposition|imageSOP_UID)>[^<]*</\w+>",
            "",
            "names neither its image nor its height",
        ),
    ],
)
def test_all_readings_rejected_are_all_named(
    lidc: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    files = edited(lidc, old, new)
    summary = convert(LidcIdri(lidc), tmp_path / "Dataset130_X")
    problems = summary.problems
    assert "3 CT series have no XML file that can be used and are left out" in summary.notes
    assert len(problems) == len(files) == 4
    assert all(re.search(words, problem) for problem in problems)


def test_an_outline_of_nowhere_lands_on_no_slice(lidc: Path, tmp_path: Path) -> None:
    edited(lidc, r"<imageZposition>[^<]*", "<imageZposition>NaN")
    edited(lidc, r"<imageSOP_UID>[^<]*", "<imageSOP_UID>1.2.3")
    problems = convert(LidcIdri(lidc), tmp_path / "Dataset130_X").problems
    assert len(problems) == 3
    assert all("names no image of the series, and no height" in problem for problem in problems)


def test_an_image_uid_that_several_slices_share_places_nothing(lidc: Path) -> None:
    """An anonymiser gave all slices and all outlines one UID; heights tell them apart."""
    file = next(
        file
        for file in edited(lidc, r"<imageSOP_UID>[^<]*", "<imageSOP_UID>1.2.3")
        if file.name == "069.xml"
    )
    annotations = read_annotations(file)
    assert annotations is not None
    accepted, _ = acquisitions_of(scan(file.parent).slices, Rules(derived=True, repeats="first"))
    acquisition = accepted[0]
    shared = type(acquisition)(
        tuple(item._replace(sop_uid="1.2.3") for item in acquisition.slices), acquisition.stack
    )
    places = slices_of_outlines(annotations, shared)
    assert len(set(places.values())) > 1
    for outline, index in places.items():
        assert outline.z_mm == pytest.approx(shared.slices[index].position_mm[2])


def test_lines_of_one_kind_keep_their_numbers() -> None:
    kinds = LineKinds(["UID 1.2.840.5 is private"] * 2 + ["3 slices missing", "1 slices missing"])
    assert kinds.most_common() == [("UID 1.2.840.5 is private", 2), ("1..3 slices missing", 2)]
    assert kinds.total() == 4


def test_a_table_of_patients_gives_each_case_to_one(tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_text("case,patient\na,p1\na,p1\na,p2\n")
    with pytest.raises(InputError, match="assigns a to several patients"):
        with_patients([], tmp_path / "patients.csv")


def test_a_table_of_voxel_sizes_gives_each_volume_one(tmp_path: Path) -> None:
    (tmp_path / "sizes.csv").write_text(
        "volume,x,y,z\n28,0.7,0.7,1\n28,0.7,0.7,1\n29,1,1,2\n29,1,1,3\n"
    )
    with pytest.raises(InputError, match="gives one volume several voxel sizes"):
        _ = LiTS(tmp_path, ircad_spacing_table=tmp_path / "sizes.csv")._table


def test_two_masks_of_one_reviewer_must_be_copies(nsclc_original: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(nsclc_original, tmp_path / "nsclc"))
    cases = len(NsclcPleuralEffusion(folder).find_cases().cases)
    mask = next(file for file in folder.rglob("LUNG1-001_effusion*"))
    (tmp_path / "nsclc/more").mkdir()
    shutil.copy(mask, tmp_path / "nsclc/more")
    found = NsclcPleuralEffusion(folder).find_cases()
    assert found.problems == [] and len(found.cases) == cases
    (tmp_path / "nsclc/more" / mask.name).write_bytes(b"another")
    found = NsclcPleuralEffusion(folder).find_cases()
    assert len(found.problems) == 1 and "are of one reviewer, and differ" in found.problems[0]
    assert len(found.cases) == cases - 1
