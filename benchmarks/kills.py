"""Kill commands at random moments, and run each twice at once: is anything lost or half written?

The commands are convert, configure and evaluate.

Run from the repository's root: ``python -m benchmarks.kills [--kills 20] [--rounds 20] [--seed
0]``; for trainings see ``benchmarks.kill_and_resume``. Generated data; SIGKILL to the command and
its workers. Linux.

A command is first run undisturbed. Then it is killed after a random part of that time, and
continued in the same folder by the next run, which is killed, too. After each kill every file that
lies in the result must be one of the undisturbed run, byte for byte (of blosc2 files, whose own
bytes vary from run to run, the arrays); at the end all must be. Two at once: both must end with 0
or with one line, and leave the same files.
"""

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import blosc2

from benchmarks.forked import Ended, Run, import_everything
from benchmarks.fuzz_inputs import download, write_pairs
from tests.miniature_plans import DATASET_JSON, plans
from tests.miniature_raw import write_raw

MOST_SECONDS = 600
# Files that tell times, or in which order cases were done: equal only in content, which the
# commands themselves read.
TIMED = ("conversion.md", ".jsonl", "begun.json", "stream.json")


@dataclass(frozen=True)
class Work:
    """A command on a folder: what lies there before, and its result below ``result``."""

    command: str
    prepare: Callable[[Path], object]
    arguments: Callable[[Path], list[object]]
    result: str


def _prepare_convert(root: Path) -> None:
    task = download(root)
    for number in range(2, 12):
        for place in ("imagesTr", "labelsTr"):
            shutil.copy(task / place / "case0.nii.gz", task / place / f"case{number}.nii.gz")
    text = (task / "dataset.json").read_text()
    listed = '{"image": "./imagesTr/case1.nii.gz", "label": "./labelsTr/case1.nii.gz"}'
    more = ", ".join(listed.replace("case1", f"case{number}") for number in range(2, 12))
    (task / "dataset.json").write_text(text.replace(listed, f"{listed}, {more}"))


def _prepare_configure(root: Path) -> None:
    labelled = root / "nnUNet_preprocessed" / "Dataset999_Miniature"
    labelled.mkdir()
    (labelled / "nnUNetPlans.json").write_text(json.dumps(plans()))
    (labelled / "dataset.json").write_text(json.dumps(DATASET_JSON))
    write_raw(root / "nnUNet_raw", "Dataset998_Other", 6, (4, 24, 24))


def _prepare_evaluate(root: Path) -> None:
    for folder in ("reference", "prediction"):
        write_pairs(root / folder, "images", "labels", count=6)
    (root / "reference/dataset.json").write_text(json.dumps(DATASET_JSON))


def _evaluation(root: Path) -> list[object]:
    places = [
        "-r",
        root / "reference/labels",
        "-p",
        root / "prediction/labels",
        "-o",
        root / "report",
    ]
    return [*places, "--overwrite", "--profile", "plain", "slice"]


WORKS = (
    Work(
        "convert",
        _prepare_convert,
        lambda root: ["MSD", "-i", root / "Task99_Fuzz", "-d", 5, "-np", 1],
        "nnUNet_raw",
    ),
    Work(
        "configure",
        _prepare_configure,
        lambda root: ["-d", 999, "--general", 998, "-np", 1, "--set", "num_epochs=5"],
        "nnUNet_preprocessed",
    ),
    Work("evaluate", _prepare_evaluate, _evaluation, "report"),
)


def fresh(work: Work, root: Path) -> None:
    """The folder of a work as it is before."""
    shutil.rmtree(root, ignore_errors=True)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / variable).mkdir(parents=True)
        os.environ[variable] = str(root / variable)
    work.prepare(root)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a result, except those that a command is making."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        is_hidden = any(map(_is_hidden, name.split("/")))
        if file.is_file() and not is_hidden and not name.endswith(TIMED):
            found[name] = _content(file)
    return found


def _is_hidden(part: str) -> bool:
    return (
        part.startswith(".") or part == "unfinished"
    )  # the folder in which a stream's case is made


def _content(file: Path) -> bytes:
    if file.suffix != ".b2nd":
        return file.read_bytes()
    try:
        array = blosc2.open(str(file), mode="r")[:]
    except RuntimeError:
        return b"cannot be read"
    return repr((array.shape, array.dtype)).encode() + array.tobytes()


def started(work: Work, root: Path, number: int = 0) -> Run:
    """The command at work."""
    return Run(work.command, work.arguments(root), root.with_name(f"output_{number}.txt"))


def kills(work: Work, root: Path, count: int, chance: random.Random) -> str:
    """Kill and continue; returns what was found, in words."""
    fresh(work, root)
    before = contents(root / work.result)
    ended = started(work, root).wait(MOST_SECONDS)
    assert ended.code == 0, ended.output
    expected, seconds = contents(root / work.result), ended.seconds

    fresh(work, root)
    landed, wrong = 0, set[str]()
    for _ in range(count):
        wait = chance.uniform(0, seconds)
        run = started(work, root)
        killed = run.wait(wait).code is None
        landed += killed
        for name, content in contents(root / work.result).items():
            if content not in (expected.get(name), before.get(name)):
                wrong.add(name)
        if not killed:  # it came to its end before: begin again
            fresh(work, root)
    ended = started(work, root).wait(MOST_SECONDS)
    apart = {
        name
        for name, content in contents(root / work.result).items()
        if content != expected.get(name)
    }
    missing = expected.keys() - contents(root / work.result).keys()
    return (
        f"{landed} of {count} kills before the end; files wrong after one: {len(wrong)}; run "
        f"again: code {ended.code}, "
        f"{len(apart)} files differ, {len(missing)} are missing"
    )


def twice(work: Work, root: Path, rounds: int, chance: random.Random) -> str:
    """Two of the same at once; returns what was found, in words."""
    fresh(work, root)
    ended = started(work, root).wait(MOST_SECONDS)
    expected, seconds = contents(root / work.result), ended.seconds
    both = one = broken = 0
    for _ in range(rounds):
        fresh(work, root)
        first = started(work, root, 1)
        if chance.random() < 0.5:  # in half of the rounds the second comes some time later
            time.sleep(chance.uniform(0, seconds))
        second = started(work, root, 2)
        ends = [first.wait(MOST_SECONDS), second.wait(MOST_SECONDS)]
        well = [end.code == 0 for end in ends]
        in_words = all(_in_words(end) for end in ends)
        same = contents(root / work.result) == expected
        both += all(well)
        one += any(well) and not all(well)
        if not (any(well) and in_words and same):
            broken += 1
            print(*(end.output[-400:] for end in ends), sep="\n", flush=True)
    return (
        f"{rounds} rounds: both finished {both}, one was refused in one line {one}, broken {broken}"
    )


def _in_words(ended: Ended) -> bool:
    return ended.code in (0, 1) and not ended.has_traceback


def main() -> None:
    """Print two lines per command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    import_everything()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["nnUNet_ext_key"] = str(Path(scratch, "key"))
        for work in WORKS:
            root = Path(scratch, "place")
            print(f"{work.command}: {kills(work, root, arguments.kills, chance)}", flush=True)
            print(
                f"{work.command}, two at once: {twice(work, root, arguments.rounds, chance)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
