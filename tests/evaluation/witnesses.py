"""Generators and features simple enough that a metric's value is known in closed form."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ganc.data.images import to_uint8
from ganc.groups import ChannelGroup
from ganc.models.model import Model
from ganc.models.network import LatentGenerator


class Colours(LatentGenerator):
    """Images of one colour each: mean + spread · z."""

    architecture = "stylegan2"

    def __init__(self, mean: Sequence[float], spread: float = 0.0, *, resolution: int = 8) -> None:
        super().__init__()
        self.z_dim, self.c_dim = 3, 0
        self.img_resolution, self.img_channels = resolution, len(mean)
        self.config = {"spread": spread}
        self.mean, self.spread = nn.Parameter(torch.tensor(mean)), spread

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        noise: list[Tensor] | None = None,
    ) -> Tensor:
        colour = self.mean + self.spread * z[:, : len(self.mean)]
        side = self.img_resolution
        return colour[:, :, None, None].expand(-1, -1, side, side)

    def first_weight(self) -> Tensor:
        return torch.eye(self.z_dim)

    def groups(self) -> tuple[ChannelGroup, ...]:
        return ()

    def mac_positions(self) -> dict[str, int]:
        return {}


def colours(mean: float | Sequence[float], spread: float = 0.0, *, resolution: int = 8) -> Model:
    levels = [mean] * 3 if isinstance(mean, float) else mean
    return Model(generator=Colours(levels, spread, resolution=resolution))


class MeanColour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))  # what says where the network is

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def write_images(images: Tensor, folder: Path) -> Path:
    """Write images in [-1, 1] as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(to_uint8(images)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:05}.png")
    return folder
