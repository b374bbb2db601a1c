"""The command with everything that follows a prediction: page, archive, record."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from nnunet_ext.commands.predict_dicom import predict_dicom_entry
from tests.hospital.exchange.archives import SEG, dicom_archive, web_archive
from tests.hospital.exchange.test_watching import kinds_of
from tests.miniature_models import write_model

FAST = ("-device", "cpu", "--disable_tta", "-np", "1")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        predict_dicom_entry([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_results_are_sent_and_recorded(export: Callable[..., Path], tmp_path: Path) -> None:
    export("a", patient="Doe-1")
    folder = export("b", patient="Doe-2", seed=1)
    output, record = tmp_path / "out", tmp_path / "run.json"
    model = write_model(tmp_path / "results")
    common = ("-i", folder, "-o", output, "-m", model, "--json", record, "--html", *FAST)
    with dicom_archive() as classic, web_archive() as web:
        classic.status = lambda number: 0xC000 if number == 1 else 0
        addresses = ("--send", classic.address, "--stow", web.address)
        assert run(*common, *addresses) == 3
        first = json.loads(record.read_text())
        assert run(*common, *addresses, "--continue_prediction") == 0
        second = json.loads(record.read_text())
    assert kinds_of(classic)[SEG] == kinds_of(web)[SEG] == 2
    assert sorted(classic.uids) == sorted(web.uids) and len(set(web.uids)) == len(web.uids)

    assert len(first["sent"]) == 2 * len(web.uids)
    (again,) = second["sent"]
    assert again["destination"] == classic.address and again["answer"] == "stored (0x0000)"
    assert [case["state"] for case in second["cases"].values()] == ["done before"] * 2
    for name, case in first["cases"].items():
        assert case["state"] == "done" and case["seconds"] > 0 and case["warnings"]
        for file, facts in case["files"].items():
            content = (output / name / file).read_bytes()
            assert facts == {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    assert len(first["model"]["serial"]) == 16 and first["versions"]["nnunetv2"]
    assert "Doe" not in record.read_text()


@pytest.mark.parametrize(
    "wrong",
    [("--send", "PACS"), ("--stow", "pacs"), ("--watch", "--dry-run"), ("--aet", "x" * 17)],
)
def test_wrong_arguments_are_refused_before_the_model_is_loaded(
    export: Callable[..., Path],
    tmp_path: Path,
    wrong: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = write_model(tmp_path / "results")
    assert run("-i", export("a"), "-o", tmp_path / "out", "-m", model, *wrong, *FAST) == 1
    assert not (tmp_path / "out").exists() and len(capsys.readouterr().err.splitlines()) == 1
