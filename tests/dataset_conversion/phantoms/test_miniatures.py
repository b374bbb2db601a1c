from dataset_conversion.datasets import converters
from dataset_conversion.phantoms.miniatures import MINIATURES


def test_every_data_set_has_a_miniature() -> None:
    missing = sorted(converters().keys() - MINIATURES.keys())
    assert not missing, "write a miniature in dataset_conversion/phantoms, and name it there"
