"""One class of torchvision's segmentation network: ``torchvision:person``.

DeepLabV3 with a ResNet-50, trained on COCO with the 20 classes of Pascal VOC; torchvision builds
and feeds it, the weights come through the cache. Chen et al. 2017, "Rethinking Atrous Convolution".
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ganc.content.pixels import to_rgb_uint8
from ganc.content.request import MaskRequest
from ganc.errors import unknown_name
from ganc.progress import Progress, silent
from ganc.weights.cache import check_weights, load_strictly, read_tensors, weights_path
from ganc.weights.probe import probe

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""What the network tells apart, Pascal VOC's names in its order; label 0 is the background.
Here, so that a name is checked without importing torchvision."""
WEIGHTS = "deeplabv3_resnet50"


class SegmentationMasks:
    """The pixels that a network takes for one class; a ``MaskSource``.

    An image's mask does not depend on the others': each is looked at by itself, which also bounds
    the memory.

    Args:
        network: [1, 3, h, w] → {"out": logits [1, labels, h, w]}.
        prepare: Image [1, 3, H, W], uint8 → what the network takes.
        label: What is protected.
        device: Where the network runs.
    """

    def __init__(
        self,
        network: nn.Module,
        prepare: Callable[[Tensor], Tensor],
        label: int,
        device: torch.device,
    ) -> None:
        self.network, self.prepare = network.to(device), prepare
        self.label, self.device = label, device

    @torch.no_grad()
    def __call__(self, images: Tensor, indices: range) -> Tensor:
        return torch.cat([self._mask(image) for image in to_rgb_uint8(images).split(1)])

    def _mask(self, image: Tensor) -> Tensor:
        logits = self.network(self.prepare(image).to(self.device))["out"]
        return logits.argmax(dim=1).cpu() == self.label


def check_segmentation(name: str, offline: bool) -> None:
    """Refuse a class that the network does not know, and weights that cannot be had.

    Raises:
        UsageError: The network does not know the class.
        WeightsError: The weights are missing and may not be fetched.
    """
    if name not in CLASSES:
        raise unknown_name("class of --content torchvision", name, CLASSES)
    check_weights(WEIGHTS, offline=offline)


def open_segmentation(name: str, request: MaskRequest) -> SegmentationMasks:
    """Return the masks of a class.

    Raises:
        UsageError: The network does not know the class.
        WeightsError: The weights are missing or damaged.
    """
    check_segmentation(name, request.offline)
    # Here, not above: torchvision takes a second to import, and every method would wait for it.
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

    prepare = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.transforms()
    network = load_segmentation(offline=request.offline, progress=request.progress)
    return SegmentationMasks(network, prepare, 1 + CLASSES.index(name), request.device)


def load_segmentation(*, offline: bool = False, progress: Progress = silent) -> nn.Module:
    """Load the network with verified, frozen weights and test it once.

    Raises:
        WeightsError: Its weights are missing or damaged, or fail the test.
    """
    from torchvision.models.segmentation import deeplabv3_resnet50

    path = weights_path(WEIGHTS, offline=offline, progress=progress)
    with torch.device("meta"):
        network = deeplabv3_resnet50(
            weights=None, weights_backbone=None, num_classes=1 + len(CLASSES), aux_loss=True
        )
    load_strictly(network, read_tensors(path), path)
    probe_segmentation(network)
    return network


def probe_segmentation(network: nn.Module) -> float:
    """Run the loaded network's self-test and return its number; see ``probe``."""
    return probe(WEIGHTS, lambda x: network(x)["out"], (1 + len(CLASSES), 64, 64))
