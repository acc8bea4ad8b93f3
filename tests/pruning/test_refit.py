"""``prune --refit``: what is left gives the teacher's features, and its images, back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import ganc
from ganc.checkpoints.native import build_model
from ganc.errors import ComputationError, GancError, InputError, UsageError
from ganc.models.model import Model
from ganc.models.network import Translator
from ganc.models.sampling import Latents, iterate_samples, stand_ins
from ganc.pruning.options import PruneOptions
from ganc.pruning.refit.refit import composed, kept_since, refit
from ganc.pruning.slicing import PrunePlan, apply_plan, with_widths
from ganc.scores import Scores
from tests.conftest import Outcome, make_model
from tests.families import make_cyclegan, make_resnet, make_unet
from tests.pruning.test_refit_layers import CASES

Ganc = Callable[..., Outcome]
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of 120 pictures of 16 px, by channels."""
    found = {}
    random = np.random.default_rng(0)
    for channels, mode in ((1, "L"), (3, "RGB")):
        folder = tmp_path_factory.mktemp(mode)
        for i in range(120):
            pixels = random.integers(0, 256, (16, 16, channels), dtype=np.uint8)
            picture = pixels[..., 0] if channels == 1 else pixels
            Image.fromarray(picture, mode=mode).save(folder / f"{i:03}.png")
        found[channels] = folder
    return found


def settings(model: Model, photos: dict[int, Path], **chosen: Any) -> PruneOptions:
    given: dict[str, Any] = {"refit": True, "refit_samples": 120, "refit_steps": 0, **chosen}
    if isinstance(model.generator, Translator):
        given["data"] = photos[model.generator.in_channels]
    if model.generator_b is not None:
        given["data_b"] = photos[model.generator_b.in_channels]
    return PruneOptions(**given)


def fit(
    model: Model, keep: dict[str, list[int]], photos: dict[int, Path], **chosen: Any
) -> tuple[Model, Model]:
    """Return a model sliced, and sliced and fitted."""
    student = apply_plan(model, PrunePlan(keep))
    how = settings(model, photos, **chosen)
    own = refit(
        student, model, keep, how, device=CPU, progress=lambda *_: None, warn=lambda _: None
    )
    return student, own


def images(model: Model, seed: int = 5) -> Tensor:
    generator = model.generator
    source = stand_ins(generator, seed)
    if isinstance(source, Latents):
        source = Latents(seed, "random")
    return torch.cat(list(iterate_samples(generator, source, 8, batch=8)))


def distance(one: Model, other: Model) -> float:
    return float((images(one) - images(other)).abs().mean())


def doubled(model: Model) -> Model:
    """Return the model with every channel of its generator there twice."""
    tensors = Model(model.generator).tensors()
    groups = Model(model.generator).groups
    orders: dict[tuple[str, int], list[int]] = {}
    for group in groups:
        for part in group.slices:
            size = tensors[part.tensor].shape[part.dim]
            order = orders.setdefault((part.tensor, part.dim), list(range(size)))
            at = order.index(part.offset) + group.width * part.repeat
            order[at:at] = part.indices(range(group.width))
    for (name, dim), order in orders.items():
        tensors[name] = tensors[name].index_select(dim, torch.tensor(order))
    config = with_widths(Model(model.generator).config, {g.name: 2 * g.width for g in groups})
    return build_model(model.architecture, config, tensors, [])


@pytest.mark.parametrize("name", CASES)
def test_channels_that_are_there_twice_are_made_up_for(name: str, photos: dict[int, Path]) -> None:
    small = CASES[name]()
    teacher = doubled(small)
    keep = {group.name: list(range(group.width)) for group in Model(small.generator).groups}
    sliced, own = fit(teacher, keep, photos)
    assert own.widths == Model(small.generator).widths
    scale = float(images(teacher).abs().mean())
    assert distance(sliced, teacher) > 0.02 * scale
    assert distance(own, teacher) < 2e-3 * scale


