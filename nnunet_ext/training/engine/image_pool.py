"""A pool of generated images, from which a critic also gets older ones."""

import torch

CHANCE = 0.5  # to get an older image


class ImagePool:
    """The last generated images; half of the images that a critic sees are replaced by older ones.

    A critic that only saw the generator's latest images would forget the earlier ones. The random
    numbers come from torch's global generator, which is seeded in every epoch.

    Args:
        size: number of images to keep.

    Reference: Shrivastava et al. 2017, "Learning from Simulated and Unsupervised Images through
    Adversarial Training", section 2.3; Zhu et al. 2017 (CycleGAN) with 50 images.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[torch.Tensor] = []

    def exchange(self, batch: torch.Tensor) -> torch.Tensor:
        """Put generated images into the pool and return as many for the critic, without gradient.

        Args:
            batch: ``[B, channels, *spatial]``; all batches have the same size.

        Returns:
            ``[B, channels, *spatial]`` float32: each image itself, or an older one whose place it
            takes.
        """
        images = batch.detach().float()
        exchanged = [self._exchange_one(image) for image in images]
        return torch.stack(exchanged)

    def _exchange_one(self, image: torch.Tensor) -> torch.Tensor:
        if len(self.images) < self.size:
            self.images.append(image.clone())  # a part would keep the memory of its whole batch
            return image

        if torch.rand(()).item() >= CHANCE:
            return image

        place = int(torch.randint(self.size, ()))
        older = self.images[place]
        self.images[place] = image.clone()
        return older

    def state(self) -> list[torch.Tensor]:
        """Return the images, on the CPU."""
        return [image.cpu() for image in self.images]

    def load_state(self, images: list[torch.Tensor], device: torch.device) -> None:
        """Restore the images that :meth:`state` returned."""
        self.images = [image.to(device) for image in images]
