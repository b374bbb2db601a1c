"""The demo's own parts; the steps it calls have their own tests.

``make demo`` runs it whole.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnunet_ext.demo.overlays import draw_overlays
from nnunet_ext.demo.steps import Steps, follow
from nnunet_ext.errors import InputError


def test_a_failing_step_names_its_log_and_its_last_line(tmp_path: Path) -> None:
    steps = Steps(tmp_path, "cpu", count=13)
    steps.make_folders()

    with pytest.raises(InputError) as failed:
        steps.call("nnUNetv2_ext_evaluate", "-r", "/nowhere", "-p", "/nowhere")

    message = str(failed.value)
    log = tmp_path / "logs" / "01_nnUNetv2_ext_evaluate.log"
    assert message.startswith(f"{log}: nnUNetv2_ext_evaluate failed: ")
    assert "nowhere" in message
    assert message.endswith("fix that and run the demo again")


def test_steps_are_counted_and_finished_ones_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = Steps(tmp_path, "cpu", count=13)

    steps.announce("generate")
    steps.call("never started", skip=True)

    printed = capsys.readouterr().out.splitlines()
    assert printed == ["[ 1/13] generate", "[ 2/13] never started   (done before)"]


def test_the_output_is_kept_and_its_epochs_are_counted() -> None:
    log = io.StringIO()
    output = ["start\n", "2026-01-01: Epoch 0\n", "2026-01-01: Epoch 1\n"]

    follow(output, log, epochs=2)

    assert log.getvalue() == "".join(output)


def test_overlays_show_lesion_slices_only(tmp_path: Path) -> None:
    reference = tmp_path / "labelsTs"
    images = tmp_path / "imagesTs"
    method = tmp_path / "method"
    for folder in (reference, images, method):
        folder.mkdir()
    for i in range(3):
        mask = np.zeros((20, 24), np.uint8)
        mask[5:9, 5:9] = i > 0  # the first slice has no lesion
        Image.fromarray(mask).save(reference / f"slice_{i}.png")
        Image.fromarray(mask).save(method / f"slice_{i}.png")
        Image.fromarray(100 * mask).save(images / f"slice_{i}_0000.png")

    figure = draw_overlays(reference, {"method": method}, tmp_path / "overlays.png")

    assert (tmp_path / "overlays.png").stat().st_size > 1000
    names = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert names == ["slice_1", "slice_2"]
