"""Optimisers' states by name: what is saved, what is put back, and where it lies."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganc.optimizer_state import optimizer_state, restore_optimizer

KINDS = [(torch.optim.Adam, {"fused": True}), (torch.optim.AdamW, {})]
"""As the two players of a training run, and the agents of a search, are trained."""


def make(kind: type, settings: dict[str, Any]) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    return network, kind(network.parameters(), lr=0.1, **settings)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_training_goes_on_as_it_would_have(kind: type, settings: dict[str, Any]) -> None:
    network, optimizer = make(kind, settings)
    for seed in range(3):
        step(network, optimizer, seed)
    state = optimizer_state(optimizer, dict(network.named_parameters()))
    saved = {name: tensor.contiguous().clone() for name, tensor in state.items()}  # as in a file
    other, again = make(kind, settings)
    other.load_state_dict(network.state_dict())
    restore_optimizer(again, dict(other.named_parameters()), saved)
    moments = again.state[other.weight]["exp_avg"]
    assert moments.is_contiguous(memory_format=torch.channels_last)
    assert not moments.requires_grad
    for pair in ((network, optimizer), (other, again)):
        step(*pair, seed=3)
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert saved["weight.step"] == 3  # the next step changed copies, not what was given


def test_names_may_hold_dots_and_the_separator() -> None:
    network, optimizer = make(torch.optim.AdamW, {})
    step(network, optimizer, 0)
    parameters = {"agent.b4/conv.weight": network.weight}
    saved = optimizer_state(optimizer, parameters, "/")
    wanted = [f"agent.b4/conv.weight/{field}" for field in ("step", "exp_avg", "exp_avg_sq")]
    assert list(saved) == wanted
    other, again = make(torch.optim.AdamW, {})
    restore_optimizer(again, {"agent.b4/conv.weight": other.weight}, saved, "/")
    assert torch.equal(again.state[other.weight]["exp_avg_sq"], saved[wanted[2]])


def test_other_tensors_and_parameters_are_left_alone() -> None:
    network, optimizer = make(torch.optim.AdamW, {})
    tensors: dict[str, Tensor] = {"other.exp_avg": torch.ones(3), "spoken": torch.ones(3)}
    restore_optimizer(optimizer, dict(network.named_parameters()), tensors)
    assert not optimizer.state
    assert not optimizer_state(optimizer, dict(network.named_parameters()))
    assert not optimizer.state  # asking makes no entries


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_steps_are_counted_where_the_optimizer_counts_them(
    kind: type, settings: dict[str, Any]
) -> None:
    network, optimizer = make(kind, settings)
    step(network, optimizer, 0)
    saved = optimizer_state(optimizer, dict(network.named_parameters()))
    other = nn.Conv2d(2, 3, 3).to("cuda", memory_format=torch.channels_last)
    again = kind(other.parameters(), lr=0.1, **settings)
    restore_optimizer(again, dict(other.named_parameters()), saved)
    state = again.state[other.weight]
    assert state["exp_avg"].is_cuda
    assert state["step"].is_cuda == bool(settings)
    other(torch.ones(1, 2, 4, 4, device="cuda")).sum().backward()
    again.step()
    assert again.state[other.weight]["step"] == 2
