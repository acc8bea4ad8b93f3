"""Encoders: what they describe, what they refuse, and whether what is near looks alike."""

import functools
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from ganc import seeds
from ganc.data.images import to_uint8
from ganc.errors import (
    CheckpointError,
    ComputationError,
    GancError,
    InputError,
    MissingDependencyError,
    UsageError,
    WeightsError,
)
from ganc.extras import remedy
from ganc.perceptual import effnet
from ganc.perceptual.features import load_features
from ganc.progress import Progress, silent
from ganc.scoring.density import resnet50, self_supervised
from ganc.scoring.density.encoders import (
    FORMS,
    Encoder,
    EncoderRequest,
    check_name,
    open_encoder,
    rgb,
)
from ganc.scoring.density.self_supervised import Training
from tests.content.weights import random_tensors

IMAGES = (
    seeds.normal(0, "encoded images", range(12), (3, 16, 16)).mul(0.3)
    + seeds.normal(0, "their colours", range(12), (3, 1, 1)).mul(0.4)
).clamp(-1.2, 1.2)


def request(
    name: str, images: Tensor = IMAGES, *, seed: int = 0, progress: Progress = silent
) -> EncoderRequest:
    return EncoderRequest(
        name=name, images=lambda indices: images[indices.start : indices.stop], count=len(images),
        discriminator=lambda indices: images[indices.start : indices.stop].mean(dim=(2, 3)),
        discriminator_sha256="d" * 64, seed=seed, device=torch.device("cpu"), offline=True,
        progress=progress,
    )  # fmt: skip


def described(encoder: Encoder, count: int = len(IMAGES)) -> Tensor:
    """Return all descriptions, having checked what holds for every encoder."""
    whole = encoder.encode(range(count))
    assert whole.dtype == torch.float32
    assert not whole.requires_grad
    parts = [encoder.encode(range(1)), encoder.encode(range(1, count))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)
    assert encoder.protocol["encoder"] == encoder.name
    assert encoder.protocol["sha256"] == encoder.sha256
    return whole


def test_each_form_is_told_and_known() -> None:
    names = [form for form in FORMS if ":" not in form]
    for name in names:
        check_name(name)
    assert names[0] == "trained"
    assert {"resnet50:FILE", "module:function"} == set(FORMS) - set(names)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("efnet-lite0", "unknown encoder `efnet-lite0`"),
        ("", "unknown encoder ``"),
        ("resnet50", "unknown encoder `resnet50`"),
        ("resnet50:", "encoder resnet50: is incomplete"),
        (":function", "encoder :function is incomplete"),
        ("nowhere:function", "encoder nowhere:function: no module nowhere"),
    ],
)
def test_name_that_is_no_encoder(name: str, finding: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name(name)
    assert str(caught.value).startswith(finding)
    assert "resnet50:FILE" in f"{caught.value} {caught.value.hint}"


# Feature networks, and the discriminator.


def test_effnet_sees_what_a_file_would_hold() -> None:
    encoder = open_encoder(request("effnet-lite0"))
    expected = load_features("effnet-lite0")(to_uint8(IMAGES))
    torch.testing.assert_close(described(encoder), expected)
    assert encoder.sha256 == effnet.SHA256
    assert encoder.protocol["resolution"] == 128


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_is_repeated_and_alpha_dropped(channels: int) -> None:
    images = seeds.normal(0, "other channels", range(3), (channels, 16, 16)).mul(2)
    expected = images.expand(-1, 3, -1, -1) if channels == 1 else images[:, :3]
    assert torch.equal(rgb(images), expected.clamp(-1, 1))
    assert open_encoder(request("effnet-lite0", images)).encode(range(3)).shape == (3, 1280)


def test_other_channels_have_the_discriminator() -> None:
    images = IMAGES[:, :2]
    with pytest.raises(InputError, match="have 2 channels") as caught:
        open_encoder(request("trained", images))
    assert "encoder=discriminator" in str(caught.value.hint)
    assert open_encoder(request("discriminator", images)).encode(range(4)).shape == (4, 2)


def test_missing_package_offers_what_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingDependencyError, match="is not installed") as caught:
        open_encoder(request("effnet-lite0"))
    assert str(caught.value.hint).startswith(remedy("offline"))
    assert "encoder=trained needs nothing" in str(caught.value.hint)


