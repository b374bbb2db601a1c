"""Leakage between data sets: by name, and by content."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.datasets import converters
from dataset_conversion.datasets.covid_19_ct_seg import Covid19CTSeg
from dataset_conversion.datasets.covid_semiseg import CovidSemiSeg
from dataset_conversion.datasets.generic import Generic
from dataset_conversion.datasets.msd import MSD
from dataset_conversion.datasets.sirm import SIRM
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.overlaps import OVERLAPS, overlap_of, shared_images, unknown_origin
from nnunet_ext.errors import InputError
from tests.miniature_raw import write_raw


def test_the_map_is_symmetric_and_names_each_pair_once() -> None:
    pairs = [frozenset((known.first, known.second)) for known in OVERLAPS]
    assert len(set(pairs)) == len(pairs)
    assert all(len(pair) == 2 for pair in pairs)
    for known in OVERLAPS:
        assert (
            overlap_of(known.first, known.second) is overlap_of(known.second, known.first) is known
        )
    assert overlap_of("MosMed", "LiTS") is None


def test_our_data_sets_are_in_the_map_under_their_names(
    covid: Path, sirm_original: Path, lits_original: Path, covid_19_ct_seg_original: Path
) -> None:
    names = {name for known in OVERLAPS for name in (known.first, known.second)}
    ours = [CovidSemiSeg(covid), CovidSemiSeg(covid, unlabeled=True), SIRM(sirm_original)]
    ours += [SIRM(sirm_original, wanted_part="volumes"), converters()["LiTS"](lits_original)]
    ours += [Covid19CTSeg(covid_19_ct_seg_original)]
    assert {converter.collection for converter in ours} <= names
    labelled, unlabelled = (
        overlap_of(converter.collection, "COVID-19-CT-Seg") for converter in ours[:2]
    )
    assert labelled is None and unlabelled is not None


def test_overlapping_sets_are_told_and_forbidden(
    covid: Path, covid_19_ct_seg_original: Path, raw: Path
) -> None:
    convert(CovidSemiSeg(covid, unlabeled=True), raw / "Dataset121_X")
    other = Covid19CTSeg(covid_19_ct_seg_original)
    with pytest.raises(InputError, match="Dataset121_X overlaps with COVID-19-CT-Seg"):
        convert(other, raw / "Dataset122_X", forbid_overlap=True)
    assert not (raw / "Dataset122_X").exists()
    (note,) = convert(other, raw / "Dataset122_X").notes
    assert "the same 20 volumes" in note
    assert "do not train on one and test on the other" in note


def test_liver_of_the_decathlon_is_lits(lits_original: Path, lung: Path, raw: Path) -> None:
    description = lung / "dataset.json"
    description.write_text(description.read_text().replace('"Lung"', '"Liver"'))
    convert(MSD(lung), raw / "Dataset003_X")
    kind = converters()["LiTS"]
    assert (
        "the same scans under another licence"
        in convert(kind(lits_original), raw / "Dataset004_X").notes[-1]
    )


def test_same_images_under_other_names_are_found(lung: Path, raw: Path, tmp_path: Path) -> None:
    convert(MSD(lung), raw / "Dataset006_X")
    source = tmp_path / "renamed"
    for part in ("imagesTr", "labelsTr"):
        (source / part).mkdir(parents=True)
        (source / part / "a.nii.gz").write_bytes((lung / part / "lung_003.nii.gz").read_bytes())
    generic = Generic(source, images="imagesTr", masks="labelsTr", channel="CT")
    assert convert(generic, raw / "Dataset007_X").copies == {"a": "Dataset006_X/lung_003"}
    assert "Dataset006_X/lung_003" in (raw / "Dataset007_X/conversion.csv").read_text()
    assert (
        shared_images(raw / "Dataset006_X", raw / "Dataset007_X")
        == "Dataset007_X has 1 images of Dataset006_X, e.g. a"
    )
    assert shared_images(raw / "Dataset006_X", raw) is None
    summary = convert(generic, raw / "Dataset007_X", forbid_overlap=True)
    assert not (raw / "Dataset007_X/dataset.json").exists()
    assert "1 images occur in other data sets (a = Dataset006_X/lung_003)" in summary.problems[0]


def test_data_sets_without_a_record_are_compared_by_content(tmp_path: Path) -> None:
    labelled = write_raw(tmp_path, "Dataset138_Source", 3)
    target = write_raw(tmp_path, "Dataset140_Target", 3, labelled=False, seed=1)
    assert shared_images(labelled, target) is None
    (labelled / "imagesTs").mkdir()
    for name, folder in (("case_00_0000.png", "imagesTr"), ("case_02_0000.png", "imagesTs")):
        (labelled / folder / f"copy_{name}").write_bytes((target / "imagesUn" / name).read_bytes())
    expected = (
        "Dataset140_Target has 2 images of Dataset138_Source, 1 of them in its test set, e.g. "
        "case_00_0000.png"
    )
    assert shared_images(labelled, target) == expected
    assert shared_images(labelled, labelled) is None


def test_data_sets_that_others_made_are_compared_by_their_files(lung: Path, raw: Path) -> None:
    """Unknown is not "no": a copy of the raw folder without its journal, and one saved anew."""
    convert(MSD(lung), raw / "Dataset006_X")
    foreign = raw / "Dataset007_Foreign"
    shutil.copytree(raw / "Dataset006_X", foreign)
    for journal in foreign.glob("*.jsonl"):
        journal.unlink()
    assert unknown_origin(raw / "Dataset006_X", foreign) == ["Dataset007_Foreign"]
    for file in foreign.glob("imagesT?/*"):  # other bytes, the same voxels
        volume = nibabel.load(file)
        nibabel.save(nibabel.Nifti1Image(np.asanyarray(volume.dataobj), volume.affine), file)
    assert shared_images(raw / "Dataset006_X", foreign) is None
    shared = shared_images(raw / "Dataset006_X", foreign, read_files=True)
    assert shared is not None and shared.startswith(
        "Dataset007_Foreign has 4 images of Dataset006_X, e.g. "
    )
    assert shared_images(foreign, raw / "Dataset006_X", read_files=True) is not None

    summary = convert(MSD(lung, slices="all"), raw / "Dataset008_Y", forbid_overlap=True)
    assert len(summary.copies) > 0 and not (raw / "Dataset008_Y/dataset.json").exists()


def test_what_cannot_be_compared_is_refused(lung: Path, raw: Path) -> None:
    convert(MSD(lung), raw / "Dataset006_X")
    foreign = raw / "Dataset007_Foreign"
    (foreign / "imagesTr").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"Dataset007_Foreign: shared images are not checked, because .* no images"
    ):
        shared_images(raw / "Dataset006_X", foreign, read_files=True)
    (foreign / "imagesTr/a_0000.nii.gz").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"a_0000\.nii\.gz: cannot be read"):
        shared_images(raw / "Dataset006_X", foreign, read_files=True)
