"""Trains trainers in several gloo processes on the CPU; run by test_processes.py."""

import os
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed

from nnunet_ext.trainers.adv_ent import AdvEntTrainer
from nnunet_ext.trainers.general_pretrain import GeneralPretrainTrainer
from nnunet_ext.trainers.plain import PlainTrainer
from nnunet_ext.trainers.relation_driven import RelationDrivenTrainer
from nnunet_ext.trainers.vq_semi_supervised import VQSemiSupervisedTrainer
from tests.miniature_plans import batch, plans, trainer
from tests.training.adversarial_trainer import (
    AdversarialTrainer,
    AlternatingTrainer,
    ReconstructingTrainer,
)

CASES: dict[str, tuple[type, tuple[str, ...]]] = {
    "plain": (PlainTrainer, ()),
    "general": (GeneralPretrainTrainer, ("general",)),
    "relation": (RelationDrivenTrainer, ("general", "unlabeled")),
    "vq": (VQSemiSupervisedTrainer, ("unlabeled",)),
    "vq_ema": (VQSemiSupervisedTrainer, ("unlabeled",)),
    "unequal": (AdvEntTrainer, ("target_domain",)),  # one process has fewer unforced samples
    "joint": (ReconstructingTrainer, ()),
    "simultaneous": (AdversarialTrainer, ("target_domain",)),
    "alternating": (AlternatingTrainer, ("target_domain",)),
}
STEPS, BATCH_SIZE = 3, 4
SETTINGS = {
    "general_checkpoint": "random",
    "num_epochs": 1,
    "num_iterations_per_epoch": STEPS,
    "average_weights": 0.9,
    "general_relation_weight": 10.0,
    "target_relation_weight": 10.0,
    **VQSemiSupervisedTrainer.miniature.settings,
    "codebook_decay": 0.5,
    "restart_below": 0.9,  # some codes restart
    "proportion_weight": 10.0,
}
SETTINGS_OF = {"vq_ema": {"codebook_kind": "ema", "codebooks": "separate"}}


def train(case: str, root: Path, rank: int = 0, size: int = 1, batch_dice: bool = True) -> Any:
    """The trainer after some steps, each on this rank's share of the same global batches."""
    cls, roles = CASES[case]
    streams = {role: ["Dataset998_Other"] for role in roles}
    content = plans(
        batch_size=BATCH_SIZE, streams=streams, settings={**SETTINGS, **SETTINGS_OF.get(case, {})}
    )
    content["configurations"]["2d"]["batch_dice"] = batch_dice
    made = trainer(cls, root / str(rank), content)
    made.on_train_epoch_start()
    outputs = []
    for step in range(STEPS):
        made.batch_size, own = BATCH_SIZE, made.batch_size
        whole = batch(made, roles, seed=step)
        made.batch_size = own
        outputs.append(made.train_step(share(whole, rank, BATCH_SIZE // size)))
    made.on_train_epoch_end(outputs)
    return made


def share(item: Any, rank: int, size: int) -> Any:
    """This rank's part of nested batches."""
    if isinstance(item, dict):
        return {name: share(value, rank, size) for name, value in item.items()}
    if isinstance(item, list) and isinstance(item[0], torch.Tensor):
        return [share(value, rank, size) for value in item]
    return item[rank * size : (rank + 1) * size]


def weights(made: Any) -> dict[str, torch.Tensor]:
    """Every weight of every network."""
    networks = {
        "network": made.network,
        **made.auxiliary_networks,
        "averaged": made.averaged_network,
    }
    return {
        f"{name}.{key}": value.clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }


def run(rank: int, size: int, root: Path, port: int) -> None:
    """One process of the group."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    distributed.init_process_group("gloo", rank=rank, world_size=size)
    torch.set_num_threads(1)
    for case in CASES:
        for batch_dice in (True, False):
            made = train(case, root, rank, size, batch_dice)
            logged = {term: made.logger.get_value(term, None) for term in made.loss_terms}
            torch.save((weights(made), logged), root / f"{case}_{batch_dice}_{rank}.pth")
    nnUNetTrainer.on_train_start = lambda self: None  # needs data
    with torch.no_grad():
        for network in (made.network, made.averaged_network, *made.auxiliary_networks.values()):
            next(network.parameters()).fill_(rank + 1)
    made.on_train_start()
    torch.save(weights(made), root / f"shared_{rank}.pth")
    distributed.destroy_process_group()
