"""A watch in a process of its own, which a test kills; a threshold stands for the model."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import SimpleITK

from nnunet_ext.dicom.writing.segments import Model, segments_of
from nnunet_ext.hospital.exchange.c_store import CStoreDestination
from nnunet_ext.hospital.exchange.watching import Watch
from nnunet_ext.hospital.results import Outputs
from nnunet_ext.hospital.run import Run
from nnunet_ext.hospital.selection import read_selection

LABELS = {"background": 0, "lesion": 1}
THRESHOLD_HU = 200


class ThresholdPredictor:
    """What :class:`nnunet_ext.hospital.prediction.Predictor` does, without a network."""

    def predict(self, images: Sequence[Path], output: Path, *, probabilities: bool = False) -> Path:
        assert not probabilities
        image = SimpleITK.ReadImage(str(images[0]))
        file = output.with_name(output.name + ".nii.gz")
        SimpleITK.WriteImage(image > THRESHOLD_HU, str(file))
        return file


def watch_of(folder: Path, output: Path, address: str, quiet_s: float) -> Watch:
    output.mkdir(exist_ok=True)
    predictor: Any = ThresholdPredictor()
    run = Run(
        predictor,
        Outputs(segments_of(LABELS), Model("threshold", "1")),
        {"labels": LABELS, "file_ending": ".nii.gz"},
        read_selection(None, ["CT"]),
        output,
        output.parent / "names.jsonl",
    )
    return Watch(folder, output, run, [CStoreDestination(address)], quiet_s)


if __name__ == "__main__":
    watch_of(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], 0.3).run(poll_s=0.1)
