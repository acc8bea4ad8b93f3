"""Descriptions by a self-supervised ResNet-50 in a local file: ``resnet50:FILE``.

He et al. 2016, "Deep Residual Learning for Image Recognition", with the stride in a block's 3x3
convolution, as torchvision has it and as SwAV, DINO, MoCo and VICReg publish it. Their heads (fc,
projections, prototypes, queues) are not read. Tested against torchvision's network on random
weights; not verified against any published file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from ganc.checkpoints import torch_file
from ganc.errors import WeightsError
from ganc.files import read_error
from ganc.weights.probe import probe

DIM = 2048
SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
RESIZE = "torch bilinear, antialiased, float32; no crop"

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Inner channels and blocks of each stage; a block gives four times as many channels."""
WRAPPERS = ("state_dict", "model", "teacher")
"""Keys under which published files keep the network's tensors, beside a bare state dict."""
PREFIXES = tuple(
    parallel + part
    for parallel in ("", "module.")
    for part in ("", "backbone.", "encoder.", "encoder_q.", "base_encoder.")
)
"""What published files put before the trunk's names; of MoCo's two encoders the trained one."""
HINT = (
    "the layout is torchvision's ResNet-50, as SwAV, DINO, MoCo and VICReg publish it;"
    " --set encoder=trained needs no file"
)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: [N, C, H, W] → [N, 4 · inner, H', W']."""

    def __init__(self, in_channels: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(in_channels, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = _conv(inner, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = _conv(inner, 4 * inner, 1), nn.BatchNorm2d(4 * inner)
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != 4 * inner:
            self.downsample = nn.Sequential(
                _conv(in_channels, 4 * inner, 1, stride), nn.BatchNorm2d(4 * inner)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet50(nn.Module):
    """The trunk: normalised images [N, 3, H, W] → pooled features [N, 2048]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 64, 7, 2), nn.BatchNorm2d(64)
        in_channels = 64
        for number, (inner, blocks) in enumerate(STAGES, start=1):
            strides = [1 if number == 1 else 2] + [1] * (blocks - 1)
            widths = [in_channels] + [4 * inner] * (blocks - 1)
            stage = [Bottleneck(c, inner, s) for c, s in zip(widths, strides, strict=True)]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            in_channels = 4 * inner

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), kernel_size=3, stride=2, padding=1)
        for number in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x.mean(dim=(2, 3))


def load_resnet50(path: Path) -> ResNet50:
    """Load the trunk of a file, frozen and in eval mode, and test it once; no code of it runs.

    Args:
        path: What ``torch.save`` wrote, or safetensors.
    Raises:
        CheckpointError, WeightsError: The file cannot be read, lacks a tensor of the trunk or has
            one of another shape, or its features are impossible.
    """
    with torch.device("meta"):
        network = ResNet50()
    tensors = trunk_tensors(_read(path), network.state_dict(), str(path))
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(False).eval()
    probe(f"resnet50:{path}", lambda x: network(prepare(x)), (DIM,))
    return network


def prepare(images: Tensor) -> Tensor:
    """Scale and normalise RGB images in [-1, 1] as the network wants them: [N, 3, 224, 224]."""
    x = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (MEAN, STD))
    return ((x + 1) / 2 - mean) / std


def trunk_tensors(tree: Any, expected: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the trunk's tensors, in float32, of what was read from a file.

    Args:
        tree: Named tensors, perhaps with a prefix or inside other data.
        expected: The trunk's names and shapes.
        where: What errors call the file.
    Raises:
        WeightsError: It holds no ResNet-50, lacks a tensor, or has one of another shape.
    """
    found = _own_entries(tree, where)
    tensors = {}
    for name, like in expected.items():
        if name.endswith("num_batches_tracked"):  # old files do not count; nothing reads it
            tensors[name] = torch.zeros(like.shape, dtype=like.dtype)
            continue
        value = found.get(name)
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            raise WeightsError(f"{where} lacks the tensor {name} of a ResNet-50", HINT)
        if value.shape != like.shape:
            raise WeightsError(
                f"{where}: {name} has shape {list(value.shape)}, a ResNet-50's has"
                f" {list(like.shape)}",
                HINT,
            )
        tensors[name] = value.float()
    return tensors


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
    )


def _own_entries(tree: Any, where: str) -> dict[str, Any]:
    """Return a file's entries by the trunk's own names, whatever is wrapped around them."""
    trees = [tree, *(tree.get(key) for key in WRAPPERS)] if isinstance(tree, dict) else []
    for entries in trees:
        for prefix in PREFIXES:
            if isinstance(entries, dict) and f"{prefix}conv1.weight" in entries:
                return {str(key).removeprefix(prefix): value for key, value in entries.items()}
    raise WeightsError(f"{where} holds no ResNet-50: there is no conv1.weight", HINT)


def _read(path: Path) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise read_error(WeightsError, path, error, HINT) from error
    if content.startswith((torch_file.ZIP_MAGIC, torch_file.LEGACY_MAGIC)):
        return torch_file.read(content, str(path))
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is neither a PyTorch file nor a safetensors file, or damaged: {error}", HINT
        ) from error
