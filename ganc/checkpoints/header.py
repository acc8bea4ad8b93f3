"""The header of a ganc checkpoint: everything but the weights, read without torch.

A ganc checkpoint is a safetensors file: eight bytes of length, a JSON table of tensors with a
``__metadata__`` object of strings, the tensors' bytes. ``docs/checkpoints.md`` has the format.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ganc.errors import CheckpointError
from ganc.metadata import MOST_DIGITS, Metadata

FORMAT = 1
"""Version of the layout below; a file of a later one is refused."""

_MAX_HEADER_BYTES = 100 * 2**20
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}

OTHER_NETWORKS = ("discriminator", "generator_b", "discriminator_b")
"""Networks that a model's config has under their names; what else is in it is the generator's."""

TensorTable = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name → (safetensors dtype name, shape)."""


@dataclass(frozen=True)
class Header:
    """What a checkpoint says about itself.

    Attributes:
        architecture: Public name of the family.
        config: What rebuilds the networks (``Model.config``).
        provenance: One object per step that led here.
        params, macs: Of the generator (of the discriminator where it is alone).
        networks: Counts of each network by its name: "architecture", "params", "macs" and, where
            the family's papers count otherwise, "macs_published". Of files of older versions the
            first network's alone are known.
        content_hash: ``Model.content_hash`` when the file was saved.
        tensors: The table of tensors.
    """

    architecture: str
    config: dict[str, Any]
    provenance: list[dict[str, Any]]
    params: int
    macs: int
    networks: dict[str, dict[str, Any]]
    content_hash: str
    tensors: TensorTable

    @property
    def macs_published(self) -> int | None:
        """``macs`` as the family's papers count; None where that is the same, or not told."""
        first = next(iter(self.networks.values()))
        return first.get("macs_published")

    @property
    def resolution(self) -> int | None:
        """Height and width of the images, where the config fixes one."""
        for config in network_configs(self.config).values():
            if "img_resolution" in config:
                return int(config["img_resolution"])
        return None

    @property
    def widths(self) -> dict[str, int]:
        """Group name → number of channels, over all networks of the file."""
        return {
            ("" if network == "generator" else f"{network}.") + group: width
            for network, config in network_configs(self.config).items()
            for group, width in config.get("widths", {}).items()
        }


