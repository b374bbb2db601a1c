"""Pseudo-CT as a data set: Hounsfield units, geometry and labels, contrast, subsets, resuming,
refusals.
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from PIL import Image
from torch import nn

from nnunet_ext.commands.synthesize import synthesize_entry
from nnunet_ext.networks.translation import with_dark_background
from nnunet_ext.synthesis import translated_data_set
from nnunet_ext.synthesis.contrast import LesionContrast, lesion_contrast
from nnunet_ext.synthesis.export import RECORD, ExportJob, begin
from nnunet_ext.synthesis.matches import Matches, NearestSource, SimilarTargets, write_matches
from nnunet_ext.synthesis.model import SynthesisModel
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.trainers.pseudo_ct_synthesis import PseudoCTSynthesisTrainer
from nnunet_ext.training.streams.normalization import Window
from nnunet_ext.training.streams.raw_cases import RawCase
from tests.miniature_plans import plans, trainer

SOURCE, TARGET = "Dataset999_Miniature", "Dataset998_Other"
DATASET_JSON = {
    "channel_names": {"0": "FLAIR"},
    "labels": {"background": 0, "tumour": 1},
    "numTraining": 4,
    "file_ending": ".nii.gz",
    "licence": "CC-BY",
}


def content(
    reader: str = "SimpleITKIO", spacing: tuple[float, float] = (1.0, 1.0), **entry: Any
) -> dict[str, Any]:
    made = plans(
        streams={"target_domain": [TARGET]},
        **{
            "normalizations": {"target_domain": "window(0,80)"},
            "settings": {"generator_width": 2},
            **entry,
        },
    )
    made["image_reader_writer"] = reader
    made["configurations"]["2d"]["spacing"] = list(spacing)
    return made


def written(image: np.ndarray, path: Path, spacing: tuple[float, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = sitk.GetImageFromArray(image)
    made.SetSpacing(spacing)
    made.SetOrigin((-12.5, 7.25, 30.0))
    made.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(made, str(path))


def raw_source(root: Path, cases: int = 4, shape: tuple[int, ...] = (1, 21, 26)) -> Path:
    rng = np.random.default_rng(0)
    folder = root / "nnUNet_raw" / SOURCE
    for case in range(cases):
        image = rng.normal(100, 20, shape).astype(np.float32)
        image[:, :3] = 0  # outside the head
        label = np.zeros(shape, dtype=np.uint8)
        label[:, 8:12, 10:15] = case > 0
        written(image, folder / "imagesTr" / f"case_{case:02d}_0000.nii.gz", (0.8, 0.9, 5.0))
        written(label, folder / "labelsTr" / f"case_{case:02d}.nii.gz", (0.8, 0.9, 5.0))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return folder


def trained(root: Path, plans_dict: dict[str, Any], cls: type = PseudoCTSynthesisTrainer) -> Any:
    """A trainer, and its checkpoint where nnU-Net's training leaves it."""
    made = trainer(cls, root, plans_dict, dataset_json=DATASET_JSON)
    folder = Path(made.output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "plans.json").write_text(json.dumps(made.plans_manager.plans))
    (folder.parent / "dataset.json").write_text(json.dumps(made.dataset_json))
    made.save_checkpoint(str(folder / "checkpoint_final.pth"))
    return made


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        synthesize_entry(["-d", "999", "-device", "cpu", *map(str, arguments)])
    return int(ended.value.code or 0)


def matches_file(root: Path, source: str = SOURCE) -> Path:
    similar = {f"case_{i:02d}": SimilarTargets(("ct_01",), (1.0,)) for i in range(4)}
    nearest = {"ct_01": NearestSource("case_02", 1.0)}
    subsets = {
        "matched": ("case_02",),
        "unmatched": ("case_00", "case_01", "case_03"),
        "random": (),
    }
    write_matches(Matches(source, TARGET, {}, similar, nearest, subsets), root / "matches.json")
    return root / "matches.json"


@pytest.fixture(scope="module")
def trained_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source and a synthesis that no test changes."""
    root = tmp_path_factory.mktemp("trained")
    raw_source(root)
    trained(root, content())
    return root


@pytest.fixture
def place(trained_place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(trained_place / variable))
    return trained_place


# --- one case
# --------------------------------------------------------------------------------------------------


class Same(nn.Module):
    """A translator that leaves images as they are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(-1, 1)


