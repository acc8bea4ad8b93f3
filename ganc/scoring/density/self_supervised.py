"""A small network that learns, from the teacher's images alone, which of them look alike.

Two random views of one image are to have descriptions closer to each other than to those of all
other images of a batch. Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of
Visual Representations" (SimCLR): its loss (NT-Xent), and its head that training alone sees. Views
are recoloured less than there: colours are part of what a translator is to keep. In the same
network, on four planted sets of 160 images, VICReg was as good on two and worse on two, SimSiam was
worse on all.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc import seeds
from ganc.data.images import to_float, to_uint8
from ganc.errors import ComputationError
from ganc.ops.affine_warp import affine_warp
from ganc.progress import Progress

WIDTHS = (32, 64, 128, 128)
"""Of the four stages; each halves the size."""
DIM = WIDTHS[-1]
HIDDEN = 256
BLOCK = 8
"""Images that the teacher makes at once: at 256 px less than a training step of it holds."""
PHASE = "training the encoder"


@dataclass(frozen=True)
class Training:
    """How the network is trained.

    Attributes:
        side: Images are shrunk to at most so many pixels.
        most_images: Of a larger set so many serve for training, taken evenly.
        steps, batch: A step sees two views of each of ``batch`` images.
        lr, weight_decay: Of AdamW; the rate rises over ``warmup`` steps, then falls as a cosine.
        temperature: Of the loss.
        least_area: A crop's smallest share of the image; the largest is all of it.
        colour: Strength of the changes of colour, see ``views``.
        noise: Standard deviation of what is added to pixels in [-1, 1].
        least_spread: See ``check_spread``.
    """

    side: int = 64
    most_images: int = 8192
    steps: int = 200
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 10
    temperature: float = 0.2
    least_area: float = 0.3
    colour: float = 0.5
    noise: float = 0.05
    least_spread: float = 0.01

    def protocol(self, seed: int) -> dict[str, Any]:
        """Return what the descriptions depend on beside the images, as JSON data."""
        resize = "torch bilinear, antialiased, float32, never enlarged"
        return {"loss": "NT-Xent", "dim": DIM, "resize": resize, "seed": seed, **asdict(self)}

    def shrink(self, images: Tensor) -> Tensor:
        """Bring images [N, C, H, W] to at most ``side`` pixels, antialiased."""
        height, width = images.shape[2:]
        scale = self.side / max(height, width)
        if scale >= 1:
            return images
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return F.interpolate(images, size=size, mode="bilinear", antialias=True)


class EncoderNetwork(nn.Module):
    """Images [N, 3, H, W] in [-1, 1] → descriptions [N, 128]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [_conv(before, width, stride=2), nn.BatchNorm2d(width), nn.ReLU()]
            if before != 3:  # where the image is still large a second layer would cost most
                layers += [_conv(width, width, stride=1), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x.contiguous(memory_format=torch.channels_last))
        return features.mean(dim=(2, 3))


