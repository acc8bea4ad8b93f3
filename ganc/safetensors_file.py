"""Serialising to safetensors with the same bytes for the same content."""

import json
import struct
from collections.abc import Mapping

import safetensors.torch
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