def same_model(spacing: tuple[float, float], window: Window, patch: int = 16) -> SynthesisModel:
    """Reads what is already in [-1, 1] and writes the window's unit."""
    plans_dict = content(spacing=spacing)
    plans_dict["configurations"]["2d"] |= {
        "normalization_schemes": ["NoNormalization"],
        "patch_size": [patch, patch],
    }
    manager = PlansManager(plans_dict)
    translator: Any = Same()
    configuration = manager.get_configuration("2d")
    return SynthesisModel(
        translator, manager, configuration, DATASET_JSON, window, torch.device("cpu")
    )


@pytest.mark.parametrize("patch", [16, 64])
@pytest.mark.parametrize("window", [Window(0, 80), Window(-1000, 400)])
def test_hounsfield_units_come_back_within_one(tmp_path: Path, window: Window, patch: int) -> None:
    """Through normalisation, padding, cropping of empty rows, and the translation's range."""
    rng = np.random.default_rng(0)
    hu = rng.uniform(window.low, window.high, (2, 21, 26)).round()
    normalized = window(hu)
    normalized[normalized == 0] = 1e-3  # nnU-Net crops zeros
    normalized[:, :3], hu[:, :3] = 0, window.low
    written(normalized, tmp_path / "case_0000.nii.gz", (0.8, 0.9, 5.0))
    model = same_model((0.9, 0.8), window, patch)
    result = model.synthesize([str(tmp_path / "case_0000.nii.gz")])
    assert result.shape == (1, 2, 21, 26)
    assert np.abs(np.rint(result[0]) - hu).max() <= 1


def test_a_resampled_slice_comes_back_on_its_grid(tmp_path: Path) -> None:
    """A linear ramp, planned at twice the resolution."""
    ramp = np.linspace(-0.9, 0.9, 26, dtype=np.float32) * np.ones((1, 21, 1), dtype=np.float32)
    written(ramp, tmp_path / "case_0000.nii.gz", (0.8, 0.8, 5.0))
    result = same_model((0.4, 0.4), Window(0, 80)).synthesize([str(tmp_path / "case_0000.nii.gz")])
    assert result.shape == (1, 1, 21, 26)
    assert np.abs(result[0, 0] - Window(0, 80).inverse(ramp[0]))[:, 2:-2].max() < 1


def test_the_translation_is_that_of_the_trained_network(tmp_path: Path) -> None:
    """Padded to the patch as the loader pads, in the middle."""
    source = raw_source(tmp_path)
    plans_dict = content(spacing=(0.9, 0.8))
    plans_dict["configurations"]["2d"]["patch_size"] = [32, 32]
    made = trained(tmp_path, plans_dict)
    model = SynthesisModel.load(
        Path(made.output_folder).parent, "0", "checkpoint_final.pth", torch.device("cpu")
    )
    result = model.synthesize([str(source / "imagesTr" / "case_01_0000.nii.gz")])

    image = sitk.GetArrayFromImage(
        sitk.ReadImage(str(source / "imagesTr" / "case_01_0000.nii.gz"))
    )[0, 3:]
    z_scores = (image - image.mean()) / max(image.std(), 1e-8)
    padded = torch.zeros(1, 1, 32, 32)
    padded[0, 0, 7:25, 3:29] = torch.from_numpy(z_scores)
    with torch.no_grad():
        translated = made.network.translator(with_dark_background(padded))
        expected = (translated[0, 0, 7:25, 3:29].numpy() + 1) * 40
    np.testing.assert_allclose(result[0, 0, 3:], expected, atol=0.05)
    assert (result[0, 0, :3] == 0).all()


# --- contrast
# --------------------------------------------------------------------------------------------------


def test_contrast_by_hand() -> None:
    """A lesion of 2 pixels at 60; its rim of city-block distance 3 at 30, except one excluded pixel
    at 1000.
    """
    image, lesion = np.full((2, 15, 15), 30.0), np.zeros((2, 15, 15), dtype=bool)
    lesion[0, 7, 7:9] = True
    image[lesion] = 60
    image[1] = 500  # another slice is no rim
    image[0, 7, 5] = 1000
    excluded = image == 1000
    found = lesion_contrast(image, lesion, excluded)
    assert (found.lesion_pixels, found.inside, found.rim, found.difference) == (2, 60, 30, 30)


