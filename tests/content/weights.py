"""Seeded random weights of a published layout: the published files cannot be had here."""

import math

import torch
from torch import Tensor, nn

from ganc import seeds


def random_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return a state dict in which every tensor follows from its name and shape alone.

    Convolutions keep the scale of what they read, norms have statistics of their own, so that every
    layer matters.
    """
    return {name: _random(name, tensor) for name, tensor in network.state_dict().items()}


def _random(name: str, tensor: Tensor) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    noise = seeds.normal(0, name, range(1), tensor.shape)[0]
    if tensor.ndim > 1:
        return noise * math.sqrt(2 / math.prod(tensor.shape[1:]))
    if name.endswith("running_var"):
        return (0.3 * noise).exp()
    return 0.2 * noise + (1 if name.endswith("weight") else 0)


def random_faces(network: nn.Module) -> dict[str, Tensor]:
    """Return such tensors of a BiSeNet, its labels renamed.

    The labels that random numbers prefer become background (0) and cloth (16), so that a mask has
    holes of both kinds.
    """
    tensors = random_tensors(network)
    order = list(range(19))
    order[0], order[18], order[7], order[16] = 18, 0, 16, 7
    name = "conv_out.conv_out.weight"
    return tensors | {name: tensors[name][order]}
