"""``ganc import --set``: what no file records, and was assumed, is the user's to say."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc.checkpoints.store import import_checkpoints, load
from ganc.errors import CheckpointError, UsageError
from tests.conftest import GOLDEN

UNET = GOLDEN / "files" / "pix2pix_unet128" / "latest_net_G.pth"
PATCHGAN = GOLDEN / "files" / "pix2pix_d_batch" / "latest_net_D.pth"


@torch.no_grad()
def test_batch_statistics_are_the_published_test_script(
    ganc: Callable[..., Any], golden: Callable[[str], Mapping[str, Tensor]], tmp_path: Path
) -> None:
    io = golden("case5f_pix2pix_unet128_bn")
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
        ({"img_resolution": 100}, "not a multiple of 128"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], finding: str) -> None:
    with pytest.raises(UsageError, match=finding):
        import_checkpoints([UNET], settings=settings)


def test_settings_must_fit_the_tensors() -> None:
    with pytest.raises(CheckpointError, match=r"norm\.running_mean is not part"):
        import_checkpoints([UNET], settings={"norm": "instance"})


def test_a_setting_is_a_pair(ganc: Callable[..., Any], tmp_path: Path) -> None:
    done = ganc("import", UNET, "-o", tmp_path / "x.safetensors", "--set", "norm_statistics")
    assert done.code == 2
    assert "NAME=VALUE" in done.err