def test_missing_weights_offer_what_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANC_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="inception") as caught:
        open_encoder(request("inception"))
    assert "encoder=trained needs nothing" in str(caught.value.hint)


def test_discriminator_is_what_was_given() -> None:
    encoder = open_encoder(request("discriminator"))
    assert torch.equal(described(encoder), IMAGES.mean(dim=(2, 3)))
    assert encoder.sha256 == "d" * 64


def test_numbers_that_are_not_finite_stop() -> None:
    images = IMAGES.clone()
    images[5, 0, 0, 0] = torch.nan
    encoder = open_encoder(request("discriminator", images))
    assert len(encoder.encode(range(5))) == 5
    with pytest.raises(ComputationError, match="some of images 4 to 7"):
        encoder.encode(range(4, 8))


# A function of the user's own.

MODULE = """
def pooled(images):
    assert images.abs().max() <= 1 and images.device.type == "cpu"
    return images.mean(dim=(2, 3))

def array(images):
    return pooled(images).double().numpy()

def flat(images):
    return images.mean(dim=(1, 2, 3))

def whole(images):
    return (images.mean(dim=(2, 3)) * 9).long()

def fails(images):
    raise KeyError("no\\nimage")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"own_encoder_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_function_describes(module: str) -> None:
    for function in ("pooled", "array"):
        encoder = open_encoder(request(f"{module}:{function}"))
        torch.testing.assert_close(described(encoder), IMAGES.clamp(-1, 1).mean(dim=(2, 3)))
    assert encoder.sha256 == hashlib.sha256(MODULE.encode()).hexdigest()


@pytest.mark.parametrize(
    ("function", "finding"),
    [
        ("flat", "must return floating point [3, d], got float32 [3]"),
        ("whole", "must return floating point [3, d], got int64 [3, 3]"),
        ("fails", r"raised KeyError: 'no\nimage'"),
    ],
)
def test_function_that_misbehaves(module: str, function: str, finding: str) -> None:
    encoder = open_encoder(request(f"{module}:{function}"))
    with pytest.raises(InputError) as caught:
        encoder.encode(range(3))
    assert finding in str(caught.value)
    assert caught.value.exit_code == 3


# A self-supervised ResNet-50 in a file.


@pytest.fixture(scope="module")
def trunk() -> dict[str, Tensor]:
    """Seeded random tensors of torchvision's ResNet-50, its classifier left out."""
    return random_tensors(resnet50.ResNet50())