def test_a_case_without_lesion_has_no_contrast() -> None:
    found = lesion_contrast(np.ones((1, 5, 5)), np.zeros((1, 5, 5), dtype=bool))
    assert found.lesion_pixels == 0 and math.isnan(found.difference)


# --- the data set
# --------------------------------------------------------------------------------------------------


def geometry(image: sitk.Image) -> tuple:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def test_geometry_and_labels_are_the_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = raw_source(tmp_path)
    splits = [{"train": ["case_00", "case_01"], "val": ["case_02", "case_03"]}]
    (source / "splits_final.json").write_text(json.dumps(splits))
    trained(tmp_path, content())
    assert run("-o", 301, "--matches", matches_file(tmp_path)) == 0
    new = source.parent / "Dataset301_PseudoCT"
    for case in range(4):
        name = f"case_{case:02d}"
        image, original = (
            sitk.ReadImage(str(f / "imagesTr" / f"{name}_0000.nii.gz")) for f in (new, source)
        )
        label, own_label = (
            sitk.ReadImage(str(f / "labelsTr" / f"{name}.nii.gz")) for f in (new, source)
        )
        assert geometry(image) == geometry(original) == geometry(label)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(label), sitk.GetArrayFromImage(own_label)
        )
        pixels = sitk.GetArrayFromImage(image)
        assert (
            pixels.dtype == np.int16
            and pixels.min() >= 0
            and pixels.max() <= 80
            and (pixels[0, :3] == 0).all()
        )

    verify_dataset_integrity(str(new), num_processes=1)  # nnU-Net's
    description = json.loads((new / "dataset.json").read_text())
    assert (
        description["channel_names"] == {"0": "CT"}
        and description["labels"] == DATASET_JSON["labels"]
    )
    assert description["numTraining"] == 4 and description["licence"] == "CC-BY"
    assert json.loads((new / "splits_final.json").read_text()) == splits
    with (new / "lesion_contrast.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["lesion_pixels"]) for row in rows] == [0, 20, 20, 20]
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(new / "imagesTr" / "case_01_0000.nii.gz")))
    assert float(rows[1]["inside"]) == pytest.approx(pixels[:, 8:12, 10:15].mean(), abs=0.01)
    with (new / "provenance.csv").open() as stream:
        first = next(csv.DictReader(stream))
    assert (first["case"], first["source_dataset"], first["window"]) == (
        "case_00",
        SOURCE,
        "window(0,80)",
    )
    assert (new / "examples.png").stat().st_size > 0
    assert str(tmp_path) not in (new / RECORD).read_text() + (new / "provenance.csv").read_text()
    assert "4 cases in window(0,80) -> Dataset301_PseudoCT" in capsys.readouterr().out


def test_ignored_pixels_are_no_lesion(tmp_path: Path) -> None:
    """They are neither lesion nor rim, and the new data set ignores them as well."""
    source = raw_source(tmp_path)
    labels = {**DATASET_JSON["labels"], "ignore": 2}
    (source / "dataset.json").write_text(json.dumps({**DATASET_JSON, "labels": labels}))
    label = np.zeros((1, 21, 26), dtype=np.uint8)
    label[:, 8:12, 10:15] = 1
    label[:, 12:16, 10:15] = 2
    written(label, source / "labelsTr" / "case_01.nii.gz", (0.8, 0.9, 5.0))
    trained(tmp_path, content())

    assert run("-o", 301) == 0
    new = source.parent / "Dataset301_PseudoCT"
    assert json.loads((new / "dataset.json").read_text())["labels"] == labels
    with (new / "lesion_contrast.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert int(rows[1]["lesion_pixels"]) == 20


def test_pictures_become_slices(tmp_path: Path) -> None:
    folder = tmp_path / "nnUNet_raw" / SOURCE
    rng = np.random.default_rng(0)
    for part, high, ending in (("imagesTr", 256, "_0000"), ("labelsTr", 2, "")):
        (folder / part).mkdir(parents=True)
        Image.fromarray(rng.integers(0, high, (20, 24), dtype=np.uint8)).save(
            folder / part / f"case_00{ending}.png"
        )
    (folder / "dataset.json").write_text(json.dumps({**DATASET_JSON, "file_ending": ".png"}))
    trained(tmp_path, content("NaturalImage2DIO"))
    assert run("-o", 301) == 0
    new = folder.parent / "Dataset301_PseudoCT"
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(new / "labelsTr" / "case_00.nii.gz")))
    np.testing.assert_array_equal(
        label, np.asarray(Image.open(folder / "labelsTr" / "case_00.png"))
    )
    assert sitk.ReadImage(str(new / "imagesTr" / "case_00_0000.nii.gz")).GetSize() == (24, 20)


