"""What holds for every data set; a new module in dataset_conversion.datasets is tested at once."""

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from dataset_conversion.checking.verification import verify
from dataset_conversion.converter import Converter
from dataset_conversion.datasets import converter_named, converters
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.conversion_job import Workers
from nnunet_ext.errors import InputError

# A miniature download per data set: fixture name, and the options to try.
MINIATURES: dict[str, tuple[str, dict]] = {
    "COVID-19-20": ("covid_19_20_original", {"slices": "every:3", "window": (-1250.0, 250.0)}),
    "COVID-19-CT-Seg": (
        "covid_19_ct_seg_original",
        {"labels_wanted": "lung,infection", "slices": "lesion"},
    ),
    "COVID-SemiSeg": ("covid_original", {"labels_wanted": "ggo,consolidation"}),
    "DICOM": ("dicom_original", {"map": ("lung*=lung", "lesion=lesion")}),
    "Generic": (
        "generic_original",
        {
            "images": "scans",
            "masks": "masks",
            "image_suffix": "_ct",
            "mask_suffix": "_seg",
            "map": ("1=a", "5=b"),
        },
    ),
    "LIDC-IDRI": ("lidc_original", {"consensus_percent": 100.0, "denominator": "marked"}),
    "LiTS": ("lits_original", {"labels_wanted": "liver+tumour", "slices": "all"}),
    "MSD": ("lung_original", {"merge": ("1=nodule",), "split": "patient:2"}),
    "MosMed": ("mosmed_original", {}),
    "NSCLC-PleuralEffusion": ("nsclc_original", {"reviewer": "union", "positives_only": True}),
    "RSNA-ICH": ("bhsd_original", {"classes": "types"}),
    "SIRM": ("sirm_original", {}),
    "Synthetic-COVID-CT": (
        "synthetic_original",
        {
            "images": "img",
            "masks": "map",
            "map": ("64=lung", "128=ggo", "255=consolidation"),
        },
    ),
}
NAMES = tuple(converters())


@pytest.fixture
def converter(request: pytest.FixtureRequest) -> Converter:
    name = request.param
    if name not in MINIATURES:
        pytest.fail(
            f"{name} has no miniature: write one in dataset_conversion/phantoms, give it a fixture "
            f"in tests/dataset_conversion/conftest.py, and name both in MINIATURES of this file"
        )

    fixture, options = MINIATURES[name]

    return converters()[name](request.getfixturevalue(fixture), **options)


def test_every_miniature_is_of_a_data_set() -> None:
    assert set(MINIATURES) <= set(NAMES)


@pytest.mark.parametrize("kind", converters().values(), ids=str)
def test_declaration_is_complete(kind: type[Converter]) -> None:
    for text in (kind.name, kind.task, kind.licence, kind.download, kind.citation, kind.__doc__):
        assert text
    assert kind.download.startswith("http")
    assert converter_named(kind.name.upper()) is kind


@pytest.mark.parametrize("converter", NAMES, indirect=True)
def test_nnunet_accepts_the_result(converter: Converter, raw: Path) -> None:
    assert convert(converter, raw / "Dataset120_X").problems == []
    verify_dataset_integrity(str(raw / "Dataset120_X"), 1)


@pytest.mark.parametrize("converter", NAMES, indirect=True)
def test_without_labels(converter: Converter, raw: Path) -> None:
    """``--unlabeled``: images as with labels, or those that the data set has without."""
    slices = "" if converter.slices == "lesion" else converter.slices
    unlabeled = dataclasses.replace(
        converter, unlabeled=True, labels_wanted="", split="", slices=slices
    )
    summary = convert(unlabeled, raw / "Dataset121_X")
    assert summary.problems == [] and summary.count_by_part["Un"] > 0
    assert verify(raw / "Dataset121_X").problems == []
    assert not (raw / "Dataset121_X" / "labelsTr").exists()


@pytest.mark.parametrize("converter", NAMES, indirect=True)
def test_result_depends_on_neither_run_nor_processes(
    converter: Converter, raw: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    again = pickle.loads(pickle.dumps(converter))
    for parent, processes, source in (("a", 1, converter), ("b", 2, again)):
        convert(source, raw / parent / "Dataset120_X", Workers(processes))
    assert contents(raw / "a") == contents(raw / "b")


@pytest.mark.parametrize("kind", converters().values(), ids=str)
def test_empty_folders_are_refused_helpfully(kind: type[Converter], tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="-i names") as caught:
            kind(folder).find_cases()
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_close_names_are_suggested() -> None:
    with pytest.raises(
        InputError, match=r"did you mean COVID-SemiSeg\? valid are: .*COVID-SemiSeg, .*MSD"
    ):
        converter_named("covidsemiseg")
