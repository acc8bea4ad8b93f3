"""What the picture of the masks shows."""

import pytest
import torch

from ganc.content.preview import DIMMED, OUTLINE, draw_masks


def test_protected_is_bright_the_rest_dimmed_and_the_border_drawn() -> None:
    images = torch.ones(1, 3, 128, 128)
    masks = torch.zeros(1, 128, 128, dtype=torch.bool)
    masks[0, 10:20, 30:50] = True
    picture = draw_masks(images, masks)
    assert picture.shape == (3, 128, 128)
    assert (picture[:, 10:20, 30:50] == 1).all()
    assert picture[0, 0, 0].item() == pytest.approx(2 * DIMMED - 1)
    outline = (picture == torch.tensor(OUTLINE)[:, None, None]).all(dim=0)
    assert outline.sum() == 12 * 22 - 10 * 20
    assert outline[9:21, 29:51].sum() == outline.sum()


@pytest.mark.parametrize(
    ("side", "tile"), [(16, 128), (32, 128), (100, 200), (256, 256), (300, 256)]
)
def test_tiles_are_large_enough_to_see_and_small_enough_to_keep(side: int, tile: int) -> None:
    masks = torch.ones(4, side, side, dtype=torch.bool)
    assert draw_masks(torch.zeros(4, 1, side, side), masks).shape == (3, 2 * tile + 4, 2 * tile + 4)


def test_nothing_and_everything_have_no_border() -> None:
    images = torch.zeros(2, 4, 128, 128)
    masks = torch.stack([torch.zeros(128, 128), torch.ones(128, 128)]).bool()
    tiles = draw_masks(images, masks)
    assert tiles[:, :, :128].unique().numel() == 1
    assert tiles[:, :, 132:].unique().numel() == 1
    assert tiles[0, 0, 0] < tiles[0, 0, -1]
