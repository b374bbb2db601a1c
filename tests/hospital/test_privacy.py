"""No name, date, number or text of a patient leaves through any output, name of a file, or
message.
"""

import tempfile
from pathlib import Path

import pytest

from nnunet_ext.commands.dicom_to_nnunet import dicom_to_nnunet_entry
from nnunet_ext.commands.predict_dicom import predict_dicom_entry
from nnunet_ext.errors import InputError
from nnunet_ext.hospital.privacy import shown_reason
from tests.hospital.planted import MARKER, MARKERS, leaks, write_planted
from tests.miniature_models import write_model


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_export_is_full_of_identifiers(tmp_path: Path) -> None:
    assert len(leaks(write_planted(tmp_path / "export"))) > 20


def test_no_identifier_reaches_images_manifest_or_messages(
    tmp_path: Path, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export, output = write_planted(tmp_path / "export"), tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        dicom_to_nnunet_entry(["-i", str(export), "-o", str(output), "-np", "2"])
    assert ended.value.code == 3
    assert len(list(output.glob("*.nii.gz"))) == 1
    assert leaks(output) == []
    assert leaks(temporary) == []
    shown = capfd.readouterr()
    assert not [marker for marker in MARKERS if marker in (shown.out + shown.err).encode()]


def test_no_identifier_reaches_deidentified_results(
    tmp_path: Path, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export, output, model = (
        write_planted(tmp_path / "export"),
        tmp_path / "out",
        write_model(tmp_path / "results"),
    )
    options = [
        "-device",
        "cpu",
        "--disable_tta",
        "-np",
        "1",
        "--deidentify",
        "--nifti",
        "--rtstruct",
        "--html",
    ]
    with pytest.raises(SystemExit) as ended:
        predict_dicom_entry(["-i", str(export), "-o", str(output), "-m", str(model), *options])
    assert ended.value.code == 3
    assert len(list(output.glob("*/*.dcm"))) >= 2
    assert leaks(output) == []
    assert leaks(temporary) == []
    shown = capfd.readouterr()
    assert not [marker for marker in MARKERS if marker in (shown.out + shown.err).encode()]


def test_otherwise_results_repeat_the_patient_and_nothing_but_dicom_does(tmp_path: Path) -> None:
    from pydicom import dcmread

    export, output, model = (
        write_planted(tmp_path / "export"),
        tmp_path / "out",
        write_model(tmp_path / "results"),
    )
    options = ["-device", "cpu", "--disable_tta", "-np", "1", "--nifti", "--html"]
    with pytest.raises(SystemExit):
        predict_dicom_entry(["-i", str(export), "-o", str(output), "-m", str(model), *options])
    assert len(list(output.glob("case-*/report.html"))) == 1
    for file in sorted(output.rglob("*.dcm")):
        data = dcmread(file)
        assert data.PatientID.startswith(MARKER) and data.PatientBirthDate == "19370213"
        assert not [element for element in data.iterall() if element.tag.is_private]
        file.unlink()
    assert leaks(output) == []


def test_names_of_files_are_shown_where_they_are_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export, output = write_planted(tmp_path / "export"), tmp_path / "out"
    with pytest.raises(SystemExit):
        dicom_to_nnunet_entry(["-i", str(export), "-o", str(output), "-np", "1", "--keep-names"])
    assert f"{MARKER}_damaged.dcm" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (InputError("/a/Doe/1.dcm: is empty; copy it again"), "is empty; copy it again"),
        (
            InputError("/a/D(o)e/1.dcm: DICOM header is damaged ('Doe (1)' (2)); copy it again"),
            None,
        ),
        (InputError("1.dcm: has no pixels (Doe"), "1.dcm: has no pixels"),
        (ValueError("could not convert 'Doe'"), "ValueError (--keep-names shows it)"),
        (MemoryError(), "MemoryError (--keep-names shows it)"),
        ("has no pixels", "has no pixels"),
    ],
)
def test_reasons_quote_neither_paths_nor_headers(
    error: BaseException | str, shown: str | None
) -> None:
    assert shown_reason(error, "/a/D(o)e/1.dcm") == (
        shown or "DICOM header is damaged; copy it again"
    )
