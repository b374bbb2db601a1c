"""Wrong input ends a command that catches nothing with one line, as nnU-Net's own commands are."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ext.errors import InputError, naming


def test_uncaught_it_is_one_line_and_exit_code_1() -> None:
    code = (
        "from nnunet_ext.errors import InputError; raise InputError('a.png: is empty; remove it')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "error: a.png: is empty; remove it\n")


def test_caught_it_is_an_ordinary_exception_that_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(InputError("a.png: is empty")))
    assert isinstance(error, Exception) and str(error) == "a.png: is empty"


def test_a_file_is_named_once() -> None:
    label, image = Path("label.png"), Path("image.png")
    with pytest.raises(InputError, match=r"^label\.png: is empty$"), naming(label, image):
        raise InputError("is empty")
    with pytest.raises(InputError, match=r"^image\.png: is empty$"), naming(label, image):
        raise InputError("image.png: is empty")
