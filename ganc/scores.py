"""Scores: one importance per channel, from any method, in a file that ``prune`` consumes."""

import json
import math
import struct
from collections.abc import KeysView, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ganc.errors import ScoresError
from ganc.files import atomic_write, read_error
from ganc.metadata import Metadata
from ganc.safetensors_file import serialize
from ganc.version import __version__

FORMAT = 1


@dataclass(frozen=True)
class Scores:
    """One non-negative number per channel and group; higher means keep.

    Attributes:
        values: Group name → [width], float64.
        method: The method's public name.
        settings: Everything that led to the numbers (samples, seed, …). JSON data.
        content_hash: ``Model.content_hash`` of the scored model; None where nobody knows it.
        thresholds: Group name → the least score that stays at the method's own budget; empty for a
            method that has none.
    """

    values: Mapping[str, Tensor]
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    content_hash: str | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clean = {name: torch.as_tensor(v, dtype=torch.float64) for name, v in self.values.items()}
        for name, value in clean.items():
            if value.ndim != 1 or not torch.isfinite(value).all() or (value < 0).any():
                raise ScoresError(
                    f"scores of group {name} must be one finite non-negative number per channel"
                )
        if not all(math.isfinite(value) for value in self.thresholds.values()):
            raise ScoresError("thresholds must be finite numbers")
        if self.thresholds and set(self.thresholds) != set(clean):
            raise ScoresError("thresholds must be given for every group of the scores, or none")
        object.__setattr__(self, "values", clean)

    def __getitem__(self, group: str) -> Tensor:
        """Return one group's scores: [width], float64."""
        return self.values[group]

    def keys(self) -> KeysView[str]:
        """Return the group names, in network order; ``dict(scores)`` works."""
        return self.values.keys()

    def to_bytes(self) -> bytes:
        """Return the scores file: a safetensors file of one vector per group."""
        metadata = {
            "ganc_scores": str(FORMAT),
            "ganc_version": __version__,
            "method": self.method,
            "settings": json.dumps(dict(self.settings)),
            "content_hash": self.content_hash or "",
            "groups": json.dumps(list(self.values)),
        }
        if self.thresholds:
            metadata["thresholds"] = json.dumps(dict(self.thresholds))
        return serialize(self.values, metadata)

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> "Scores":
        """Read a scores file.

        Args:
            content: The whole file.
            where: The file, as error messages name it.
        Raises:
            ScoresError: It is something else, damaged, or of a later format.
        """
        metadata = _metadata(content, where)
        metadata.check_format("ganc_scores", FORMAT, ScoresError, where)
        groups = metadata.typed("groups", list[str])
        settings = metadata.typed("settings", dict[str, Any])
        thresholds: dict[str, float] = {}
        if "thresholds" in metadata:
            thresholds = metadata.typed("thresholds", dict[str, float])
        try:
            tensors = safetensors.torch.load(content)
        except (SafetensorError, KeyError, ValueError) as error:
            raise metadata.refuse(str(error)) from error
        missing = [name for name in groups if name not in tensors]
        if missing:
            raise metadata.refuse(f"it holds no scores of {missing[0]}")
        values = {name: tensors[name] for name in groups}
        method, content_hash = metadata.text("method"), metadata.text("content_hash")
        try:
            return cls(values, method, settings, content_hash or None, thresholds)
        except (ScoresError, TypeError, RuntimeError) as error:
            raise metadata.refuse(str(error)) from error

    def save(self, path: str | Path | BinaryIO, *, force: bool = False) -> None:
        """Write the file atomically.

        Raises:
            OutputError: It exists and ``force`` is off, or cannot be written.
        """
        if not isinstance(path, str | Path):
            path.write(self.to_bytes())
            return
        with atomic_write(Path(path), force=force) as temporary:
            temporary.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, source: str | Path | BinaryIO) -> "Scores":
        """Read a scores file from a path or a binary stream.

        Raises:
            ScoresError: See ``from_bytes``; or the file cannot be read.
        """
        if not isinstance(source, str | Path):
            return cls.from_bytes(source.read(), getattr(source, "name", "the stream"))
        try:
            return cls.from_bytes(Path(source).read_bytes(), str(source))
        except OSError as error:
            raise read_error(ScoresError, source, error) from error


def top_channels(values: Tensor, count: int) -> tuple[int, ...]:
    """Return the indices of the highest scores, sorted; ties go to the lower index."""
    numbers = values.tolist()
    ranked = sorted(range(len(numbers)), key=lambda c: (-numbers[c], c))
    return tuple(sorted(ranked[:count]))


def kept_channels(values: Tensor, prune_ratio: float) -> tuple[int, ...]:
    """Return the channels that stay of one group: n − int(ratio · n) of n."""
    return top_channels(values, len(values) - int(prune_ratio * len(values)))


def _metadata(content: bytes, where: str) -> Metadata:
    def refuse(finding: str) -> ScoresError:
        return ScoresError(f"{where} is damaged: {finding}", "run ganc score again")

    try:
        (length,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (struct.error, ValueError, AttributeError, MemoryError, RecursionError) as error:
        raise ScoresError(f"{where} is not a scores file", "make one with ganc score") from error
    if not isinstance(metadata, Mapping) or "ganc_scores" not in metadata:
        raise ScoresError(f"{where} holds no scores", "make them with ganc score CKPT")
    return Metadata(metadata, refuse)
