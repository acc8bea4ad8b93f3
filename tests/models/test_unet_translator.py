"""The U-Net translator against the public implementation, and what is its own."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from ganc.checkpoints.native import build_model
from ganc.checkpoints.store import load
from ganc.models.unet_translator import Generator
from tests.conftest import GOLDEN
from tests.models.translation import images, unet

Golden = Callable[[str], Mapping[str, Tensor]]
PIX2PIX = GOLDEN / "files" / "junyanz-pix2pix" / "latest_net_G.pth"


@torch.no_grad()
def test_images_of_pix2pix(golden: Golden) -> None:
    io, model = golden("junyanz-unet7-batch"), load(PIX2PIX)
    torch.testing.assert_close(model.generator(io["x"]), io["y"], atol=1e-5, rtol=0)
    # The published test script leaves the network in train mode, at batch 1.
    config = {**model.config, "norm_statistics": "batch"}
    own = build_model(model.architecture, config, model.tensors(), []).generator
    x = io["x"].repeat(2, 1, 1, 1)
    torch.testing.assert_close(own(x)[:1], io["y_bn_batchstats_b1"], atol=1e-5, rtol=0)
    torch.testing.assert_close(own(x)[1:], io["y_bn_batchstats_b1"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_instance_norm_at_another_size_than_square(golden: Golden) -> None:
    case = "junyanz-unet5-instance"
    io, generator = golden(case), load(GOLDEN / case / "G.pth").generator
    assert generator.img_channels == 2
    torch.testing.assert_close(generator(io["x"]), io["y"], atol=1e-5, rtol=0)


def test_group_names_in_network_order() -> None:
    names = [group.name for group in unet().groups()]
    assert names == ["enc0", "enc1", "enc2", "enc3", "dec3", "dec2", "dec1"]


def test_skips_are_scored_by_both_who_read_them() -> None:
    groups = {group.name: group for group in unet().groups()}
    read = {name: [(p.tensor, p.dim, p.offset) for p in g.scored_by] for name, g in groups.items()}
    assert read["enc1"] == [("enc2.conv.weight", 1, 0), ("dec1.conv.weight", 0, 0)]
    assert read["enc3"] == [("dec3.conv.weight", 0, 0)]
    assert read["dec2"] == [("dec1.conv.weight", 0, 5)]  # behind enc1's five


@pytest.mark.parametrize("num_downs", [2, 3, 5, 6])
def test_any_depth_and_any_multiple(num_downs: int) -> None:
    generator = Generator(1, 4, num_downs=num_downs, base_width=2, norm="instance")
    side = 2**num_downs
    assert generator.img_resolution == side
    assert generator(images(1, 1, side, 2 * side)).shape == (1, 4, side, 2 * side)


def test_published_parameter_count_of_128_px() -> None:
    with torch.device("meta"):
        assert Generator(3, 3, num_downs=7).params() == 41_828_995


def test_costs_follow_the_resolution() -> None:
    with torch.device("meta"):
        small, large = Generator(3, 3), Generator(3, 3, img_resolution=512)
    assert (large.macs(), large.params()) == (4 * small.macs(), small.params())


def test_dropout_is_active_in_train_mode_from_level_4_on() -> None:
    deep = {"num_downs": 6, "widths": None, "base_width": 2, "norm": "none"}
    x = images(1, 2, 64)
    generator = unet(**deep, use_dropout=True)
    assert torch.equal(generator(x), unet(**deep)(x))
    generator.train()
    assert not torch.equal(generator(x), generator(x))
    shallow = unet(use_dropout=True, norm="none").train()
    assert torch.equal(shallow(x), shallow(x))
