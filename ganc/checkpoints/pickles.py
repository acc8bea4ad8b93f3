"""Pickles of networks, as NVIDIA's code writes them: what the machine's globals stand for.

``pickle_machine`` reads the instructions; the table here says what a file may refer to. Weights lie
in torch files inside the pickle.
"""

import struct
from collections.abc import Callable
from typing import Any

from ganc.checkpoints import torch_file
from ganc.checkpoints.header import damaged
from ganc.checkpoints.pickle_machine import (
    Budget,
    Machine,
    Record,
    Storage,
    describe,
    make_dict,
    make_ordered_dict,
    make_parameter,
    make_set,
    make_tensor,
)
from ganc.checkpoints.refusals import printable, refused_global
from ganc.errors import CheckpointError

PERSISTENCE_VERSIONS = range(1, 7)
"""Versions of NVIDIA's persistent classes whose state is read the same way."""

# MARK, GLOBAL, INST, PERSID, EMPTY_LIST and EMPTY_DICT; text is taken for text.
_OLD_STARTS = (b"(", b"c", b"i", b"P", b"]", b"}")


def recognises(content: bytes) -> bool:
    """Whether bytes are a pickle: a known start, or from protocol 0 and 1, a plausible end.

    Protocols 2 to 5 say so at the start. Before that a pickle begins with any instruction, so what
    counts is that the last byte is STOP and that the first is an instruction that pushes.
    """
    return content[:1] == b"\x80" or (content[-1:] == b"." and content[:1] in _OLD_STARTS)


def read(content: bytes, where: str) -> Any:
    """Read a pickle of protocol 0 to 5 into plain values, tensors and records.

    Args:
        content: The whole file.
        where: What messages call it.
    Returns:
        See ``Machine.run``.
    Raises:
        CheckpointError: The file is damaged, refers to a global or uses an opcode that is not
            allowed, or asks for more than it pays for.
    """
    return Machine(Budget(where, len(content)), content, _KNOWN).run_whole(content)


def _storage(machine: Machine, content: bytes) -> Storage:
    """A storage that was saved as a torch file inside the pickle."""
    is_file = isinstance(content, bytes) and content.startswith(torch_file.LEGACY_MAGIC)
    machine.expect(is_file, "torch.storage._load_from_bytes got something else than a torch file")
    storage = torch_file.read_legacy(content, machine.budget)
    found = describe(storage)
    if not isinstance(storage, Storage):
        raise damaged(machine.where, f"a {found} where a storage is expected")
    return storage


def _persistent(machine: Machine, meta: dict[str, Any]) -> Record:
    """An object of NVIDIA's persistent classes; the source code it carries is left behind."""
    machine.expect(isinstance(meta, dict), "a persistent object without a description")
    name, state, version = meta.get("class_name"), meta.get("state"), meta.get("version")
    if meta.get("type") != "class" or not isinstance(name, str) or not isinstance(state, dict):
        raise damaged(machine.where, "a persistent object without its class's name or its state")
    if version not in PERSISTENCE_VERSIONS:
        raise CheckpointError(
            f"{machine.where} holds {printable(name)} in a version of NVIDIA's persistent classes"
            f" that is not known, {PERSISTENCE_VERSIONS[-1]} is the latest"
        )
    return Record(name, (), state)


# NumPy's type codes → how struct reads one number of them.
_SCALARS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


def _dtype(machine: Machine, code: str, align: bool = False, copy: bool = True) -> Record:
    if not isinstance(code, str) or code not in _SCALARS:
        name = code if isinstance(code, str) else describe(code)
        raise refused_global(machine.where, f"numpy.dtype({name})", machine.content)
    return Record("numpy.dtype", (code,))


def _scalar(machine: Machine, dtype: Record, content: bytes) -> bool | int | float:
    is_dtype = isinstance(dtype, Record) and dtype.name == "numpy.dtype"
    machine.expect(is_dtype and isinstance(content, bytes), "a number without type or bytes")
    code = _SCALARS[dtype.args[0]]
    is_big = isinstance(dtype.state, tuple) and dtype.state[1:2] == (">",)
    machine.expect(len(content) == struct.calcsize(f"={code}"), "a number of another size")
    value: bool | int | float = struct.unpack(f"{'>' if is_big else '<'}{code}", content)[0]
    return value


def _array(machine: Machine, *args: Any) -> Record:
    """An array's description: no checkpoint keeps weights in one, so it is not rebuilt."""
    return Record("numpy.ndarray", args)


_KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": make_ordered_dict,
    "dnnlib.util.EasyDict": make_dict,
    "builtins.set": make_set,
    "__builtin__.set": make_set,
    "torch._utils._rebuild_tensor_v2": make_tensor,
    "torch._utils._rebuild_parameter": make_parameter,
    "torch.storage._load_from_bytes": _storage,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _array,
    # NumPy 1, then NumPy 2.
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy.core.numeric._frombuffer": _array,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy._core.numeric._frombuffer": _array,
}
"""Everything a file may refer to; what each stands for is written above."""
