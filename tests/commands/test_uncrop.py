"""The command around :mod:`dataset_conversion.writing.uncropping`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.datasets.covid_semiseg import CovidSemiSeg
from dataset_conversion.phantoms.slice_downloads import write_covid_semiseg
from dataset_conversion.writing.conversion import convert
from nnunet_ext.commands.uncrop import uncrop_entry


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = write_covid_semiseg(
        tmp_path / "download", n_labelled=2, n_test=0, n_unlabeled=3, size=48
    )
    folder = tmp_path / "raw"
    folder.mkdir()
    convert(CovidSemiSeg(source, resize=64), folder / "Dataset120_Small")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(folder))
    return folder


def code_of(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        uncrop_entry([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_predictions_return_to_the_size_of_the_download(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, back = raw / "Dataset120_Small", tmp_path / "back"
    assert code_of("-i", dataset / "labelsTr", "-d", "Dataset120_Small", "-o", back) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(back)
    for file in (dataset / "labelsTr").iterdir():
        written = np.asarray(Image.open(back / file.name))
        assert written.shape != (64, 64) and set(np.unique(written)) <= {0, 1}


def test_wrong_folders_are_one_line(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = raw / "Dataset120_Small" / "labelsTr"
    assert code_of("-i", tmp_path / "none", "-d", "Dataset120_Small", "-o", tmp_path / "back") == 1
    assert code_of("-i", labels, "-d", "Dataset120_Small", "-o", labels) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("none: no such folder") and "choose another folder" in lines[1]
