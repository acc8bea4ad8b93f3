"""Face parsing: ``bisenet``, or ``bisenet:79999_iter.pth`` with a file of one's own.

BiSeNet (Yu et al. 2018, "Bilateral Segmentation Network for Real-time Semantic Segmentation") as
the public face-parsing project trained it on CelebAMask-HQ: a ResNet-18 context path whose features
at 1/8 also take the spatial path's place. Tensor names are those of the published file. Not
verified against that file.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ganc.checkpoints import foreign_file
from ganc.content.pixels import to_rgb_uint8
from ganc.content.request import MaskRequest
from ganc.errors import CheckpointError, WeightsError
from ganc.files import read_error
from ganc.weights.cache import check_weights, load_strictly, weights_path
from ganc.weights.probe import probe

NUM_LABELS = 19
LEFT_OUT = (0, 16)
"""Labels that are no contents of interest: background and cloth."""
SIDE = 512  # the network was trained at this size
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class ConvNormRelu(nn.Module):
    """Convolution without bias, batch norm, ReLU; the size stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = _conv(in_channels, out_channels, kernel_size)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class BasicBlock(nn.Module):
    """ResNet's basic block: two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                _conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class ResNet18(nn.Module):
    """[N, 3, H, W] → features at 1/8 [N, 128], 1/16 [N, 256] and 1/32 [N, 512] of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 128, 2)
        self.layer3 = _stage(128, 256, 2)
        self.layer4 = _stage(256, 512, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), kernel_size=3, stride=2, padding=1)
        at8 = self.layer2(self.layer1(x))
        at16 = self.layer3(at8)
        return at8, at16, self.layer4(at16)


class AttentionRefinement(nn.Module):
    """A 3x3 layer whose channels are weighed by the image's mean: [N, C_in] → [N, C_out]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvNormRelu(in_channels, out_channels)
        self.conv_atten = _conv(out_channels, out_channels, 1)
        self.bn_atten = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(_mean(x))).sigmoid()


class ContextPath(nn.Module):
    """[N, 3, H, W] → features at 1/8: the backbone's own [N, 128], and with context [N, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvNormRelu(128, 128)
        self.conv_head16 = ConvNormRelu(128, 128)
        self.conv_avg = ConvNormRelu(512, 128, kernel_size=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at8, at16, at32 = self.resnet(x)
        context = self.arm32(at32) + self.conv_avg(_mean(at32))
        context = self.conv_head32(F.interpolate(context, at16.shape[2:]))
        context = self.arm16(at16) + context
        return at8, self.conv_head16(F.interpolate(context, at8.shape[2:]))


class FeatureFusion(nn.Module):
    """Join two feature maps and stress channels by the image's mean."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convblk = ConvNormRelu(in_channels, out_channels, kernel_size=1)
        self.conv1 = _conv(out_channels, out_channels // 4, 1)
        self.conv2 = _conv(out_channels // 4, out_channels, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.convblk(torch.cat([a, b], dim=1))
        return x + x * self.conv2(F.relu(self.conv1(_mean(x)))).sigmoid()


class Head(nn.Module):
    """Features to logits of the labels."""

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.conv = ConvNormRelu(in_channels, hidden_channels)
        self.conv_out = _conv(hidden_channels, NUM_LABELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv_out(self.conv(x))
        return logits


class BiSeNet(nn.Module):
    """Face parsing: normalised images [N, 3, H, W] → logits [N, 19, H, W].

    The two heads at 1/16 and 1/32 served training alone; the file holds their weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion(256, 256)
        self.conv_out = Head(256, 256)
        self.conv_out16 = Head(128, 64)
        self.conv_out32 = Head(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv_out(self.ffm(*self.cp(x)))
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=True)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
    )


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride),
        BasicBlock(out_channels, out_channels, 1),
    )


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True)


class FaceMasks:
    """The pixels of face, hair and what is worn on the head; a ``MaskSource``.

    Images are scaled to 512 px by Pillow and looked at one by one, as the published pruning code
    does.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network, self.device = network.to(device), device

    @torch.no_grad()
    def __call__(self, images: Tensor, indices: range) -> Tensor:
        return torch.cat([self._mask(image) for image in to_rgb_uint8(images).cpu()])

    def _mask(self, image: Tensor) -> Tensor:
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        pixels = np.array(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        x = (torch.from_numpy(pixels) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        logits = self.network(x.permute(2, 0, 1)[None].to(self.device))
        labels = logits.argmax(dim=1).cpu()
        return ~torch.isin(labels, torch.tensor(LEFT_OUT))


def check_bisenet(file: str, offline: bool) -> None:
    """Refuse a file that is not there; "" stands for the one in the cache.

    Raises:
        WeightsError: See above.
    """
    if not file:
        check_weights("bisenet", offline=offline)
    elif not Path(file).is_file():
        raise WeightsError(
            f"{file} cannot be read: there is no such file",
            "`bisenet` without a file takes the public face-parsing project's from the cache",
        )


def open_bisenet(file: str, request: MaskRequest) -> FaceMasks:
    """Return the masks of a face-parsing network; no code from the file runs.

    Args:
        file: In the layout of the published 79999_iter.pth, or "": that one, from the cache.
    Raises:
        WeightsError: The file cannot be had or read, or holds another network.
    """
    check_bisenet(file, request.offline)
    if file:
        return FaceMasks(load_bisenet(Path(file)), request.device)
    path = weights_path("bisenet", offline=request.offline, progress=request.progress)
    return FaceMasks(load_bisenet(path), request.device)


def _read(path: Path) -> dict[str, Any]:
    """Return the file's entries; unlike the published weights, it may be anybody's."""
    try:
        content = foreign_file.read(path.read_bytes(), str(path))
    except OSError as error:
        raise read_error(WeightsError, path, error) from error
    except CheckpointError as error:
        raise WeightsError(error.message, error.hint) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected named tensors")
    return content


def load_bisenet(path: Path) -> BiSeNet:
    """Load the network with frozen weights and test it once.

    Raises:
        WeightsError: The file cannot be read, holds another network, or fails the test.
    """
    tensors = _read(path)
    with torch.device("meta"):
        network = BiSeNet()
    # Files of before PyTorch 0.4.1 do not count batches; nothing reads the count.
    expected = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise WeightsError(
            f"{path} holds no face-parsing BiSeNet: {len(missing)} of {len(expected)} tensors are"
            f" missing, the first is {missing[0]}",
            "the layout is that of the published 79999_iter.pth",
        )
    load_strictly(network, tensors, path)
    probe_bisenet(network)
    return network


def probe_bisenet(network: BiSeNet) -> float:
    """Run the loaded network's self-test and return its number; see ``probe``."""
    return probe("bisenet", network, (NUM_LABELS, 64, 64))
