"""Numbers and names of data sets."""

from pathlib import Path

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import dataset_name


def test_a_number_that_stands_for_two_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net takes every folder that begins with Dataset120 for data set 120."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "Dataset120_A").mkdir()
    assert dataset_name("120") == "Dataset120_A"
    (tmp_path / "Dataset1201_B").mkdir()
    with pytest.raises(InputError) as caught:
        dataset_name("120")
    assert str(caught.value) == (
        "120 stands for Dataset120_A and Dataset1201_B; give the name instead of the number, "
        "here and in nnU-Net's "
        "commands: Dataset120_A"
    )
    assert dataset_name("Dataset120_A") == "Dataset120_A"
