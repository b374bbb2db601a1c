"""Results sent to archives on the loopback address: whole, once, with answers in the log."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from nnunet_ext.errors import InputError
from nnunet_ext.hospital.exchange.c_store import CStoreDestination
from nnunet_ext.hospital.exchange.destinations import Destination, ae_address_of, web_address_of
from nnunet_ext.hospital.exchange.sending import Sent, objects_of, send_results
from nnunet_ext.hospital.exchange.state import FILE_NAME, opened_state
from nnunet_ext.hospital.exchange.stow import TOKEN_VARIABLE, StowDestination
from tests.hospital.exchange.archives import CAPTURE, SEG, dicom_archive, web_archive

KINDS = {
    "C-STORE": (dicom_archive, CStoreDestination, 0xA700, 0xC000),
    "STOW": (web_archive, StowDestination, 503, 409),
}
Way = tuple[Callable, Callable[[str], Destination], int, int]


@pytest.fixture(params=KINDS)
def way(request: pytest.FixtureRequest) -> Way:
    return KINDS[request.param]


def send(results: Path, state_in: Path, destination: Destination, **options: object) -> Sent:
    with opened_state(state_in) as state:
        return send_results([results], [destination], state, pause=lambda _: None, **options)  # type: ignore[arg-type]


def uids_of(results: Path) -> list[str]:
    return [str(dcmread(file).SOPInstanceUID) for file in objects_of(results)]


def test_everything_arrives_as_written_and_once(way: Way, results: Path, tmp_path: Path) -> None:
    archive_of, destination_of, _, _ = way
    with archive_of() as archive:
        destination = destination_of(archive.address)
        first = send(results, tmp_path, destination)
        second = send(results, tmp_path, destination)
    assert (first.stored, first.before, second.stored, second.before) == (5, 0, 0, 5)
    assert first.is_complete and second.is_complete
    assert archive.uids == uids_of(results)
    for data, file in zip(archive.received, objects_of(results), strict=True):
        written = dcmread(file)
        assert data == written
        assert data.file_meta.TransferSyntaxUID == written.file_meta.TransferSyntaxUID


def test_a_busy_archive_is_tried_again_from_where_it_was(
    way: Way, results: Path, tmp_path: Path
) -> None:
    archive_of, destination_of, busy, _ = way
    with archive_of() as archive:
        done = archive.status(0)
        archive.status = lambda number: busy if number in (2, 4) else done
        sent = send(results, tmp_path, destination_of(archive.address))
    assert sent.stored == 5 and sent.is_complete
    assert archive.uids == uids_of(results)


def test_a_refused_object_stops_no_other(
    way: Way, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive_of, destination_of, _, refusal = way
    with archive_of() as archive:
        done = archive.status(0)
        archive.status = lambda number: refusal if number == 1 else done
        sent = send(results, tmp_path, destination_of(archive.address))
    assert (sent.stored, sent.refused, sent.is_complete) == (4, 1, False)
    log = capsys.readouterr().err.splitlines()
    assert len(log) == 5 and sum("refused (" in line for line in log) == 1
    assert log[0].startswith(f"case-1f0c/captures/0001.dcm -> {archive.address}: refused (")


def test_a_damaged_result_is_named_and_the_rest_is_sent(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "case-1"
    shutil.copytree(results, copy)
    (copy / "report.dcm").write_bytes(b"torn")
    with dicom_archive() as archive:
        sent = send(copy, tmp_path, CStoreDestination(archive.address))
    assert (sent.stored, sent.refused, len(archive.received)) == (4, 1, 4)
    assert "case-1/report.dcm: is damaged" in capsys.readouterr().err


def test_an_absent_archive_loses_nothing(way: Way, results: Path, tmp_path: Path) -> None:
    archive_of, destination_of, _, _ = way
    pauses: list[float] = []
    with archive_of() as archive:
        pass
    destination = destination_of(archive.address)
    with opened_state(tmp_path) as state:
        sent = send_results([results], [destination], state, tries=3, pause=pauses.append)
    assert (sent.stored, sent.waiting) == (0, 5) and pauses == [1, 2]


def test_an_old_archive_receives_pictures_without_compression(
    results: Path, tmp_path: Path
) -> None:
    with dicom_archive(syntaxes=[ImplicitVRLittleEndian]) as archive:
        sent = send(results, tmp_path, CStoreDestination(archive.address))
    assert sent.stored == 5
    for data, file in zip(archive.received, objects_of(results), strict=True):
        assert data.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        if data.SOPClassUID == CAPTURE:
            np.testing.assert_array_equal(data.pixel_array, dcmread(file).pixel_array)


def test_an_archive_without_reports_receives_the_rest(results: Path, tmp_path: Path) -> None:
    with dicom_archive(kinds=[SEG, CAPTURE]) as archive:
        sent = send(results, tmp_path, CStoreDestination(archive.address))
    assert (sent.stored, sent.refused) == (4, 1)
    (refused,) = [answer for answer in sent.answers if "stored" not in answer["answer"]]
    assert refused["object"] == "case-1f0c/report.dcm"


def test_an_archive_without_any_of_the_kinds_refuses_them(results: Path, tmp_path: Path) -> None:
    with dicom_archive(kinds=["1.2.840.10008.5.1.4.1.1.2"]) as archive:
        sent = send(results, tmp_path, CStoreDestination(archive.address))
    assert (sent.stored, sent.refused, sent.waiting) == (0, 5, 0)


def test_a_token_is_sent_and_never_shown(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
    with web_archive() as archive:
        send(results, tmp_path, StowDestination(archive.address))
        archive.status = lambda _: 503
        (tmp_path / "other").mkdir()
        send(results, tmp_path / "other", StowDestination(archive.address + "/"))
    shown = capsys.readouterr()
    assert len(archive.received) == 5 and "s3cret" not in shown.out + shown.err


@pytest.mark.parametrize(
    "text",
    ["", "PACS", "PACS@host", "PACS@host:0", "PACS@host:70000", "@host:104", "A" * 17 + "@h:1"],
)
def test_wrong_addresses_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        ae_address_of(text)


@pytest.mark.parametrize("text", ["", "ftp://a", "http://", "http://u:p@a/", "http://a/?k=1", "//"])
def test_wrong_web_addresses_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        web_address_of(text)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a data base" * 100)
    with pytest.raises(InputError, match="cannot be used"), opened_state(tmp_path):
        pass
