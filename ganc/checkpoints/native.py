"""Reading and writing ganc's own format."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ganc.checkpoints.header import Header, damaged, metadata, network_configs, parse_header
from ganc.errors import CheckpointError, UsageError
from ganc.models.model import Model, build_network
from ganc.models.network import Network
from ganc.safetensors_file import serialize
from ganc.version import __version__

_DTYPES = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16",
    "torch.bfloat16": "BF16", "torch.int64": "I64", "torch.int32": "I32",
    "torch.uint8": "U8", "torch.bool": "BOOL",
}  # fmt: skip


def to_bytes(model: Model) -> bytes:
    """Return the checkpoint file of a model."""
    return serialize(model.tensors(), metadata(header_of(model), __version__))


def header_of(model: Model) -> Header:
    """Describe a model as its file's header does."""
    return Header(
        architecture=model.architecture,
        config=model.config,
        provenance=model.provenance,
        params=model.params(),
        macs=model.macs(),
        networks={name: _counts(network) for name, network in model.networks()},
        content_hash=model.content_hash(),
        tensors={
            name: (_DTYPES[str(tensor.dtype)], tuple(tensor.shape))
            for name, tensor in model.tensors().items()
        },
    )


def _counts(network: Network) -> dict[str, Any]:
    counts = {"params": network.params(), "macs": network.macs()}
    published = network.macs_published()
    if published is not None:
        counts["macs_published"] = published
    return {"architecture": network.architecture, **counts}


def from_bytes(content: bytes, where: str) -> Model:
    """Rebuild a model from the bytes of its file.

    Args:
        content: The whole file.
        where: The file, as error messages name it.
    Raises:
        CheckpointError: The file is damaged, foreign, of a later format, or describes another model
            than its tensors are.
    """
    (length,) = struct.unpack("<Q", content[:8])
    header = parse_header(content[8 : 8 + length], len(content) - 8 - length, where)
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise damaged(where, str(error)) from error
    try:
        model = build_model(header.architecture, header.config, tensors, header.provenance)
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}", error.hint) from error
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}", error.hint) from error
    if model.content_hash() != header.content_hash:
        raise damaged(where, "its weights do not match their checksum")
    return model


def build_model(
    architecture: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    provenance: list[dict[str, Any]],
) -> Model:
    """Rebuild all networks of a model.

    Args:
        architecture: The generator's family.
        config: ``Model.config``.
        tensors: ``Model.tensors()``, possibly sliced.
    Raises:
        CheckpointError: Tensors do not fit the config.
        UsageError: The config itself is not valid.
    """
    networks = {}
    for name, own in network_configs(config).items():
        family = architecture if name == "generator" else config[name]["architecture"]
        prefix = f"{name}."
        mine = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        networks[name] = build_network(family, name, own, mine)
    if not networks:
        raise CheckpointError(f"config holds no network: {json.dumps(dict(config))[:100]}")
    return Model(**networks, provenance=provenance)
