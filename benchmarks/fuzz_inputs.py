"""Give malformed inputs to commands: how often does one not end in words?

The commands are inspect, convert, configure and evaluate.

Run from the repository's root: ``python -m benchmarks.fuzz_inputs [--inputs 500] [--seed 0] [--keep
FOLDER]``.

Each input is a small valid one with one file changed: emptied, cut, overwritten, replaced by a link
or a folder, its header or its JSON values exchanged. Counted are tracebacks, runs that do not end,
runs with more memory than 3 GB, and silent acceptance: exit code 0, without a word about the file,
where no program could use it. Linux.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from benchmarks.forked import COMMANDS, Ended, Run, import_everything
from dataset_conversion.phantoms.dicom_series import write_series
from tests.miniature_plans import DATASET_JSON, plans
from tests.miniature_raw import write_raw

MOST_SECONDS, MOST_BYTES = 60, 3_000_000_000
AFFINE_MM = np.diag([1.0, 1.0, 2.0, 1.0])
JUNK: list[Any] = [
    None,
    [],
    {},
    "",
    "../../x",
    "\x1b[2J",
    -1,
    1e308,
    2**70,
    True,
    [[1]],
    {"0": None},
    "x" * 5000,
]

Change = Callable[[Path, random.Random], object]


@dataclass(frozen=True)
class Damage:
    """A change to one file; ``fatal`` where what is left is of no use to anybody."""

    name: str
    change: Change
    fatal: bool


@dataclass(frozen=True)
class Place:
    """A valid input of one command below ``root``.

    ``patterns`` are the files that may be changed.
    """

    command: str
    root: Path
    patterns: tuple[str, ...]
    arguments: tuple[object, ...]


# --- valid inputs


def write_pairs(folder: Path, images: str, labels: str, count: int = 2) -> None:
    """Volumes of noise with a cube, and their labels."""
    chance = np.random.default_rng(0)
    label = np.zeros((8, 9, 6), np.uint8)
    label[2:5, 2:6, 1:4] = 1
    for place in (images, labels):
        (folder / place).mkdir(parents=True)
    for number in range(count):
        image = chance.integers(-1000, 400, label.shape).astype(np.int16)
        nibabel.save(
            nibabel.Nifti1Image(image, AFFINE_MM), folder / images / f"case{number}.nii.gz"
        )
        nibabel.save(
            nibabel.Nifti1Image(label, AFFINE_MM), folder / labels / f"case{number}.nii.gz"
        )


def download(root: Path) -> Path:
    """A Medical Segmentation Decathlon task."""
    folder = root / "Task99_Fuzz"
    write_pairs(folder, "imagesTr", "labelsTr")
    names = [f"case{number}.nii.gz" for number in range(2)]
    content = {
        "name": "Fuzz",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "lesion"},
        "numTraining": 2,
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names
        ],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def places(root: Path) -> list[Place]:
    """Return one of each command and kind of input."""
    task = write_places(root)
    generic = ["Generic", "-i", root / "pairs", "--images", "images", "--masks", "masks"]
    generic += ["--channel", "CT", "-d", 5, "-np", 1]
    task_arguments = ("MSD", "-i", task, "-d", 5, "-np", 1)
    scans = ("RSNA-ICH", "-i", root / "dicom", "--dimension", "3d", "-d", 5, "-np", 1)
    streams = ("-d", 999, "--general", 998, "-np", 1)
    raw = ("nnUNet_raw/Dataset998_Other/dataset.json", "nnUNet_raw/Dataset998_Other/*/*")
    measured = ("-r", root / "reference/labels", "-p", root / "prediction/labels")
    labels = ("reference/labels/*", "prediction/labels/*", "reference/dataset.json")
    return [
        Place("inspect", root, ("pairs/*/*",), (root / "pairs",)),
        Place("inspect", root, ("Task99_Fuzz/*/*",), (task,)),
        Place("inspect", root, ("dicom/*",), (root / "dicom",)),
        Place("convert", root, ("pairs/*/*",), tuple(generic)),
        Place("convert", root, ("Task99_Fuzz/*.json", "Task99_Fuzz/*/*"), task_arguments),
        Place("convert", root, ("dicom/*",), scans),
        Place("configure", root, ("nnUNet_preprocessed/*/*.json",), streams),
        Place("configure", root, raw, streams),
        Place("evaluate", root, labels, (*measured, "-o", root / "report")),
    ]


def write_places(root: Path) -> Path:
    """Write the inputs of :func:`places`, and return the download of MSD's kind."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / variable).mkdir(parents=True)
    write_pairs(root / "pairs", "images", "masks")
    task = download(root)
    (root / "dicom").mkdir()
    voxels = np.random.default_rng(0).integers(-1000, 1000, (5, 16, 16)).astype(np.int16)
    write_series(root / "dicom", voxels, np.array([(0, 0, 5.0 * z) for z in range(5)]))

    labelled = root / "nnUNet_preprocessed" / "Dataset999_Miniature"
    labelled.mkdir()
    (labelled / "nnUNetPlans.json").write_text(json.dumps(plans()))
    (labelled / "dataset.json").write_text(json.dumps(DATASET_JSON))
    write_raw(root / "nnUNet_raw", "Dataset998_Other", 2, (4, 24, 24))
    for folder in ("reference", "prediction"):
        write_pairs(root / folder, "images", "labels")
    (root / "reference/dataset.json").write_text(json.dumps(DATASET_JSON))
    return task


