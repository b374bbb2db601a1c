"""Studies that arrive in a watched folder: answered once each, whatever ends the program."""

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset_conversion.phantoms.dicom_series import uid, write_series
from nnunet_ext.errors import InputError
from nnunet_ext.hospital.exchange.state import FILE_NAME, opened_state
from nnunet_ext.hospital.exchange.watching import LOCK, TRIES, Watch, deliveries_in
from tests.hospital.conftest import body, stacked
from tests.hospital.exchange.archives import SEG, Archive, dicom_archive
from tests.hospital.exchange.watch_program import watch_of
from tests.places import REPOSITORY

QUIET_S = 60.0


def deliver(folder: Path, name: str, slices: int = 4) -> None:
    """Write a study into a folder, under a hidden name first, as the listener does."""
    write_series(folder / f".{name}", body(slices), stacked(slices), patient=f"P-{name}")
    (folder / f".{name}").rename(folder / name)


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def run_once(watch: Watch, clock: Clock, seconds: float = QUIET_S) -> int:
    """Let so much time pass and answer what is ready; returns how many deliveries were."""
    clock.seconds += seconds
    with opened_state(watch.output) as state:
        found = watch.ready(state)
        for delivery in found:
            watch.answer(delivery, state)
    return len(found)


def test_a_delivery_is_answered_after_the_quiet_period_and_once(
    watched: Path, tmp_path: Path
) -> None:
    clock = Clock()
    with dicom_archive() as archive:
        watch = watch_of(watched, tmp_path / "out", archive.address, QUIET_S)
        watch.clock = clock
        deliver(watched, "a")
        assert run_once(watch, clock) == 0  # seen now
        assert run_once(watch, clock, QUIET_S - 1) == 0
        (watched / "a" / "late.txt").write_text("still arriving")
        assert run_once(watch, clock, 1) == 0
        assert run_once(watch, clock, QUIET_S) == 1
        assert run_once(watch, clock, QUIET_S) == 0
    assert Counter(archive.uids).most_common(1)[0][1] == 1
    assert kinds_of(archive)[SEG] == 1


def test_a_new_program_sends_nothing_again(watched: Path, tmp_path: Path) -> None:
    with dicom_archive() as archive:
        deliver(watched, "a")
        for _ in range(2):
            clock = Clock()
            watch = watch_of(watched, tmp_path / "out", archive.address, QUIET_S)
            watch.clock = clock
            run_once(watch, clock)
            run_once(watch, clock)
        shutil.copytree(watched / "a", watched / "again")  # the same study a second time
        run_once(watch, clock)
        assert run_once(watch, clock) == 1
    assert kinds_of(archive)[SEG] == 1


def test_an_archive_that_returns_receives_what_waits(watched: Path, tmp_path: Path) -> None:
    clock = Clock()
    with dicom_archive() as archive:
        archive.status = lambda number: 0xA700 if number == 2 else 0
        watch = watch_of(watched, tmp_path / "out", archive.address, QUIET_S)
        watch.clock = clock
        deliver(watched, "a")
        run_once(watch, clock)
        assert run_once(watch, clock) == 1
        assert len(archive.received) == 1
        assert run_once(watch, clock, 1) == 0
        assert run_once(watch, clock, 60) == 1
        assert run_once(watch, clock, 60) == 0
    assert kinds_of(archive)[SEG] == 1 and len(set(archive.uids)) == len(archive.uids)


