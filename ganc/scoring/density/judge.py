"""The discriminator of the local game: it knows around which centre the images lie."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc.models.network import Network
from ganc.scoring.density.gates import GatedNetwork


class Judge(nn.Module):
    """A discriminator with gates, conditioned on the centre of a neighbourhood.

    To every logit comes the inner product of the features that it is made of with a projection of
    the centre's description. The projection starts at zero: at first the judge is the pretrained
    discriminator. Source: Miyato & Koyama 2018, "cGANs with Projection Discriminator", for the
    inner product; Casanova et al. 2021, "Instance-Conditioned GAN", for descriptions of instances.

    Args:
        network: The discriminator.
        dim: Length of a description; 0 for a judge that does not hear of the centre.
        width: Channels that its logit layer reads (see ``feature_width``).
    """

    def __init__(self, network: GatedNetwork, dim: int, width: int) -> None:
        super().__init__()
        self.gated = network
        self.projection: nn.Linear | None = None
        if dim:
            self.projection = nn.Linear(dim, width, bias=False)
            nn.init.zeros_(self.projection.weight)

    def forward(
        self, images: Tensor, labels: Tensor | None, centers: Tensor, gates: Tensor | None
    ) -> Tensor:
        """Judge images, [N, C, H, W], behind their condition where the network learned one.

        Args:
            labels: [N, D_c], or None.
            centers: Descriptions of the centres, [N, dim].
            gates: The discriminator's, [n]; None for all open.
        Returns:
            Logits, as the discriminator shapes them.
        """
        network = self.gated.network
        with Heard(network) as heard:
            logits = self.gated.run(lambda: network(images, labels), gates)
        if self.projection is None:
            return logits
        wanted = self.projection(centers)
        if gates is not None:
            wanted = wanted * self.gated.head_gates(gates, wanted.shape[1])
        features = heard.features
        if features.ndim == 2:
            return logits + (features * wanted).sum(dim=1, keepdim=True)
        # Of a 4x4 kernel that pads by one: a logit lies between four features.
        height, width = logits.shape[2:]
        features = F.adaptive_avg_pool2d(features, (height, width))
        return logits + (features * wanted[:, :, None, None]).sum(dim=1, keepdim=True)


class Heard:
    """Catches what a discriminator's logit layer reads.

    Attributes:
        features: [N, C, h, w] or [N, C]; there after a forward pass inside the context.
    """

    features: Tensor

    def __init__(self, network: Network) -> None:
        assert network.logit_layer is not None  # a discriminator
        self._layer = network.get_submodule(network.logit_layer)

    def __enter__(self) -> "Heard":
        self._hook = self._layer.register_forward_pre_hook(self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _catch(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (self.features,) = inputs[:1]


@torch.no_grad()
def pooled_features(network: Network, images: Tensor, labels: Tensor | None) -> Tensor:
    """Return what a discriminator's logit layer reads, averaged over pixels: [N, C]."""
    with Heard(network) as heard:
        network(images, labels)
    return heard.features.flatten(2).mean(dim=2) if heard.features.ndim == 4 else heard.features
