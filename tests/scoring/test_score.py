"""Scores as files, and the methods that look at weights alone."""

import dataclasses
import io
from pathlib import Path

import pytest
import torch

from ganc.errors import InputError, OutputError, ScoresError, UsageError
from ganc.models.model import Model
from ganc.pruning.slicing import PrunePlan, apply_plan
from ganc.scores import Scores
from ganc.scoring.methods import METHODS
from ganc.scoring.request import ScoreRequest
from ganc.scoring.score import SCORERS, score
from tests.scoring.density.cases import QUICK

FAST = {
    "diversity": {"samples": 4, "batch": 2, "num_directions": 4},
    "content": {"samples": 4, "batch": 2},
    "activation": {"samples": 4, "batch": 2},
    "asv": {"samples": 4, "batch": 2},
    "style": {"samples": 4, "batch": 2},
    "rebuild": {"samples": 4, "batch": 2},
    "density": {"samples": 6, "density": QUICK},
}
CONSTANT = {("asv", "b4.const")}
"""Channels that are the same in every image do not vary."""


def test_every_method_has_settings_and_a_scorer() -> None:
    assert list(METHODS) == list(SCORERS)
    known = {field.name for field in dataclasses.fields(ScoreRequest)}
    for row in METHODS.values():
        assert len(set(row.settings)) == len(row.settings)
        assert known.issuperset(row.settings)


@pytest.mark.parametrize("method", list(METHODS))
def test_one_vector_per_group(model: Model, method: str) -> None:
    scores = score(model, method, **FAST.get(method, {}))
    groups = model.groups if METHODS[method].is_two_sided else model.generator.groups()
    groups = [group for group in groups if group.prunable]
    assert list(scores.values) == [group.name for group in groups]
    for group in groups:
        values = scores.values[group.name]
        assert values.shape == (group.width,)
        assert values.dtype == torch.float64
        assert (values >= 0).all()
        assert (values.unique().numel() == 1) == ((method, group.name) in CONSTANT)
        assert torch.equal(scores[group.name], values)
    assert dict(scores).keys() == scores.values.keys()
    assert scores.content_hash == model.content_hash()
    assert scores.settings["seed"] == 0


@pytest.mark.parametrize("method", ["l1-out", "diversity"])
def test_scores_follow_a_channel_permutation(model: Model, method: str) -> None:
    # Slicing with all channels in another order is a permutation; a plan wants sorted indices, so
    # permute the tensors through the declaration.
    order = torch.tensor([3, 0, 4, 2, 1])
    tensors = dict(model.tensors())
    (group,) = (g for g in model.groups if g.name == "b8.conv1")
    for part in group.slices:
        tensors[part.tensor] = tensors[part.tensor].index_select(part.dim, order)
    from ganc.checkpoints.native import build_model

    permuted = build_model(model.architecture, model.config, tensors, [])
    before = score(model, method, **FAST.get(method, {})).values["b8.conv1"]
    after = score(permuted, method, **FAST.get(method, {})).values["b8.conv1"]
    torch.testing.assert_close(after, before[order], rtol=1e-3, atol=1e-12)


def test_l1_out_is_the_norm_of_the_consumer(model: Model) -> None:
    scores = score(model, "l1-out")
    weight = model.generator.synthesis.b8.conv1.weight.detach().double()
    torch.testing.assert_close(scores.values["b8.conv0"], weight.abs().sum(dim=(0, 2, 3)))
    torgb = model.generator.synthesis.b16.torgb.weight.detach().double()
    torch.testing.assert_close(scores.values["b16.conv1"], torgb.abs().sum(dim=(0, 2, 3)))


@torch.no_grad()
def test_effective_weights_are_modulated_and_demodulated(model: Model) -> None:
    plain, effective = score(model, "l1-out"), score(model, "l1-out", effective=True, samples=3)
    assert not torch.allclose(plain.values["b8.conv0"], effective.values["b8.conv0"])
    from ganc.models.sampling import latent_inputs

    z = latent_inputs(model.generator, range(3), 0).z
    layer, w = model.generator.synthesis.b8.conv1, model.generator.mapping(z)[:, 2]
    kernels = layer.weight * layer.affine(w)[:, None, :, None, None]
    kernels = kernels / (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    expected = kernels.abs().mean(dim=0).sum(dim=(0, 2, 3)).double()
    torch.testing.assert_close(effective.values["b8.conv0"], expected, rtol=1e-5, atol=0)


def test_random_depends_on_seed_and_group_alone(model: Model) -> None:
    small = apply_plan(model, PrunePlan({"b4.const": [0]}))
    a, b = score(model, "random"), score(small, "random")
    assert torch.equal(a.values["b16.conv0"], b.values["b16.conv0"])
    assert not torch.equal(
        a.values["b16.conv0"], score(model, "random", seed=1).values["b16.conv0"]
    )


def test_file_round_trip(model: Model, tmp_path: Path) -> None:
    scores = score(model, "random")
    scores.save(tmp_path / "s.safetensors")
    again = Scores.load(tmp_path / "s.safetensors")
    assert list(again.values) == list(scores.values)
    assert all(torch.equal(again.values[n], scores.values[n]) for n in scores.values)
    assert (again.method, again.settings, again.content_hash) == (
        "random", scores.settings, model.content_hash(),
    )  # fmt: skip
    with pytest.raises(OutputError, match="exists"):
        scores.save(tmp_path / "s.safetensors")
    stream = io.BytesIO(scores.to_bytes())
    assert Scores.load(stream).method == "random"


@pytest.mark.parametrize("content", [b"", b"text", b"\x05\0\0\0\0\0\0\0{}   ", b"\xff" * 20])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    path.write_bytes(content)
    with pytest.raises(ScoresError, match=str(path)):
        Scores.load(path)


def test_checkpoint_is_no_scores_file(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match="holds no scores"):
        Scores.load(checkpoint)
    with pytest.raises(ScoresError, match="does not exist"):
        Scores.load(tmp_path / "missing")


def test_truncated_scores_are_refused(model: Model, tmp_path: Path) -> None:
    content = score(model, "random").to_bytes()
    for size in (4, 30, len(content) - 1):
        with pytest.raises(ScoresError):
            Scores.from_bytes(content[:size], "cut")


def test_unknown_method_names_the_nearest(model: Model) -> None:
    with pytest.raises(UsageError, match="unknown method") as caught:
        score(model, "divresity")
    assert caught.value.hint == "did you mean `diversity`?"


def test_settings_of_other_methods_are_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="takes no --samples"):
        score(model, "random", samples=5)
    with pytest.raises(UsageError, match="takes no --alpha"):
        score(model, "l1-out", alpha=1.0)
    with pytest.raises(UsageError, match="takes no --masks"):
        score(model, "diversity", masks=torch.ones(1, 16, 16))
    with pytest.raises(InputError, match="no generator"):
        score(Model(discriminator=model.discriminator), "random")
