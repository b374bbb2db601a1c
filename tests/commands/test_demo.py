"""The demo's own parts; the steps it calls have their own tests, and ``make demo`` runs it
whole.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.phantoms.miniatures import MINIATURES
from nnunet_ext.commands.demo import demo_entry
from nnunet_ext.demo.overlays import draw_overlays
from nnunet_ext.demo.steps import Steps, follow
from nnunet_ext.errors import InputError


def test_a_failing_step_names_its_log_and_its_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = Steps(tmp_path, "cpu", count=13)
    (tmp_path / "logs").mkdir()
    with pytest.raises(
        InputError, match=r"01_nnUNetv2_ext_evaluate\.log: nnUNetv2_ext_evaluate failed: .*nowhere"
    ):
        demo.call("nnUNetv2_ext_evaluate", "-r", "/nowhere", "-p", "/nowhere")
    demo.call("nnUNetv2_ext_evaluate", "--help")
    demo.call("never started", skip=True)
    printed = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in printed] == [f"[{step:2}/{demo.count}] " for step in (1, 2, 3)]
    assert printed[2].endswith("(done before)")


def test_every_data_sets_download_in_miniature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--downloads", "-o", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        demo_entry(arguments)
    assert ended.value.code == 0
    printed = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert printed == list(MINIATURES)
    assert all(any((tmp_path / name).iterdir()) for name in printed)

    with pytest.raises(SystemExit) as ended:
        demo_entry(arguments)
    assert ended.value.code == 1
    assert "BHSD: is there already; choose another -o" in capsys.readouterr().err


def test_the_output_is_kept_and_its_epochs_are_counted() -> None:
    log = io.StringIO()
    follow(["start\n", "2026-01-01: Epoch 0\n", "2026-01-01: Epoch 1\n"], log, epochs=2)
    assert log.getvalue().endswith("Epoch 0\n2026-01-01: Epoch 1\n")


def test_overlays_show_lesion_slices_only(tmp_path: Path) -> None:
    reference, images, method = tmp_path / "labelsTs", tmp_path / "imagesTs", tmp_path / "method"
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
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["slice_1", "slice_2"]
