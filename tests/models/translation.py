"""Translators of odd widths, and the names that junyanz's code gives their tensors."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ganc.models.network import Network
from ganc.models.patchgan import Discriminator
from ganc.models.resnet_translator import Generator as ResNet
from ganc.models.translation import ConvLayer
from ganc.models.unet_translator import Generator as UNet

NORMS: dict[str, dict[str, Any]] = {
    "instance": {"norm": "instance"},
    "affine": {"norm": "instance", "norm_affine": True},
    "batch": {"norm": "batch"},
    "batch_statistics": {"norm": "batch", "norm_statistics": "batch"},
    "biased_batch": {"norm": "batch", "bias": True},
    "none": {"norm": "none"},
}
RESNET_WIDTHS = {
    "stem": 5, "down1": 6, "trunk": 7, "block0.inner": 4, "block1.inner": 8, "up1": 3, "up0": 4,
}  # fmt: skip
UNET_WIDTHS = {
    "enc0": 3, "enc1": 5, "enc2": 4, "enc3": 6, "dec3": 2, "dec2": 7, "dec1": 3,
}  # fmt: skip
PATCHGAN_WIDTHS = {"conv0": 5, "conv1": 3, "conv2": 4}


def fill(network: Network, seed: int = 0) -> Network:
    """Draw distinct, non-trivial tensors that keep the features' size; eval mode."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict(keep_vars=True).items():
            noise = torch.randn(tensor.shape, generator=random)
            if tensor.ndim == 4:
                tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
            elif name.endswith("running_var"):
                tensor.copy_(1 + noise.abs())
            elif tensor.ndim == 1:
                tensor.copy_(name.endswith("norm.weight") + 0.3 * noise)
            else:
                tensor.fill_(9)  # num_batches_tracked
    return network.eval()


def resnet(**settings: Any) -> Network:
    """A ResNet with two downsamplings and two blocks."""
    return fill(ResNet(3, 2, **{"num_blocks": 2, "widths": RESNET_WIDTHS, **settings}))


def unet(**settings: Any) -> Network:
    """A U-Net with four levels."""
    return fill(UNet(2, 3, **{"num_downs": 4, "widths": UNET_WIDTHS, **settings}))


def patchgan(**settings: Any) -> Network:
    """A patch discriminator with two layers of stride 2."""
    return fill(Discriminator(5, **{"num_layers": 2, "widths": PATCHGAN_WIDTHS, **settings}))


def images(num: int, channels: int, height: int, width: int | None = None) -> Tensor:
    """Return seeded images in [-1, 1]."""
    shape = (num, channels, height, width or height)
    return torch.rand(shape, generator=torch.Generator().manual_seed(5)) * 2 - 1


def published_state(network: Network) -> dict[str, Tensor]:
    """Return the tensors under junyanz's names, in its order."""
    own = network.state_dict()
    layers = [name for name, part in network.named_modules() if isinstance(part, ConvLayer)]
    state = {}
    for layer, (conv, norm) in zip(layers, _positions(network), strict=True):
        for part, module in (("conv", conv), ("norm", norm)):
            prefix = f"{layer}.{part}."
            state |= {
                f"{module}.{key.removeprefix(prefix)}": tensor
                for key, tensor in own.items()
                if key.startswith(prefix)
            }
    return state


def _positions(network: Network) -> Iterator[tuple[str, str]]:
    """Yield the names of each convolution and of the norm behind it."""
    config = network.config
    if network.architecture == "resnet_translator":
        yield from _resnet_positions(config)
    elif network.architecture == "unet_translator":
        yield from _unet_positions(config["num_downs"])
    else:
        for i in range(config["num_layers"] + 2):
            yield f"model.{max(0, 3 * i - 1)}", f"model.{3 * i}"


def _resnet_positions(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    downs, blocks = config["num_downsampling"], config["num_blocks"]
    second = 5 + config["use_dropout"]
    for i in range(downs + 1):
        yield f"model.{1 + 3 * i}", f"model.{2 + 3 * i}"
    first_block = 4 + 3 * downs
    for i in range(first_block, first_block + blocks):
        yield f"model.{i}.conv_block.1", f"model.{i}.conv_block.2"
        yield f"model.{i}.conv_block.{second}", f"model.{i}.conv_block.{second + 1}"
    first_up = first_block + blocks
    for i in range(downs):
        yield f"model.{first_up + 3 * i}", f"model.{first_up + 3 * i + 1}"
    yield f"model.{first_up + 3 * downs + 1}", "no norm"


def _unet_positions(num_downs: int) -> Iterator[tuple[str, str]]:
    prefixes = ["model.model"]
    for level in range(1, num_downs):
        prefixes.append(f"{prefixes[-1]}.{1 if level == 1 else 3}.model")
    for level, prefix in enumerate(prefixes):
        yield f"{prefix}.{min(level, 1)}", f"{prefix}.2"
    for level, prefix in reversed(list(enumerate(prefixes))):
        conv = 3 if level in (0, num_downs - 1) else 5
        yield f"{prefix}.{conv}", f"{prefix}.{conv + 1}"


def norms(network: nn.Module) -> list[nn.Module]:
    """Return the norms that are there."""
    return [
        part.norm
        for part in network.modules()
        if isinstance(part, ConvLayer) and not isinstance(part.norm, nn.Identity)
    ]
