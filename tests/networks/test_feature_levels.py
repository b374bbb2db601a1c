"""Levels by stride: the paper's numbering, anisotropic plans, agreement with nnU-Net's encoder."""

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_ext.errors import InputError
from nnunet_ext.networks.feature_levels import cumulative_strides, level_at_stride, level_size
from tests.miniature_plans import architecture

ANISOTROPIC = [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]]


def test_levels_of_the_paper_are_powers_of_two() -> None:
    """Table 3 numbers the levels from 1: level l has stride 2^(l - 1)."""
    strides = [1, 2, 2, 2, 2]
    assert cumulative_strides(strides, 2) == [(2**level,) * 2 for level in range(5)]
    assert [level_at_stride(strides, 2**level) for level in range(5)] == [0, 1, 2, 3, 4]


def test_anisotropic_levels_go_by_their_most_reduced_axis() -> None:
    assert cumulative_strides(ANISOTROPIC, 3) == [
        (1, 1, 1),
        (1, 2, 2),
        (1, 4, 4),
        (2, 8, 8),
        (4, 16, 16),
    ]
    assert level_at_stride(ANISOTROPIC, 8) == 3


def test_of_two_levels_with_one_name_the_finer_is_meant() -> None:
    assert level_at_stride([[1, 1], [2, 2], [1, 1], [1, 2]], 2) == 1


def test_a_stride_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(
        InputError, match=r"no level of stride 16; its levels have strides 1, 2, 4$"
    ):
        level_at_stride([[1, 1], [2, 2], [2, 2]], 16)


@pytest.mark.parametrize("size", [(8, 32, 32), (9, 33, 50)])
def test_sizes_are_those_of_nnunets_encoder(size: tuple[int, ...]) -> None:
    plan = architecture(3, [2, 2, 2, 2, 2])
    plan["arch_kwargs"]["strides"] = ANISOTROPIC
    network = get_network_from_plans(
        plan["network_class_name"],
        plan["arch_kwargs"],
        plan["_kw_requires_import"],
        1,
        2,
        deep_supervision=False,
    )
    with torch.no_grad():
        maps = network.encoder(torch.zeros(1, 1, *size))

    expected = [
        level_size(size, stride) for stride in cumulative_strides(network.encoder.strides, 3)
    ]
    assert [tuple(level.shape[2:]) for level in maps] == expected
