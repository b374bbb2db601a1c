"""The validation predictions of a model's folds in one folder, as the stock command merges them."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.stock.commands import command_environment, program
from nnunet_ext.stock.training import Model


def merge_folds(
    model: Model, folds: Sequence[str], results: Path, folder: Path, soft_maps: bool
) -> None:
    """Copy the folds' predictions to one folder, which replaces that of an earlier run.

    Args:
        model: whose folds are merged.
        folds: their numbers.
        results: nnU-Net's folder of results.
        folder: to write.
        soft_maps: link the probabilities, too.

    Raises:
        InputError: the folder holds something else, or the stock command failed.
    """
    if folder.exists() and not (folder / "summary.json").is_file():
        raise InputError(
            f"{folder}: exists, but holds no merged predictions; move it away or choose another -o"
        )
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    replaced = folder.with_name(f".{folder.name}.replaced")
    for leftover in (unfinished, replaced):  # of a killed run; the stock command refuses a folder
        shutil.rmtree(leftover, ignore_errors=True)

    _run_stock_command(model, folds, unfinished)
    if soft_maps:
        _link_soft_maps(model.folder(results), folds, unfinished)

    if folder.exists():
        folder.rename(replaced)
    unfinished.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _run_stock_command(model: Model, folds: Sequence[str], folder: Path) -> None:
    merge = ["nnUNetv2_accumulate_crossval_results", model.dataset]
    merge += ["-c", model.configuration, "-tr", model.trainer, "-p", model.plans]
    merge += ["-f", *folds, "-o", str(folder)]
    run = subprocess.run(program(merge), check=False, env=command_environment())
    if run.returncode:
        raise InputError(
            f"{shlex.join(merge)}: ended with code {run.returncode}; fix what it says and run the "
            "same again"
        )


def _link_soft_maps(model: Path, folds: Sequence[str], folder: Path) -> None:
    """Link the probabilities: the stock command copies labels only, and a link saves gigabytes."""
    for number in folds:
        validation = model / f"fold_{number}" / "validation"
        for path in validation.glob("*.npz"):
            link = folder / path.name
            link.symlink_to(path.resolve())
