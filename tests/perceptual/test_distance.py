import dataclasses
from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import load_file

from ganc import seeds
from ganc.errors import ShapeError, UsageError, WeightsError
from ganc.perceptual import distance as module
from ganc.perceptual.distance import PERCEPTUAL_DISTANCES, PerceptualDistance, load_perceptual
from tests.weights.random_weights import TRUNK_OF, install, published_trunk, random_lpips

GOLDEN = Path(__file__).parent.parent / "golden" / "lpips-squeeze"
IO = load_file(GOLDEN / "io.safetensors")


def pictures(count: int, size: int) -> torch.Tensor:
    return seeds.normal(0, "test pictures", range(count), (3, size, size)).mul(0.4).clamp(-1, 1)


@pytest.fixture(scope="module")
def effnet() -> PerceptualDistance:
    return load_perceptual("effnet-lite0", offline=True)


@pytest.fixture
def squeeze(monkeypatch: pytest.MonkeyPatch) -> PerceptualDistance:
    """LPIPS around the recorded random trunk; the linear weights are the package's own."""
    recorded = load_file(GOLDEN / "lpips.weights.safetensors")
    trunk = {k.removeprefix("net."): v for k, v in recorded.items() if k.startswith("net.")}
    tensors = published_trunk(trunk)
    install(monkeypatch, "squeezenet1_1", lambda path: torch.save(tensors, path))
    return load_perceptual("lpips-squeeze", offline=True)


