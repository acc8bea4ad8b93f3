"""Grids of images."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ganc.data.grid import make_grid, save_grid, side_by_side, zoom_for
from ganc.errors import OutputError, ShapeError


def test_images_lie_row_by_row_on_white() -> None:
    images = torch.arange(5.0)[:, None, None, None].expand(5, 1, 2, 3) / 10
    grid = make_grid(images, columns=3, gap=1)
    assert grid.shape == (1, 5, 11)
    assert grid[0, 0].tolist() == pytest.approx([0, 0, 0, 1, 0.1, 0.1, 0.1, 1, 0.2, 0.2, 0.2])
    assert grid[0, 2].tolist() == [1.0] * 11
    assert grid[0, 4, 8:].tolist() == [1.0] * 3  # no sixth image


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_png_has_the_pixels(channels: int, mode: str, tmp_path: Path) -> None:
    images = torch.linspace(-1, 1, channels * 4).reshape(1, channels, 2, 2)
    save_grid(images, tmp_path / "g.png", zoom=2)
    picture = Image.open(tmp_path / "g.png")
    assert (picture.mode, picture.size) == (mode, (4, 4))
    first = picture.getpixel((0, 0))
    assert (first if channels == 1 else first[0]) == 0
    last = picture.getpixel((3, 3))
    assert (last if channels == 1 else last[-1]) == 255
    with pytest.raises(OutputError, match="exists"):
        save_grid(images, tmp_path / "g.png")


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (3, 2, 2), (1, 2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ShapeError):
        save_grid(torch.zeros(shape), tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()


def test_small_images_are_enlarged() -> None:
    assert [zoom_for(side) for side in (32, 64, 96, 1024)] == [3, 2, 1, 1]


@pytest.mark.parametrize(("left", "right", "joined"), [(1, 3, 3), (3, 1, 3), (4, 1, 4), (3, 3, 3)])
def test_side_by_side_keeps_both_images(left: int, right: int, joined: int) -> None:
    a, b = torch.rand(2, left, 3, 4) * 2 - 1, torch.rand(2, right, 3, 4) * 2 - 1
    both = side_by_side(a, b)
    assert both.shape == (2, joined, 3, 8)
    for half, image in ((both[..., :4], a), (both[..., 4:], b)):
        colours = min(image.shape[1], 3)
        assert torch.equal(half[:, :colours], image[:, :colours])
        if joined == 4 and image.shape[1] < 4:
            assert (half[:, 3] == 1).all()  # opaque
        if image.shape[1] == 1 < joined:
            assert torch.equal(half[:, 1], half[:, 2])
