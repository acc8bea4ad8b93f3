"""Pictures of coloured shapes for small translators: made from a seed, the truth known for each.

One to three shapes of four classes lie in one of four layouts. A picture's plan is drawn once and
rendered in one of ``STYLES``:

- ``labels``: the classes' code colours on black, what a pix2pix takes;
- ``striped``: every class in its colour, with stripes of its own direction that start at the
  shape's centre; the background's hue tells the layout, and it darkens away from the shapes;
- ``solid``: the same without stripes.

The set of classes and the layout make clusters, which the density method's neighbourhoods can find.
"""

import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ganc import seeds
from ganc.data.images import to_float, to_uint8

RESOLUTION = 32
STYLES = ("labels", "striped", "solid")
LAYOUTS = (
    (((0.0, 0.0),), 9.0),
    (((-7.0, 0.0), (7.0, 0.0)), 6.0),
    (((0.0, -7.0), (0.0, 7.0)), 6.0),
    (((-7.0, -6.0), (7.0, -6.0), (0.0, 7.0)), 5.5),
)
"""Centres relative to the picture's, in pixels, and the mean radius."""
CODES = ((1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0), (1.0, 1.0, 1.0))
"""Class → its colour among the labels."""
STRIPE = 5.0
"""Pixels from stripe to stripe."""
JITTER = 2
SHADE = 7.0
"""Pixels over which the background darkens."""


def render(style: str, seed: int, stream: str, count: int) -> Tensor:
    """Return pictures 0 … ``count`` of a stream, [N, 3, H, W] in [-1, 1], as 8-bit files hold them.

    Guarantees: picture i has one plan in every style, and depends on (seed, stream, i) alone.
    """
    pictures = torch.stack([_picture(style, seed, stream, i) for i in range(count)])
    return to_float(to_uint8(pictures))


def write(folder: Path, pictures: Tensor) -> None:
    """Write pictures [N, 3, H, W] in [-1, 1] as PNG files into a new folder."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(to_uint8(pictures)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{number:04}.png")


def _picture(style: str, seed: int, stream: str, index: int) -> Tensor:
    random = seeds.generator(seed, f"shapes/{stream}", index)
    layout = int(random.integers(len(LAYOUTS)))
    centers, radius = LAYOUTS[layout]
    axis = torch.arange(RESOLUTION) - (RESOLUTION - 1) / 2
    shift = random.integers(-JITTER, JITTER + 1, size=2)
    parts = []
    for x, y in centers:
        size = radius * random.uniform(0.9, 1.15)
        parts.append((int(random.integers(4)), axis - x - shift[0], axis - y - shift[1], size))
    picture = _background(style, layout, parts)
    for kind, dx, dy, size in parts:
        inside = _inside(kind, dx[None, :], dy[:, None], size)
        picture = torch.where(inside, _paint(style, kind, dx[None, :], dy[:, None]), picture)
    return picture


def _background(style: str, layout: int, parts: list[tuple[int, Tensor, Tensor, float]]) -> Tensor:
    if style == "labels":
        return torch.full((3, RESOLUTION, RESOLUTION), -1.0)
    nearest = torch.stack(
        [(dx[None, :].square() + dy[:, None].square()).sqrt() - size for _, dx, dy, size in parts]
    ).amin(dim=0)
    light = 0.3 + 0.5 * torch.exp(-nearest.clamp(min=0) / SHADE)
    return 2 * _hsv(layout / len(LAYOUTS), 0.6)[:, None, None] * light - 1


def _paint(style: str, kind: int, dx: Tensor, dy: Tensor) -> Tensor:
    if style == "labels":
        return torch.tensor(CODES[kind])[:, None, None]
    colour = _hsv((kind + 0.5) / 4, 0.9)[:, None, None]
    light = torch.full(torch.broadcast_shapes(dx.shape, dy.shape), 0.7)
    if style == "striped":
        angle = math.pi * kind / 4
        across = dx * math.cos(angle) + dy * math.sin(angle)
        light = 0.65 + 0.35 * torch.cos(2 * math.pi * across / STRIPE)
    return 2 * colour * light - 1


def _inside(kind: int, dx: Tensor, dy: Tensor, size: float) -> Tensor:
    """Return where a disc, a square, a diamond or a cross lies."""
    x, y = dx.abs(), dy.abs()
    if kind == 0:
        return dx.square() + dy.square() <= size**2
    if kind == 1:
        return torch.maximum(x, y) <= 0.85 * size
    if kind == 2:
        return x + y <= 1.25 * size
    return (torch.minimum(x, y) <= 0.4 * size) & (torch.maximum(x, y) <= size)


def _hsv(hue: float, saturation: float) -> Tensor:
    """Return the RGB colour [3] in [0, 1] of full value."""
    offsets = torch.tensor([0.0, 4.0, 2.0])
    wheel = ((6 * hue + offsets) % 6 - 3).abs() - 1
    return 1 - saturation + saturation * wheel.clamp(0, 1)
