"""Budgets: thresholds that meet them exactly, and what a missed one costs."""

import math

import pytest
import torch
from torch import Tensor

from ganc import seeds
from ganc.errors import ComputationError, InputError
from ganc.scoring.density.budget import budget_loss, check_budget, thresholds
from ganc.scoring.density.gates import GatedNetwork, floors
from tests.families import make_resnet
from tests.scoring.density.cases import MODELS, NETWORKS

CASES = pytest.mark.parametrize(("name", "part"), NETWORKS)


def gated(name: str, part: str) -> GatedNetwork:
    return GatedNetwork(dict(MODELS[name]().networks())[part])


def random_scores(network: GatedNetwork, seed: int, *, levels: int = 0) -> dict[str, Tensor]:
    """Draw scores; of a few ``levels``, and so with ties, where there are some."""
    random = seeds.generator(seed, "test scores")
    drawn = random.random(sum(network.widths))
    if levels:
        drawn = (drawn * levels).round() / levels
    return network.split(torch.tensor(drawn))


def kept(scores: dict[str, Tensor], cuts: dict[str, float]) -> dict[str, int]:
    return {name: int((own >= cuts[name]).sum()) for name, own in scores.items()}


@CASES
@pytest.mark.parametrize("share", [0.15, 0.4, 0.8])
@pytest.mark.parametrize("levels", [0, 4])
def test_thresholds_are_the_largest_within_the_budget(
    name: str, part: str, share: float, levels: int
) -> None:
    network = gated(name, part)
    for seed in range(3):
        scores = random_scores(network, seed, levels=levels)
        floor = floors(network.groups, [0.0, 0.3, 0.5][seed])
        # Ties of what a floor keeps stay together, so that the least there is may cost more.
        least_cuts = {
            g: own.sort(descending=True).values[floor[g] - 1] for g, own in scores.items()
        }
        least = network.macs_at(kept(scores, least_cuts))
        target = least + share * (network.network.macs() - least)
        cuts = thresholds(network, scores, target, floor)
        widths = kept(scores, cuts)
        assert network.macs_at(widths) <= target
        assert all(widths[group] >= floor[group] for group in widths)
        # One threshold for all groups, but for those that their floor lifts: adding the best of
        # what is left, and its ties, exceeds the budget.
        left = torch.cat([own[own < cuts[group]] for group, own in scores.items()])
        following = {group: min(cut, left.max().item()) for group, cut in cuts.items()}
        assert network.macs_at(kept(scores, following)) > target


def test_a_budget_that_all_meet_keeps_all() -> None:
    network = gated("resnet", "generator")
    scores = random_scores(network, 0)
    cuts = thresholds(network, scores, network.network.macs(), floors(network.groups, 0.0))
    assert kept(scores, cuts) == {group.name: group.width for group in network.groups}


def test_thresholds_are_scores_and_the_floor_keeps_the_best() -> None:
    network = gated("resnet", "generator")
    scores = random_scores(network, 0)
    scores["stem"] = scores["stem"] / 1000  # nobody would keep one of them
    floor = floors(network.groups, 0.5)
    least = network.macs_at(floor)
    cuts = thresholds(network, scores, 2 * least, floor)
    assert cuts["stem"] == scores["stem"].sort(descending=True).values[floor["stem"] - 1]
    assert all(cut in scores[group].tolist() for group, cut in cuts.items())
    again = thresholds(network, scores, 2 * least, floor)
    assert again == cuts


def test_ties_that_no_threshold_can_part() -> None:
    network = gated("resnet", "generator")
    scores = {group.name: torch.full((group.width,), 0.5).double() for group in network.groups}
    with pytest.raises(ComputationError, match="alike") as caught:
        thresholds(network, scores, 0.5 * network.network.macs(), floors(network.groups, 0.0))
    assert caught.value.hint


@CASES
def test_a_budget_that_no_mask_can_meet(name: str, part: str) -> None:
    network = gated(name, part)
    floor = floors(network.groups, 0.4)
    least = network.macs_at(floor)
    check_budget(network, part, least, floor)  # just so
    with pytest.raises(InputError) as caught:
        check_budget(network, part, least - 1, floor)
    assert str(caught.value).startswith(f"no mask leaves the {part} ")
    assert "\n" not in str(caught.value)
    assert "min_width_share" in str(caught.value.hint)


@pytest.mark.parametrize("form", ["two-sided", "one-sided"])
def test_penalty_of_a_missed_budget(form: str) -> None:
    target = 1000.0
    for macs, slope in ((2000.0, 1), (1000.001, 1), (999.999, -1), (250.0, -1)):
        count = torch.tensor(macs, dtype=torch.float64, requires_grad=True)
        loss = budget_loss(count, target, form)
        (gradient,) = torch.autograd.grad(loss, count)
        if form == "one-sided" and slope < 0:
            assert (loss.item(), gradient.item()) == (0, 0)
        else:
            assert loss.item() == pytest.approx(abs(math.log(macs / target)), rel=1e-9)
            assert gradient.item() == pytest.approx(slope / macs)
    exact = torch.tensor(target, dtype=torch.float64)
    assert budget_loss(exact, target, form).item() == 0


def test_penalty_moves_gates_towards_the_budget() -> None:
    network = GatedNetwork(make_resnet().generator)
    logits = torch.zeros(sum(network.widths), requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.05)
    target = 0.2 * network.network.macs()
    for _ in range(100):
        adam.zero_grad()
        budget_loss(network.macs(torch.sigmoid(logits)), target, "two-sided").backward()
        adam.step()
    assert network.macs(torch.sigmoid(logits)).item() == pytest.approx(target, rel=0.05)


def test_gates_have_a_gradient_of_the_group_they_are_in() -> None:
    # All channels of a group cost the same; wider neighbours make them dearer.
    network = GatedNetwork(make_resnet().generator)
    gates = torch.ones(sum(network.widths), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.macs(gates), gates)
    for group, own in zip(network.groups, gradient.split(network.widths), strict=True):
        assert len(set(own.tolist())) == 1
        fewer = {group.name: group.width - 1}
        saved = network.network.macs() - network.macs_at(fewer)
        assert own[0].item() == pytest.approx(saved)
