"""Changes to nnU-Net's augmentation that a stream may need."""

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform


def without_spatial_transforms(transforms: ComposeTransforms) -> ComposeTransforms:
    """Leave out what moves voxels: rotation, scaling, mirroring, quarter turns and swapped axes."""
    from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
    from batchgeneratorsv2.transforms.spatial.transpose import TransposeAxesTransform

    spatial = (SpatialTransform, MirrorTransform, Rot90Transform, TransposeAxesTransform)
    kept = [one for one in transforms.transforms if not isinstance(_inner(one), spatial)]
    return ComposeTransforms(kept)


def _inner(transform: BasicTransform) -> BasicTransform:
    return transform.transform if isinstance(transform, RandomTransform) else transform


def fill_outside(transforms: ComposeTransforms, channels: int, value: float) -> None:
    """Set voxels beyond the image's border to ``value`` instead of 0, which may be any tissue.

    nnU-Net marks them as -1 in the segmentation until :class:`RemoveLabelTransform` makes them
    background.
    """
    steps = transforms.transforms
    (position,) = [i for i, step in enumerate(steps) if isinstance(step, RemoveLabelTransform)]
    steps.insert(position, MaskImageTransform(list(range(channels)), set_outside_to=value))
