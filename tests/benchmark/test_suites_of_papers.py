"""The suites of the papers' tables: data that users convert, on generated miniatures of it."""

import itertools
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataset_conversion.datasets.covid_19_ct_seg import GROUPS
from dataset_conversion.phantoms.effusion_download import write_nsclc
from dataset_conversion.phantoms.haemorrhage_downloads import write_ct_ich, write_rsna
from dataset_conversion.phantoms.slice_downloads import (
    write_covid_semiseg,
    write_msd_brain,
    write_msd_lung,
)
from dataset_conversion.phantoms.volume_downloads import write_covid_19_ct_seg, write_mosmed
from nnunet_ext.benchmark.converted import Converted
from nnunet_ext.benchmark.covid_semiseg_data import DOWNLOAD
from nnunet_ext.benchmark.covid_semiseg_relation import EFFUSIONS, TUMOURS
from nnunet_ext.benchmark.suite import load_suite
from nnunet_ext.benchmark.suites import covid_ct_seg, mosmed, msd_rsna
from nnunet_ext.commands.convert import convert_entry
from nnunet_ext.errors import InputError
from nnunet_ext.synthesis.matches import read_matches
from tests.miniature_raw import write_raw

OF_PAPERS = ("covid-semiseg", "covid-semiseg-multiclass", "covid-ct-seg", "mosmed", "msd-rsna")
Writer = Callable[[Path], Path]


def write_lungs(folder: Path) -> Path:
    return write_msd_lung(folder, n_train=3, n_test=1, shape=(48, 48, 10), spacing=(7.0, 7.0, 12.0))


def write_brains(folder: Path) -> Path:
    return write_msd_brain(folder, n_train=2, n_test=1, shape=(32, 32, 64))


def write_studies(folder: Path) -> Path:
    return write_mosmed(folder, n_masked=6, n_unmasked=1)


def write_ct_seg(folder: Path) -> Path:
    scans = tuple(itertools.chain.from_iterable(GROUPS))
    return write_covid_19_ct_seg(folder, scans=scans)


