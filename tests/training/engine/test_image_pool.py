"""The store of generated images: what comes back, how often it is older, and its state."""

import torch

from nnunet_ext.training.engine.image_pool import ImagePool


def numbered(first: int, count: int) -> torch.Tensor:
    """Images whose only pixel is their number."""
    return torch.arange(first, first + count, dtype=torch.float32).view(count, 1, 1, 1)


def test_until_it_is_full_images_come_back() -> None:
    pool = ImagePool(4)
    for first in (0, 2):
        assert torch.equal(pool.exchange(numbered(first, 2)), numbered(first, 2))
    assert len(pool.images) == 4


def test_half_of_the_images_are_older_ones_and_none_comes_twice() -> None:
    torch.manual_seed(0)
    pool = ImagePool(10)
    returned = torch.cat([pool.exchange(numbered(first, 1)) for first in range(1000)]).flatten()
    older = (returned != torch.arange(1000)).float().mean()
    assert 0.44 < older < 0.55
    later = returned[10:].tolist()  # the first ten stay in the pool as well
    assert len(set(later)) == len(later)


def test_a_loaded_pool_goes_on_as_the_saved_one() -> None:
    pool, twin = ImagePool(3), ImagePool(3)
    pool.exchange(numbered(0, 5))
    twin.load_state(pool.state(), torch.device("cpu"))
    for made in (pool, twin):
        torch.manual_seed(1)
        made.result = made.exchange(numbered(5, 20))  # type: ignore[attr-defined]
    assert torch.equal(pool.result, twin.result)  # type: ignore[attr-defined]


def test_nothing_of_the_graph_is_kept() -> None:
    pool = ImagePool(1)
    images = numbered(0, 2).requires_grad_()
    assert not pool.exchange(images * 2).requires_grad


def test_a_kept_image_takes_only_its_own_memory() -> None:
    """Batches of 2d plans have dozens of images."""
    torch.manual_seed(0)
    pool = ImagePool(2)
    for first in (0, 10):
        pool.exchange(numbered(first, 10))
    assert max(pool.images) >= 10  # an exchanged one, too
    for image in pool.images:
        assert image.untyped_storage().nbytes() == image.nbytes
