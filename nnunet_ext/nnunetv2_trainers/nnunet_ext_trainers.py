"""The only module that nnU-Net's trainer search reads: every trainer of nnunet_ext, imported from
where it lives.
"""

from nnunet_ext.trainers.adv_ent import AdvEntTrainer  # noqa: F401
from nnunet_ext.trainers.amd_das import AMDDASTrainer  # noqa: F401
from nnunet_ext.trainers.feature_space_da import FeatureSpaceDATrainer  # noqa: F401
from nnunet_ext.trainers.general_pretrain import GeneralPretrainTrainer  # noqa: F401
from nnunet_ext.trainers.image_space_da import ImageSpaceDATrainer  # noqa: F401
from nnunet_ext.trainers.mean_teacher import MeanTeacherTrainer  # noqa: F401
from nnunet_ext.trainers.min_ent import MinEntTrainer  # noqa: F401
from nnunet_ext.trainers.ncovsegnet import NCoVSegNetTrainer  # noqa: F401
from nnunet_ext.trainers.plain import PlainTrainer  # noqa: F401
from nnunet_ext.trainers.pseudo_ct_synthesis import PseudoCTSynthesisTrainer  # noqa: F401
from nnunet_ext.trainers.relation_driven import RelationDrivenTrainer  # noqa: F401
from nnunet_ext.trainers.vq_semi_supervised import VQSemiSupervisedTrainer  # noqa: F401
