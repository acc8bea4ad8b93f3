"""The ResNet translator against the public implementations, and what is its own."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from ganc.checkpoints.store import load
from ganc.models.resnet_translator import Generator
from tests.conftest import GOLDEN
from tests.models.translation import images, resnet

Golden = Callable[[str], Mapping[str, Tensor]]
CYCLEGAN = GOLDEN / "files" / "junyanz-cyclegan" / "latest_net_G_A.pth"


@torch.no_grad()
def test_images_of_cyclegan(golden: Golden) -> None:
    io, generator = golden("junyanz-resnet9-instance"), load(CYCLEGAN).generator
    torch.testing.assert_close(generator(io["x"]), io["y"], atol=1e-5, rtol=0)
    torch.testing.assert_close(generator(io["x"][:1]), io["y_single"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_batch_norm_and_its_running_statistics(golden: Golden) -> None:
    case = "gan-compression-resnet6-batch"
    io, generator = golden(case), load(GOLDEN / case / "G.pth").generator
    torch.testing.assert_close(generator(io["x"]), io["y"], atol=1e-5, rtol=0)
    # Recorded with dropout 0; the file shows the layer's slot only, which we take as pix2pix's.
    assert generator.config["use_dropout"]
    for module in generator.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.testing.assert_close(generator.train()(io["x"]), io["y_train"], atol=1e-5, rtol=0)
    for ours, theirs in (("stem", "model.2"), ("block5.conv1", "model.15.conv_block.7")):
        norm = generator.get_submodule(f"{ours}.norm")
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            expected = io[f"after.{theirs}.{name}"]
            torch.testing.assert_close(getattr(norm, name), expected, atol=1e-5, rtol=0)


def test_group_names_in_network_order() -> None:
    names = [group.name for group in resnet().groups()]
    assert names == ["stem", "down1", "trunk", "block0.inner", "block1.inner", "up1", "up0"]


def test_trunk_is_scored_by_all_who_read_it() -> None:
    trunk = next(group for group in resnet().groups() if group.name == "trunk")
    assert [part.tensor for part in trunk.scored_by] == [
        "block0.conv0.conv.weight", "block1.conv0.conv.weight", "up1.conv.weight",
    ]  # fmt: skip
    assert [part.dim for part in trunk.scored_by] == [1, 1, 0]


@pytest.mark.parametrize("num_downsampling", [1, 2, 3])
@pytest.mark.parametrize("num_blocks", [0, 1, 6])
def test_any_depth_keeps_the_size(num_downsampling: int, num_blocks: int) -> None:
    generator = Generator(
        1, 4, num_downsampling=num_downsampling, num_blocks=num_blocks, base_width=2
    )
    assert generator(images(1, 1, 16, 24)).shape == (1, 4, 16, 24)


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        assert Generator(3, 3, norm="batch").params() == 11_383_427
        assert Generator(3, 3, num_blocks=6).params() == 7_837_699


def test_dropout_is_active_in_train_mode_only() -> None:
    x = images(1, 3, 16)
    generator = resnet(use_dropout=True)
    assert torch.equal(generator(x), resnet()(x))
    generator.train()
    assert not torch.equal(generator(x), generator(x))


def test_images_outside_the_range_are_not_clamped() -> None:
    x = images(1, 3, 16) * 3
    generator = resnet()
    assert (generator(x) - generator(x.clamp(-1, 1))).abs().max() > 1e-2