@pytest.fixture(scope="module")
def file(trunk: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet50") / "swav.pth"
    torch.save({f"module.{name}": tensor for name, tensor in trunk.items()}, path)
    return path


def test_resnet50_is_torchvisions(trunk: dict[str, Tensor]) -> None:
    from torchvision.models import resnet50 as reference

    with torch.device("meta"):
        network, expected = resnet50.ResNet50(), reference(num_classes=2)
    assert [name for name in expected.state_dict() if not name.startswith("fc.")] == list(trunk)
    network.load_state_dict(trunk, assign=True)
    expected.fc = torch.nn.Identity()
    expected.load_state_dict(trunk, assign=True)
    x = seeds.normal(0, "resnet50", range(2), (3, 65, 70))
    with torch.no_grad():
        found, wanted = network.eval()(x), expected.eval()(x)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_resnet50_of_a_file(file: Path) -> None:
    encoder = open_encoder(request(f"resnet50:{file}"))
    found = described(encoder, count=2)
    assert found.shape == (2, 2048)
    assert found.std(dim=0).max() > 0.01
    assert encoder.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert encoder.protocol["resolution"] == 224


def test_prepared_pixels_are_imagenets() -> None:
    white = resnet50.prepare(torch.ones(1, 3, 500, 300))
    expected = (1 - torch.tensor(resnet50.MEAN)) / torch.tensor(resnet50.STD)
    assert white.shape == (1, 3, 224, 224)
    torch.testing.assert_close(white[0, :, 7, 9], expected)


Wrap = Callable[[dict[str, Tensor]], dict[str, Any]]


def prefixed(prefix: str) -> Wrap:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


LAYOUTS: dict[str, Wrap] = {
    "torchvision, classifier": lambda t: {**t, "fc.weight": torch.zeros(2, 2)},
    "SwAV": lambda t: {**prefixed("module.")(t), "module.prototypes.weight": torch.zeros(2, 2)},
    "MoCo": lambda t: {
        "epoch": 200,
        "state_dict": prefixed("module.encoder_q.")(t) | prefixed("module.encoder_k.")({
            name: torch.zeros_like(tensor) for name, tensor in t.items()
        }),
    },
    "DINO": lambda t: {"student": {}, "teacher": prefixed("backbone.")(t)},
    "VICReg": lambda t: {"model": prefixed("module.backbone.")(t)},
    "solo": lambda t: {"state_dict": prefixed("encoder.")(t)},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_hold_the_trunk(layout: str, trunk: dict[str, Tensor]) -> None:
    tensors = resnet50.trunk_tensors(LAYOUTS[layout](trunk), resnet50.ResNet50().state_dict(), "f")
    assert all(torch.equal(tensors[name], trunk[name]) for name in trunk if "batches" not in name)


def test_safetensors_are_read(trunk: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "trunk.safetensors"
    safetensors.torch.save_file({name: tensor.half() for name, tensor in trunk.items()}, path)
    network = resnet50.load_resnet50(path)
    assert network.conv1.weight.dtype == torch.float32
    assert torch.equal(network.conv1.weight, trunk["conv1.weight"].half().float())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no file") as caught:
        check_name(f"resnet50:{tmp_path / 'gone.pth'}")
    assert caught.value.exit_code == 3
    assert "encoder=trained needs nothing" in str(caught.value.hint)


class Runs:
    """What a pickle must not do."""

    def __reduce__(self) -> Any:
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("content", "error", "finding"),
    [
        (b"no checkpoint at all", WeightsError, "neither a PyTorch file"),
        (b"\x08" + b"\0" * 7 + b"{ broken", WeightsError, "or damaged"),
        (b"PK\x03\x04 cut off", CheckpointError, "damaged"),
        ({"fc.weight": torch.zeros(2)}, WeightsError, "holds no ResNet-50"),
        ([torch.zeros(2)], WeightsError, "holds no ResNet-50"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, WeightsError, "lacks the tensor bn1.weight"),
        ({"conv1.weight": torch.zeros(64, 3, 3, 3)}, WeightsError, "has shape [64, 3, 3, 3]"),
        ({"conv1.weight": Runs()}, CheckpointError, "print"),
    ],
)
def test_file_that_is_no_resnet50(
    content: Any, error: type[GancError], finding: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "file.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(error) as caught:
        resnet50.load_resnet50(path)
    assert str(path) in str(caught.value)
    assert finding in str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in f"{caught.value}{caught.value.hint}{capsys.readouterr().out}"


# The network that is trained on the spot.


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_supervised, "Training", functools.partial(Training, steps=20))


@pytest.mark.usefixtures("few_steps")
def test_training_depends_on_seed_and_images_alone() -> None:
    before = torch.random.get_rng_state()
    told: list[tuple[str, int, int]] = []
    first = open_encoder(request("trained", progress=lambda *step: told.append(step)))
    assert told == [("training the encoder", step, 20) for step in range(1, 21)]
    assert described(first).shape == (len(IMAGES), self_supervised.DIM)
    torch.manual_seed(5)
    again = open_encoder(request("trained"))
    assert again.protocol == first.protocol
    assert torch.equal(again.encode(range(4)), first.encode(range(4)))
    torch.random.set_rng_state(before)
    assert open_encoder(request("trained", seed=1)).sha256 != first.sha256
    assert open_encoder(request("trained", IMAGES.flip(0))).sha256 != first.sha256
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.protocol["seed"] == 0
    assert first.protocol["steps"] == 20


@pytest.mark.usefixtures("few_steps")
def test_images_that_are_all_alike_are_refused() -> None:
    alike = IMAGES[:1].expand(12, -1, -1, -1)
    with pytest.raises(ComputationError, match="descriptions have a spread of ") as caught:
        open_encoder(request("trained", alike))
    assert caught.value.exit_code == 4
    assert "encoder=discriminator" in str(caught.value.hint)


def test_loss_that_is_not_finite_stops() -> None:
    with pytest.raises(ComputationError, match="loss is nan at step 2") as caught:
        self_supervised.train(
            lambda indices: IMAGES[indices.start : indices.stop], len(IMAGES),
            Training(steps=9, lr=1e30), seed=0, device=torch.device("cpu"), progress=silent,
        )  # fmt: skip
    assert caught.value.exit_code == 4


def test_contrast_is_its_definition() -> None:
    z = seeds.normal(0, "views", range(6), (4,)).double()
    total = 0.0
    for i in range(6):
        similar = [F.cosine_similarity(z[i], z[j], dim=0).div(0.5).exp() for j in range(6)]
        total -= (similar[(i + 3) % 6] / (sum(similar) - similar[i])).log().item() / 6
    assert self_supervised.nt_xent(z, 0.5).item() == pytest.approx(total, rel=1e-12)


def test_views_are_crops_of_their_image() -> None:
    training = Training(colour=0.0, noise=0.0)
    ramp = torch.linspace(-1, 1, 33).expand(500, 2, 33, 33)
    places = torch.cat([ramp, ramp.transpose(2, 3)], dim=1)[:, 1:]  # x, y, y
    seen = self_supervised.views(places, training, torch.Generator().manual_seed(0))
    corners = seen[:, :2, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.abs().max() <= 1 + 1e-6  # inside the image, so nothing is mirrored at its edge
    width, height = corners[:, 0, 1] - corners[:, 0, 0], corners[:, 1, 2] - corners[:, 1, 0]
    area = (width * height).abs() / 4
    assert 0.28 < area.min() < 0.4
    assert 0.9 < area.max() <= 1 + 1e-6
    assert 0.4 < (width < 0).float().mean() < 0.6  # mirrored
    assert (height > 0).all()
    changed = self_supervised.views(IMAGES, Training(), torch.Generator().manual_seed(0))
    assert changed.shape == IMAGES.shape
    assert (changed - IMAGES).abs().mean() > 0.1


def test_large_images_are_shrunk_and_large_sets_thinned() -> None:
    asked: list[range] = []

    def images(indices: range) -> Tensor:
        asked.append(indices)
        return torch.rand(len(indices), 3, 96, 48) * 2 - 1

    shown = self_supervised._collect(images, 100, Training(most_images=40))
    assert shown.shape == (36, 3, 64, 32)
    assert shown.dtype == torch.uint8
    assert asked == [range(start, start + 8) for start in (0, 24, 48, 72)] + [range(96, 100)]
    small = torch.rand(1, 3, 32, 20)
    assert Training().shrink(small) is small


def planted() -> tuple[Tensor, Tensor]:
    """Draw 40 images of each of 4 shapes, anywhere in the image, in colours that vary a little.

    Returns:
        [160, 3, 32, 32], and the shapes, [160].
    """
    shapes = torch.arange(160) % 4
    even = torch.rand(160, 9, 1, 1, generator=torch.Generator().manual_seed(0))
    x, y = (
        torch.arange(32.0) - 9 - 14 * even[:, 0],
        torch.arange(32.0)[:, None] - 9 - 14 * even[:, 1],
    )
    size = 6 + 2 * even[:, 2]
    across, down, far = x.abs().expand(-1, 32, -1), y.abs().expand(-1, -1, 32), (x**2 + y**2).sqrt()
    square = torch.maximum(across, down)
    masks = torch.stack([
        far < size,
        (square < 0.85 * size) & (square > 0.4 * size),
        (torch.minimum(across, down) < 0.35 * size) & (square < 1.1 * size),
        (far < size) & (torch.arange(32)[:, None] % 4 < 2),
    ], dim=1)[torch.arange(160), shapes, None]  # fmt: skip
    ground, colour = 0.3 * even[:, 3:6] - 0.55, 0.3 * even[:, 6:9] + 0.25
    noise = seeds.normal(0, "noise of shapes", range(160), (3, 32, 32)).mul(0.05)
    return torch.where(masks, colour, ground) + noise, shapes


def share_of_own(features: Tensor, shapes: Tensor) -> float:
    """Return how many of the 5 nearest by cosine show the same shape; by chance 0.245."""
    unit = F.normalize(features.flatten(1), dim=1)
    near = (unit @ unit.T).fill_diagonal_(-2).topk(5).indices
    return float((shapes[near] == shapes[:, None]).float().mean())


@pytest.mark.slow
def test_trained_neighbours_show_the_same_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_supervised, "Training", functools.partial(Training, steps=80))
    images, shapes = planted()
    found = open_encoder(request("trained", images)).encode(range(160))
    untrained = self_supervised.EncoderNetwork().eval()(images)
    own, pixels = share_of_own(found, shapes), share_of_own(images, shapes)
    assert pixels < 0.65
    assert share_of_own(untrained, shapes) < 0.65
    assert own > 0.8  # 0.97 or more after the 200 steps that are the default
