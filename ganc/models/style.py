"""What the style-based generators share: latents are mapped to w, and w makes the image.

Source: Karras et al. 2019, "A Style-Based Generator Architecture for GANs".
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ganc.errors import ShapeError
from ganc.models.layers import FullyConnectedLayer, MappingNetwork, shape_of
from ganc.models.network import LatentGenerator


class ModulatedLayer(Protocol):
    """A layer whose weight is scaled by styles, which ``affine`` makes of w."""

    affine: FullyConnectedLayer

    def effective_weight(self, w: Tensor) -> Tensor:
        """Return the weight as it acts for each w [N, D_w]: [N, C_out, C_in, K, K]."""
        ...


class StyleGenerator(LatentGenerator):
    """A generator of two networks: ``mapping`` and ``synthesis``.

    Attributes:
        w_dim: Size of w.
        num_ws: Copies of w that the synthesis network reads.
        mapping: z and label to ws [N, num_ws, D_w].
        synthesis: ws to images, ``synthesis(ws, noise_mode="const", noise=None)``.
    """

    w_dim: int
    num_ws: int
    mapping: MappingNetwork
    synthesis: Any

    @property
    def w_avg(self) -> Tensor:
        """Mean of w, [D_w]: where truncation leads to. Writable."""
        return self.mapping.w_avg

    @w_avg.setter
    def w_avg(self, value: Tensor) -> None:
        if value.shape != self.mapping.w_avg.shape:
            raise ShapeError(f"w_avg must be [{self.w_dim}], got {shape_of(value)}")
        with torch.no_grad():
            self.mapping.w_avg.copy_(value)

    def first_weight(self) -> Tensor:
        weight: Tensor = self.mapping.get_parameter("fc0.weight")
        return weight[:, : self.z_dim]

    @abstractmethod
    def modulated_layers(self) -> list[tuple[str, ModulatedLayer, int]]:
        """Return (name, layer, index of its w in ws), in the order they run."""

    @abstractmethod
    def feature_affines(self) -> list[list[FullyConnectedLayer]]:
        """Return, for each of the features of ``synthesis.run``, the affine layers behind it."""

    def train_synthesis(self, ws: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Make images as ``synthesis`` does, following statistics where the family keeps any."""
        images: Tensor = self.synthesis(ws, noise=noise)
        return images

    def moving_statistics(self) -> list[Tensor]:
        """Return the running means that training moves, to be averaged over processes."""
        return [self.mapping.w_avg]

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        noise: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Generate images [N, img_channels, R, R], nominal range [-1, 1], not clamped.

        Args:
            z: [N, D_z], standard normal.
            c: [N, D_c], or None where ``c_dim`` is 0.
            truncation_psi, truncation_cutoff: See ``MappingNetwork.forward``.
            noise_mode: "const" (stored), "random" (the global generator) or "none".
            noise: Explicit maps [N, 1, R, R] in layer order; overrides ``noise_mode``.
        """
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        images: Tensor = self.synthesis(ws, noise_mode=noise_mode, noise=noise)
        return images