CONVERSIONS: tuple[tuple[Converted, Writer], ...] = (
    (TUMOURS, write_lungs),
    (EFFUSIONS, write_nsclc),
    (covid_ct_seg.INFECTIONS, write_ct_seg),
    (covid_ct_seg.TUMOURS, write_lungs),
    (covid_ct_seg.EFFUSIONS, write_nsclc),
    (mosmed.INFECTIONS, write_studies),
    (msd_rsna.TUMOURS, write_brains),
    (msd_rsna.HAEMORRHAGES, write_rsna),
    (msd_rsna.LABELLED, write_ct_ich),
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's nnUNet_raw, made of miniatures with the commands that the suites name.

    Nodules are drawn, because the miniature of LIDC-IDRI has no lungs to crop to.
    """
    root = tmp_path_factory.mktemp("user")
    raw = root / "nnUNet_raw"
    raw.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(raw))
        for dataset, write in CONVERSIONS:
            download = root / dataset.name
            download.mkdir()
            source = write(download)
            program, *words = shlex.split(dataset.command.replace("DOWNLOAD", str(source)))
            assert program == "nnUNetv2_ext_convert"
            with pytest.raises(SystemExit) as ended:
                convert_entry([*words, "-np", "1"])
            assert ended.value.code in (0, None), dataset.command
        write_raw(raw, mosmed.NODULES.name, 2, shape=(32, 32, 4))
        yield raw


@pytest.fixture
def ours(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of raw data sets, with everything that a suite asks the user for."""
    source = write_covid_semiseg(tmp_path / "covid", n_labelled=5, n_test=2, n_unlabeled=3, size=48)
    monkeypatch.setenv(DOWNLOAD, str(source))
    weights = tmp_path / "resnet50.pth"
    weights.write_bytes(b"weights")
    monkeypatch.setenv(mosmed.BACKBONE, str(weights))
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def labels(folder: Path, part: str) -> set[str]:
    """Return the cases of ``Tr`` or ``Ts``; each has its image."""
    files = list((folder / f"labels{part}").iterdir())
    for file in files:
        assert file.is_file()
        ending = "".join(file.suffixes)
        name = file.name.removesuffix(ending)
        assert (folder / f"images{part}" / f"{name}_0000{ending}").is_file()
    return {file.name.partition(".")[0] for file in files}


@pytest.mark.parametrize("name", OF_PAPERS)
def test_every_row_finds_its_data(name: str, ours: Path) -> None:
    suite = load_suite(name)
    suite.write_data(ours)
    wanted = set(suite.test_sets)
    for row in suite.rows:
        if isinstance(row.trains_on, str):
            wanted.add(row.trains_on)
        for datasets in row.streams.values():
            wanted.update(datasets)
    for dataset in wanted:
        description = json.loads((ours / dataset / "dataset.json").read_text())
        assert description["labels"]["background"] == 0

    for dataset in suite.test_sets:
        assert labels(ours / dataset, "Tr") and labels(ours / dataset, "Ts")
        assert not labels(ours / dataset, "Tr") & labels(ours / dataset, "Ts")
        described = json.loads((ours / dataset / "dataset.json").read_text())
        measured = set(described["labels"])
        for table in suite.published:
            assert table.label in measured, table.source


def test_the_folds_are_the_published_ones(ours: Path) -> None:
    """Every case is trained on once, and tested by the four other folds."""
    covid_ct_seg.write_data(ours)
    trained: list[str] = []
    for fold, name in enumerate(covid_ct_seg.FOLDS):
        training = labels(ours / name, "Tr")
        assert training == set(GROUPS[fold])
        assert len(labels(ours / name, "Ts")) == 16
        trained += training
    assert len(trained) == len(set(trained)) == 20


def test_no_study_is_trained_and_tested(ours: Path) -> None:
    mosmed.write_data(ours)
    tested: list[str] = []
    for name in mosmed.FOLDS:
        studies = {}
        for part in ("Tr", "Ts"):
            cases = labels(ours / name, part)
            studies[part] = {case.rpartition("_")[0] for case in cases}
        assert not studies["Tr"] & studies["Ts"]
        tested += studies["Ts"]
    assert len(tested) == len(set(tested)) == 6
    assert (ours / "resnet50.pth").read_bytes() == b"weights"


def test_nodules_and_infections_have_the_papers_patch() -> None:
    """nnU-Net's own network cannot halve 352 pixels six times, so its row has the planned one."""
    patches = {row.name: row.patch for row in mosmed.SUITE.rows}
    assert patches.pop("nnunet") == ()
    assert set(patches.values()) == {(352, 352)}


def test_tumours_are_matched_with_haemorrhages(ours: Path) -> None:
    msd_rsna.write_data(ours)
    matches = read_matches(ours / "matches.json")
    assert (matches.source, matches.target) == (msd_rsna.TUMOURS.name, msd_rsna.HAEMORRHAGES.name)
    assert set(matches.source_cases) == labels(ours / msd_rsna.TUMOURS.name, "Tr")


def test_the_two_suites_of_slices_share_the_other_diseases(ours: Path) -> None:
    binary, multiclass = (load_suite(name) for name in OF_PAPERS[:2])
    streams = [suite.row("relation-driven").streams for suite in (binary, multiclass)]
    assert streams[0] == streams[1]
    binary.write_data(ours)
    drawn = [labels(ours / name, "Tr") for name in streams[0]["general"]]
    assert [len(cases) for cases in drawn] == [3, 3]  # a slice per scan


@pytest.mark.parametrize("named", ["", "nowhere.pth"])
def test_a_missing_backbone_names_the_command(
    named: str, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mosmed.BACKBONE, named)
    with pytest.raises(InputError, match=r"nnUNetv2_ext_pretrained --timm resnet50.tv_in1k -o"):
        mosmed.write_data(ours)


@pytest.mark.parametrize("name", OF_PAPERS)
def test_without_data_one_line_names_a_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "resnet50.pth"
    weights.touch()
    monkeypatch.setenv(mosmed.BACKBONE, str(weights))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    ours = tmp_path / "ours"
    ours.mkdir()
    with pytest.raises(InputError, match="convert it first: nnUNetv2_ext_convert ") as caught:
        load_suite(name).write_data(ours)
    assert "\n" not in str(caught.value)
