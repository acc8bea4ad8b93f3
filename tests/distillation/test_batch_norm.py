"""Batch norm over processes: the numbers of one process that holds the whole batch."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ganc import collectives, launch
from ganc.distillation.trainers.batch_norm import GlobalBatchNorm, global_batch_norm
from ganc.models import translation
from tests import forked
from tests.families import make_sngan, make_unet


def network() -> nn.Module:
    """Two norms with something nonlinear between them."""
    torch.manual_seed(1)
    layers = (nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4, affine=False))
    return nn.Sequential(*layers).double()


def batch() -> tuple[Tensor, Tensor]:
    """Draw inputs and goals; the inputs' large mean would cost a sum of squares its digits."""
    random = torch.Generator().manual_seed(0)
    x = 1000 + torch.randn(6, 3, 7, 5, generator=random).double()
    return x, torch.randn(6, 4, 5, 3, generator=random).double()


def run(net: nn.Module, x: Tensor, goal: Tensor) -> dict[str, Tensor]:
    """Go forward and back with a loss that is a mean over samples."""
    x.requires_grad_(True)
    images = net(x)
    (images - goal).abs().mean().backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    collectives.average(gradients)
    assert x.grad is not None
    named = {f"gradient{i}": gradient for i, gradient in enumerate(gradients)}
    return {"images": images.detach(), "input": x.grad} | named | net.state_dict()


def run_share(folder: Path) -> None:
    """Be one of two processes, with every second sample."""
    with launch.process_group():
        net = network()
        global_batch_norm(net)
        x, goal = (part[collectives.rank() :: 2].clone() for part in batch())
        torch.save(run(net, x, goal), folder / f"{collectives.rank()}.pt")


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    forked.run_group(2, run_share, tmp_path)
    whole = run(network(), *batch())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == whole.keys()
        for name, tensor in found.items():
            expected = whole[name]
            if name in ("images", "input"):
                expected = expected[rank::2]
            # The loss is a mean over half as many samples: so is the gradient of each.
            scale = 2 if name == "input" else 1
            torch.testing.assert_close(tensor, scale * expected, rtol=1e-10, atol=1e-10)


def pass_through(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    y = network(x)
    y.square().mean().backward()
    gradients = {f"gradient of {n}": p.grad for n, p in network.named_parameters()}
    return {"y": y.detach(), **gradients, **network.state_dict()}


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_alone_it_is_plain_batch_norm(is_training: bool, statistics: str) -> None:
    plain = translation.BatchNorm(3, affine=True, statistics=statistics).train(is_training)
    converted = copy.deepcopy(plain)
    global_batch_norm(converted)
    assert isinstance(converted, GlobalBatchNorm)
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    expected, found = pass_through(plain, x), pass_through(converted, x)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_converted_network_is_the_network() -> None:
    for model in (make_sngan(), make_unet()):
        network, before = model.generator, model.content_hash()
        kept = dict(network.named_parameters())
        global_batch_norm(network)
        global_batch_norm(network)  # a second time changes nothing
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert all(type(m).__mro__.count(GlobalBatchNorm) == 1 for m in norms)
        assert all(kept[name] is p for name, p in network.named_parameters())
        assert model.content_hash() == before
        assert copy.deepcopy(model).content_hash() == before
