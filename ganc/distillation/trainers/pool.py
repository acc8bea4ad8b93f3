"""Past images of a generator, which its discriminator may see again.

Source: Zhu et al. 2017 (CycleGAN), Section 4: the discriminators are updated with a history of 50
images, after Shrivastava et al. 2017, Section 2.3.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ganc import collectives, seeds
from ganc.distillation.draws import Draws


class ImagePool:
    """Images kept for later: half of those that come swap places with a kept one.

    The processes of a run keep the same pool: each sees the images of all, in the order of the
    global batch.

    Args:
        size: Images to keep; 0 hands every image through.
        draws: Seed and shares of the processes. Decisions are made on the host, so that nothing
            waits for the device.
        stream: Name of the decisions' seed stream.

    Attributes:
        images: What is kept, each [C, H, W].
    """

    def __init__(self, size: int, draws: Draws, stream: str) -> None:
        self.size, self.draws, self.stream = size, draws, stream
        self.images: list[Tensor] = []

    def exchange(self, step: int, images: Tensor) -> Tensor:
        """Return an image for each that is given: itself, or from the full pool a kept one.

        Args:
            step: The step of the run.
            images: This process's share of the batch, [N, C, H, W].
        Returns:
            [N, C, H, W], without gradient.
        """
        images = images.detach()
        if not self.size:
            return images
        first = step * self.draws.batch
        everyone = _in_order(collectives.gather(images), self.draws.world)
        shown = [self._swap(first + i, image) for i, image in enumerate(everyone)]
        return torch.stack(shown[self.draws.rank :: self.draws.world])

    def _swap(self, index: int, image: Tensor) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image)
            return image
        random = seeds.generator(self.draws.seed, self.stream, index)
        if random.random() < 0.5:
            return image
        place = int(random.integers(self.size))
        kept, self.images[place] = self.images[place], image
        return kept

    def state(self) -> dict[str, Tensor]:
        """Return what is kept, under the stream's name; nothing where nothing is."""
        return {self.stream: torch.stack(self.images)} if self.images else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` returned."""
        kept: Sequence[Tensor] = state.get(self.stream, torch.empty(0)).unbind()
        self.images = [image.to(self.draws.device) for image in kept]


def _in_order(gathered: Tensor, world: int) -> Tensor:
    """Bring the shares of all processes, one behind the other, into the global batch's order."""
    return gathered.unflatten(0, (world, -1)).transpose(0, 1).flatten(0, 1)