@pytest.mark.parametrize(
    ("options", "cases"),
    [
        (["--matched-only", "MATCHES"], ["case_02"]),
        (["--matches", "MATCHES", "--subset", "unmatched"], ["case_00", "case_01", "case_03"]),
        (["--random-subset", "2", "--seed", "3"], None),
    ],
)
def test_subsets(place: Path, tmp_path: Path, options: list[str], cases: list[str] | None) -> None:
    matches, name = str(matches_file(tmp_path)), f"Subset{len(options)}{cases is None}"
    number = 400 + len(options) + 10 * (cases is None)
    given = [matches if option == "MATCHES" else option for option in options]
    assert run("-o", number, "--name", name, *given) == 0
    labels = place / "nnUNet_raw" / f"Dataset{number}_{name}" / "labelsTr"
    names = sorted(path.name.removesuffix(".nii.gz") for path in labels.iterdir())
    assert names == cases or (cases is None and len(names) == 2)


def test_an_interrupted_export_goes_on(tmp_path: Path) -> None:
    source = raw_source(tmp_path)
    trained(tmp_path, content())
    assert run("-o", 301) == 0
    new = source.parent / "Dataset301_PseudoCT"
    kept, lost = (new / "imagesTr" / f"case_{case:02d}_0000.nii.gz" for case in (0, 1))
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    for path in (new / "dataset.json", lost):
        path.unlink()
    assert run("-o", 301) == 0
    assert kept.stat().st_mtime_ns == stamp and (new / "dataset.json").is_file()
    assert np.array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(lost))), read_bytes(before, tmp_path)
    )


def test_an_export_that_is_killed_at_its_figure_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = raw_source(tmp_path)
    trained(tmp_path, content())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(translated_data_set, "export_figure", killed)
        assert run("-o", 301) == 130

    new = source.parent / "Dataset301_PseudoCT"
    assert not (new / "dataset.json").exists()
    assert run("-o", 301) == 0
    assert (new / translated_data_set.FIGURE).is_file() and (new / "dataset.json").is_file()


def test_an_unreadable_match_leaves_its_panel_empty(tmp_path: Path) -> None:
    raw_source(tmp_path)
    trained(tmp_path, content())
    other = tmp_path / "nnUNet_raw" / TARGET
    (other / "imagesTr").mkdir(parents=True)
    (other / "imagesTr" / "ct_01_0000.nii.gz").write_bytes(b"damaged")
    (other / "dataset.json").write_text(json.dumps(DATASET_JSON))
    assert run("-o", 301, "--matches", matches_file(tmp_path)) == 0
    assert (tmp_path / "nnUNet_raw" / "Dataset301_PseudoCT" / "examples.png").is_file()


@pytest.mark.parametrize(
    ("case", "is_found"), [("ct[1]", True), ("*", False), ("**a", False), ("ct?1?", False)]
)
def test_names_in_the_matches_are_no_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, is_found: bool
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    images = tmp_path / TARGET / "imagesUn"
    for name in ("ct[1]", "ct1", "a"):
        written(np.zeros((1, 4, 4)), images / f"{name}_0000.nii.gz", (1.0, 1.0, 1.0))
    (images.parent / "dataset.json").write_text(json.dumps(DATASET_JSON))

    similar = {"case_00": SimilarTargets((case,), (1.0,))}
    matches = Matches(SOURCE, TARGET, {}, similar, {}, {})
    source = [RawCase("case_00", ["case_00_0000.nii.gz"], None)]
    found = translated_data_set._matched_files(matches, source)
    assert found == ({"case_00": str(images / f"{case}_0000.nii.gz")} if is_found else {})


