"""What a caller hands a scoring method and no command line holds. Loads no torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GivenPoints:
    """What ``diversity`` draws where it is not given.

    Attributes:
        latents: w vectors [n, D_w] (z [n, D_z] without a w).
        directions: [batches, N, D_w] (or D_z).
        noise: noise[batch][direction][branch] is a list of maps [n, 1, R, R] in layer order; branch
            0 is G(w), branch 1 the moved image.
    """

    latents: "Tensor | None" = None
    directions: "Tensor | None" = None
    noise: Sequence[Any] | None = None


@dataclass(frozen=True)
class GivenMasks:
    """What ``content`` draws or looks for where it is not given.

    Attributes:
        latents: z vectors [n, D_z].
        noise: noise[batch] is a list of maps [n, 1, R, R] in layer order.
        masks: [n, h, w], bool, instead of what ``content`` makes; scaled to the images.
        salt: [n, H, W] in -1, 0 (untouched), +1; hits outside the ``masks`` do not count, without
            ``masks`` all do.
    """

    latents: "Tensor | None" = None
    noise: Sequence[Any] | None = None
    masks: "Tensor | None" = None
    salt: "Tensor | None" = None


@dataclass(frozen=True)
class GivenState:
    """Where ``density`` saves its search.

    Attributes:
        state: The file that ``resume`` goes on from; None saves none.
    """

    state: str | os.PathLike[str] | None = None
