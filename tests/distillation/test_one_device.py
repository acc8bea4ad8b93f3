"""Every step of every family stays on its device and reads nothing from it.

The device is torch's "meta", which knows shapes alone: what mixes it with the CPU or asks for a
value raises, and no card is needed.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ganc.distillation import kinds
from ganc.distillation.draws import Draws
from ganc.distillation.execution import Execution
from ganc.distillation.pair_batches import SideBatch
from ganc.distillation.reals import RealBatch, TeacherSamples
from ganc.distillation.recipes import resolve_recipe
from ganc.distillation.trainers import style
from ganc.models.model import Model
from ganc.models.style import StyleGenerator
from ganc.pruning.plan import prune
from ganc.scoring.score import score
from tests.conftest import make_model
from tests.distillation.parts import make_parts
from tests.distillation.test_sngan import with_discriminator
from tests.families import make_cyclegan, make_stylegan3, make_unet

META = torch.device("meta")


def stylegan3(*, is_rotation_equivariant: bool) -> Model:
    """A StyleGAN3 with the discriminator that it is trained with."""
    made = make_stylegan3(is_rotation_equivariant=is_rotation_equivariant)
    return Model(made.generator, make_model().discriminator)


def one_way() -> Model:
    """A direction of a CycleGAN, with its discriminator."""
    both = make_cyclegan()
    return Model(both.generator, both.discriminator)


RUNS: dict[str, tuple[Callable[[], Model], str, dict[str, Any]]] = {
    "stylegan2": (make_model, "stylekd", {"augment": "ada", "mirror": True}),
    "stylegan2-conditional": (lambda: make_model(c_dim=2), "gan", {}),
    "stylegan3-t": (lambda: stylegan3(is_rotation_equivariant=False), "stylekd", {}),
    "stylegan3-r": (lambda: stylegan3(is_rotation_equivariant=True), "stylekd", {}),
    "stylegan3": (lambda: stylegan3(is_rotation_equivariant=False), "stylegan3", {}),
    "sngan": (with_discriminator, "sngan", {"augment": "ada"}),
    "pix2pix": (make_unet, "i2i", {"feature_weight": 1.0}),
    "cyclegan": (make_cyclegan, "i2i", {"feature_weight": 1.0}),
    "one-way": (one_way, "i2i", {}),
}
"""Name → teacher, recipe, numbers: together they reach every phase of every kind of step."""


class _OneDevice(TorchDispatchMode):
    """Refuses operators that see a tensor of the CPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        assert all(tensor.is_meta for tensor in tensors), f"{func} sees a tensor of the CPU"
        return result


@pytest.fixture
def meta_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run compute on "meta", which has no random numbers, eigenvectors and autocast."""

    def rows(draws: Draws, stream: str, step: int, size: int, *, is_normal: bool) -> Tensor:
        return torch.empty(draws.local_batch, size, device=draws.device)

    def directions(teacher: StyleGenerator, last_block: int, per_block: int) -> Tensor:
        return torch.empty(last_block * per_block, teacher.w_dim)

    monkeypatch.setattr(Draws, "_rows", rows)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(style, "leading_directions", directions)
    optimizer = sys.modules["torch.optim.optimizer"]  # whose name `torch.optim` does not keep
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"])


@pytest.mark.parametrize("run", RUNS)
def test_a_step_stays_on_its_device(meta_runs: None, run: str) -> None:
    build, name, numbers = RUNS[run]
    teacher = build()
    student = prune(teacher, score(teacher, "l1-out", device="cpu"), prune_ratio=0.3)
    recipe = resolve_recipe(name, {"batch": 4} | numbers)
    parts = make_parts(student, teacher, recipe, Execution(META), perceptual=squares)
    trainer = kinds.ROWS[recipe.kind].trainer(parts)
    with _OneDevice():
        batch = batch_for(teacher, trainer)
        trainer.prepare(batch)
        found: dict[str, Tensor] = {}
        for step in (0, 3):  # regularisers are due, then a move of ada
            found |= trainer.step(step, batch)
    assert {loss.device for loss in found.values()} == {META}
    assert {tensor.device for tensor in trainer.g.state().values()} == {META}
    expected = {"stylekd": {"r1", "path_length", "latent_direction"}, "sngan": {"augment_p"}}
    assert expected.get(name, {"d_loss", "g_loss"}) <= found.keys()


def batch_for(teacher: Model, trainer: Any) -> Any:
    """Return a step's real images: the teacher's samples, or noise for translators."""
    if trainer.kind == "translation":
        own = teacher.generator
        shapes = ((4, channels, 16, 16) for channels in (own.in_channels, own.img_channels))
        return SideBatch(*(torch.empty(shape, device=META) for shape in shapes))
    samples = TeacherSamples(trainer.teacher.generator, trainer.recipe, trainer.draws)
    (batch,) = samples.batches(0, 1)
    assert isinstance(batch, RealBatch)
    return batch


def squares(a: Tensor, b: Tensor) -> Tensor:
    """Stand in for a perceptual network."""
    return (a - b).square().mean(dim=(1, 2, 3))
