"""The listener stores what it may, refuses what it may not, and goes on."""

import re
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from dataset_conversion.phantoms.dicom_series import write_series
from nnunet_ext.commands.listen import listen_entry
from nnunet_ext.errors import InputError
from nnunet_ext.hospital.exchange.listener import Limits, Listener, network_of
from tests.hospital.conftest import body, stacked
from tests.hospital.exchange.archives import SEG, dicom_archive
from tests.hospital.exchange.test_watching import QUIET_S, Clock, kinds_of, run_once
from tests.hospital.exchange.watch_program import watch_of

TITLE = "NNUNET_EXT"
SMALL = 1 << 20


@contextmanager
def listening(folder: Path, **limits: Any) -> Iterator[int]:
    folder.mkdir(exist_ok=True)
    limits = {"free_bytes": 0, **limits}
    with Listener(folder, TITLE, Limits(**limits)).listening("127.0.0.1", 0) as port:
        yield port


def association(port: int, caller: str = "SCANNER", called: str = TITLE) -> Any:
    entity = AE(ae_title=caller)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    return entity.associate("127.0.0.1", port, ae_title=called)


def send(port: int, objects: list[Any], **names: str) -> list[int | None]:
    """Return the status of each object; None without an answer."""
    open_one = association(port, **names)
    assert open_one.is_established
    statuses = []
    for data in objects:
        answer = open_one.send_c_store(data) if open_one.is_established else {}
        statuses.append(int(answer.Status) if "Status" in answer else None)
    open_one.release()
    return statuses


def study_of(folder: Path, patient: str = "Doe-1", slices: int = 4) -> list[Any]:
    files = write_series(folder, body(slices), stacked(slices), patient=patient)
    return [dcmread(file) for file in files]


def stored(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.dcm"))


def test_a_study_is_stored_whole_under_keyed_names(tmp_path: Path) -> None:
    study = study_of(tmp_path / "scan")
    with listening(tmp_path / "in") as port:
        assert send(port, study) == [0, 0, 0, 0]
        assert send(port, study[:1]) == [0]  # again
    (folder,) = (tmp_path / "in").iterdir()
    assert re.fullmatch("study-[0-9a-f]{16}", folder.name)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(stored(folder)) == 4 == len(list(folder.iterdir()))
    uids = {str(dcmread(file).SOPInstanceUID) for file in stored(folder)}
    assert uids == {str(data.SOPInstanceUID) for data in study}
    pixels = {str(d.SOPInstanceUID): d.pixel_array for d in map(dcmread, stored(folder))}
    for data in study:
        np.testing.assert_array_equal(pixels[str(data.SOPInstanceUID)], data.pixel_array)


def test_what_is_received_is_answered_by_a_watch(tmp_path: Path) -> None:
    clock = Clock()
    with listening(tmp_path / "in") as port, dicom_archive() as archive:
        for patient in ("P1", "P2"):
            send(port, study_of(tmp_path / patient, patient))
        watch = watch_of(tmp_path / "in", tmp_path / "out", archive.address, QUIET_S)
        watch.clock = clock
        run_once(watch, clock)
        assert run_once(watch, clock) == 2
    assert kinds_of(archive)[SEG] == 2


def test_only_named_callers_may_send(tmp_path: Path) -> None:
    with listening(tmp_path / "in", callers=("CT1",)) as port:
        assert association(port, "CT2").is_rejected
        assert association(port, "CT1", called="OTHER").is_rejected
        assert send(port, study_of(tmp_path / "scan")[:1], caller="CT1") == [0]
    with listening(tmp_path / "in", addresses=("10.1.0.0/16",)) as port:
        assert not association(port).is_established
    with listening(tmp_path / "in", addresses=("10.1.0.0/16", "127.0.0.0/8")) as port:
        assert association(port).is_established


def test_malformed_objects_are_refused_and_the_next_is_stored(tmp_path: Path) -> None:
    study = study_of(tmp_path / "scan")
    nameless, other = study[0], study[1]
    del nameless.StudyInstanceUID
    with listening(tmp_path / "in") as port:
        open_one = association(port)
        statuses = [int(open_one.send_c_store(nameless).Status)]
        open_one.release()
        statuses += send(port, [other])
    assert statuses == [0xC000, 0]
    assert len(stored(tmp_path / "in")) == 1


def test_an_object_beyond_the_limit_is_cut_off_and_the_next_is_stored(tmp_path: Path) -> None:
    large, small = study_of(tmp_path / "scan", slices=2)
    large.Rows = large.Columns = 1024
    large.PixelData = bytes(2 << 20)
    with listening(tmp_path / "in", object_bytes=SMALL) as port:
        assert send(port, [large]) == [None]
        assert send(port, [small]) == [0]
    assert len(stored(tmp_path / "in")) == 1


def test_a_unit_that_claims_to_be_huge_ends_its_connection(tmp_path: Path) -> None:
    (data,) = study_of(tmp_path / "scan", slices=1)
    with listening(tmp_path / "in") as port:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as hostile:
            hostile.sendall(bytes([1, 0]) + (1 << 30).to_bytes(4, "big"))
            assert hostile.recv(1) == b""
        assert send(port, [data]) == [0]


def test_many_small_objects_are_not_one_large_object(tmp_path: Path) -> None:
    study = study_of(tmp_path / "scan", slices=12)
    with listening(tmp_path / "in", object_bytes=10_000) as port:
        assert send(port, study) == [0] * 12


def test_a_full_disk_refuses_objects_and_the_service_lives(tmp_path: Path) -> None:
    study = study_of(tmp_path / "scan")
    with listening(tmp_path / "in", free_bytes=1 << 60) as port:
        assert send(port, study[:2]) == [0xA700, 0xA700]
        assert send(port, study[:1]) == [0xA700]
    assert stored(tmp_path / "in") == []


def test_callers_at_the_same_time_are_served_or_told_to_wait(tmp_path: Path) -> None:
    send_in_parallel(tmp_path, callers=12, associations=4)


def send_in_parallel(tmp_path: Path, callers: int, associations: int) -> None:
    """Open associations at the same time; those beyond the limit are rejected and try again."""
    studies = [study_of(tmp_path / f"scan{n}", f"P{n}", 2) for n in range(callers)]
    rejected = []

    def call(study: list[Any]) -> None:
        while True:
            open_one = association(port)
            if open_one.is_established:
                for data in study:
                    assert open_one.send_c_store(data).Status == 0
                open_one.release()
                return
            rejected.append(open_one.is_rejected)

    with listening(tmp_path / "in", associations=associations) as port:
        threads = [threading.Thread(target=call, args=[study]) for study in studies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert len(list((tmp_path / "in").iterdir())) == callers
    assert len(stored(tmp_path / "in")) == 2 * callers


@pytest.mark.parametrize("text", ["", "host", "10.1.2.3/16", "10.1.0.0/40"])
def test_wrong_networks_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not an address"):
        network_of(text)


def test_a_port_in_use_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(tmp_path / "in") as port, pytest.raises(SystemExit) as ended:
        listen_entry(["-o", str(tmp_path / "in"), "--port", str(port)])
    assert ended.value.code == 1 and "choose another port" in capsys.readouterr().err
