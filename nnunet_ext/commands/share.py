"""``nnUNetv2_ext_share``: pack a trained model so that others can use and judge it."""

import argparse
from pathlib import Path

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.stock.folders import dataset_name, environment_folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_share",
        description="Pack a trained model into a zip for nnUNetv2_install_pretrained_model_from_"
        "zip. Where nnU-Net's own trainer builds the same network, the zip predicts in an "
        "environment that has only nnU-Net. A model card travels along: data sets, licences, "
        "overlaps, settings, scores, limits. Names of cases, paths and the state of the training "
        "stay here.",
        epilog="Example: nnUNetv2_ext_share -d 120 -c 2d -tr ImageSpaceDATrainer -o model.zip",
    )
    add = parser.add_argument
    add("-d", required=True, metavar="ID", help="data set it was trained on, id or name")
    add("-tr", required=True, metavar="TRAINER", help="trainer, any that nnU-Net finds")
    add("-c", metavar="CONFIG", help="configuration; not needed if only one is trained")
    add("-p", default="nnUNetPlans", metavar="PLANS", help="plans identifier, default nnUNetPlans")
    add("-f", nargs="+", metavar="FOLD", help="folds; default: all that are trained")
    add(
        "-chk",
        default="checkpoint_final.pth",
        metavar="NAME",
        help="checkpoint of each fold, default checkpoint_final.pth",
    )
    add("-o", required=True, type=Path, metavar="FILE", help="zip to write")
    add("--note", default="", metavar="TEXT", help="your own line under Limits of the model card")
    add("--overwrite", action="store_true", help="replace FILE")
    return parser


@command
def share_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_share``."""
    arguments = _parser().parse_args(argv)
    _require_free(arguments.o, arguments.overwrite)
    results = environment_folder("nnUNet_results") / dataset_name(arguments.d)
    folder = _model_folder(results, arguments.tr, arguments.p, arguments.c)

    from nnunet_ext.sharing.card import install_commands
    from nnunet_ext.sharing.model_zip import CARD, pack_model

    model = pack_model(folder, arguments.o, arguments.f, arguments.chk, arguments.note)
    size_mib = arguments.o.stat().st_size / 2**20
    folds = ", ".join(fold.name for fold in model.folds)
    print(f"wrote {arguments.o} ({size_mib:.1f} MiB), folds {folds}, with {CARD}")
    if model.needs.why:
        print(f"the receiver needs more than nnU-Net: {model.needs.why}")
        print(f"  {install_commands(model.needs)[0]}")
    else:
        print("predicts with nnU-Net alone")
    print("read the card before you pass the zip on; --note adds what it cannot know")
    return 0


def _model_folder(results: Path, trainer: str, plans: str, configuration: str | None) -> Path:
    """Return the folder of the model that the options name.

    Raises:
        InputError: nothing is trained, or several configurations are.
    """
    names = [folder.name.split("__") for folder in sorted(results.glob("*__*__*"))]
    trained = [name[2] for name in names if len(name) == 3 and name[:2] == [trainer, plans]]
    if configuration in trained:
        return results / f"{trainer}__{plans}__{configuration}"

    if not trained or configuration is not None:
        models = ", ".join(" ".join(name) for name in names) or "none"
        wanted = " ".join(filter(None, (trainer, plans, configuration)))
        raise InputError(f"{results}: has no model {wanted}; it has: {models}")
    if len(trained) > 1:
        raise InputError(f"{results}: {trainer} is trained in {', '.join(trained)}; choose with -c")
    return results / f"{trainer}__{plans}__{trained[0]}"


def _require_free(file: Path, overwrite: bool) -> None:
    if not file.absolute().parent.is_dir():
        raise InputError(f"{file.parent}: no such folder; make it, or give another -o")
    if file.is_dir():
        raise InputError(f"{file}: is a folder; give -o a file name")
    if file.exists() and not overwrite:
        raise InputError(f"{file}: exists; give another -o, or --overwrite")