def test_other_translations_are_drawn_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where they lack a case; not where they have another source."""
    raw = raw_source(tmp_path).parent
    trained(tmp_path, content())
    assert run("-o", 301) == run("-o", 302, "--random-subset", 1) == 0
    assert run("-o", 303, "--beside", 301, 302) == 0
    sizes = []
    for number in (301, 303):
        with Image.open(raw / f"Dataset{number}_PseudoCT" / translated_data_set.FIGURE) as figure:
            sizes.append(figure.width)
    assert sizes[1] / sizes[0] == pytest.approx(5 / 3, rel=0.01)  # columns

    record = raw / "Dataset302_PseudoCT" / RECORD
    record.write_text(json.dumps({"source": "Dataset001_Foreign"}))
    assert run("-o", 304, "--beside", 302) == 1
    assert "names the source Dataset001_Foreign, not Dataset999" in capsys.readouterr().err


def read_bytes(content: bytes, root: Path) -> np.ndarray:
    (root / "before.nii.gz").write_bytes(content)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(root / "before.nii.gz")))


def test_another_export_is_not_continued(tmp_path: Path) -> None:
    begin(ExportJob(tmp_path / SOURCE, tmp_path / "new", ("a", "b")))
    begin(ExportJob(tmp_path / SOURCE, tmp_path / "new", ("a", "b")))
    with pytest.raises(Exception, match="exists already; choose another number"):
        begin(ExportJob(tmp_path / SOURCE, tmp_path / "new", ("a",)))


# --- refusals
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("-o", 301, "-f", 3),
            "checkpoint_final.pth: no such checkpoint; train the synthesis first",
        ),
        (
            ("-o", 301, "-p", "otherPlans"),
            "no trained synthesis; run nnUNetv2_train Dataset999_Miniature 2d 0",
        ),
        (("-o", 999), "Dataset999_Miniature: already has the id 999; choose another -o"),
        (("-o", 1000), "-o 1000: choose a number from 1 to 999"),
        (("-o", 301, "--name", "../x"), "--name ../x: use ASCII letters"),
        (("-o", 301, "-tr", "../x"), "-tr '../x' is a path"),
        (("-o", 301, "-f", "one"), "-f one: a fold is a number or all"),
        (("-o", 301, "--subset", "matched"), "--subset matched needs --matches FILE"),
        (("-o", 301, "--random-subset", 9), "--random-subset 9: there are only 4 cases"),
        (
            ("-o", 301, "--matched-only", "FOREIGN"),
            "matches of Dataset001_Foreign, not of Dataset999_Miniature",
        ),
    ],
)
def test_bad_arguments_are_one_line(
    place: Path, tmp_path: Path, arguments: tuple, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = matches_file(tmp_path, "Dataset001_Foreign")
    assert run(*(foreign if argument == "FOREIGN" else argument for argument in arguments)) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (place / "nnUNet_raw" / "Dataset301_PseudoCT").exists()


def test_a_number_that_nnunet_knows_elsewhere_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dataset301_Planned").mkdir()
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    assert run("-o", 301) == 1
    assert "Dataset301_Planned: already has the id 301" in capsys.readouterr().err


def test_models_that_cannot_synthesise_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_source(tmp_path)
    trained(tmp_path, content(), PlainTrainer)
    assert run("-o", 301, "-tr", "PlainTrainer") == 1
    assert "was written by a trainer that does not synthesise images" in capsys.readouterr().err
    trained(tmp_path, content(normalizations={}))
    assert run("-o", 301) == 1
    assert "was trained without a window of the target" in capsys.readouterr().err
    trained(tmp_path, content(normalizations={"target_domain": "window(0,1)"}))
    assert run("-o", 301) == 1
    assert "in which whole numbers are too coarse" in capsys.readouterr().err


@pytest.mark.parametrize(("inside_hu", "is_warned"), [(20.0, True), (60.0, False)])
def test_lesions_that_became_dark_are_warned_about(
    tmp_path: Path, inside_hu: float, is_warned: bool
) -> None:
    contrasts = {
        "case_00": LesionContrast(12, inside_hu, rim=35.0),
        "case_01": LesionContrast(0, math.nan, math.nan),  # no lesion: says nothing
    }
    summary = translated_data_set._summary(tmp_path, contrasts, "window(0,80)")
    assert ("the translation is inverted" in summary) == is_warned