def train(
    images: Callable[[range], Tensor],
    count: int,
    training: Training,
    *,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> EncoderNetwork:
    """Train the network on images, and leave it frozen and in eval mode.

    Args:
        images: Of some numbers, [n, 3, H, W] in [-1, 1], on the device.
        count: How many there are, 2 or more.
    Raises:
        ComputationError: The loss is not finite, or all images end in one description.
    Guarantees: the same network for the same images and seed, on a CPU with as many threads;
        torch's global random state stays.
    """
    shown = _collect(images, count, training)
    network, head = _new_networks(seed, device)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, training.lr, weight_decay=training.weight_decay)
    for step in range(training.steps):
        optimizer.param_groups[0]["lr"] = training.lr * _rate(step, training)
        draw = torch.Generator(device).manual_seed(seeds.torch_seed(seed, "density.encoder", step))
        order = torch.randperm(len(shown), generator=draw, device=device)[: training.batch]
        x = to_float(shown[order.to(shown.device)].to(device)).repeat(2, 1, 1, 1)
        loss = nt_xent(head(network(views(x, training, draw))), training.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not torch.isfinite(loss):
            raise _failure(f"its loss is {loss.item()} at step {step + 1}")
        progress(PHASE, step + 1, training.steps)
    network.requires_grad_(False).eval()
    check_spread(network, shown, training, device)
    return network


def views(images: Tensor, training: Training, draw: torch.Generator) -> Tensor:
    """Crop, mirror, recolour and add noise: a random view of each image, at the image's size.

    With strength c the saturation changes by the factor 2^(c·n), the contrast by 2^(c·n/2), the
    brightness by 0.3·c·n and each channel by 0.2·c·n; n is a standard normal number each.
    """
    count = len(images)
    even = torch.rand(count, 5, generator=draw, device=images.device)
    bell = torch.randn(count, 6, 1, 1, 1, generator=draw, device=images.device)
    x = affine_warp(images, _crops(even, images.shape[2:], training.least_area))
    saturation, contrast, brightness, *channels = (training.colour * bell).unbind(dim=1)
    grey = x.mean(dim=1, keepdim=True)
    x = (grey + (x - grey) * torch.exp2(saturation)) * torch.exp2(contrast / 2)
    x = x + 0.3 * brightness + 0.2 * torch.cat(channels, dim=1)
    noise = torch.randn(x.shape, generator=draw, device=x.device)
    return x + training.noise * noise


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Return the NT-Xent loss of descriptions [2N, d]: row i and row N + i are views of one image.

    Each is to find its other view among all others: cross entropy over cosine similarities.
    """
    unit = F.normalize(z, dim=1)
    logits = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    partners = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return F.cross_entropy(logits, partners)


@torch.no_grad()
def check_spread(
    network: EncoderNetwork, shown: Tensor, training: Training, device: torch.device
) -> None:
    """Refuse a network that describes all images alike.

    The spread is the deviation of a description's entries over the images, each description of unit
    length, times the root of their number: 1 where they point everywhere, 0 where all are one.

    Raises:
        ComputationError: It is below ``training.least_spread``.
    """
    parts = [network(to_float(part.to(device))) for part in shown.split(training.batch)]
    unit = F.normalize(torch.cat(parts), dim=1)
    spread = float(unit.var(dim=0, correction=0).sum().sqrt())
    if not spread >= training.least_spread:
        raise _failure(f"its descriptions have a spread of {spread:.2g}, it takes"
                       f" {training.least_spread}")  # fmt: skip


def sha256(network: EncoderNetwork) -> str:
    """Return a hash over the network's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _collect(images: Callable[[range], Tensor], count: int, training: Training) -> Tensor:
    """Return the images to train on, shrunk: uint8 on the CPU, 12 KiB each at most."""
    starts = range(0, count, BLOCK)[:: math.ceil(count / training.most_images)]
    return torch.cat(
        [
            to_uint8(training.shrink(images(range(start, min(start + BLOCK, count))))).cpu()
            for start in starts
        ]
    )


def _new_networks(seed: int, device: torch.device) -> tuple[EncoderNetwork, nn.Module]:
    """Return the network and the head that only training sees, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(seed, "density.encoder.weights"))
        head = nn.Sequential(
            nn.Linear(DIM, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN, bias=False),
        )  # fmt: skip
        return EncoderNetwork().to(device), head.to(device)


def _rate(step: int, training: Training) -> float:
    """Return the share of the learning rate at a step."""
    rise = min(1.0, (step + 1) / training.warmup)
    return rise * 0.5 * (1 + math.cos(math.pi * step / training.steps))


def _crops(even: Tensor, size: torch.Size, least_area: float) -> Tensor:
    """Turn numbers from [0, 1) into maps of ``affine_warp``: crops inside the image, or mirrored.

    Args:
        even: [N, 5]: of area, aspect (3:4 to 4:3), place across, place down, and side.
    """
    area, aspect, x, y, side = even.unbind(dim=1)
    area = least_area + (1 - least_area) * area
    stretch = torch.exp((2 * aspect - 1) * math.log(4 / 3))
    width, height = ((area * f).sqrt().clamp(max=1) for f in (stretch, 1 / stretch))
    maps = torch.zeros(len(even), 3, 3, device=even.device)
    maps[:, 0, 0] = torch.where(side < 0.5, -width, width)
    maps[:, 1, 1], maps[:, 2, 2] = height, 1
    maps[:, 0, 2] = (2 * x - 1) * (1 - width) * (size[1] - 1) / 2
    maps[:, 1, 2] = (2 * y - 1) * (1 - height) * (size[0] - 1) / 2
    return maps


def _conv(in_channels: int, out_channels: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def _failure(finding: str) -> ComputationError:
    return ComputationError(
        f"the encoder that learns from the teacher's images failed: {finding}",
        "look at the teacher's images (ganc sample), or name another encoder:"
        " --set encoder=discriminator",
    )
