"""Gates: what a gated network computes and costs, beside the sliced one."""

import copy

import pytest
import torch
from torch import Tensor

from ganc import seeds
from ganc.groups import gate_consumers, mask_consumers
from ganc.models.model import Model
from ganc.models.network import Network
from ganc.pruning.slicing import PrunePlan, apply_plan
from ganc.scoring.density.gates import GatedNetwork, floors
from tests.families import make_resnet
from tests.scoring.density.cases import MODELS, NETWORKS, make_sngan_pair, outputs, random_keep

CASES = pytest.mark.parametrize(("name", "part"), NETWORKS)


def network_of(name: str, part: str) -> Network:
    return dict(MODELS[name]().networks())[part]


def sliced(network: Network, part: str, keep: dict[str, list[int]]) -> Network:
    """Slice a network on its own, as ``ganc prune`` does."""
    prefix = "" if part == "generator" else f"{part}."
    plan = PrunePlan({prefix + group: channels for group, channels in keep.items()})
    return dict(apply_plan(Model(**{part: network}), plan).networks())[part]


def as_gates(gated: GatedNetwork, keep: dict[str, list[int]]) -> Tensor:
    parts = [torch.zeros(group.width) for group in gated.groups]
    for group, gates in zip(gated.groups, parts, strict=True):
        gates[keep[group.name]] = 1.0
    return torch.cat(parts)


def soft_gates(gated: GatedNetwork, dtype: torch.dtype = torch.float32) -> Tensor:
    random = seeds.generator(0, "test gates")
    return torch.tensor(random.uniform(0.1, 0.9, sum(gated.widths)), dtype=dtype)


@CASES
@torch.no_grad()
def test_gates_of_0_and_1_slice(name: str, part: str) -> None:
    network = network_of(name, part)
    gated = GatedNetwork(network)
    for seed in range(4):
        keep = random_keep(network, seed)
        gates = as_gates(gated, keep)
        small = sliced(network, part, keep)
        found = gated.run(lambda: outputs(network), gates)
        torch.testing.assert_close(found, outputs(small), atol=1e-4, rtol=0)
        assert gated.macs(gates).item() == small.macs()
    assert (found - outputs(network)).abs().max() > 1e-3  # they did something


@CASES
@torch.no_grad()
def test_open_gates_change_nothing(name: str, part: str) -> None:
    network = network_of(name, part)
    gated, whole = GatedNetwork(network), outputs(network)
    gates = torch.ones(sum(gated.widths))
    found = gated.run(lambda: outputs(network), gates)
    # A vector u of a spectral norm is computed again, so equal but for rounding.
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(gated.run(lambda: outputs(network), None), whole)
    assert gated.macs(gates).item() == network.macs()


@CASES
def test_gates_are_masks_where_they_are_0_and_1(name: str, part: str) -> None:
    network = network_of(name, part)
    keep, tensors = random_keep(network, 9), network.state_dict()
    gated = GatedNetwork(network)
    split = gated.split(as_gates(gated, keep))
    found = {**tensors, **gate_consumers(tensors, network.groups(), split)}
    masked = mask_consumers(tensors, network.groups(), keep)
    assert found.keys() == masked.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in masked.items())
    changed = {key for key in tensors if not torch.equal(found[key], tensors[key])}
    read = {p.tensor for g in gated.groups for p in g.slices if p.role == "in"}
    assert {key for key in changed if not key.endswith("_u")} <= read
    assert changed


@CASES
def test_macs_are_differentiable(name: str, part: str) -> None:
    gated = GatedNetwork(network_of(name, part))
    gates = soft_gates(gated, torch.float64).requires_grad_()
    whole = gated.network.macs()
    assert torch.autograd.gradcheck(lambda g: gated.macs(g) / whole, gates, eps=1e-4)
    (gradient,) = torch.autograd.grad(gated.macs(gates), gates)
    assert (gradient > 0).all()  # no channel is for nothing


