"""``ganc import --set``: what no file records, and was assumed, is the user's to say."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc.checkpoints.store import import_checkpoints, load, save
from ganc.errors import CheckpointError, UsageError
from tests.conftest import GOLDEN

UNET = GOLDEN / "files" / "junyanz-pix2pix" / "latest_net_G.pth"
PATCHGAN = GOLDEN / "files" / "junyanz-patchgan" / "latest_net_D.pth"


@torch.no_grad()
def test_batch_statistics_are_the_published_test_script(
    ganc: Callable[..., Any], golden: Callable[[str], Mapping[str, Tensor]], tmp_path: Path
) -> None:
    io = golden("junyanz-unet7-batch")
    out = tmp_path / "pix2pix.safetensors"
    done = ganc("import", UNET, PATCHGAN, "-o", out, "--set", "norm_statistics=batch", "--json")
    assert done.code == 0
    assert json.loads(done.out)["networks"] == ["generator", "discriminator"]
    model = load(out)
    torch.testing.assert_close(
        model.generator(io["x"]), io["y_bn_batchstats_b1"], atol=1e-5, rtol=0
    )
    assert model.provenance[-1]["command"] == "set"
    assert model.provenance[-1]["settings"] == {"norm_statistics": "batch"}
    # The other images of a batch change nothing: the script translates them one by one.
    pair = model.generator(torch.cat([io["x"], -io["x"]]))
    torch.testing.assert_close(pair[:1], io["y_bn_batchstats_b1"], atol=1e-5, rtol=0)


def test_a_setting_reaches_only_networks_that_have_it() -> None:
    model = import_checkpoints([UNET, PATCHGAN], settings={"use_dropout": True})
    assert model.generator.config["use_dropout"] is True
    assert "use_dropout" not in model.discriminator.config
    larger = import_checkpoints([UNET], settings={"img_resolution": 256})
    assert larger.macs() == 4 * load(UNET).macs()


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        ({"norm_statistic": "batch"}, "unknown setting `norm_statistic`"),
        ({"widths": {"enc0": 3}}, "unknown setting `widths`"),
        ({"norm_statistics": "none"}, "unknown norm_statistics `none`"),
        ({"norm": "instance"}, "--set norm: the file says batch, only what it does not say can"),
        ({"img_resolution": 100}, "not a multiple of 128"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], finding: str) -> None:
    with pytest.raises(UsageError, match=finding):
        import_checkpoints([UNET], settings=settings)


@pytest.mark.parametrize(
    ("case", "setting", "finding"),
    [
        (
            "nvidia-stylegan2-16-labels/net.pkl",
            {"lr_multiplier": 1},
            "lr_multiplier: the file says",
        ),
        ("files/rosinality/networks.pt", {"resample_filter": [1, 2, 1]}, "the file says"),
        ("files/rosinality/networks.pt", {"z_dim": 32}, "z_dim: the file says 64"),
    ],
)
def test_what_a_file_says_is_not_set(case: str, setting: dict[str, Any], finding: str) -> None:
    with pytest.raises(UsageError, match=finding):
        import_checkpoints([GOLDEN / case], settings=setting)


def test_what_is_set_is_said(ganc: Callable[..., Any], tmp_path: Path) -> None:
    done = ganc("import", UNET, PATCHGAN, "-o", tmp_path / "x.safetensors",
                "--set", "img_resolution=256")  # fmt: skip
    assert done.code == 0
    assert done.err.count("img_resolution = 256 (given)") == 2
    assert "img_resolution = 128 (assumed)" not in done.err
    alone = load(UNET, settings={"norm_statistics": "batch"})
    assert alone.generator.config["norm_statistics"] == "batch"
    assert alone.provenance[0]["inferred"]["norm_statistics"] == "batch (given)"


def test_our_own_files_may_be_set_again(tmp_path: Path) -> None:
    save(load(UNET), tmp_path / "own.safetensors")
    again = import_checkpoints([tmp_path / "own.safetensors"], settings={"img_resolution": 256})
    assert again.generator.config["img_resolution"] == 256
    with pytest.raises(CheckpointError, match=r"norm\.running_mean is not part"):
        import_checkpoints([tmp_path / "own.safetensors"], settings={"norm": "instance"})


def test_two_keys_of_one_network_are_refused() -> None:
    from tests.checkpoints.wrapped import cyclegan, loaded

    tree = {"state_dict": cyclegan(), "ema_state_dict": {n: t + 1 for n, t in cyclegan().items()}}
    with pytest.raises(CheckpointError, match="--key ema_state_dict both name"):
        loaded(tree, keys=["state_dict", "ema_state_dict"])


def test_none_is_null(ganc: Callable[..., Any], tmp_path: Path) -> None:
    from tests.checkpoints.test_nvidia_bare import bare

    torch.save(bare("nvidia-stylegan2-16-labels"), tmp_path / "g.pth")
    done = ganc("import", tmp_path / "g.pth", "-o", tmp_path / "x.safetensors",
                "--set", "conv_clamp=None")  # fmt: skip
    assert done.code == 0
    assert "conv_clamp = None (given)" in done.err


def test_a_setting_is_a_pair(ganc: Callable[..., Any], tmp_path: Path) -> None:
    done = ganc("import", UNET, "-o", tmp_path / "x.safetensors", "--set", "norm_statistics")
    assert done.code == 2
    assert "NAME=VALUE" in done.err