def network_configs(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Split a model's config into one per network: "generator", "discriminator", …"""
    others = {name: value["config"] for name, value in config.items() if name in OTHER_NETWORKS}
    own = {name: value for name, value in config.items() if name not in others}
    return ({"generator": own} if own else {}) | others


def metadata(header: Header, version: str) -> dict[str, str]:
    """Return the ``__metadata__`` of a file with this header.

    ``header_sha256`` covers the table of tensors and all other entries, so that damage to the
    header is found without reading the weights.
    """
    entries = {
        "ganc_format": str(FORMAT),
        "ganc_version": version,
        "architecture": header.architecture,
        "config": json.dumps(header.config),
        "provenance": json.dumps(header.provenance),
        "params": str(header.params),
        "macs": str(header.macs),
        "networks": json.dumps(header.networks),
        "content_hash": header.content_hash,
    }
    return {**entries, "header_sha256": _checksum(entries, header.tensors)}


def _checksum(entries: Mapping[str, str], tensors: TensorTable) -> str:
    table = {name: [dtype, list(shape)] for name, (dtype, shape) in tensors.items()}
    content = {key: value for key, value in entries.items() if key != "header_sha256"}
    return hashlib.sha256(json.dumps([content, table], sort_keys=True).encode()).hexdigest()


def read_header(path: Path) -> Header:
    """Read a ganc checkpoint's header; the weights are not touched.

    Raises:
        CheckpointError: The file cannot be read, is truncated or damaged, is another program's
            safetensors file, or was written in a later format.
    """
    text, data_bytes = _read_text(path)
    return parse_header(text, data_bytes, str(path))


def is_own(path: Path) -> bool:
    """Whether a file is a ganc checkpoint, or a damaged one of which that cannot be told.

    A pipe never is: it can be read once, and this would be it.
    """
    try:
        return os.path.isfile(path) and not is_other_program(_read_text(path)[0])
    except CheckpointError:
        return False  # the loader says what is wrong with the path


def is_other_program(text: bytes) -> bool:
    """Whether a safetensors header is sound JSON and says nothing of ganc."""
    try:
        entries = json.loads(text).get("__metadata__", {})
        return not _is_marked(entries)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return False


def _is_marked(entries: Mapping[str, str]) -> bool:
    """Whether metadata are ours, one of whose keys may be damaged."""
    return any(key in entries for key in ("ganc_format", "header_sha256"))


def _read_text(path: Path) -> tuple[bytes, int]:
    """Return a safetensors file's JSON, and how many bytes follow it.

    Raises:
        CheckpointError: The file cannot be read, or is no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            text = file.read(length) if 0 <= length <= min(size, _MAX_HEADER_BYTES) else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if not text.startswith(b"{"):
        raise CheckpointError(f"{path} is not a safetensors file", "check what the file is")
    return text, size - 8 - length


def parse_header(text: bytes, data_bytes: int, where: str) -> Header:
    """Check and interpret a header.

    Args:
        text: The JSON.
        data_bytes: Bytes that follow it in the file.
        where: The file, as error messages name it.
    Raises:
        CheckpointError: See ``read_header``.
    """
    try:
        table = json.loads(text)
        found = table.pop("__metadata__", {})
        tensors = {name: (row["dtype"], tuple(row["shape"])) for name, row in table.items()}
        end = max((row["data_offsets"][1] for row in table.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise damaged(where, "its header is not valid") from error
    entries = Metadata(found, partial(damaged, where))
    if end != data_bytes:
        raise damaged(where, f"it holds {data_bytes} bytes of weights, its header says {end}")
    if not _is_marked(entries):
        raise CheckpointError(
            f"{where} is a safetensors file without ganc metadata",
            "ganc import SRC -o OUT reads it if its layout is known",
        )
    entries.check_format("ganc_format", FORMAT, CheckpointError, where)
    if entries.get("header_sha256") != _checksum(entries, tensors):
        raise damaged(where, "its header does not match its checksum")
    _check_sizes(tensors, data_bytes, where)
    config = _config(entries)
    return Header(
        architecture=entries.text("architecture"),
        config=config,
        provenance=_provenance(entries),
        params=entries.count("params"),
        macs=entries.count("macs"),
        networks=_networks(entries, config),
        content_hash=entries.text("content_hash"),
        tensors=tensors,
    )


def _is_count(value: object, least: int = 0) -> bool:
    return type(value) is int and least <= value < 10**MOST_DIGITS


def _config(entries: Metadata) -> dict[str, Any]:
    """Read the config, as far as the header itself goes by it; networks check the rest."""
    config = entries.json("config")
    if not isinstance(config, dict):
        raise entries.wrong("config", "is not JSON object")
    for name in OTHER_NETWORKS:
        own = config.get(name, {"architecture": "", "config": {}})
        is_named = isinstance(own, dict) and isinstance(own.get("architecture"), str)
        if not is_named or not isinstance(own.get("config"), dict):
            raise entries.wrong("config", f"has no architecture and config of its {name}")
    for name, own in network_configs(config).items():
        widths = own.get("widths", {})
        if not (isinstance(widths, dict) and all(_is_count(w, 1) for w in widths.values())):
            raise entries.wrong(
                "config", f"has widths of its {name} that are no numbers of channels"
            )
        if not _is_count(own.get("img_resolution", 1), 1):
            raise entries.wrong("config", f"has an img_resolution of its {name} that is no size")
    return config


def _provenance(entries: Metadata) -> list[dict[str, Any]]:
    steps = entries.typed("provenance", list[dict[str, Any]])
    if not all(isinstance(step.get("command"), str) for step in steps):
        raise entries.wrong("provenance", "has a step without a command")
    return steps


def _networks(entries: Metadata, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if "networks" in entries:
        networks = entries.json("networks")
        if not (
            isinstance(networks, dict) and networks and all(map(_is_counted, networks.values()))
        ):
            raise entries.wrong("networks", "is no object with the counts of each network")
        return networks
    counts = {"params": entries.count("params"), "macs": entries.count("macs")}
    if not config:
        raise entries.wrong("config", "holds no network")
    first, *others = network_configs(config)
    return {first: {"architecture": entries.text("architecture"), **counts}} | {
        name: {"architecture": config[name]["architecture"]} for name in others
    }


def _is_counted(counts: object) -> bool:
    return (
        isinstance(counts, dict)
        and isinstance(counts.get("architecture"), str)
        and all(_is_count(value) for name, value in counts.items() if name != "architecture")
    )


def _check_sizes(tensors: TensorTable, data_bytes: int, where: str) -> None:
    try:
        total = sum(math.prod(shape) * _DTYPE_BYTES[dtype] for dtype, shape in tensors.values())
    except KeyError as error:
        raise CheckpointError(f"{where}: tensors of type {error} are not known to ganc") from error
    if total != data_bytes:
        raise damaged(where, f"its tensors need {total} bytes, the file holds {data_bytes}")


def damaged(where: str, finding: str) -> CheckpointError:
    """Say that a file is damaged, and how."""
    return CheckpointError(f"{where} is damaged: {finding}", "copy or download the file again")
