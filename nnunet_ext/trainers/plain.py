"""Plain nnU-Net with settings from the plans: the control row of every comparison."""

from typing import ClassVar

from nnunet_ext.training.multi_stream_trainer import MultiStreamTrainer


class PlainTrainer(MultiStreamTrainer):
    """nnU-Net's own training on the labelled stream, with settings from the plans.

    Reference: Isensee et al. 2021, "nnU-Net: a self-configuring method for deep learning-based
    biomedical image segmentation".
    """

    use_when: ClassVar[str] = "you compare: nnU-Net itself, with settings from the plans"
