"""Damaged exports end with a line and an exit code, never with a traceback."""

import json
from collections import Counter
from pathlib import Path

import pytest
import SimpleITK

from nnunet_ext.commands.dicom_to_nnunet import dicom_to_nnunet_entry
from nnunet_ext.commands.nnunet_to_dicom import nnunet_to_dicom_entry
from tests.hospital.malformed import write_malformed

EXPORTS = 200
RESULTS_EVERY = 8  # writing takes longer than reading


def test_two_hundred_malformed_exports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    codes: Counter[int] = Counter()
    for seed in range(EXPORTS):
        folder, output = write_malformed(tmp_path / f"{seed}", seed), tmp_path / f"{seed}-out"
        with pytest.raises(SystemExit) as ended:
            dicom_to_nnunet_entry(["-i", str(folder), "-o", str(output), "-np", "1"])
        shown = capfd.readouterr()
        assert ended.value.code in (0, 1, 3), seed
        assert "Traceback" not in shown.err, (seed, shown.err)
        assert str(folder) not in shown.out, (seed, shown.out)
        assert (shown.out + shown.err).replace("\n", "").isprintable(), seed
        codes[ended.value.code] += 1
        if ended.value.code == 0:
            (entry, *_) = json.loads((output / "manifest.json").read_text())["cases"].values()
            assert (output / entry["channels"][0]["file"]).stat().st_size > 0
    assert min(codes[code] for code in (0, 1, 3)) > EXPORTS / 20, (
        codes
    )  # damage of every consequence


def test_results_of_malformed_exports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What could be read can be written, or fails with a line; the masks are of bone, made without
    a network.
    """
    written = 0
    for seed in range(0, EXPORTS, RESULTS_EVERY):
        folder = write_malformed(tmp_path / f"{seed}", seed)
        images, output = tmp_path / f"{seed}-images", tmp_path / f"{seed}-out"
        with pytest.raises(SystemExit) as ended:
            dicom_to_nnunet_entry(["-i", str(folder), "-o", str(images), "-np", "1"])
        if ended.value.code == 1:
            continue
        (images / "dataset.json").write_text('{"labels": {"background": 0, "bone": 1}}')
        (images / "plans.json").write_text("{}")
        for file in images.glob("*_0000.nii.gz"):
            mask = SimpleITK.ReadImage(str(file)) > 200
            SimpleITK.WriteImage(mask, str(images / file.name.replace("_0000", "")))
        places = [
            "-i",
            str(images),
            "--export",
            str(folder),
            "--manifest",
            str(images / "manifest.json"),
        ]
        with pytest.raises(SystemExit) as ended:
            nnunet_to_dicom_entry([*places, "-o", str(output), "-np", "1", "--rtstruct"])
        shown = capfd.readouterr()
        assert ended.value.code in (0, 1, 3), seed
        assert "Traceback" not in shown.err and str(folder) not in shown.out + shown.err, (
            seed,
            shown,
        )
        assert "--keep-names shows it" not in shown.err, (
            seed,
            shown.err,
        )  # of no error only the kind is known
        written += len(list(output.glob("*/report.dcm")))
    assert written > EXPORTS / RESULTS_EVERY / 4
