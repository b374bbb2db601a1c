import subprocess
import sys
from pathlib import Path

import pytest

from dataset_conversion.converter import Found
from dataset_conversion.datasets.lidc_idri import LidcIdri
from nnunet_ext.errors import InputError


def test_missing_packages_are_one_line(lidc_original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("pydicom", "nnunet_ext.dicom"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"pip install 'nnunetv2-ext\[dicom\]'"):
        LidcIdri(lidc_original).scan(Found())


def test_list_of_data_sets_needs_no_dicom_packages() -> None:
    code = (
        "import sys\n"
        "from dataset_conversion.datasets import converters\n"
        "assert 'LIDC-IDRI' in converters()\n"
        "assert not {'pydicom', 'defusedxml', 'scipy.ndimage', 'skimage'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