def test_what_cannot_be_predicted_is_given_up_after_some_tries(
    watched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    deliver(watched, "Doe")
    for file in (watched / "Doe").glob("*.dcm"):
        file.write_bytes(file.read_bytes()[:-200])
    watch = watch_of(watched, tmp_path / "out", "ARCHIVE@127.0.0.1:1", QUIET_S)
    watch.clock = clock
    answered = [run_once(watch, clock) for _ in range(TRIES + 3)]
    assert answered == [0] + [1] * TRIES + [0, 0]
    shown = capsys.readouterr().err
    assert f"given up after {TRIES} tries" in shown and "Doe" not in shown


def test_slices_that_come_late_are_told(
    watched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with dicom_archive() as archive:
        watch = watch_of(watched, tmp_path / "out", archive.address, QUIET_S)
        watch.clock = clock
        deliver(watched, "a")
        run_once(watch, clock)
        run_once(watch, clock)
        write_series(watched / "a", body(6), stacked(6), patient="P-a")
        run_once(watch, clock)
        run_once(watch, clock)
        assert "files arrived after it was answered" in capsys.readouterr().err
        assert kinds_of(archive)[SEG] == 1

        for results in (tmp_path / "out").glob("case-*"):
            shutil.rmtree(results)
        assert run_once(watch, clock) == 0
        (watched / "a").rename(watched / "a again")
        run_once(watch, clock)
        run_once(watch, clock)
    assert kinds_of(archive)[SEG] == 2


def test_one_watch_at_a_time(watched: Path, tmp_path: Path) -> None:
    code = f"import sys, time; sys.path.insert(0, {str(REPOSITORY)!r})\n" + (
        "from pathlib import Path; from nnunet_ext.files.locks import acquire\n"
        "acquire(Path(sys.argv[1]), wait=True); print('held', flush=True); time.sleep(60)"
    )
    watch = watch_of(watched, tmp_path / "out", "ARCHIVE@127.0.0.1:1", QUIET_S)
    command = [sys.executable, "-c", code, str(tmp_path / "out" / LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another watch writes here"):
            watch.run(stop=lambda: True)
        other.kill()


def test_hidden_empty_and_absent_folders_are_no_deliveries(watched: Path) -> None:
    (watched / "empty").mkdir()
    (watched / ".arriving").mkdir()
    (watched / ".arriving" / "1.dcm").write_bytes(b"x")
    (watched / "loose.dcm").write_bytes(b"x")
    assert list(deliveries_in(watched)) == []
    with pytest.raises(InputError, match="no such folder to watch"):
        list(deliveries_in(watched / "absent"))


def test_kills_lose_no_study_and_answer_none_twice(tmp_path: Path) -> None:
    survive_kills(tmp_path, studies=3, kills=3, seed=1)


def survive_kills(tmp_path: Path, studies: int, kills: int, seed: int) -> None:
    """Kill a watch at random moments while studies arrive, then let it finish."""
    incoming, output = tmp_path / "incoming", tmp_path / "out"
    incoming.mkdir()
    output.mkdir()
    generator = random.Random(seed)
    with dicom_archive() as archive:
        archive.status = lambda _: time.sleep(0.02) or 0  # type: ignore[func-returns-value]
        for number in range(kills):
            for index in range(number * studies // kills, (number + 1) * studies // kills):
                deliver(incoming, f"{index:03d}")
            with watching(incoming, output, archive) as process:
                before = answered(output)
                deadline = time.monotonic() + 60
                # past the imports, so that the kill meets work
                while answered(output) == before and time.monotonic() < deadline:
                    if len(archive.received) % 3 == 2 and generator.random() < 0.05:
                        break
                    time.sleep(generator.uniform(0, 0.05))
                process.kill()

        with watching(incoming, output, archive) as process:
            wait_for(lambda: answered(output) == studies)
            process.kill()

    segmentations = [data for data in archive.received if data.SOPClassUID == SEG]
    by_study = {}
    for data in segmentations:
        by_study.setdefault(data.StudyInstanceUID, set()).add(data.SOPInstanceUID)
    assert set(by_study) == {uid(f"P-{index:03d}") for index in range(studies)}
    assert max(map(len, by_study.values())) == 1
    # a kill between an answer and its note repeats one object under the same UID
    repeated = len(archive.uids) - len(set(archive.uids))
    assert repeated <= kills


def watching(incoming: Path, output: Path, archive: Archive) -> subprocess.Popen:
    program = "tests.hospital.exchange.watch_program"
    command = [sys.executable, "-m", program, str(incoming), str(output), archive.address]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)


def answered(output: Path) -> int:
    if not (output / FILE_NAME).exists():
        return 0
    connection = sqlite3.connect(output / FILE_NAME)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM deliveries").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def kinds_of(archive: Archive) -> Counter[str]:
    return Counter(str(data.SOPClassUID) for data in archive.received)
