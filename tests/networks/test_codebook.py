"""A codebook against its definition in NumPy and against MONAI's quantiser where both define the
same.
"""

import numpy as np
import pytest
import torch
from monai.networks.layers.vector_quantizer import EMAQuantizer

from nnunet_ext.losses.quantization import commitment_loss, straight_through
from nnunet_ext.networks.codebook import Codebook, rows_by_image

DECAY = 0.9


def features_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 2)])
def test_a_map_gets_its_nearest_codes(spatial: tuple[int, ...]) -> None:
    codebook = Codebook(5, 4)
    features = features_of(2, 4, *spatial)
    quantized = codebook(features)
    codes = codebook.codes.detach().numpy()
    for place in np.ndindex(2, *spatial):
        feature = features[(place[0], slice(None), *place[1:])].numpy()
        nearest = int(np.argmin(((codes - feature) ** 2).sum(1)))
        assert quantized.indices[place] == nearest
        np.testing.assert_array_equal(
            quantized.codes[(place[0], slice(None), *place[1:])].detach(), codes[nearest]
        )


def test_moving_averages_in_numpy() -> None:
    """van den Oord et al., appendix A.1: N, m and e = m / N, from codes that were chosen before
    they moved.
    """
    codebook = Codebook(4, 3, learnt=False)
    use, sums = codebook.use.numpy().copy(), codebook.sums.numpy().copy()
    for seed in range(3):
        rows = features_of(10, 3, seed=seed)
        codes = codebook.codes.numpy().copy()
        chosen = ((rows.numpy()[:, None] - codes) ** 2).sum(2).argmin(1)
        for code in range(4):
            own = rows.numpy()[chosen == code]
            use[code] = DECAY * use[code] + (1 - DECAY) * len(own) / 10
            sums[code] = DECAY * sums[code] + (1 - DECAY) * own.sum(0) / 10

        indices = codebook(rows.T[None]).indices[0]
        assert indices.tolist() == chosen.tolist()
        codebook.absorb(*codebook.statistics(rows, indices), DECAY)
        np.testing.assert_allclose(codebook.use, use, rtol=1e-5)
        np.testing.assert_allclose(codebook.codes, sums / use[:, None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dimension", [2, 3])
def test_as_monai(dimension: int) -> None:
    spatial = (4,) * dimension
    codebook = Codebook(6, 3, learnt=False)
    oracle = EMAQuantizer(dimension, 6, 3, commitment_cost=0.25, decay=DECAY, ddp_sync=False)
    positions = 2 * 4**dimension
    oracle.embedding.weight.data.copy_(codebook.codes)
    oracle.ema_cluster_size.copy_(codebook.use * positions)  # MONAI counts, this averages shares
    oracle.ema_w.copy_(codebook.sums * positions)
    for seed in range(3):
        ours = features_of(2, 3, *spatial, seed=seed).requires_grad_()
        theirs = ours.detach().clone().requires_grad_()
        quantized = codebook(ours)
        passed, loss = (
            straight_through(ours, quantized.codes),
            0.25 * commitment_loss(ours, quantized.codes),
        )
        expected_passed, expected_loss, expected_indices = oracle(theirs)
        assert torch.equal(quantized.indices, expected_indices)
        torch.testing.assert_close(passed, expected_passed)
        torch.testing.assert_close(loss, expected_loss)
        for one in (passed.square().sum() + loss, expected_passed.square().sum() + expected_loss):
            one.backward()
        torch.testing.assert_close(ours.grad, theirs.grad)

        rows = rows_by_image([ours.detach()])
        codebook.absorb(*codebook.statistics(rows, quantized.indices.flatten()), DECAY)
        torch.testing.assert_close(
            codebook.codes, oracle.embedding.weight.data, rtol=1e-4, atol=1e-4
        )


def test_a_code_that_was_never_used_stays_where_it_is() -> None:
    codebook = Codebook(2, 1, learnt=False)
    codebook.codes.copy_(torch.tensor([[0.0], [100.0]]))
    far = codebook.codes[1].clone()
    codebook.sums.copy_(codebook.codes / 2)
    for _ in range(5000):  # 0.9^5000 is below any float
        codebook.absorb(torch.tensor([1.0, 0.0]), torch.tensor([[0.5], [0.0]]), DECAY)
    assert codebook.codes[0].item() == pytest.approx(0.5)
    torch.testing.assert_close(codebook.codes[1], far)


@pytest.mark.parametrize("learnt", [True, False])
def test_replaced_codes_are_new_and_count_as_used(learnt: bool) -> None:
    codebook = Codebook(4, 3, learnt)
    before = codebook.codes.detach().clone()
    codebook.use.copy_(torch.tensor([0.4, 0.0, 0.6, 0.0]))
    chosen = torch.tensor([False, True, False, True])
    fresh = features_of(4, 3)
    codebook.replace(chosen, fresh)
    torch.testing.assert_close(codebook.codes.detach(), torch.where(chosen[:, None], fresh, before))
    torch.testing.assert_close(codebook.use, torch.tensor([0.4, 0.25, 0.6, 0.25]))
    if not learnt:
        torch.testing.assert_close((codebook.sums / codebook.use[:, None])[chosen], fresh[chosen])


def test_rows_of_two_processes_are_those_of_their_common_batch() -> None:
    bottom, top = features_of(4, 3, 2, 2), features_of(4, 3, 1, 1, seed=1)
    parts = [rows_by_image([bottom[half], top[half]]) for half in (slice(0, 2), slice(2, 4))]
    assert torch.equal(torch.cat(parts), rows_by_image([bottom, top]))
    assert torch.equal(rows_by_image([bottom, top])[4], top[0, :, 0, 0])
