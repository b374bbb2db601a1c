"""Train folds one after the other with the stock command, beside other runs that do the same."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence

from nnunet_ext.crossval.folds import Fold
from nnunet_ext.files import locked_program
from nnunet_ext.files.locked_program import BUSY
from nnunet_ext.files.locks import held
from nnunet_ext.stock.commands import command_environment, program

Say = Callable[[str], None]


def train_all(folds: Sequence[Fold], device: str, say: Say) -> list[str]:
    """Train each fold, also after others failed; those that another run is training come last.

    Args:
        folds: to train.
        device: of nnU-Net's command.
        say: called with each line of progress.

    Returns:
        What went wrong, one text per failed fold.
    """
    codes = {}
    for number, fold in enumerate(folds, start=1):
        codes[fold] = _train(fold, device, f"[{number}/{len(folds)}]", say)

    busy = [fold for fold, code in codes.items() if code == BUSY]
    for fold in busy:
        while codes[fold] == BUSY:
            say(f"{fold.folder}: waiting for the other run")
            with held(fold.lock):
                pass
            codes[fold] = _train(fold, device, "[waited]", say)

    problems = []
    for fold, code in codes.items():
        if not fold.finished:
            problems.append(f"{fold.folder} ({_reason(code)})")
    return problems


def _reason(code: int) -> str:
    """Return why a fold is not finished although its training has ended."""
    if code == 0:
        return "no complete validation folder after the training, see its training log"
    return f"ended with code {code}"


def _train(fold: Fold, device: str, progress: str, say: Say) -> int:
    """Train one fold; nothing is left to do where another run has finished it.

    Returns:
        Exit code of the training, :data:`BUSY` where another run is at it.
    """
    if fold.finished:
        return 0

    fold.folder.mkdir(parents=True, exist_ok=True)
    arguments = fold.arguments(device)
    say(f"{progress} {shlex.join(arguments)}")
    command = [sys.executable, "-m", locked_program.__name__, str(fold.lock)]
    command += program(arguments)
    run = subprocess.run(command, check=False, env=command_environment())
    if run.returncode == BUSY:
        say(f"{fold.folder}: another run is training it")
    elif run.returncode:
        sys.stderr.write(f"{fold.folder}: failed with code {run.returncode}\n")
    return run.returncode