def test_constants_that_mix_others_are_made_up_for(photos: dict[int, Path]) -> None:
    # Nothing bends a constant on its way, and with equal styles any mixture can be taken apart.
    teacher = make_model()
    synthesis = teacher.generator.synthesis
    with torch.no_grad():
        synthesis.b4.conv1.affine.weight.zero_()
        const = synthesis.b4.const
        mixture = torch.randn(len(const) - 4, 4, generator=torch.Generator().manual_seed(1))
        const[4:] = torch.einsum("oc,chw->ohw", mixture, const[:4])
    sliced, own = fit(teacher, {"b4.const": [0, 1, 2, 3]}, photos, refit_samples=64)
    before, after = own.provenance[-1]["settings"]["errors"]["b4.conv1"]
    assert before > 0.5
    assert after < 1e-9
    # The channels now differ in scale, which the noise and the next demodulation do not quite see.
    assert distance(own, teacher) < 0.05 * distance(sliced, teacher)


@pytest.mark.parametrize("name", CASES)
def test_every_family_comes_nearer_to_its_teacher(name: str, photos: dict[int, Path]) -> None:
    teacher = CASES[name]()
    groups = [g for g in Model(teacher.generator).groups if g.prunable]
    keep = {g.name: list(range(max(1, (2 * g.width + 2) // 3))) for g in groups}
    untouched = teacher.content_hash()
    sliced, own = fit(teacher, keep, photos, refit_samples=200)
    before, after = distance(sliced, teacher), distance(own, teacher)
    assert after < 0.97 * before
    errors = own.provenance[-1]["settings"]["errors"]
    assert [*errors] == [layer.name for layer in teacher.generator.fit_layers()]
    assert all(0 <= error[1] <= error[0] for error in errors.values())
    together = fit(teacher, keep, photos, refit_samples=200, refit_steps=60)[1]
    first, last = together.provenance[-1]["settings"]["errors"]["images"]
    assert last < first
    assert distance(together, teacher) < after
    assert all(parameter.requires_grad for parameter in together.generator.parameters())
    assert teacher.content_hash() == untouched
    assert all(parameter.requires_grad for parameter in teacher.generator.parameters())


def test_layers_that_read_nothing_pruned_keep_their_bits(photos: dict[int, Path]) -> None:
    teacher = make_model()
    sliced, own = fit(teacher, {"b16.conv1": [0, 2]}, photos)
    moved = {n for n, t in own.tensors().items() if not torch.equal(t, sliced.tensors()[n])}
    assert moved
    assert all(name.startswith("generator.synthesis.b16.torgb") for name in moved)


def test_nothing_pruned_nothing_moved(photos: dict[int, Path]) -> None:
    teacher = make_model()
    keep = {"b8.conv0": list(range(teacher.widths["b8.conv0"]))}
    sliced, own = fit(teacher, keep, photos)
    assert own.content_hash() == sliced.content_hash() == teacher.content_hash()


def test_the_same_seed_gives_the_same_bits_and_the_batch_hardly_matters(
    photos: dict[int, Path],
) -> None:
    keep = {"b8.conv0": [0, 2, 3], "b16.conv0": [1, 2]}
    teacher = make_model()
    first, again, other = (
        fit(teacher, keep, photos, refit_samples=32, refit_steps=3, **chosen)[1]
        for chosen in ({}, {}, {"seed": 1})
    )
    assert first.content_hash() == again.content_hash() != other.content_hash()
    # By rounding alone, of which a step more or less in a layer makes something; Adam's first
    # steps, which follow signs, would make more.
    first, small = (
        fit(teacher, keep, photos, refit_batch=n, refit_samples=256)[1] for n in (64, 5)
    )
    assert distance(small, first) < 0.02 * distance(first, teacher)


def test_both_directions_of_a_cyclegan(photos: dict[int, Path]) -> None:
    teacher = make_cyclegan()
    keep = {"trunk": [0, 1, 2, 4], "generator_b.trunk": [1, 3, 5], "generator_b.stem": [0, 1, 2]}
    sliced, own = fit(teacher, keep, photos)
    errors = own.provenance[-1]["settings"]["errors"]
    assert {name.startswith("generator_b.") for name in errors} == {True, False}
    for name in ("discriminator", "discriminator_b"):
        for one, two in zip(
            getattr(own, name).parameters(), getattr(sliced, name).parameters(), strict=True
        ):
            assert torch.equal(one, two)


def scores_of(model: Model, seed: int = 0) -> Scores:
    return ganc.score(model, "random", seed=seed)


def test_a_second_stage_is_fitted_to_the_first_teacher() -> None:
    teacher = make_model()
    how: dict[str, Any] = {"refit": True, "refit_samples": 64, "refit_steps": 0, "device": "cpu"}
    first = ganc.prune(teacher, scores_of(teacher), prune_ratio=0.3, **how)
    second = ganc.prune(first, scores_of(first, 1), prune_ratio=0.3, teacher=teacher, **how)
    kept = kept_since(second, teacher)
    assert {name: len(channels) for name, channels in kept.items()} == second.widths
    plan = second.provenance[-2]["kept"]
    own = second.provenance[0]["kept"]
    assert kept["b8.conv0"] == [own["b8.conv0"][i] for i in plan["b8.conv0"]]
    assert second.provenance[-1]["teacher"] == teacher.content_hash()
    assert composed({"a": [1, 4, 6]}, {"a": [0, 2]}) == {"a": [1, 6]}
    with pytest.raises(InputError, match="does not come from the teacher"):
        ganc.prune(first, scores_of(first), prune_ratio=0.3, teacher=make_model(seed=3), **how)


WRONG: dict[str, tuple[Callable[[], Model], dict[str, Any], type[GancError], str]] = {
    "no images": (make_resnet, {}, UsageError, "--refit needs images"),
    "images for latents": (make_model, {"data": "x"}, UsageError, "starts from latents"),
    "no such direction": (make_resnet, {"data_b": "x"}, UsageError, "does not hold"),
    "no such folder": (make_unet, {"data": "nowhere"}, GancError, "nowhere"),
    "too few": (make_model, {"refit_samples": 1}, InputError, "1 samples, a fit needs 8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_fitted_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, given, kind, message = WRONG[name]
    model = make()
    with pytest.raises(kind, match=message):
        ganc.prune(
            model, scores_of(model), prune_ratio=0.3, device="cpu",
            **{"refit": True, "refit_steps": 0, **given},
        )  # fmt: skip


def test_a_teacher_that_is_not_finite_is_named() -> None:
    model = make_model()
    with torch.no_grad():
        model.generator.synthesis.b8.conv0.weight[0, 0] = float("nan")
    with pytest.raises(ComputationError, match=r"b8\.conv0 are not finite"):
        ganc.prune(model, scores_of(model), prune_ratio=0.3, refit=True, device="cpu")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--seed", 1), "--seed: how to fit, which nothing asks for"),
        (("--refit-steps", 5, "--refit-batch", 2), "--refit-steps, --refit-batch: how to fit"),
        (("--teacher", "t.safetensors"), "--teacher is what a fit goes by"),
    ],
)
def test_options_of_a_fit_ask_for_one(
    ganc: Ganc, tmp_path: Path, extra: tuple[Any, ...], message: str
) -> None:
    outcome = ganc("prune", "a", "--scores", "b", "-o", tmp_path / "c", "--speedup", 2, *extra)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert "add --refit" in outcome.err


def test_the_command_tells_each_layers_error(ganc: Ganc, checkpoint: Path, tmp_path: Path) -> None:
    scores, small = tmp_path / "s", tmp_path / "small.safetensors"
    assert ganc("score", checkpoint, "--method", "l1-out", "-o", scores, "-q").code == 0
    common = ("prune", checkpoint, "--scores", scores, "--prune-ratio", 0.4, "-o", small,
              "--refit", "--refit-samples", 64, "--refit-steps", 3)  # fmt: skip
    dry = json.loads(ganc(*common, "--dry-run", "--json").out)["settings"]
    assert dry["forward_passes"] == {
        "teacher": 128, "student_per_layer": 64, "student_together": 3 * 16 * 3,
    }  # fmt: skip
    assert not small.exists()
    result = json.loads(ganc(*common, "--json", "-q").out)
    told = result["refit"]["errors"]
    assert told["b8.conv0"]["after"] < told["b8.conv0"]["before"]
    info = json.loads(ganc("info", small, "--json").out)
    assert [step["command"] for step in info["provenance"]][-2:] == ["prune", "refit"]
    assert info["provenance"][-1]["settings"]["errors"]["b8.conv0"] == [*told["b8.conv0"].values()]
    table = ganc(*common, "--force", "-q").out
    assert "images, mean L1" in table
