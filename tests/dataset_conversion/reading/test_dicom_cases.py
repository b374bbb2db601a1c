import os
import subprocess
import sys
from pathlib import Path


def test_missing_packages_are_one_line(lidc_original: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['pydicom'] = None  # as if not installed\n"
        "from nnunet_ext.commands.convert import convert_entry\n"
        f"convert_entry(['LIDC-IDRI', '-i', {str(lidc_original)!r}, '-d', '60', '--dry-run'])\n"
    )
    environment = {**os.environ, "nnUNet_raw": str(lidc_original.parent)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 1
    assert "pip install 'nnunetv2-ext[dicom]'" in run.stderr and "Traceback" not in run.stderr


def test_list_of_data_sets_needs_no_dicom_packages() -> None:
    code = (
        "import sys\n"
        "from dataset_conversion.datasets import converters\n"
        "assert 'LIDC-IDRI' in converters()\n"
        "assert not {'pydicom', 'defusedxml', 'scipy.ndimage', 'skimage'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
