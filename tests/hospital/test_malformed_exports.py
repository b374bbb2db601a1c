"""Damaged exports end with a line and an exit code, never with a traceback."""

import json
from collections import Counter
from pathlib import Path

import pytest

from nnunet_ext.commands.dicom_to_nnunet import dicom_to_nnunet_entry
from tests.hospital.malformed import write_malformed

EXPORTS = 200


def test_two_hundred_malformed_exports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    codes: Counter[int] = Counter()
    for seed in range(EXPORTS):
        folder, output = write_malformed(tmp_path / f"{seed}", seed), tmp_path / f"{seed}-out"
        with pytest.raises(SystemExit) as ended:
            dicom_to_nnunet_entry(["-i", str(folder), "-o", str(output), "-np", "1"])
        shown = capfd.readouterr()
        assert ended.value.code in (0, 1, 3), seed
        assert "Traceback" not in shown.err, (seed, shown.err)
        assert str(folder) not in shown.out, (seed, shown.out)
        assert (shown.out + shown.err).replace("\n", "").isprintable(), seed
        codes[ended.value.code] += 1
        if ended.value.code == 0:
            (entry, *_) = json.loads((output / "manifest.json").read_text())["cases"].values()
            assert (output / entry["channels"][0]["file"]).stat().st_size > 0
    assert min(codes[code] for code in (0, 1, 3)) > EXPORTS / 20, codes  # damage of every consequence
