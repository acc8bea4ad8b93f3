"""What a step of the search keeps in memory, beside a training step of the same networks."""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from ganc.adversarial import d_loss, g_loss
from ganc.models import patchgan, resnet_translator
from ganc.models.model import Model
from ganc.scoring.density.recipe import resolve_density
from ganc.scoring.density.search import Search
from tests.scoring.density.cases import make_search, pictures

SIDE = 64


class Kept:
    """A tensor that a backward pass waits for."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Meter:
    """Bytes of all storages that graphs keep, those of the networks' own tensors left out."""

    def __init__(self, model: Model) -> None:
        self._own = {t.untyped_storage().data_ptr() for t in model.tensors().values()}
        self._holders: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self.peak = 0

    def keep(self, tensor: Tensor) -> Kept:
        kept, storage = Kept(tensor), tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in self._own:
            self._holders[place] += 1
            self._sizes[place] = storage.nbytes()
            weakref.finalize(kept, self._release, place)
            self.peak = max(self.peak, self.alive())
        return kept

    def alive(self) -> int:
        return sum(self._sizes[place] for place in self._holders)

    def _release(self, place: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            del self._holders[place]


@contextmanager
def metered(model: Model) -> Iterator[Meter]:
    meter = Meter(model)
    with torch.autograd.graph.saved_tensors_hooks(meter.keep, lambda kept: kept.tensor):
        yield meter


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    generator = resnet_translator.Generator(
        3, 3, img_resolution=SIDE, num_blocks=3, base_width=16, norm="instance"
    )
    discriminator = patchgan.Discriminator(
        3, img_resolution=SIDE, num_layers=3, base_width=16, norm="instance"
    )
    return Model(generator.eval(), discriminator.eval())


def training(model: Model, side: str) -> int:
    """Measure CycleGAN's adversarial step of one network on one image, with an L1 loss for G."""
    x = pictures(1, 3, SIDE)
    networks = {"generator": model.generator, "discriminator": model.discriminator}
    for name, network in networks.items():
        network.requires_grad_(name == side)
    with metered(model) as meter:
        if side == "generator":
            fake = model.generator(x)
            loss = g_loss("lsgan", model.discriminator(fake)) + (fake - x).abs().mean()
        else:
            with torch.no_grad():
                fake = model.generator(x)
            loss = d_loss("lsgan", model.discriminator(x), model.discriminator(fake))
        loss.backward()
    return meter.peak


def searching(model: Model, side: str, batch: int, *, lr: float = 0.0) -> int:
    """Measure one player's share of a search step of four images, of which ``batch`` at once."""
    search = make_search(model, resolve_density({"discriminator_lr": lr}), batch=batch)
    draw = search.game.draw(0)
    generator_gates, judge_gates = (ones(search, name) for name in ("generator", "discriminator"))
    with metered(model) as meter:
        if side == "generator":
            search.game.generator_step(draw, generator_gates.requires_grad_(), judge_gates)
        else:
            search.game.judge_step(draw, generator_gates, judge_gates.requires_grad_())
    return meter.peak


def ones(search: Search, name: str) -> Tensor:
    return torch.full((sum(getattr(search, name).network.widths),), 0.5)


@pytest.mark.parametrize("side", ["generator", "discriminator"])
def test_a_search_step_keeps_no_more_than_a_training_step(model: Model, side: str) -> None:
    generator, discriminator = (
        sum(p.nbytes for p in network.parameters()) for _, network in model.networks()
    )
    # Weights with gates are copies, one for each time that a network runs: the generator and its
    # judge, or the judge of real images and of made ones.
    copies = generator + discriminator if side == "generator" else 2 * discriminator
    plain = training(model, side)
    one, four = (searching(model, side, batch) for batch in (1, 4))
    assert 0.7 * plain < one - copies < 1.01 * plain
    # Images go through one by one, not all four together.
    assert four - copies > 3.5 * (one - copies)
    # No graph keeps what training needs beside: a gradient of every weight, and Adam's two moments.
    assert one < plain + 3 * (generator + discriminator)


def test_the_meter_counts_what_is_alive(model: Model) -> None:
    x = torch.ones(1000, requires_grad=True)
    with metered(model) as meter:
        for _ in range(3):
            x.square().sin().sum().backward()  # x, and its square, which sin keeps
    assert meter.peak == 2 * 4000
    assert meter.alive() == 0
