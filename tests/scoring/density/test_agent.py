"""Agents and their gates: Gumbel noise, straight-through gradients, what one hears of the other."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from ganc.scoring.density.agent import (
    EMBEDDING_DIM,
    Agent,
    gumbel,
    new_agent,
    probabilities,
    sample_gates,
)
from ganc.scoring.density.recipe import DensityRecipe, resolve_density
from ganc.scoring.density.search import Search
from tests.scoring.density.cases import CPU, learn, make_resnet_pair, make_search

HARD, SOFT = DensityRecipe(), DensityRecipe(gate="soft")
WIDTHS = [5, 3, 7]
SILENCE = torch.zeros(EMBEDDING_DIM)


def noise(count: int, step: int = 0) -> Tensor:
    return gumbel(0, "test", step, count, CPU)


def heard(seed: int = 0) -> Tensor:
    return torch.randn(EMBEDDING_DIM, generator=torch.Generator().manual_seed(seed))


def grown(feedback: str) -> Agent:
    """An agent whose ear is no longer zero."""
    agent = new_agent(WIDTHS, feedback, 0, "test")
    torch.nn.init.normal_(agent.listen.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return agent


# Gumbel noise and gates.


@pytest.mark.parametrize("logit", [-6.0, -4.0, -3.0, -2.0, 0.0])
def test_gates_open_with_the_probability_of_one_gumbel(logit: float) -> None:
    count = 40_000
    gates = sample_gates(torch.full((count,), logit), noise(count), [count], HARD)
    expected = 1 - math.exp(-math.exp(logit + 3.0))
    deviation = math.sqrt(expected * (1 - expected) / count)
    assert gates.mean().item() == pytest.approx(expected, abs=4 * deviation + 1e-9)


def test_gumbel_numbers() -> None:
    drawn = noise(40_000)
    # Mean: Euler's constant; variance: pi² / 6; 4 deviations of the mean, 5 % of the variance.
    assert drawn.mean().item() == pytest.approx(0.57722, abs=4 * 1.2825 / 200)
    assert drawn.var().item() == pytest.approx(math.pi**2 / 6, rel=0.05)
    assert torch.isfinite(drawn).all()
    assert torch.equal(drawn, noise(40_000))
    assert not torch.equal(noise(9, 0), noise(9, 1))
    assert not torch.equal(gumbel(0, "a", 0, 9, CPU), gumbel(0, "b", 0, 9, CPU))


def test_straight_through_gradient_is_the_soft_one() -> None:
    logits = torch.tensor([-6.0, -3.2, -3.0, -2.6, -2.0, 0.0, 0.3, -7.0]).requires_grad_()
    own, widths = torch.zeros(8), [5, 3]
    hard, soft = (sample_gates(logits, own, widths, recipe) for recipe in (HARD, SOFT))
    assert hard.tolist() == [0, 0, 1, 1, 1, 1, 1, 0]
    weight = torch.arange(1.0, 9)
    (through,) = torch.autograd.grad((weight * hard).sum(), logits)
    (plain,) = torch.autograd.grad((weight * soft).sum(), logits)
    assert torch.equal(through, plain)
    assert (through > 0).all()  # of closed gates as well


def test_soft_gates() -> None:
    logits = torch.linspace(-5, -1, 9)
    gates = sample_gates(logits, noise(9), [9], SOFT)
    expected = 1 / (1 + torch.exp(-(logits + noise(9) + 3.0) / 0.4))
    torch.testing.assert_close(gates, expected)
    assert ((gates > 0) & (gates < 1)).all()


@pytest.mark.parametrize("temperature", [0.4, 0.001])
def test_one_gate_of_each_group_stays_open(temperature: float) -> None:
    recipe = dataclasses.replace(HARD, temperature=temperature)
    logits = torch.tensor([-50.0, -45, -60, -90, -81, -44, -44.5])
    gates = sample_gates(logits, torch.zeros(7), [3, 2, 2], recipe)
    assert gates.tolist() == [0, 1, 0, 0, 1, 1, 0]


def test_probabilities_are_without_noise() -> None:
    logits = torch.tensor([-3.0, 0.0, -8.0]).requires_grad_()
    torch.manual_seed(0)
    found = probabilities(logits, HARD)
    torch.manual_seed(1)
    assert torch.equal(found, probabilities(logits, SOFT))
    assert found.dtype == torch.float64
    expected = [0.5, 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(5))]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert not found.requires_grad


# Feedback.


def test_agents_depend_on_their_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = new_agent(WIDTHS, "h0", 3, "a")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = new_agent(WIDTHS, "h0", 3, "a")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    others = [new_agent(WIDTHS, "h0", 4, "a"), new_agent(WIDTHS, "h0", 3, "b")]
    assert all(not torch.equal(first(SILENCE).logits, o(SILENCE).logits) for o in others)


def test_at_first_nobody_listens() -> None:
    logits = {}
    for feedback in ("h0", "concat", "none"):
        agent = new_agent(WIDTHS, feedback, 0, "test")
        logits[feedback] = agent(SILENCE).logits
        assert logits[feedback].shape == (15,)
        assert torch.equal(agent(heard()).logits, logits[feedback])
    assert torch.equal(logits["h0"], logits["concat"])
    assert torch.equal(logits["h0"], logits["none"])


@pytest.mark.parametrize("feedback", ["h0", "concat"])
def test_what_is_heard_changes_the_decision(feedback: str) -> None:
    agent = grown(feedback)
    first, other = agent(heard(0)), agent(heard(1))
    assert (first.logits - other.logits).abs().max() > 0.01
    assert (first.embedding - other.embedding).abs().max() > 0.01


def test_without_feedback_there_is_no_ear() -> None:
    assert not hasattr(new_agent(WIDTHS, "none", 0, "test"), "listen")


@pytest.mark.parametrize("feedback", ["h0", "concat"])
def test_no_gradient_goes_through_what_is_said(feedback: str) -> None:
    agent, said = grown(feedback), heard().requires_grad_()
    decision = agent(said)
    assert not decision.embedding.requires_grad
    decision.logits.sum().backward()
    assert said.grad is None
    assert agent.listen.weight.grad.any()


@pytest.mark.parametrize("feedback", ["h0", "concat", "none"])
def test_all_of_an_agent_learns(feedback: str) -> None:
    agent = new_agent(WIDTHS, feedback, 0, "test")
    agent(heard()).logits.square().sum().backward()
    unmoved = [n for n, p in agent.named_parameters() if p.grad is None or not p.grad.any()]
    # Of a state that starts at zero the recurrent weights do learn: there are three groups.
    assert unmoved == []
    assert not agent.inputs.requires_grad


# Who learns from which loss.


def gradients(search: Search, side: str) -> list[str]:
    """Return the parameters of one learner that have a gradient."""
    learner = getattr(search, side)
    return [
        f"{key}.{name}"
        for key, module in learner.modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    ]


def play(search: Search, side: str) -> None:
    """Let one side decide, having heard the other, and take its step."""
    own = getattr(search, side)
    other = search.discriminator if side == "generator" else search.generator
    chosen, others = own.decide(other.decide(SILENCE).embedding), other.decide(own.spoken)
    gates = own.gates(chosen, noise(len(chosen.logits)))
    fixed = other.gates(others, noise(len(others.logits))).detach()
    leaf = gates.detach().requires_grad_()
    draw = search.game.draw(0)
    if side == "generator":
        search.game.generator_step(draw, leaf, fixed)
    else:
        search.game.judge_step(draw, fixed, leaf)
    assert leaf.grad.abs().sum() > 0
    own.descend(gates, leaf)


def test_the_generators_loss_is_the_generators() -> None:
    search = make_search(make_resnet_pair(), DensityRecipe(discriminator_lr=0))
    play(search, "generator")
    assert any(name.startswith("agent.gru") for name in gradients(search, "generator"))
    assert [n for n in gradients(search, "discriminator") if n.startswith("agent.")] == []
    assert all(p.grad is None for p in search.game.generator.network.parameters())


def test_the_judges_loss_is_the_judges() -> None:
    search = make_search(make_resnet_pair(), DensityRecipe(discriminator_lr=0.0002))
    play(search, "discriminator")
    learning = {name.partition(".")[0] for name in gradients(search, "discriminator")}
    assert learning == {"agent", "projection", "discriminator"}
    assert gradients(search, "generator") == []
    assert all(p.grad is None for p in search.game.generator.network.parameters())


@pytest.mark.parametrize("lr", [0.0, 0.0002])
def test_twenty_steps_leave_the_generator_alone(lr: float) -> None:
    model = make_resnet_pair()
    before = {name: tensor.clone() for name, tensor in model.tensors().items()}
    recipe = resolve_density({"steps": 20, "discriminator_lr": lr})
    search = make_search(model, recipe)
    agents = [search.generator.agent, search.discriminator.agent]
    logits = [agent(SILENCE).logits.detach() for agent in agents]
    learn(search)
    changed = {n for n, tensor in model.tensors().items() if not torch.equal(tensor, before[n])}
    assert {name.partition(".")[0] for name in changed} == ({"discriminator"} if lr else set())
    assert not [name for name in changed if "running" in name]
    for agent, start in zip(agents, logits, strict=True):
        assert (agent(SILENCE).logits - start).abs().max() > 0.01
