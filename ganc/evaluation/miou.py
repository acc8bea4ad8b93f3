"""What a segmentation network recognises in translations: ``miou``.

For label → photograph models (Cityscapes): the network, trained on real photographs, segments the
translations, and its segments are compared with the labels that were translated. The confusion
matrix is of the whole set, as in Cityscapes' and DRN's evaluation; a mean of each image's own value
is another number.
"""

from typing import Any

import torch
from torch import Tensor

from ganc.errors import DataError
from ganc.evaluation.sampling import Batch
from ganc.evaluation.segmentation import IGNORED, NUM_LABELS
from ganc.evaluation.task import Measurement, Task
from ganc.perceptual.channels import as_colour
from ganc.perceptual.channels import protocol as channels_protocol


class MeanIoU(Measurement):
    """Mean intersection over union of classes, and the share of pixels that are right."""

    def __init__(self, task: Task) -> None:
        self.num_images = task.samples("miou")
        self.channels = task.generator.img_channels
        assert task.labels is not None  # the table of metrics says that both are needed
        assert task.segmenter is not None
        self.labels, self.segmenter = task.labels, task.segmenter
        self.confusion = torch.zeros(NUM_LABELS, NUM_LABELS, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        predicted, count = self.segmenter(as_colour(batch.images.values))
        labels = self.labels.maps(batch.indices)
        unknown = ((labels >= count) & (labels != IGNORED)).flatten(1).any(dim=1)
        if unknown.any():
            first = batch.indices[int(unknown.nonzero()[0])]
            raise DataError(
                f"{self.labels.name(first)}: a class above {count - 1}, --segmenter"
                f" {self.segmenter.name} knows {count} classes",
                "both must count classes alike (Cityscapes: train ids, not label ids)",
            )
        self.confusion += confusion_matrix(labels, predicted)

    def result(self) -> dict[str, float]:
        right = self.confusion.diagonal().sum() / self.confusion.sum()
        return {
            "miou": float(intersection_over_union(self.confusion).mean()),
            "miou-accuracy": float(right),
        }

    def protocol(self) -> dict[str, Any]:
        return {
            "images": self.num_images,
            "segmenter": self.segmenter.name,
            "labels": self.labels.content_hash,
            "classes": len(intersection_over_union(self.confusion)),
            "ignored": IGNORED,
            "resize": "nearest" if self.labels.resize else "none",
            **channels_protocol(self.channels),
            "range": [-1, 1],
            "quantisation": "none",
        }


def confusion_matrix(labels: Tensor, predicted: Tensor) -> Tensor:
    """Count pixels by label (row) and prediction (column), without those labelled ``IGNORED``.

    Args:
        labels: Any shape, uint8.
        predicted: The same shape, integers from 0 to 255.
    Returns:
        [256, 256], int64.
    """
    counted = labels != IGNORED
    pairs = labels[counted].long() * NUM_LABELS + predicted[counted].long()
    return torch.bincount(pairs, minlength=NUM_LABELS**2).reshape(NUM_LABELS, NUM_LABELS)


def intersection_over_union(confusion: Tensor) -> Tensor:
    """Return one value per class that occurs, among the labels or the predictions, float64."""
    both = confusion.diagonal()
    either = confusion.sum(dim=0) + confusion.sum(dim=1) - both
    return both[either > 0].double() / either[either > 0]
