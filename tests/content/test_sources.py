"""Every mask source: what it protects, and what it says when it cannot."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ganc import seeds
from ganc.content.center import SEMI_AXES
from ganc.content.pixels import fit_masks, to_rgb_uint8
from ganc.content.request import MaskRequest, MaskSource
from ganc.content.segmentation import SegmentationMasks
from ganc.content.sources import open_masks
from ganc.errors import DataError, GancError, InputError, UsageError, WeightsError

IMAGES = seeds.normal(0, "test images", range(3), (3, 16, 16)).mul(0.5)


def opened(content: str, samples: int = 3) -> MaskSource:
    return open_masks(content, MaskRequest(samples))


def masks_of(content: str) -> Tensor:
    masks = opened(content)(IMAGES, range(3))
    assert masks.dtype == torch.bool
    return masks


# The ellipse.


@pytest.mark.parametrize("side", [4, 16, 31, 256])
def test_center_is_an_ellipse_in_the_middle(side: int) -> None:
    mask, *others = opened("center")(torch.zeros(3, 3, side, side), range(3))
    assert all(torch.equal(mask, other) for other in others)
    assert torch.equal(mask, mask.flip(0))
    assert torch.equal(mask, mask.flip(1))
    assert mask[side // 2, side // 2]
    assert not mask[0, 0]
    assert mask.any(dim=1).sum() > mask.any(dim=0).sum() or side == 4  # upright
    if side == 256:
        area = torch.pi * SEMI_AXES[0] * SEMI_AXES[1]
        assert mask.float().mean().item() == pytest.approx(area, abs=0.002)


# Sizes and channels.


def test_fitting_takes_the_pixel_in_the_middle_as_the_published_code_does() -> None:
    mask = seeds.normal(0, "mask", range(2), (512, 512)) > 0
    assert torch.equal(fit_masks(mask, 32, 32), mask[:, 8::16, 8::16])
    grown = fit_masks(mask[:, :3, :3], 6, 6)
    assert torch.equal(grown, mask[:, :3, :3].repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert fit_masks(mask, 512, 512) is mask


def test_grey_is_repeated_and_transparency_lies_on_white() -> None:
    grey = torch.tensor([[[[-1.0, 0.0, 2.0]]]])
    assert to_rgb_uint8(grey)[0, :, 0].T.tolist() == [[0] * 3, [128] * 3, [255] * 3]
    black = torch.tensor([-1.0, -1.0, -1.0])[None, :, None, None].expand(1, 3, 1, 3)
    alpha = torch.tensor([[[[-1.0, 0.0, 1.0]]]])
    assert to_rgb_uint8(torch.cat([black, alpha], dim=1))[0, 0, 0].tolist() == [255, 128, 0]


# torchvision's classes.


class Bright(nn.Module):
    """Label 1 where an image is bright, label 2 in its left half besides."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        left = torch.zeros_like(x)
        left[..., : x.shape[3] // 2] = 0.5
        return {"out": torch.cat([torch.zeros_like(x), x, left], dim=1)[:, [0, 3, 6]]}


def test_segmentation_takes_the_most_likely_label() -> None:
    def prepare(image: Tensor) -> Tensor:
        assert image.dtype == torch.uint8
        return image.float() / 127.5 - 1

    image = torch.full((2, 3, 4, 4), -0.5)
    image[:, :, 0] = 0.8
    ones, twos = (
        SegmentationMasks(Bright(), prepare, label, torch.device("cpu"))(image, range(2))
        for label in (1, 2)
    )
    assert ones[1].nonzero().tolist() == [[0, x] for x in range(4)]
    assert twos[1].nonzero().tolist() == [[y, x] for y in range(1, 4) for x in range(2)]


def test_unknown_class_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown class of --content torchvision `persn`") as got:
        opened("torchvision:persn")
    assert got.value.hint == "did you mean `person`?"
    assert "tvmonitor" in str(got.value)
    assert "background" not in str(got.value)


def test_missing_weights_are_named(cache: Path) -> None:
    with pytest.raises(WeightsError, match="deeplabv3_resnet50") as caught:
        opened("torchvision:dog")
    assert str(cache) in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.slow
def test_segmentation_is_torchvisions_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import segmentation

    from tests.content.weights import random_tensors
    from tests.weights.random_weights import install

    network = segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    network.load_state_dict(random_tensors(network))
    install(monkeypatch, "deeplabv3_resnet50", lambda path: torch.save(network.state_dict(), path))
    picture = Image.fromarray(to_rgb_uint8(IMAGES[:1])[0].permute(1, 2, 0).numpy())
    transform = segmentation.DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.transforms()
    with torch.no_grad():
        logits = network.eval()(transform(picture)[None])["out"]
    labels = logits.argmax(dim=1)
    names = segmentation.DeepLabV3_ResNet50_Weights.DEFAULT.meta["categories"]
    common = max(range(1, 21), key=lambda label: int((labels == label).sum()))
    masks = opened(f"torchvision:{names[common]}")(IMAGES[:1], range(1))
    # PIL and tensors are resized by different code, up to a level apart.
    assert masks.any()
    assert (masks != (labels == common)).float().mean() < 0.02


# The user's mask images.


def save_mask(path: Path, rows: Any, mode: str = "L") -> None:
    Image.fromarray(np.array(rows, dtype=np.uint8)).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three masks of 2 px; a.png is the first although it was written last."""
    path = tmp_path / "masks"
    path.mkdir()
    save_mask(path / "c.png", [[0, 0], [0, 255]])
    save_mask(path / "b.png", [[0, 255], [0, 0]], mode="RGB")
    save_mask(path / "a.png", [[128, 127], [0, 1]], mode="P")
    return path


def test_masks_in_order_of_their_names(folder: Path) -> None:
    masks = masks_of(f"masks:{folder}")
    assert masks.nonzero().tolist() == [[0, 0, 0], [1, 0, 1], [2, 1, 1]]
    assert torch.equal(opened(f"masks:{folder}")(IMAGES[1:], range(1, 3)), masks[1:])


def test_masks_of_zeros_and_ones_are_warned_of(tmp_path: Path) -> None:
    save_mask(tmp_path / "a.png", [[0, 1], [1, 0]])
    said: list[str] = []
    masks = open_masks(f"masks:{tmp_path}", MaskRequest(3, warn=said.append))(IMAGES, range(3))
    assert not masks.any()
    assert "the largest value in 1 image is 1 of 255" in said[0]


def test_one_mask_serves_all(folder: Path) -> None:
    (folder / "a.png").unlink()
    (folder / "b.png").unlink()
    masks = opened(f"masks:{folder}", samples=400)(IMAGES, range(300, 303))
    assert masks.nonzero().tolist() == [[i, 1, 1] for i in range(3)]


def test_too_few_masks(folder: Path) -> None:
    with pytest.raises(DataError, match="3 masks for 4 samples") as caught:
        opened(f"masks:{folder}", samples=4)
    assert "--samples 3" in str(caught.value.hint)


def test_masks_that_cannot_serve(folder: Path, tmp_path: Path) -> None:
    save_mask(folder / "b.png", [[0, 1, 2]])
    with pytest.raises(DataError, match=r"b.png: size 3x1 is not a square"):
        masks_of(f"masks:{folder}")
    save_mask(folder / "b.png", [[255]])
    with pytest.raises(DataError, match=r"b.png: size 1x1, an earlier mask has 2x2"):
        masks_of(f"masks:{folder}")
    (folder / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b.png: broken image"):
        masks_of(f"masks:{folder}")
    with pytest.raises(DataError, match="does not exist"):
        opened(f"masks:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="no images found"):
        opened(f"masks:{_empty(tmp_path)}")


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


# A function of the user's own.

MODULE = """
import torch

def bright(images):
    assert images.dtype == torch.float32 and images.abs().max() <= 1
    return images.mean(dim=1) > 0

def array(images):
    return bright(images).numpy()

def small(images):
    return bright(images)[:, :2, :2]

def fails(images):
    raise KeyError("no face\\nfound")

def floats(images):
    return images.mean(dim=1)

def single(images):
    return bright(images)[0]

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder."""
    name = f"own_masks_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_function_sees_the_images(module: str) -> None:
    path = list(sys.path)
    expected = IMAGES.clamp(-1, 1).mean(dim=1) > 0
    assert torch.equal(masks_of(f"{module}:bright"), expected)
    assert torch.equal(masks_of(f"{module}:array"), expected)
    assert masks_of(f"{module}:small").shape == (3, 2, 2)
    assert sys.path == path


@pytest.mark.parametrize(
    ("function", "finding"),
    [
        ("fails", r"raised KeyError: 'no face\nfound'"),
        ("floats", "must return bool [3, H, W], got float32 [3, 16, 16]"),
        ("single", "must return bool [3, H, W], got bool [16, 16]"),
    ],
)
def test_function_that_misbehaves(module: str, function: str, finding: str) -> None:
    with pytest.raises(InputError) as caught:
        masks_of(f"{module}:{function}")
    assert finding in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_module_or_function_that_is_not_there(module: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no module nowhere") as caught:
        opened("nowhere:masks")
    assert "torchvision:CLASS" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no module own"):
        opened("own.masks:bright")
    with pytest.raises(UsageError, match="unknown function") as caught:
        opened(f"{module}:brigth")
    assert caught.value.hint == "did you mean `bright`?"
    with pytest.raises(UsageError, match="unknown function"):
        opened(f"{module}:number")
    (tmp_path / "broken_masks.py").write_text("import nowhere_at_all\n")
    with pytest.raises(InputError, match=r"importing broken_masks raised ModuleNotFoundError"):
        opened("broken_masks:any")


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("centre", "unknown --content `centre`"),
        ("", "unknown --content ``"),
        ("torchvision", "unknown --content `torchvision`"),
        ("torchvision:", "--content torchvision: is incomplete"),
        (":mask", "--content :mask is incomplete"),
    ],
)
def test_content_that_is_no_source(content: str, finding: str) -> None:
    with pytest.raises(GancError) as caught:
        opened(content)
    assert str(caught.value).startswith(finding)
    assert "module:function" in str(caught.value)
    assert caught.value.exit_code == 2
