"""Content scores: the recorded numbers of the published code, the definition, what it implies."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc import seeds
from ganc.checkpoints.store import load
from ganc.content.center import center
from ganc.errors import InputError, ShapeError, UsageError
from ganc.models.model import Model
from ganc.models.sampling import latent_inputs
from ganc.pruning.plan import prune
from ganc.scores import Scores, kept_channels
from ganc.scoring.content import draw_salt, preview
from ganc.scoring.score import score
from tests.conftest import GOLDEN, make_model
from tests.families import FAMILIES, make_sngan, make_unet

Golden = Mapping[str, Tensor]

CASE = "content-scores"
TEACHER = GOLDEN / "files" / "rosinality" / "networks.pt"
GROUPS = 8


def run(model: Model, **settings: Any) -> Scores:
    return score(model, "content", **{"samples": 4, "batch": 2, **settings})


def recorded(io: Golden, batches: Sequence[int]) -> dict[str, Any]:
    """Return what the published code drew in some of its batches."""

    def joined(name: str) -> Tensor:
        return torch.cat([io[f"b{b}_{name}"] for b in batches])

    return {
        "samples": None,
        "latents": joined("z"),
        "masks": joined("fg_mask"),
        "salt": joined("sp_value"),
        "noise": [[io[f"b{b}_noise_{layer}"] for layer in range(7)] for b in batches],
    }


def assert_recorded(scores: Scores, io: Golden, name: str) -> None:
    for i, values in enumerate(scores.values.values()):
        torch.testing.assert_close(values, io[f"{name}.{i}"].double(), rtol=1e-4, atol=0)


def test_recorded_scores(golden: Callable[[str], Golden]) -> None:
    io, model = golden(CASE), load(TEACHER)
    scores = run(model, batch=4, **recorded(io, [0, 1]))
    assert len(scores.values) == GROUPS
    assert_recorded(scores, io, "score.official")
    for i, values in enumerate(scores.values.values()):
        assert list(kept_channels(values, 0.7)) == io[f"prune.official.kept_{i}"].tolist()
    assert scores.settings["samples"] == 9


@pytest.mark.parametrize(("number", "size"), [(0, 4), (1, 5)])
def test_recorded_batches(golden: Callable[[str], Golden], number: int, size: int) -> None:
    io = golden(CASE)
    scores = run(load(TEACHER), batch=size, **recorded(io, [number]))
    for i, values in enumerate(scores.values.values()):
        expected = io[f"absgrad.b{number}.{i}"].double()
        # One activation of the first batch is 5e-7, less than float32's noise: it lies on the other
        # side of leaky ReLU's kink. That moves a score by 3e-4, one that nearly cancels by more.
        atol = 1e-6 * expected.max().item()
        torch.testing.assert_close(values, expected, rtol=5e-4, atol=atol)


def test_recorded_hits_lie_in_the_recorded_masks(golden: Callable[[str], Golden]) -> None:
    # So the salt alone says everything, and masks that bound it change nothing.
    io, model = golden(CASE), load(TEACHER)
    for b in range(2):
        assert torch.equal(io[f"b{b}_sp_value"] != 0, io[f"b{b}_sp_hit"])
    alone = recorded(io, [0, 1]) | {"masks": None}
    assert_recorded(run(model, batch=4, **alone), io, "score.official")


@torch.no_grad()
def test_recorded_pruned_network(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    """The published pruning slices the same tensors but for toRGB.

    It leaves toRGB's gain, 1/sqrt(fan-in), to the pruned width, which makes its image brighter;
    ours shrinks the weights so that the teacher's gain is kept. Its recorded image with the
    teacher's gain is therefore ours.
    """
    import safetensors.torch

    io, model = golden(CASE), load(TEACHER)
    ours = prune(model, run(model, batch=4, **recorded(io, [0, 1])), prune_ratio=0.7).generator
    path = GOLDEN / CASE / "pruned_g_ema.weights.safetensors"
    torch.save({"g_ema": safetensors.torch.load_file(path)}, tmp_path / "pruned.pt")
    theirs = load(tmp_path / "pruned.pt").generator
    assert ours.config["widths"] == theirs.config["widths"]
    wide, narrow = model.generator.config["widths"], ours.config["widths"]
    for name, tensor in theirs.named_parameters():
        gain = 1.0
        if name.endswith("torgb.weight"):
            group = name.removeprefix("synthesis.").split(".")[0] + ".conv1"
            gain = (narrow[group] / wide[group]) ** 0.5
        torch.testing.assert_close(ours.get_parameter(name), tensor * gain, rtol=1e-6, atol=0)
    images = ours(io["eval_z"], noise=[io[f"eval_noise_{layer}"] for layer in range(7)])
    expected = io["prune.official.pruned_img_teacher_rgb_gain"]
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["stylegan2", "stylegan3", "sngan"])
def test_definition(family: str) -> None:
    """Against a loop over pixels and plain backward passes."""
    model = FAMILIES[family]()
    scores = run(model, samples=3, batch=2, seed=5, noise_prob=0.3, content="center")
    generator = model.generator
    inputs = latent_inputs(generator, range(3), 5)
    generator.zero_grad()
    x = generator(inputs.z, inputs.c, noise_mode=inputs.noise_mode, noise=inputs.noise)
    side, noisy = generator.img_resolution, x.detach().clone()
    mask = center(x, range(1))[0]
    for sample in range(3):
        salt = draw_salt(5, sample, (side, side), 0.3)
        for row in range(side):
            for column in range(side):
                if mask[row, column] and salt[row, column] != 0:
                    noisy[sample, :, row, column] = float(salt[row, column])
    (noisy - x).abs().sum().backward()  # one batch: the last one takes the remainder
    gradients = {name: p.grad for name, p in generator.named_parameters()}
    for group in generator.groups():
        for channel in range(group.width):
            means = [
                gradients[part.tensor].abs().double()
                .index_select(part.dim, torch.tensor(part.indices([channel]))).mean()
                for part in group.scored_by
            ]  # fmt: skip
            expected = torch.stack(means).mean()
            found = scores[group.name][channel]
            torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-9)


def test_batches_add_up_and_gradients_within_one_may_cancel(model: Model) -> None:
    alone = [
        run(model, samples=1, batch=1, latents=z[None], salt=salt[None], noise_mode="const")
        for z, salt in zip(*_drawn(4), strict=True)
    ]
    z, salt = _drawn(4)
    one_by_one = run(model, samples=4, batch=1, latents=z, salt=salt, noise_mode="const")
    together = run(model, samples=4, batch=4, latents=z, salt=salt, noise_mode="const")
    for name, values in one_by_one.values.items():
        total = torch.stack([s.values[name] for s in alone]).sum(dim=0)
        torch.testing.assert_close(values, total, rtol=1e-5, atol=1e-9)
        assert (together.values[name] <= values * (1 + 1e-5)).all()
        assert (together.values[name] < values * 0.999).any()


def _drawn(count: int) -> tuple[Tensor, Tensor]:
    z = seeds.normal(3, "latents", range(count), (6,))
    return z, torch.stack([draw_salt(3, i, (16, 16), 0.1) for i in range(count)])


def test_seed_fixes_everything(model: Model) -> None:
    first, second, other = run(model), run(model), run(model, seed=1)
    assert all(torch.equal(first.values[n], second.values[n]) for n in first.values)
    assert not any(torch.equal(first.values[n], other.values[n]) for n in first.values)


def test_every_stream_matters(model: Model) -> None:
    plain = run(model)
    z = seeds.normal(0, "latents", range(4), (6,))
    salt = torch.stack([draw_salt(0, i, (16, 16), 0.05) for i in range(4)])
    masks = center(torch.empty(4, 3, 16, 16), range(4))
    # What is drawn can be given instead ...
    given_ = run(model, latents=z, salt=salt, masks=masks)
    assert all(torch.equal(plain.values[n], given_.values[n]) for n in plain.values)
    assert given_.settings["salt"] == given_.settings["masks"] == "given"
    # ... and each of them counts.
    for change in ({"latents": z.flip(0)}, {"salt": salt.flip(1)}, {"masks": masks.roll(5, 2)}):
        other = run(model, **change)
        assert not torch.equal(plain.values["b8.conv1"], other.values["b8.conv1"])
    const = run(model, noise_mode="const")
    assert not torch.equal(plain.values["b8.conv1"], const.values["b8.conv1"])


def test_more_samples_leave_the_first_ones_alone(model: Model) -> None:
    assert torch.equal(draw_salt(0, 2, (8, 8), 0.5), draw_salt(0, 2, (8, 8), 0.5))
    assert not torch.equal(draw_salt(0, 2, (8, 8), 0.5), draw_salt(0, 3, (8, 8), 0.5))
    more, fewer = run(model, samples=4), run(model, samples=2)
    assert all((more.values[n] >= fewer.values[n]).all() for n in more.values)


@settings(deadline=None)
@given(seed=st.integers(0, 50), low=st.floats(0, 1), high=st.floats(0, 1))
def test_salt_grows_with_its_share(seed: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    few, many = (draw_salt(seed, 0, (9, 11), p) for p in (low, high))
    assert few.shape == (9, 11)
    assert torch.equal(few[few != 0], many[few != 0])
    assert ((few != 0) <= (many != 0)).all()
    assert draw_salt(seed, 0, (9, 11), 1.0).abs().eq(1).all()


def test_share_and_signs_of_the_salt() -> None:
    salt = torch.stack([draw_salt(0, i, (100, 100), 0.05) for i in range(20)])
    hits = salt != 0
    # 200 000 pixels: five standard errors of a share of 0.05, and of a fair sign.
    assert abs(hits.float().mean().item() - 0.05) < 5 * (0.05 * 0.95 / 200_000) ** 0.5
    assert abs(salt[hits].float().mean().item()) < 5 / hits.sum().item() ** 0.5


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000))
def test_pepper_is_worth_what_salt_is(seed: int) -> None:
    # Where |x| < 1 the sign of x_noisy - x is the noise's own, and |∂L/∂W| knows no sign.
    model = make_sngan()
    salt = torch.stack([draw_salt(seed, i, (32, 32), 0.02) for i in range(2)])
    one, other = (run(model, samples=None, batch=2, salt=s) for s in (salt, -salt))
    for name, values in one.values.items():
        torch.testing.assert_close(other.values[name], values, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_prob": 0.0},
        {"masks": torch.zeros(4, 16, 16, dtype=torch.bool)},
        {"salt": torch.zeros(4, 16, 16)},
        {"salt": torch.ones(4, 16, 16), "masks": torch.zeros(4, 16, 16, dtype=torch.bool)},
    ],
    ids=["share", "masks", "salt", "salt outside"],
)
def test_nothing_hit_scores_nothing(model: Model, settings: dict[str, Any]) -> None:
    assert all((values == 0).all() for values in run(model, **settings).values.values())


def test_empty_mask_of_a_sample_adds_nothing(model: Model) -> None:
    masks = center(torch.empty(4, 3, 16, 16), range(4)).clone()
    masks[2:] = False
    half = run(model, samples=4, batch=2, masks=masks)
    first = run(model, samples=2, batch=2)
    assert all(torch.equal(half.values[n], first.values[n]) for n in first.values)


def test_masks_of_another_size_are_scaled(model: Model) -> None:
    small = torch.zeros(4, 2, 2, dtype=torch.bool)
    small[:, 0, 1] = True
    large = torch.zeros(4, 16, 16, dtype=torch.bool)
    large[:, :8, 8:] = True
    one, other = run(model, masks=small), run(model, masks=large)
    assert all(torch.equal(one.values[n], other.values[n]) for n in one.values)


def nothing(images: Tensor) -> Tensor:
    """A mask function that never finds anything."""
    return torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.bool)


@pytest.mark.parametrize("samples", [4, "auto"])
def test_nothing_found_anywhere_is_an_error(model: Model, samples: Any) -> None:
    settings = {"samples": samples, "content": f"{__name__}:nothing", "batch": 50}
    with pytest.raises(InputError, match=r"finds nothing in any of (4|400) samples") as caught:
        run(model, **settings | ({"batch": 2} if samples == 4 else {}))
    assert "--preview" in str(caught.value.hint)


def test_settings_are_recorded(model: Model) -> None:
    settings = run(model, noise_prob=0.2).settings
    assert settings["content"] == "center"
    assert settings["noise_prob"] == 0.2
    assert (settings["samples"], settings["batch"], settings["seed"]) == (4, 2, 0)
    assert settings["latents"] == settings["masks"] == settings["salt"] == "drawn"


def test_defaults() -> None:
    from ganc.scoring.score import resolve

    (part,) = resolve("content")
    assert (part.request.samples, part.request.batch) == (400, 10)
    assert (part.request.noise_prob, part.request.content) == (0.05, "center")


def test_mix_with_another_method(model: Model) -> None:
    scores = score(model, "content:0.7,l1-out:0.3", samples=4, batch=2)
    assert scores.settings["mix"]["content"]["noise_prob"] == 0.05


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_images(channels: int) -> None:
    scores = run(make_model(img_channels=channels))
    assert all((values > 0).any() for values in scores.values.values())
    assert preview(make_model(img_channels=channels), num=2).shape[0] == 3


def test_model_is_untouched(model: Model) -> None:
    before = model.content_hash()
    run(model)
    preview(model, num=2)
    assert model.content_hash() == before
    assert all(p.grad is None for p in model.generator.parameters())


def test_labels_are_drawn() -> None:
    assert all((values > 0).any() for values in run(make_model(c_dim=3)).values.values())


@pytest.mark.parametrize(
    ("settings", "error", "finding"),
    [
        ({"latents": torch.zeros(4, 3)}, ShapeError, r"z vectors \[4, 6\], got \[4, 3\]"),
        ({"masks": torch.ones(3, 16, 16).bool()}, ShapeError, r"masks must be \[4, H, W\]"),
        ({"masks": torch.ones(4, 16, 16)}, UsageError, "masks must be bool, got torch.float32"),
        ({"salt": torch.ones(4, 8, 8)}, ShapeError, r"salt must be \[4, 16, 16\]"),
        ({"salt": torch.full((4, 16, 16), 0.5)}, UsageError, "-1, 0 or"),
        ({"noise": []}, ShapeError, "noise must hold 2 batches, got 0"),
        ({"noise": [[torch.zeros(2, 1, 4, 4)]] * 2}, ShapeError, r"noise\[0\] must be maps"),
        ({"noise_prob": 1.5}, UsageError, r"--noise-prob 1.5 is outside \[0, 1\]"),
        ({"noise_prob": float("nan")}, UsageError, "--noise-prob nan"),
        ({"noise_mode": "constant"}, UsageError, "unknown --noise-mode"),
        ({"batch": 9}, UsageError, "--batch 9"),
        ({"alpha": 1.0}, UsageError, "takes no --alpha"),
        ({"content": "centre"}, UsageError, "unknown --content `centre`"),
    ],
)
def test_bad_settings_are_named(
    model: Model, settings: dict[str, Any], error: type[Exception], finding: str
) -> None:
    with pytest.raises(error, match=finding):
        run(model, **settings)


def test_translators_are_refused() -> None:
    with pytest.raises(UsageError, match="a unet_translator takes images instead") as caught:
        run(make_unet())
    assert "activation" in str(caught.value.hint)
