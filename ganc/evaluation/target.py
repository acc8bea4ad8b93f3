"""Translations against the ground truth: ``l1-target``, ``psnr-target``, ``lpips-target``, …

For sets where it is known what each input should become (edges → the photograph they were drawn
from). Images are clamped to [-1, 1] and not quantised, as in ``paired``.
"""

from typing import Any

from torch import Tensor

from ganc.data.inputs import ImageInputs
from ganc.evaluation.paired import PairedMean
from ganc.evaluation.sampling import Batch
from ganc.models.network import Translator


class TargetMean(PairedMean):
    """Mean of a distance between translations and their ground truth."""

    uses_teacher = False
    suffix = "-target"

    @property
    def targets(self) -> ImageInputs:
        """The ground truth."""
        assert self.task.targets is not None  # the table of metrics says that they are needed
        return self.task.targets

    def wanted(self, batch: Batch) -> Tensor:
        generator = self.task.generator
        assert isinstance(generator, Translator)  # targets belong to the images of --input
        return self.targets.pixels(generator, batch.indices).to(self.task.device)

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"target": self.targets.content_hash}
