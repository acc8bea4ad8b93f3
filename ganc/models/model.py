"""A model: the networks of one checkpoint, what they are and where they come from."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganc.errors import CheckpointError, GancError, UsageError, unknown_name
from ganc.groups import ChannelGroup, widths_of
from ganc.models import (
    patchgan,
    resnet_translator,
    sngan,
    stylegan2,
    stylegan2_discriminator,
    stylegan3,
    unet_translator,
)
from ganc.models.config_types import finding
from ganc.models.network import Network
from ganc.version import __version__

NETWORKS = ("generator", "discriminator", "generator_b", "discriminator_b")
"""The networks a checkpoint may hold; the ``_b`` pair is a CycleGAN's other direction."""


class Family(NamedTuple):
    """The network classes that carry one architecture's name, and what they are, in a phrase."""

    generator: type[Network] | None
    discriminator: type[Network] | None
    about: str


ARCHITECTURES: dict[str, Family] = {
    "stylegan2": Family(
        stylegan2.Generator,
        stylegan2_discriminator.Discriminator,
        "StyleGAN2 (skip, resnet, orig), conditional or not",
    ),
    "stylegan3": Family(stylegan3.Generator, None, "StyleGAN3-T and -R, conditional or not"),
    "sngan": Family(sngan.Generator, sngan.Discriminator, "SN-GAN at 32–128 px"),
    "resnet_translator": Family(
        resnet_translator.Generator, None, "CycleGAN's ResNets of any depth"
    ),
    "unet_translator": Family(unet_translator.Generator, None, "pix2pix's U-Nets of any depth"),
    "patchgan": Family(None, patchgan.Discriminator, "PatchGAN, their discriminator"),
}


@dataclass(eq=False)
class Model:
    """Up to two generators and two discriminators, with their provenance.

    Attributes:
        generator: The network whose weights are used to sample (the EMA of a training run).
        discriminator: Its discriminator, or None.
        generator_b, discriminator_b: A CycleGAN's other direction, or None.
        provenance: One JSON object per step that led here: "command", its settings, the parent's
            content hash, the ganc version.
    """

    generator: Any = None
    discriminator: Any = None
    generator_b: Any = None
    discriminator_b: Any = None
    provenance: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not any(True for _ in self.networks()):
            raise UsageError("a model must hold at least one network, got none")

    def networks(self) -> Iterator[tuple[str, Network]]:
        """Yield (name, network) for those that are there."""
        for name in NETWORKS:
            network = getattr(self, name)
            if network is not None:
                yield name, network

    @property
    def primary(self) -> Network:
        """The generator, or what there is instead."""
        return next(network for _, network in self.networks())

    @property
    def architecture(self) -> str:
        """Public name of the primary network's family."""
        return self.primary.architecture

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds all networks: the generator's arguments, the others under their names."""
        config: dict[str, Any] = {}
        for name, network in self.networks():
            own = copy.deepcopy(network.config)
            if name == "generator":
                config |= own
            else:
                config[name] = {"architecture": network.architecture, "config": own}
        return config

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """All channel groups; tensors as in the file, names of other networks with a prefix."""
        return tuple(
            group.prefixed("" if name == "generator" else f"{name}.", f"{name}.")
            for name, network in self.networks()
            for group in network.groups()
        )

    @property
    def widths(self) -> dict[str, int]:
        """Group name → number of channels, in network order."""
        return widths_of(self.groups)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that is saved, under its name in the file."""
        return {
            f"{name}.{key}": tensor.detach()
            for name, network in self.networks()
            for key, tensor in network.state_dict().items()
        }

    def params(self) -> int:
        """Count the primary network's parameters, buffers excluded."""
        return self.primary.params()

    def macs(self) -> int:
        """Count the primary network's multiply-accumulates per image."""
        return self.primary.macs()

    def macs_published(self) -> int | None:
        """Count them as the family's papers do; None where that is the same."""
        return self.primary.macs_published()

    def content_hash(self) -> str:
        """Return a SHA-256 over config and sorted tensors: the same however it is saved."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Model":
        """Move all networks to a device, in place."""
        for _, network in self.networks():
            network.to(device)
        return self

    def copy_on(self, device: torch.device | str) -> "Model":
        """Return a copy on a device, all networks in eval mode.

        Guarantees: this model's networks keep their device, mode and gradients.
        """
        copies: dict[str, Any] = {name: net.copy_on(device) for name, net in self.networks()}
        return replace(self, **copies, provenance=copy.deepcopy(self.provenance))

    def with_step(self, command: str, **settings: Any) -> list[dict[str, Any]]:
        """Return the provenance of a model that ``command`` derives from this one."""
        step = {"command": command, **settings, "parent": self.content_hash(), "ganc": __version__}
        return [*copy.deepcopy(self.provenance), step]


_UNBUILDABLE = (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError, MemoryError)
"""What constructors raise, torch's included, for sizes of the right type that make no network."""


def build_network(
    architecture: str, role: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Network:
    """Rebuild one network and fill it, without initialising weights that are replaced anyway.

    Args:
        architecture: A name in ``ARCHITECTURES``.
        role: "generator" or "discriminator" (with or without ``_b``).
        config: The constructor's arguments.
        tensors: Every tensor of its ``state_dict``.
    Returns:
        The network in eval mode, on the tensors' device; it owns its own copies.
    Raises:
        CheckpointError: An entry of the config is of another type than the constructor takes, or
            tensors are missing, too many, or of other shapes than the config says.
    """
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"architecture `{architecture}` is not known to this version of ganc",
            str(unknown_name("architecture", architecture, ARCHITECTURES)),
        )
    network_class = getattr(ARCHITECTURES[architecture], role.removesuffix("_b"))
    if network_class is None:
        raise CheckpointError(f"architecture `{architecture}` has no {role}")
    wrong = finding(network_class, config, most=len(tensors))
    if wrong is not None:
        raise CheckpointError(f"the config of the {role} does not fit: {wrong}")
    try:
        with torch.device("meta"):
            network = network_class(**config)
    except GancError:
        raise
    except _UNBUILDABLE as error:  # sizes that no network can have, unknown names
        reason = next(iter(str(error).splitlines()), type(error).__name__)  # torch adds its frames
        raise CheckpointError(f"the config of the {role} does not fit: {reason}") from error
    check_tensors(network.shapes(), tensors)
    owned = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    network.load_state_dict(owned, assign=True)
    return network.eval()


def check_tensors(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    """Compare tensors with the shapes that a config asks for.

    Raises:
        CheckpointError: The first problems, named.
    """
    problems = [f"{name} is missing" for name in shapes if name not in tensors]
    problems += [
        f"{name} is not part of this architecture" for name in tensors if name not in shapes
    ]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, config says {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CheckpointError("; ".join(problems[:3]) + more)
