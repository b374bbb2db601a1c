"""Job arrays, a Dask cluster, memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.datasets.covid_semiseg import CovidSemiSeg
from dataset_conversion.writing.conversion import convert
from dataset_conversion.writing.conversion_job import Workers
from dataset_conversion.writing.journal import JOURNAL_NAME
from nnunet_ext.errors import InputError
from tests.another_process import another_process
from tests.places import REPOSITORY

CONVERT_ONE = """
import sys
from pathlib import Path
from dataset_conversion.writing.conversion import convert
from dataset_conversion.datasets.msd import MSD
summary = convert(MSD(Path(sys.argv[1])), Path(sys.argv[2]))
assert summary.problems == [], summary.problems
# getrusage would count the memory of the process that started this
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


def test_parts_of_a_job_array_make_the_same_data_set(
    covid: Path, raw: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    folder = raw / "Dataset120_X"
    first = convert(CovidSemiSeg(covid), folder, Workers(part=0, parts=2))
    assert (len(first.converted), first.complete) == (3, False)
    assert not (folder / "dataset.json").exists()
    second = convert(CovidSemiSeg(covid), folder, Workers(part=1, parts=2))
    assert second.complete
    assert not set(first.converted) & set(second.converted)
    convert(CovidSemiSeg(covid), raw / "at_once/Dataset120_X")
    assert contents(folder) == contents(raw / "at_once/Dataset120_X")
    again = convert(CovidSemiSeg(covid), folder)  # without parts: finishes, and finds all done
    assert (again.converted, len(again.skipped)) == ([], 6)
    with pytest.raises(InputError, match="made in several parts"):
        convert(CovidSemiSeg(covid), folder, overwrite=True)


def test_parts_run_beside_each_other_but_not_beside_the_whole(covid: Path, raw: Path) -> None:
    folder = raw / "Dataset120_X"
    folder.mkdir()
    with another_process(folder, shared=True):
        convert(CovidSemiSeg(covid), folder, Workers(part=0, parts=2))
        with pytest.raises(InputError, match="another conversion"):
            convert(CovidSemiSeg(covid), folder)


def test_a_failed_case_does_not_hold_up_the_others(covid: Path, raw: Path) -> None:
    images = covid / "Dataset/TrainingSet/LungInfection-Train/Doctor-label/Imgs"
    (images / "0.jpg").write_bytes(b"")
    summary = convert(CovidSemiSeg(covid), raw / "Dataset120_X")
    assert len(summary.problems) == 1
    assert (raw / "Dataset120_X/dataset.json").is_file()


def test_dask_cluster(covid: Path, raw: Path, contents: Callable[[Path], dict[str, bytes]]) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        convert(CovidSemiSeg(covid), raw / "Dataset120_X", Workers(dask=cluster.scheduler_address))
    convert(CovidSemiSeg(covid), raw / "here/Dataset120_X")
    assert contents(raw / "Dataset120_X") == contents(raw / "here/Dataset120_X")


def test_no_dask_scheduler_is_one_line(covid: Path, raw: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="--dask nowhere:1"):
        convert(CovidSemiSeg(covid), raw / "Dataset120_X", Workers(dask="nowhere:1"))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux")
def test_memory_of_a_worker_is_bounded(lung: Path, raw: Path) -> None:
    """A quarter of a large CT (512 x 512 x 150, 75 MB): imports, and less than eight times the
    volume.
    """
    shape = (512, 512, 150)
    generator = np.random.default_rng(0)
    block = generator.integers(-1000, 400, (512, 512, 1), np.int16)
    affine = np.diag([0.8, 0.8, 1.0, 1.0])
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        for file in (lung / part).iterdir():
            if file.name not in ("lung_001.nii.gz",):
                file.unlink()
    nibabel.save(
        nibabel.Nifti1Image(np.broadcast_to(block, shape), affine),
        lung / "imagesTr/lung_001.nii.gz",
    )
    label = np.zeros(shape, np.uint8)
    label[200:220, 200:220, 50:60] = 1
    nibabel.save(nibabel.Nifti1Image(label, affine), lung / "labelsTr/lung_001.nii.gz")
    description = lung / "dataset.json"
    content = json.loads(description.read_text())
    content["training"] = [
        {"image": "./imagesTr/lung_001.nii.gz", "label": "./labelsTr/lung_001.nii.gz"}
    ]
    description.write_text(json.dumps(content | {"test": []}))
    command = [sys.executable, "-c", CONVERT_ONE, str(lung), str(raw / "Dataset006_X")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    megabytes = int(result.stdout)
    assert megabytes < 250 + 8 * 75, f"peak {megabytes} MB"
    assert (raw / "Dataset006_X" / JOURNAL_NAME).is_file()