def test_recorded_lpips(squeeze: PerceptualDistance) -> None:
    found = squeeze(IO["a"], IO["b"], checked=True)
    torch.testing.assert_close(found, IO["lpips_package_lin"].flatten(), rtol=1e-5, atol=1e-7)
    rect = squeeze(IO["a_rect"], IO["b_rect"])
    torch.testing.assert_close(rect, IO["lpips_rect_package_lin"].flatten(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "net", ["squeeze", *(pytest.param(net, marks=pytest.mark.slow) for net in ("alex", "vgg"))]
)
def test_equals_the_lpips_package(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient, on a seeded random trunk in torchvision's layout."""
    package = random_lpips(net)
    tensors = published_trunk(package.net.state_dict())
    made = install(monkeypatch, TRUNK_OF[net], lambda path: torch.save(tensors, path))
    ours = load_perceptual(f"lpips-{net}", offline=True)
    assert ours.source == made.sha256
    a, b = pictures(4, 33).split(2)
    ours_a, theirs_a = a.clone().requires_grad_(), a.clone().requires_grad_()
    found, expected = ours(ours_a, b), package(theirs_a, b)[:, 0, 0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours_a.grad, theirs_a.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["effnet", "squeeze"])
def test_is_a_distance(name: str, request: pytest.FixtureRequest) -> None:
    distance: PerceptualDistance = request.getfixturevalue(name)
    a, b = pictures(6, 32).split(3)
    there = distance(a, b)
    assert there.shape == (3,)
    assert there.dtype == torch.float32
    assert (there > 0).all()
    assert (distance(a, a) == 0).all()
    torch.testing.assert_close(distance(b, a), there, rtol=1e-5, atol=1e-6)
    alone = torch.cat([distance(x[None], y[None]) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(alone, there, rtol=1e-4, atol=1e-6)


def test_grows_with_the_damage(effnet: PerceptualDistance) -> None:
    size = {"size": 64, "mode": "bicubic"}
    image = torch.nn.functional.interpolate(pictures(4, 8), **size).clamp(-1, 1)
    noise = seeds.normal(0, "damage", range(4), (3, 64, 64))
    far = [effnet(image, image + level * noise) for level in (0.02, 0.1, 0.5)]
    assert (far[0] < far[1]).all()
    assert (far[1] < far[2]).all()


def test_effnet_formula_in_plain_loops(effnet: PerceptualDistance) -> None:
    """LPIPS, Eq. 1, written out per stage in float64 on the network's own features."""
    a, b = pictures(2, 128).split(1)  # at the working resolution
    expected = 0.0
    with torch.no_grad():
        both = zip(effnet._stages(a), effnet._stages(b), strict=True)
        for stage_a, stage_b in both:
            x, y = (s[0].double().flatten(1) for s in (stage_a, stage_b))  # [C, h·w]
            cosine = torch.nn.functional.cosine_similarity(x, y, dim=0)
            expected += float((2 - 2 * cosine).mean()) / 5  # |u - v|² of unit vectors
    assert float(effnet(a, b)) == pytest.approx(expected, rel=1e-4)


def test_gradient_reaches_both_images_and_no_weight(effnet: PerceptualDistance) -> None:
    a, b = (x.clone().requires_grad_() for x in pictures(4, 32).split(2))
    effnet(a, b).sum().backward()
    for image in (a, b):
        assert image.grad is not None
        assert torch.isfinite(image.grad).all()
        assert image.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert not any(p.requires_grad for p in effnet.parameters())
    assert not any(m.training for m in effnet.modules())


def test_gradient_is_the_slope(effnet: PerceptualDistance) -> None:
    a, b = pictures(2, 32).split(1)
    a.requires_grad_()
    (grad,) = torch.autograd.grad(effnet(a, b).sum(), a)
    direction = grad / grad.norm()
    with torch.no_grad():
        step = 0.02
        rise = effnet(a + step * direction, b) - effnet(a - step * direction, b)
    # Central difference; ReLU6 kinks and float32 leave a few per cent.
    assert float(rise) / (2 * step) == pytest.approx(float(grad.norm()), rel=0.05)


def test_equal_images_have_a_finite_gradient(
    effnet: PerceptualDistance, squeeze: PerceptualDistance
) -> None:
    for distance in (effnet, squeeze):
        a = torch.full((1, 3, 32, 32), -1.0, requires_grad=True)
        distance(a, a.detach().clone()).sum().backward()
        assert a.grad is not None
        assert torch.isfinite(a.grad).all()


def test_autocast_keeps_the_arithmetic_of_distances(effnet: PerceptualDistance) -> None:
    a, b = pictures(8, 32).split(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = effnet(a, b)
    assert found.dtype == torch.float32
    # The network's own layers run in bfloat16 (8 bits): a per cent, not more.
    torch.testing.assert_close(found, effnet(a, b), rtol=0.02, atol=0)


def test_resolution_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pictures(2, 32).split(1)
    fine = load_perceptual("effnet-lite0")
    coarse = load_perceptual("effnet-lite0", resolution=64)
    assert (fine.resolution, coarse.resolution) == (128, 64)
    assert not torch.isclose(fine(a, b), coarse(a, b), rtol=1e-2)
    resize = {"size": (64, 64), "mode": "bilinear", "antialias": True}
    by_hand = [torch.nn.functional.interpolate(x, **resize) for x in (a, b)]
    torch.testing.assert_close(coarse(*by_hand), coarse(a, b))


def test_range_is_checked_where_asked(effnet: PerceptualDistance) -> None:
    a, b = pictures(2, 32).split(1)
    assert float(effnet(a * 1.5, b)) > 0  # a generator's overshoot is the caller's affair
    for wrong in (a * 127.5 + 127.5, a * torch.nan):
        with pytest.raises(UsageError, match=r"needs images in \[-1, 1\], got"):
            effnet(b, wrong, checked=True)


@pytest.mark.parametrize("shapes", [((2, 4, 32, 32),) * 2, ((2, 3, 32, 32), (1, 3, 32, 32))])
def test_shapes_are_refused(
    effnet: PerceptualDistance, shapes: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(ShapeError, match=r"two batches \[N, 1 or 3, H, W\]"):
        effnet(*(torch.zeros(shape) for shape in shapes))


def test_too_small_for_the_trunk(squeeze: PerceptualDistance) -> None:
    smallest = pictures(1, squeeze.smallest_side)
    assert float(squeeze(smallest, -smallest)) > 0
    with pytest.raises(ShapeError, match="at least 17 px, got 16"):
        squeeze(*pictures(2, 16).split(1))


@pytest.mark.parametrize("name", [name for name in PERCEPTUAL_DISTANCES if "lpips" in name])
def test_missing_trunk(name: str) -> None:
    with pytest.raises(WeightsError, match="are not at") as caught:
        load_perceptual(name, offline=True)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_a_trunk_of_another_layout_is_refused(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = published_trunk(random_lpips("squeeze").net.state_dict())
    if damage == "missing":
        del tensors["features.3.squeeze.bias"]
    elif damage == "extra":
        tensors["features.99.weight"] = torch.zeros(1)
    else:
        tensors["features.0.weight"] = torch.zeros(64, 3, 5, 5)
    install(monkeypatch, "squeezenet1_1", lambda path: torch.save(tensors, path))
    with pytest.raises(WeightsError, match="does not fit the network") as caught:
        load_perceptual("lpips-squeeze")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("damage", [0.0, float("nan")])
def test_self_test_of_trunks_without_a_recorded_number(
    damage: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = random_lpips("squeeze").net.state_dict()
    tensors = published_trunk({key: torch.full_like(t, damage) for key, t in trunk.items()})
    install(monkeypatch, "squeezenet1_1", lambda path: torch.save(tensors, path))
    with pytest.raises(WeightsError, match="expected a positive number"):
        load_perceptual("lpips-squeeze")


def test_self_test_notices_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose ReLU6 became a ReLU would load the same weights and pass every check."""
    build = module._load_effnet

    def other(*args: object) -> PerceptualDistance:
        distance = build(*args)  # type: ignore[arg-type]
        distance._stages.network.network._swish = torch.nn.ReLU()
        for block in distance._stages.network.network._blocks:
            block._swish = torch.nn.ReLU()
        return distance

    row = dataclasses.replace(PERCEPTUAL_DISTANCES["effnet-lite0"], build=other)
    monkeypatch.setitem(PERCEPTUAL_DISTANCES, "effnet-lite0", row)
    with pytest.raises(WeightsError, match=r"expected 1\.04937"):
        load_perceptual("effnet-lite0")


def test_unknown_distance() -> None:
    with pytest.raises(UsageError, match="unknown perceptual distance `lpips`"):
        load_perceptual("lpips")


def test_loading_is_silent_and_leaves_the_global_generator_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tensors = published_trunk(random_lpips("squeeze").net.state_dict())
    install(monkeypatch, "squeezenet1_1", lambda path: torch.save(tensors, path))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_perceptual("lpips-squeeze")
    assert torch.equal(torch.rand(3), expected)
    assert capfd.readouterr() == ("", "")


def test_linear_weights_are_version_0_1() -> None:
    package = random_lpips("squeeze")
    weights = module._load_linear("squeeze", module._SQUEEZE)
    assert len(weights) == len(package.lins)
    for ours, lin in zip(weights, package.lins, strict=True):
        assert torch.equal(ours, lin.model[1].weight.flatten())
    assert lpips.LPIPS.__init__.__defaults__[2] == "0.1"
