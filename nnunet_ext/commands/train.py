"""``nnUNetv2_ext_train``: ``nnUNetv2_train`` for torchrun, on one node or several."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from nnunet_ext.commands.entry import command
from nnunet_ext.errors import InputError
from nnunet_ext.own_trainers import find_trainer

HELP = """nnUNetv2_ext_train takes the arguments of nnUNetv2_train.

Under torchrun its processes train together:
    torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \\
        --no-python nnUNetv2_ext_train 120 2d 0 -tr RelationDrivenTrainer
The batch of the plans is shared by all processes. Without torchrun it is nnUNetv2_train.
"""


@command
def train_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_train``."""
    if argv is not None:
        sys.argv[1:] = argv
    if {"-h", "--help"} & set(sys.argv):
        print(HELP)

    from nnunetv2.run import run_training

    if "TORCHELASTIC_RUN_ID" in os.environ:
        _train_together(run_training)
    else:
        run_training.run_training_entry()
    return 0


def _train_together(run_training: Any) -> None:
    """Run nnU-Net's own command as one process of a group."""
    import torch
    from torch import distributed

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-tr", default="nnUNetTrainer")
    parser.add_argument("-device", default="cuda")
    parser.add_argument("-num_gpus", type=int, default=1)
    arguments, _ = parser.parse_known_args()
    if arguments.num_gpus != 1:
        raise InputError("torchrun starts the processes (--nproc_per_node); leave -num_gpus out")
    _require_own_trainer(arguments.tr)

    backend = "gloo"
    if arguments.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl"
    # nnU-Net's takes the rank for the GPU's number
    run_training.load_pretrained_weights = load_pretrained_weights
    distributed.init_process_group(backend)
    run_training.run_training_entry()
    # not after an error, when others may still wait for this process
    distributed.destroy_process_group()


def _require_own_trainer(name: str) -> None:
    from nnunet_ext.training.multi_network_trainer import MultiNetworkTrainer

    if not issubclass(find_trainer(name), MultiNetworkTrainer):
        raise InputError(
            f"-tr {name}: nnU-Net's trainers run on one node; use nnUNetv2_train, or PlainTrainer"
        )


def load_pretrained_weights(network: Any, file: str, verbose: bool = False) -> None:
    """Load every weight but the segmentation layers, as nnU-Net's function of this name.

    Raises:
        InputError: unreadable file, a weight is missing or of another shape.
    """
    from nnunet_ext.training.weights.checkpoint_files import read_weights

    given = read_weights(Path(file), "make it fit with nnUNetv2_ext_pretrained")
    network = getattr(network, "_orig_mod", network)
    weights = network.state_dict()
    wanted = [name for name in weights if ".seg_layers." not in name]

    misfits = []
    for name in wanted:
        if name not in given or given[name].shape != weights[name].shape:
            misfits.append(name)
    if misfits:
        raise InputError(
            f"{file}: {len(misfits)} of {len(wanted)} weights do not fit, e.g. {misfits[0]}; "
            "make it fit with nnUNetv2_ext_pretrained"
        )
    weights |= {name: given[name] for name in wanted}
    network.load_state_dict(weights)