# --- damages


def _cut(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(1, len(content) - 1)])


def _overwrite(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(chance.randint(1, 40)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    file.write_bytes(content)


def _replace_by_link(file: Path, target: Path) -> None:
    file.unlink()
    file.symlink_to(target)


def _replace_by_folder(file: Path, chance: random.Random) -> None:
    file.unlink()
    file.mkdir()


def _change_json(file: Path, chance: random.Random) -> None:
    """Exchange one value at any depth."""
    content = json.loads(file.read_text())
    at: Any = content
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return
        key = chance.choice(keys)
        if not isinstance(at[key], dict | list) or not at[key] or chance.random() < 0.3:
            break
        at = at[key]
    if isinstance(at, dict) and chance.random() < 0.3:
        del at[key]
    else:
        at[key] = chance.choice(JUNK)
    file.write_text(json.dumps(content))


def _change_header(file: Path, chance: random.Random) -> None:
    """Exchange one field of a NIfTI header, in the part that is not compressed with the rest."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    field, form, values = chance.choice(HEADER_FIELDS)
    struct.pack_into(form, content, field, chance.choice(values))
    file.write_bytes(gzip.compress(bytes(content)))


def _declare_gigabytes(file: Path, chance: random.Random) -> None:
    content = bytearray(gzip.decompress(file.read_bytes()))
    struct.pack_into("<4h", content, 40, 3, 1250, 1250, chance.choice((900, 1250, 1300)))
    struct.pack_into("<2h", content, 70, 64, 64)  # float64
    file.write_bytes(gzip.compress(bytes(content)))


HEADER_FIELDS: list[tuple[int, str, list[Any]]] = [
    (0, "<i", [0, 540, -1]),  # size of the header
    (40, "<h", [0, -1, 2, 4, 7, 9]),  # axes
    (42, "<h", [0, -1, 1, 32767]),
    (46, "<h", [0, 3, 32767]),
    (70, "<h", [0, 1, 32, 128, 1536, 9999]),  # type
    (80, "<f", [0.0, -1.0, float("nan"), float("inf"), 1e30]),  # voxel size
    (108, "<f", [0.0, -352.0, 1e9, float("nan")]),  # where the voxels begin
    (112, "<f", [float("nan"), float("inf"), 1e38]),  # slope
    (252, "<h", [-1, 9, 1]),  # qform_code
    (254, "<h", [-1, 9, 0]),  # sform_code
    (280, "<f", [0.0, float("nan"), 1e30]),  # sform
    (344, "<i", [0, 0x0031696E]),  # magic
]

ANY_FILE = [
    Damage("empty", lambda file, chance: file.write_bytes(b""), True),
    Damage("cut", _cut, True),
    Damage("overwritten", _overwrite, False),
    Damage("noise", lambda file, chance: file.write_bytes(chance.randbytes(3000)), True),
    Damage("utf-16", lambda file, chance: file.write_bytes("{} []".encode("utf-16")), True),
    Damage("link to itself", lambda file, chance: _replace_by_link(file, file), True),
    Damage(
        "link to nothing",
        lambda file, chance: _replace_by_link(file, file.with_name("absent")),
        True,
    ),
    Damage("folder", _replace_by_folder, True),
]
JSON_FILE = [
    Damage("value", _change_json, False),
    Damage("list", lambda file, chance: file.write_text("[1, 2]"), True),
    Damage("nested", lambda file, chance: file.write_text("[" * 200_000), True),
    Damage("nested objects", lambda file, chance: file.write_text('{"a":' * 100_000), True),
    Damage(
        "huge number",
        lambda file, chance: file.write_text('{"labels": ' + "9" * 10_000 + "}"),
        True,
    ),
]
NIFTI_FILE = [
    Damage("header", _change_header, False),
    Damage("gigabytes", _declare_gigabytes, True),
    Damage(
        "compressed twice",
        lambda file, chance: file.write_bytes(gzip.compress(file.read_bytes())),
        True,
    ),
]


def damages_of(file: Path) -> list[Damage]:
    """Those that fit a kind of file; its own are as likely as the general ones."""
    if file.name.endswith(".json"):
        return [*JSON_FILE[:1] * 6, *JSON_FILE[1:], *ANY_FILE]
    if file.name.endswith(".nii.gz"):
        return [*NIFTI_FILE[:1] * 6, *NIFTI_FILE[1:], *ANY_FILE]
    return ANY_FILE


# --- the runs


def judged(place: Place, damage: Damage, file: Path, ended: Ended) -> str:
    """Say how a run went, as a column of the table."""
    if ended.code is None:
        return "hang"
    if ended.has_traceback or ended.code < 0 or ended.code == 70:
        return "traceback"
    if ended.largest_bytes > MOST_BYTES:
        return "over 3 GB"
    if ended.code != 0:
        return "refused"
    shown = file.name in ended.output or "odd" in ended.output or "ignored" in ended.output
    # A note is all that is due of a series without one slice.
    is_dicom = file.parent.name == "dicom"
    return "silent" if damage.fatal and not shown and not is_dicom else "accepted"


def main() -> None:
    """Print a line per run that did not end in words, and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that did not end in words")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    import_everything()
    table: Counter[tuple[str, str]] = Counter()

    with suppress(KeyboardInterrupt):  # the table is that of what was run
        run_all(arguments.inputs, chance, arguments.keep, table)
    print_table(table)


def run_all(
    inputs: int, chance: random.Random, keep: Path | None, table: Counter[tuple[str, str]]
) -> None:
    """Run the valid inputs, then damaged ones; count into ``table``."""
    with tempfile.TemporaryDirectory() as scratch:
        template = Path(scratch, "template")
        kinds = places(template)
        for number in range(-len(kinds), inputs):
            kind = kinds[number % len(kinds)]
            root = Path(scratch, "run")
            shutil.copytree(template, root)
            for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
                os.environ[name] = str(root / name)
            os.environ["nnUNet_ext_key"] = str(Path(scratch, "key"))
            files: list[Path] = []
            for pattern in kind.patterns:
                files += [file for file in sorted(root.glob(pattern)) if file.is_file()]
            file = chance.choice(files)
            damage = (
                chance.choice(damages_of(file))
                if number >= 0
                else Damage("undamaged", lambda *_: None, False)
            )
            damage.change(file, chance)

            words = [str(word).replace(str(template), str(root)) for word in kind.arguments]
            ended = Run(kind.command, words, Path(scratch, "output.txt")).wait(MOST_SECONDS)
            if number < 0:  # the inputs as such are taken
                assert ended.code == 0, f"{kind.command} {words}: {ended.output}"
                shutil.rmtree(root)
                continue
            verdict = judged(kind, damage, file, ended)
            table[kind.command, verdict] += 1
            if verdict in ("hang", "traceback", "over 3 GB", "silent"):
                last = (ended.output.strip().splitlines() or ["no output"])[-1]
                print(
                    f"{number} {kind.command} {file.relative_to(root)} {damage.name}: {verdict}: "
                    f"{last[:200]}",
                    flush=True,
                )
                if keep:
                    shutil.copytree(root, keep / str(number), symlinks=True)
            shutil.rmtree(root)


def print_table(table: Counter[tuple[str, str]]) -> None:
    """Print runs by command and how they went."""
    columns = ("refused", "accepted", "traceback", "hang", "over 3 GB", "silent")
    print(f"\n| command | runs | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for command in COMMANDS:
        counts = [table[command, column] for column in columns]
        print(f"| {command} | {sum(counts)} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    main()
