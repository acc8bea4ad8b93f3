"""The patch discriminator against the public implementations, and what is its own."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from ganc.checkpoints.store import load
from ganc.errors import UsageError
from ganc.models.patchgan import Discriminator
from tests.conftest import GOLDEN
from tests.models.translation import images, patchgan

Golden = Callable[[str], Mapping[str, Tensor]]
PIX2PIX = GOLDEN / "files" / "junyanz-patchgan" / "latest_net_D.pth"


@torch.no_grad()
def test_logits_of_pix2pix(golden: Golden) -> None:
    io, discriminator = golden("junyanz-patchgan3-batch"), load(PIX2PIX).discriminator
    torch.testing.assert_close(discriminator(io["x"]), io["y"], atol=1e-5, rtol=1e-4)
    train = discriminator.train()(io["x"])
    torch.testing.assert_close(train, io["y_bn_batchstats"], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [2, 4])
def test_logits_at_other_depths(golden: Golden, num_layers: int) -> None:
    case = f"gan-compression-patchgan{num_layers}-instance"
    io, discriminator = golden(case), load(GOLDEN / case / "D.pth").discriminator
    assert discriminator.config["num_layers"] == num_layers
    torch.testing.assert_close(discriminator(io["x"]), io["y"], atol=1e-5, rtol=1e-4)


def test_patches_of_70_px_at_256() -> None:
    with torch.device("meta"):
        assert Discriminator(3)(torch.empty(2, 3, 256, 256)).shape == (2, 1, 30, 30)
    # One logit sees 70 px: the gradient of the middle one reaches that far.
    x = images(1, 1, 96).requires_grad_()
    Discriminator(1, base_width=2, norm="none")(x)[0, 0, 5, 5].backward()
    assert x.grad is not None
    rows = x.grad[0, 0].abs().sum(dim=1).nonzero()
    assert rows.max() - rows.min() + 1 == 70


def test_every_hidden_layer_is_a_group() -> None:
    groups = patchgan().groups()
    assert [group.name for group in groups] == ["conv0", "conv1", "conv2"]
    assert all(group.prunable for group in groups)


def test_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="takes no label"):
        patchgan()(images(1, 5, 16), torch.zeros(1, 2))
