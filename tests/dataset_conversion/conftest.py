"""Generated downloads, made once per session, and a place to convert to."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset_conversion.phantoms import volume_downloads as phantom_volumes
from dataset_conversion.phantoms.effusion_download import write_nsclc
from dataset_conversion.phantoms.haemorrhage_downloads import write_bhsd, write_rsna
from dataset_conversion.phantoms.lidc_download import write_lidc
from dataset_conversion.phantoms.slice_downloads import (
    write_covid_semiseg,
    write_msd_brain,
    write_msd_lung,
)
from tests.dataset_conversion.labelled_export import write_labelled_export


@pytest.fixture(scope="session")
def covid_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("covid")
    return write_covid_semiseg(folder, n_labelled=4, n_test=2, n_unlabeled=7, size=64)


@pytest.fixture(scope="session")
def lung_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lung")
    return write_msd_lung(folder, n_train=3, n_test=1, shape=(40, 36, 10), spacing=(8.0, 8.5, 20.0))


@pytest.fixture(scope="session")
def brain_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msd_brain(
        tmp_path_factory.mktemp("brain"), n_train=2, n_test=1, shape=(24, 20, 16)
    )


@pytest.fixture(scope="session")
def covid_19_20_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom_volumes.write_covid_19_20(tmp_path_factory.mktemp("covid_19_20"))


@pytest.fixture(scope="session")
def covid_19_ct_seg_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom_volumes.write_covid_19_ct_seg(tmp_path_factory.mktemp("covid_19_ct_seg"))


@pytest.fixture(scope="session")
def generic_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom_volumes.write_generic(tmp_path_factory.mktemp("generic"))


@pytest.fixture(scope="session")
def lits_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom_volumes.write_lits(tmp_path_factory.mktemp("lits"))


@pytest.fixture(scope="session")
def mosmed_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom_volumes.write_mosmed(tmp_path_factory.mktemp("mosmed"))


@pytest.fixture(scope="session")
def sirm_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom_volumes.write_sirm(tmp_path_factory.mktemp("sirm"))


@pytest.fixture(scope="session")
def synthetic_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom_volumes.write_synthetic(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="session")
def lidc_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lidc(tmp_path_factory.mktemp("lidc"))


@pytest.fixture(scope="session")
def nsclc_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nsclc(tmp_path_factory.mktemp("nsclc"))


@pytest.fixture(scope="session")
def rsna_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rsna(tmp_path_factory.mktemp("rsna"))


@pytest.fixture(scope="session")
def bhsd_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bhsd(tmp_path_factory.mktemp("bhsd"))


@pytest.fixture(scope="session")
def dicom_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled_export(tmp_path_factory.mktemp("dicom"))


def _copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "download" / original.name))


@pytest.fixture
def covid(covid_original: Path, tmp_path: Path) -> Path:
    """A copy of the COVID-SemiSeg phantom that a test may damage."""
    return _copy(covid_original, tmp_path)


@pytest.fixture
def lung(lung_original: Path, tmp_path: Path) -> Path:
    """A copy of the Task06_Lung phantom that a test may damage."""
    return _copy(lung_original, tmp_path)


@pytest.fixture
def brain(brain_original: Path, tmp_path: Path) -> Path:
    """A copy of the Task01_BrainTumour phantom that a test may damage."""
    return _copy(brain_original, tmp_path)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty nnUNet_raw, also in the environment."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """All files of a folder with their bytes, without the journal, whose order depends on timing,
    and the summary.
    """

    left_out = (".jsonl", ".md")

    def read(folder: Path) -> dict[str, bytes]:
        files = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names]
        return {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in files
            if file.suffix not in left_out
        }

    return read
