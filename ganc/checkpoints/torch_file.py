"""Files that ``torch.save`` wrote, read without running anything they say."""

import argparse
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints.header import damaged
from ganc.checkpoints.refusals import printable, refused_global, refused_opcode
from ganc.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch.save wrote before it used zip files: a pickle of this number comes first."""

# Tied weights share a storage; few networks have any, and none ties all of them several times.
_MOST_SHARED = 4


def read(content: bytes, where: str) -> Any:
    """Read a torch file into plain containers and tensors.

    Args:
        content: The whole file.
        where: What messages call it.
    Raises:
        CheckpointError: The file is damaged, refers to a global that is not data, or claims more
            than it holds.
    """
    try:
        if content.startswith(ZIP_MAGIC):
            _check_archive(content, where)
        # A training checkpoint holds its arguments as a Namespace: plain data, so allowed. Torch
        # warns about its own old storage class while it words an error about a damaged file.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise _refusal(where, " ".join(str(error).split())) from error
    except Exception as error:
        # A damaged archive surfaces as whatever torch's parser happens to trip over: fuzzing finds
        # a dozen classes. Nothing of ours runs in the block, so all of them mean the file.
        finding = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise damaged(where, printable(finding)) from error
    _check_claims(tree, len(content), where)
    return tree


def _check_archive(content: bytes, where: str) -> None:
    """Refuse an archive that would unpack to more than it weighs; torch never compresses."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(
            f"{where} is no torch file: its entry {printable(packed[0])} is compressed"
        )
    claimed = sum(entry.file_size for entry in entries)
    if claimed > len(content):
        raise damaged(where, f"its entries claim {claimed} bytes, the file has {len(content)}")


def _refusal(where: str, finding: str) -> CheckpointError:
    """Word what torch's restricted unpickler objected to."""
    finding = finding.split("WeightsUnpickler error: ")[-1].split(" Check the documentation")[0]
    if match := re.search(r"GLOBAL (\S+)", finding):
        return refused_global(where, match[1])
    if match := re.match(r"Unsupported operand (\d+)", finding):
        names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
        code = int(match[1])
        return refused_opcode(where, names.get(code, f"0x{code:02x}"))
    return damaged(where, printable(finding))


def _check_claims(tree: Any, size: int, where: str) -> None:
    """Refuse tensors that claim more numbers than the file holds: copies of them would be huge."""
    seen: set[int] = set()
    waiting, claimed = [tree], 0
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            claimed += value.numel() * value.element_size()
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif isinstance(value, argparse.Namespace):
            waiting.append(vars(value))
    if claimed > _MOST_SHARED * size:
        raise damaged(where, f"its tensors claim {claimed} bytes, the file has {size}")