@pytest.mark.parametrize(
    ("name", "part"),
    [("resnet", "generator"), ("resnet", "discriminator"), ("unet", "generator"),
     ("unet", "discriminator"), ("sngan", "discriminator"), ("sngan", "generator")],
)  # fmt: skip
def test_soft_gates_are_differentiable(name: str, part: str) -> None:
    network = network_of(name, part).double().requires_grad_(False)
    gated = GatedNetwork(network)
    gates = soft_gates(gated, torch.float64).requires_grad_()
    weight = torch.randn(outputs(network, 1).shape, dtype=torch.float64)

    def play(own: Tensor) -> Tensor:
        return (weight * gated.run(lambda: outputs(network, 1), own)).sum()

    (gradient,) = torch.autograd.grad(play(gates), gates)
    random = torch.Generator().manual_seed(0)
    for _ in range(3):  # along a few directions: all of gradcheck's take a minute
        direction = torch.randn(len(gates), generator=random, dtype=torch.float64)
        with torch.no_grad():
            step = 1e-6
            there, back = play(gates + step * direction), play(gates - step * direction)
        assert (gradient @ direction).item() == pytest.approx(
            ((there - back) / (2 * step)).item(), rel=1e-4, abs=1e-6
        )
    parts = zip(gated.groups, gradient.split(gated.widths), strict=True)
    assert [group.name for group, own in parts if not own.any()] == []


def test_a_gate_in_front_of_a_norm_would_do_nothing() -> None:
    # The trap that gates on consumers avoid: an instance norm divides a scale out again.
    network = make_resnet().generator.requires_grad_(False)
    gated, whole = GatedNetwork(network), outputs(network)
    (group,) = [group for group in gated.groups if group.name == "down1"]
    # Every other channel: of all alike, the consumer's norm would divide them out again.
    half = torch.tensor([0.5, 1.0] * 3)
    in_front = copy.deepcopy(network)
    tensors = dict(in_front.named_parameters())
    for part in group.slices:
        if part.role == "out":
            tensors[part.tensor].mul_(half.reshape([-1] + [1] * (tensors[part.tensor].ndim - 1)))
    lost = (outputs(in_front) - whole).abs().max()  # the norm's eps leaves a trace
    gates = torch.cat([half if own is group else torch.ones(own.width) for own in gated.groups])
    ours = (gated.run(lambda: outputs(network), gates) - whole).abs().max()
    assert lost < 0.005 < 0.05 < ours


def test_a_network_is_left_as_it_was() -> None:
    network = make_sngan_pair().discriminator
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    gated = GatedNetwork(network)
    gates = soft_gates(gated).requires_grad_()
    gated.run(lambda: outputs(network), gates).sum().backward()
    assert gates.grad is not None
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_groups_that_are_kept_have_no_gates() -> None:
    gated = GatedNetwork(make_resnet().generator, keep=["trunk", "up0"])
    assert [group.name for group in gated.groups] == ["stem", "down1", "block0.inner", "up1"]
    assert gated.widths == [5, 6, 3, 4]
    # Of every layer but the last, which makes 3 channels of up0's 5, one end is closed.
    assert gated.macs(torch.zeros(18)).item() == 7 * 7 * 5 * 3 * 16 * 16
    assert floors(gated.groups, 0.5) == {"stem": 2, "down1": 3, "block0.inner": 1, "up1": 2}
    assert set(floors(gated.groups, 0.0).values()) == {1}


@pytest.mark.parametrize(("name", "part"), [case for case in NETWORKS if case[1] != "generator"])
def test_head_gates_are_those_of_what_the_logits_read(name: str, part: str) -> None:
    network = network_of(name, part)
    gated = GatedNetwork(network)
    layer = network.get_submodule(str(network.logit_layer))
    weight = next(t for key, t in layer.state_dict().items() if key.endswith("weight"))
    gates = soft_gates(gated)
    tensors = network.state_dict()
    (key,) = [k for k, t in tensors.items() if k.startswith(f"{network.logit_layer}.")
              and k.endswith("weight")]  # fmt: skip
    scaled = gate_consumers(tensors, gated.groups, gated.split(gates)).get(key, weight)
    head = gated.head_gates(gates, weight.shape[1])
    shape = [1, -1] + [1] * (weight.ndim - 2)
    torch.testing.assert_close(weight * head.reshape(shape), scaled)
