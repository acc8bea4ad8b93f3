"""A foreign file's bytes to plain containers, tensors and records; or what the file is instead."""

import re
import struct
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from ganc.checkpoints import pickles, torch_file
from ganc.checkpoints.header import damaged
from ganc.checkpoints.refusals import one_line
from ganc.errors import CheckpointError

_HEAD = 4096
_MOST_TENSORS = 100_000

# What people take for a checkpoint: the file's beginning → what it is, the way out.
_MISTAKEN: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (
        re.compile(rb"(?i)(?:\xef\xbb\xbf|\xff\xfe)?\s*<\0?(?:!--|!\0?d|h|body|meta|script|title)"),
        "a web page, not a checkpoint",
        "open it to see what the site says, and download the file itself",
    ),
    (
        re.compile(rb"\s*<\?xml"),
        "an XML page, not a checkpoint",
        "open it to see what the site says, and download the file itself",
    ),
    (
        re.compile(rb"(?s)\s*[{\[]\s*[\"{\[][^\0]{8}"),
        "a text in JSON, not a checkpoint",
        "open it to see what it says",
    ),
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "a Git LFS pointer, which stands for the checkpoint",
        "run git lfs pull where it was cloned, or download the file itself",
    ),
    (
        re.compile(rb"\x1f\x8b|BZh\d|\xfd7zXZ\0|7z\xbc\xaf\x27\x1c|Rar!|\x28\xb5\x2f\xfd"),
        "a compressed file",
        "unpack it and import what it holds",
    ),
    (
        re.compile(rb"(?s).{257}ustar"),
        "a tar archive",
        "unpack it and import what it holds",
    ),
    (
        re.compile(rb"\x89HDF\r\n\x1a\n"),
        "an HDF5 file, as Keras saves models",
        "only checkpoints of PyTorch are read",
    ),
    (
        re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8"),
        "an image, not a checkpoint",
        "pass the model's file; images go with --data or --input",
    ),
    (
        re.compile(rb"(?s)\x08.{0,3}\x12.{0,12}pytorch"),
        "an ONNX model",
        "import the checkpoint that it was exported from",
    ),
    (
        re.compile(rb"GGUF"),
        "a GGUF file, which holds language models",
        "only checkpoints of GANs are read",
    ),
)


def is_safetensors(content: bytes) -> bool:
    """Whether bytes begin as a safetensors file does."""
    return content[8:9] == b"{"


def header_text(content: bytes) -> bytes:
    """Return the JSON at the beginning of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length]


def refuse_mistaken(content: bytes, where: str) -> None:
    """Refuse what is often taken for a checkpoint, under its own name.

    Raises:
        CheckpointError: It is such a file.
    """
    for beginning, what, way_out in _MISTAKEN:
        if beginning.match(content, 0, _HEAD):
            raise CheckpointError(f"{where} is {what}", way_out)


def read(content: bytes, where: str) -> Any:
    """Read any file that tensors are saved in; nothing in it is run.

    Args:
        content: The whole file.
        where: What messages call it.
    Raises:
        CheckpointError: It is damaged, or asks for what no checkpoint needs.
    """
    if is_safetensors(content):
        return _read_safetensors(content, where)
    if content.startswith((torch_file.ZIP_MAGIC, torch_file.LEGACY_MAGIC)):
        return torch_file.read(content, where)
    if pickles.recognises(content):
        return pickles.read(content, where)
    start = "empty" if not content else f"starting with {content[:8]!r}"
    raise CheckpointError(
        f"{where} is not a checkpoint ({start})", "expected a .safetensors, .pt, .pth or .pkl file"
    )


def _read_safetensors(content: bytes, where: str) -> dict[str, Any]:
    """Return the tensors by name, sorted: the format has no other order."""
    if b'"ganc_scores"' in header_text(content):
        raise CheckpointError(
            f"{where} holds scores, not a model", "pass it as --scores, beside the checkpoint"
        )
    if header_text(content).count(b'"data_offsets"') > _MOST_TENSORS:
        raise damaged(where, f"it has more than {_MOST_TENSORS} tensors")
    try:
        return dict(sorted(safetensors.torch.load(content).items()))
    except SafetensorError as error:
        raise damaged(where, one_line(str(error))) from error
