"""A hospital's export through a model: in one step and in three, onto the original slices."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_ext.commands.dicom_to_nnunet import dicom_to_nnunet_entry
from nnunet_ext.commands.nnunet_to_dicom import nnunet_to_dicom_entry
from nnunet_ext.commands.predict_dicom import predict_dicom_entry
from tests.hospital.conftest import stacked
from tests.miniature_models import write_model

Export = Callable[..., Path]
FAST = ("-device", "cpu", "--disable_tta", "-np", "1")


def run(entry: Callable[..., None], *arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        entry([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def segments(file: Path) -> dict[str, np.ndarray]:
    """Pixels (n, row, column) of each segment, in the order of the source's slices."""
    import highdicom

    seg = highdicom.seg.segread(file)
    uids = [uid for _, _, uid in seg.get_source_image_uids()]
    pixels = seg.get_pixels_by_source_instance(
        uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    return {
        seg.get_segment_description(number).SegmentLabel: pixels[..., number - 1]
        for number in seg.segment_numbers
    }


def in_three_steps(export: Path, model: Path, folder: Path, *options: object) -> Path:
    from nnunet_ext.hospital.model import read_model
    from nnunet_ext.hospital.prediction import Predictor

    images = folder / "images"
    predictions = folder / "predictions"
    output = folder / "results"
    assert run(dicom_to_nnunet_entry, "-i", export, "-o", images, "-m", model, "-np", 1) == 0

    predictions.mkdir()
    read = read_model(model)
    folds = list(read.checkpoints(None, "checkpoint_final.pth"))
    predictor = Predictor(read, folds, "checkpoint_final.pth", "cpu", mirroring=False)
    stock = predictor.predictor
    stock.predict_from_files_sequential(str(images), str(predictions))  # as nnUNetv2_predict does

    manifest = images / "manifest.json"
    places = ("-i", predictions, "--export", export, "--manifest", manifest, "-o", output)
    assert run(nnunet_to_dicom_entry, *places, "-np", 1, *options) == 0
    return output


def cases_in(output: Path) -> list[str]:
    return sorted(path.parent.name for path in output.glob("*/segmentation.dcm"))


def states_in(output: Path) -> list[str]:
    summary = json.loads((output / "summary.json").read_text())
    return sorted(entry["state"] for entry in summary["cases"].values())


def require_equal(first: Path, second: Path) -> None:
    """Compare the results of one case in two folders."""
    lesion = segments(first / "segmentation.dcm")["lesion"]
    assert 0.01 < lesion.mean() < 0.99
    np.testing.assert_array_equal(lesion, segments(second / "segmentation.dcm")["lesion"])
    for name in ("measurements.json", "segmentation.nii.gz"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_one_step_and_three_give_equal_results(export: Export, tmp_path: Path) -> None:
    export("a", patient="P1", order=range(8)[::-1])
    tilted_mm = stacked(9)
    tilted_mm[:, 1] += 0.5 * tilted_mm[:, 2]
    folder = export("b", patient="P2", positions_mm=tilted_mm, seed=1)
    model = write_model(tmp_path / "results", folds=(0, 1))

    once = tmp_path / "once"
    options = ("-i", folder, "-o", once, "-m", model, "--nifti", "--rtstruct")
    assert run(predict_dicom_entry, *options, *FAST) == 0
    thrice = in_three_steps(folder, model, tmp_path, "--nifti")

    names = cases_in(once)
    assert len(names) == 2
    assert names == cases_in(thrice)
    for name in names:
        require_equal(once / name, thrice / name)

    assert states_in(once) == ["done", "done"]
    assert not list(once.glob(".part-*"))
    assert {path.name for path in once.glob("case-*/*")} == {
        "segmentation.dcm",
        "report.dcm",
        "captures",
        "contours.dcm",
        "segmentation.nii.gz",
        "measurements.json",
    }
    captures = list(once.glob("case-*/captures/*.dcm"))
    assert len(captures) == (1 + 8) + (1 + 9)  # a page of measurements each


def test_a_dry_run_succeeds_only_where_something_would_be_taken(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model")
    places = ("-m", model, "-o", tmp_path / "results")

    empty = export("too_short", slices=2)
    assert run(predict_dicom_entry, "-i", empty, *places, "--dry-run", *FAST) == 1
    shown = capsys.readouterr()
    assert "only 2 slices" in shown.out
    assert "no study has series that meet the rules; see the table above" in shown.err

    export("long_enough")
    assert run(predict_dicom_entry, "-i", empty, *places, "--dry-run", *FAST) == 0
    assert "taken as CT" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_regions_of_a_zipped_model(export: Export, tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    model = write_model(tmp_path / "results", labels=labels, regions_class_order=[1, 2])
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(model.rglob("*")):
            file.write(path, path.relative_to(model.parent.parent))
    output = tmp_path / "out"
    assert run(predict_dicom_entry, "-i", export("a"), "-o", output, "-m", archive, *FAST) == 0

    (written,) = output.glob("*/segmentation.dcm")
    found = segments(written)
    assert found["core"].any()
    outside_whole = found["core"] > found["whole"]
    assert not outside_whole.any()


def test_two_channels_of_two_series(export: Export, tmp_path: Path) -> None:
    for name in ("T1", "T2"):
        edit = named(SeriesDescription=name, SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
        positions_mm = stacked(8) if name == "T1" else stacked(5, 4.0)
        folder = export(
            name,
            modality="MR",
            series=f"1.2.{len(name)}{name[1]}",
            study="1.9",
            patient="P",
            positions_mm=positions_mm,
            edit=edit,
        )

    conditions = {name: {"modality": "MR", "description": name} for name in ("T1", "T2")}
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"channels": conditions}))
    model = write_model(tmp_path / "results", channels=("T1", "T2"))
    output = tmp_path / "out"
    options = ("-i", folder, "-o", output, "-m", model, "--rules", rules)
    assert run(predict_dicom_entry, *options, *FAST) == 0

    (file,) = output.glob("*/segmentation.dcm")
    assert segments(file)["lesion"].shape == (8, 24, 24)


def test_turned_images_come_back_turned(export: Export, tmp_path: Path) -> None:
    """A model that was trained on flipped images sees them flipped; its mask lies on the slices all
    the same.
    """
    folder = export("a")
    model = write_model(tmp_path / "results")
    masks = {}
    for code in ("as-scanned", "LPS", "RAI"):
        output = tmp_path / code
        options = ("-i", folder, "-o", output, "-m", model, "--orientation", code, "--nifti")
        assert run(predict_dicom_entry, *options, *FAST) == 0
        (written,) = output.glob("*/segmentation.dcm")
        masks[code] = segments(written)["lesion"]

    np.testing.assert_array_equal(masks["as-scanned"], masks["LPS"])
    assert masks["RAI"].shape == masks["as-scanned"].shape
    assert (masks["RAI"] != masks["as-scanned"]).any()


def test_a_study_that_fails_stops_no_other(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export("good", patient="P1")
    folder = export("bad", patient="P2")
    for path in (folder / "bad").glob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-200])
    model = write_model(tmp_path / "results")
    output = tmp_path / "out"
    options = ("-i", folder, "-o", output, "-m", model, *FAST)
    assert run(predict_dicom_entry, *options) == 3
    assert states_in(output) == ["done", "failed"]
    assert len(list(output.glob("case-*"))) == 1
    assert "its pixels" in capsys.readouterr().err

    assert run(predict_dicom_entry, *options, "--continue_prediction") == 1
    shutil.rmtree(folder / "bad")
    assert run(predict_dicom_entry, *options, "--continue_prediction") == 0


def test_fractions_and_deidentified_results(export: Export, tmp_path: Path) -> None:
    from pydicom import dcmread

    folder = export("a", patient="Doe-1")
    model = write_model(tmp_path / "results")
    output = tmp_path / "out"
    options = ("-i", folder, "-o", output, "-m", model)
    results = ("--seg-type", "fractional", "--deidentify", "--certainty")
    assert run(predict_dicom_entry, *options, *results, *FAST) == 0

    for file in sorted(output.rglob("*.dcm")):
        data = dcmread(file)
        assert data.PatientIdentityRemoved == "YES"
        assert data.PatientID.startswith("patient-")
        assert data.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    seg = dcmread(next(output.glob("*/segmentation.dcm")))
    assert seg.SegmentationType == "FRACTIONAL"
    (page,) = output.glob("*/report.html")
    assert "Certainty" in page.read_text() and "Doe-1" not in page.read_text()
    assert page.parent.name in (output / "index.html").read_text()
    assert len(np.unique(seg.pixel_array)) > 10


def test_folds_are_shown_apart_and_change_no_result(export: Export, tmp_path: Path) -> None:
    folder = export("a")
    model = write_model(tmp_path / "results", folds=(0, 1))
    plain, certain, single = (tmp_path / name for name in ("plain", "certain", "single"))
    options = ("-i", folder, "-m", model, "--nifti", "--html", *FAST)
    assert run(predict_dicom_entry, *options, "-o", plain) == 0
    assert run(predict_dicom_entry, *options, "-o", certain, "--certainty") == 0
    assert run(predict_dicom_entry, *options, "-o", single, "--certainty", "-f", 1) == 0
    (case,) = cases_in(plain)
    require_equal(plain / case, certain / case)

    both = (certain / case / "report.html").read_text()
    assert "one of the 2 folds alone" in both and "Dice" in both
    assert "Between folds" not in (single / case / "report.html").read_text()


def test_each_folds_mask_is_that_of_the_fold_alone(export: Export, tmp_path: Path) -> None:
    from nnunet_ext.hospital.model import read_model
    from nnunet_ext.hospital.prediction import Predictor

    images = tmp_path / "images"
    folder = export("a")
    assert run(dicom_to_nnunet_entry, "-i", folder, "-o", images, "-np", 1) == 0
    (image,) = images.glob("*.nii.gz")
    model = read_model(write_model(tmp_path / "results", folds=(0, 1)))
    ensemble = Predictor(model, ["0", "1"], "checkpoint_final.pth", "cpu", mirroring=False)
    file, of_folds = ensemble.predict_with_folds([image], tmp_path / "together")
    assert file.name == "together.nii.gz" and len(of_folds) == 2
    for fold, found in zip("01", of_folds, strict=True):
        alone = Predictor(model, [fold], "checkpoint_final.pth", "cpu", mirroring=False)
        expected = alone.predict([image], tmp_path / f"alone-{fold}")
        assert found.read_bytes() == expected.read_bytes()
    assert of_folds[0].read_bytes() != of_folds[1].read_bytes()


def named(**texts: str) -> Callable[[int, Any], None]:
    def edit(_: int, data: Any) -> None:
        for name, value in texts.items():
            setattr(data, name, value)

    return edit
