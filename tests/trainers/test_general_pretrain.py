"""The first stage of the relation-driven method, as others start from it."""

from pathlib import Path

import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnunet_ext.trainers.general_pretrain import GeneralPretrainTrainer
from nnunet_ext.trainers.plain import PlainTrainer
from tests.miniature_plans import DATASET_JSON, plans, trainer

TWO_LESIONS = {**DATASET_JSON, "labels": {"background": 0, "ggo": 1, "consolidation": 2}}


def test_plain_training_starts_from_it_with_nnunets_own_option(tmp_path: Path) -> None:
    """Everything but the output layers is handed over, so the labels may differ."""
    with_general = plans(streams={"general": ["Dataset998_General"]})
    general = trainer(
        GeneralPretrainTrainer, tmp_path / "general", with_general, dataset_json=TWO_LESIONS
    )
    general.save_checkpoint(str(tmp_path / "general.pth"))
    plain = trainer(PlainTrainer, tmp_path / "plain", plans(), dataset_json=TWO_LESIONS)
    load_pretrained_weights(plain.network, str(tmp_path / "general.pth"))

    learnt = general.network.state_dict()
    for name, value in plain.network.state_dict().items():
        if ".seg_layers." in name:
            assert len(value) == 3 and len(learnt[name]) == 2  # lesion, whatever its kind
        else:
            assert torch.equal(value, learnt[name]), name
