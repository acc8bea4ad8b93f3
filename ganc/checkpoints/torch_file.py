"""Files that ``torch.save`` wrote, read without running anything they say."""

import argparse
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints.header import damaged
from ganc.checkpoints.inert import STAND_INS
from ganc.checkpoints.refusals import printable, refused_global, refused_opcode
from ganc.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch.save wrote before it used zip files: a pickle of this number comes first."""

# Tied weights share a storage; few networks have any, and none ties all of them several times.
_MOST_SHARED = 4
_HEAVIEST_TUPLE = 100_000
# An entry's name → what an archive with it is, and the way out.
_OTHER_ARCHIVES = (
    (
        r"/constants\.pkl$|/code/.*\.py$",
        "a TorchScript program, whose code is not run",
        "save its tensors where it is trusted:"
        " torch.save(torch.jit.load(FILE).state_dict(), NEW), and import NEW",
    ),
    (
        r"exported_program\.json$|/models/[^/]+\.json$",
        "an exported program (torch.export), not a checkpoint",
        "import the checkpoint that it was exported from",
    ),
    (r"\.npy$", "an archive of NumPy arrays (npz), not a checkpoint",
     "save the tensors with torch.save or as safetensors"),
    (r"\.(pt|pth|ckpt|safetensors|tar|onnx)$|(?<!data)\.pkl$", "a zip archive with {name} inside",
     "unpack it and import what it holds"),
    (r"(?i)\.(png|jpe?g|webp|bmp|tiff?|json|txt|md)$", "a zip archive with {name} inside",
     "a data set goes with --data"),
)  # fmt: skip
_LEGACY_PICKLES = 5  # magic number, protocol, system, tree, names of the storages


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
        pickled = _archived(content, where) if content.startswith(ZIP_MAGIC) else [content]
        for part in pickled:
            _check_tuples(part, where)
        # A training checkpoint holds its arguments as a Namespace: plain data, so allowed. Torch
        # warns about its own old storage class while it words an error about a damaged file.
        with (
            torch.serialization.safe_globals([argparse.Namespace, *STAND_INS]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            tree = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise _refusal(where, " ".join(str(error).split()), content) from error
    except Exception as error:
        # A damaged archive surfaces as whatever torch's parser happens to trip over: fuzzing finds
        # a dozen classes. Nothing of ours runs in the block, so all of them mean the file.
        finding = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise damaged(where, printable(finding)) from error
    _check_claims(tree, len(content), where)
    return tree


def _archived(content: bytes, where: str) -> list[bytes]:
    """Return an archive's pickles; refuse one that would unpack to more than it weighs."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        _check_kind([entry.filename for entry in entries], where)
        packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if packed:  # torch never compresses
            raise CheckpointError(
                f"{where} is no torch file: its entry {printable(packed[0])} is compressed",
                "of a torch file that was zipped anew: pack it without compression (zip -0)",
            )
        claimed = sum(entry.file_size for entry in entries)
        if claimed > len(content):
            raise damaged(where, f"its entries claim {claimed} bytes, the file has {len(content)}")
        return [archive.read(entry) for entry in entries if entry.filename.endswith(".pkl")]


def _check_kind(names: Sequence[str], where: str) -> None:
    """Refuse archives of other programs, which their entries' names tell."""
    for pattern, what, way_out in _OTHER_ARCHIVES:
        inner = next((name for name in names if re.search(pattern, name)), None)
        if inner is not None:
            name = printable(inner)
            raise CheckpointError(f"{where} is {what.format(name=name)}", way_out)


def _check_tuples(content: bytes, where: str) -> None:
    """Refuse tuples that share their parts so often that hashing one would not end.

    As a dict's key a tuple is hashed with all its parts, as often as they occur in it; torch's
    unpickler builds them without a limit.
    """
    stream = io.BytesIO(content)
    try:
        for _ in range(_LEGACY_PICKLES):  # an archive's entry is the first of them
            for weight in _tuple_weights(stream):
                if weight > _HEAVIEST_TUPLE:
                    raise damaged(where, f"a tuple has more than {_HEAVIEST_TUPLE} parts")
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError):
        return  # the numbers begin here, or the pickle is broken, which torch will say


def _tuple_weights(stream: io.BytesIO) -> Iterator[int]:
    """Yield how many parts each tuple of a pickle has, counted through all the tuples in it.

    Runs the instructions on these numbers alone; whatever is no tuple counts as one part.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "MARK":
            marks.append(len(stack))
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif opcode.name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _take(opcode, stack, marks)
            is_tuple = opcode.name.startswith("TUPLE")
            stack += [1 + sum(taken) if is_tuple else 1 for _ in opcode.stack_after]
            yield stack[-1] if stack else 1


def _take(opcode: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> list[int]:
    """Remove what an instruction takes from the stack, down to a mark where it takes all."""
    before = opcode.stack_before
    if pickletools.markobject not in before:
        start = len(stack) - len(before)
    else:
        start = marks.pop() - before.index(pickletools.markobject)
    if start < 0:
        raise IndexError("the stack underflows")
    taken = stack[start:]
    del stack[start:]
    return taken


def _refusal(where: str, finding: str, content: bytes) -> CheckpointError:
    """Word what torch's restricted unpickler objected to."""
    finding = finding.split("WeightsUnpickler error: ")[-1].split(" Check the documentation")[0]
    if match := re.search(r"GLOBAL (\S+)", finding):
        return refused_global(where, match[1], content)
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
            waiting += dict.values(value)  # an ordered one may have attributes from the file
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif isinstance(value, argparse.Namespace):
            waiting.append(vars(value))
    if claimed > _MOST_SHARED * size:
        raise damaged(where, f"its tensors claim {claimed} bytes, the file has {size}")
