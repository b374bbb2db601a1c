"""The only module that nnU-Net's trainer search reads: every trainer of nnunet_ext, imported from where it lives."""

from nnunet_ext.trainers.general_pretrain import GeneralPretrainTrainer  # noqa: F401
from nnunet_ext.trainers.plain import PlainTrainer  # noqa: F401
from nnunet_ext.trainers.relation_driven import RelationDrivenTrainer  # noqa: F401
