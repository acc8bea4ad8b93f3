"""What a mask source is told when it is opened, and what it is."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ganc.progress import Progress, Warn, ignore, silent

MaskSource = Callable[[Tensor, range], Tensor]
"""Images [N, C, H, W], nominal range [-1, 1], and the numbers of their samples → what is to be
protected in each, bool [N, h, w], on any device and of any size."""


@dataclass(frozen=True)
class MaskRequest:
    """What a source needs to know beside its name.

    Attributes:
        samples: How many samples will be asked for, from sample 0 on.
        device: Where networks run.
        progress: Told of downloads.
        offline: Never fetch weights.
        warn: Told what is left out of a folder of masks, and of values that cannot be meant.
    """

    samples: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    offline: bool = False
    warn: Warn = ignore
