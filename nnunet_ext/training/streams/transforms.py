"""Changes to nnU-Net's augmentation that a stream may need."""

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform


def without_spatial_transforms(transforms: ComposeTransforms) -> ComposeTransforms:
    """Remove all that moves voxels: rotation, scaling, mirroring, quarter turns, swapped axes."""
    from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
    from batchgeneratorsv2.transforms.spatial.transpose import TransposeAxesTransform

    spatial = (SpatialTransform, MirrorTransform, Rot90Transform, TransposeAxesTransform)
    kept = []
    for transform in transforms.transforms:
        inner = _inner(transform)
        if not isinstance(inner, spatial):
            kept.append(transform)
    return ComposeTransforms(kept)


def _inner(transform: BasicTransform) -> BasicTransform:
    if isinstance(transform, RandomTransform):
        return transform.transform
    return transform


def fill_outside(transforms: ComposeTransforms, channels: int, value: float) -> None:
    """Set voxels beyond the image's border to ``value`` instead of 0, which may be some tissue.

    nnU-Net marks these voxels by -1 in the segmentation until :class:`RemoveLabelTransform` makes
    them background.
    """
    steps = transforms.transforms
    kinds = list(map(type, steps))
    position = kinds.index(RemoveLabelTransform)
    all_channels = list(range(channels))
    mask = MaskImageTransform(all_channels, set_outside_to=value)
    steps.insert(position, mask)
