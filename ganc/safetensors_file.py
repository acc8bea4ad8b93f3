"""Safetensors files: the same bytes for the same content, and back with their metadata."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import safe_open
from torch import Tensor


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file.

    The library writes metadata in the order of a hash table that differs from run to run; sorted,
    equal content gives equal files, which caches and builds rely on.
    """
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(owned, dict(metadata))
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    table = dict(sorted(header.items()))
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to eight bytes
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return a file's metadata and its tensors, on the CPU.

    Raises:
        OSError, SafetensorError: It cannot be read, is damaged, or something else.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return dict(file.metadata() or {}), tensors
