"""Real series, where they are at hand, in one step and in three."""

from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.commands.predict_dicom import predict_dicom_entry
from tests.hospital.test_prediction import FAST, in_three_steps, run, segments
from tests.miniature_models import write_model
from tests.places import REAL_DATA

REAL = REAL_DATA / "dicom"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real series here")
def test_a_real_series_in_one_step_and_in_three(tmp_path: Path) -> None:
    model = write_model(tmp_path / "results", patch_size=(8, 32, 32), spacing_mm=(5.0, 6.0, 6.0))
    export, once = REAL / "small_17_slices", tmp_path / "once"
    assert run(predict_dicom_entry, "-i", export, "-o", once, "-m", model, *FAST) == 0
    thrice = in_three_steps(export, model, tmp_path)
    (first,), (second,) = (list(root.glob("*/segmentation.dcm")) for root in (once, thrice))
    assert first.parent.name == second.parent.name
    one, two = segments(first)["lesion"], segments(second)["lesion"]
    assert len(one) == 17
    np.testing.assert_array_equal(one, two)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real series here")
def test_a_real_series_without_study_fails_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "results", patch_size=(8, 32, 32), spacing_mm=(5.0, 12.0, 12.0))
    series = ("-i", REAL / "jpeg2000_20_slices", "-o", tmp_path / "out")
    assert run(predict_dicom_entry, *series, "-m", model, *FAST) == 1
    assert "has no StudyInstanceUID" in capsys.readouterr().err
