"""A reader of Python pickles that cannot run anything.

The standard library parses the instructions (``pickletools.genops``); the small machine here
executes them on plain values: None, bool, int, float, str, bytes, list, tuple, dict, set, tensors,
and inert records. No attribute of a Python object is read or set and nothing is called on behalf of
the file: a global is a name, looked up in ``_CONSTRUCTORS``, which this module wrote. Every other
global and every instruction that no checkpoint needs is refused by name.

Bounds: no recursion; a number of instructions; keys that hash in constant time; and storages and
tensors whose bytes the file itself pays for, so that a small file cannot ask for much memory.
"""

import math
import pickletools
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints import torch_file
from ganc.checkpoints.header import damaged
from ganc.checkpoints.refusals import printable, refused_global, refused_opcode
from ganc.errors import CheckpointError

PROTOCOLS = range(6)
PERSISTENCE_VERSIONS = range(1, 7)
"""Versions of NVIDIA's persistent classes whose state is read the same way."""

MAX_OPCODES = 1_000_000
"""Ten times what a 1024 px checkpoint of three networks has; bounds time and small objects."""

_MAX_KEY_CHARS = 1000
_MAX_KEY_BITS = 60  # below the modulus of Python's integer hash: no two keys collide by design
_MAX_INT_BITS = 128


@dataclass(eq=False)
class Record:
    """What a file says about an object that is not rebuilt: inert data.

    Attributes:
        name: The class's name ("Generator"), or the global's ("numpy.dtype").
        args: What it would be constructed from.
        state: What it would be filled with.
    """

    name: str
    args: tuple[Any, ...] = field(default=(), repr=False)  # shared parts would print exponentially
    state: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class _Global:
    """An allowed name, waiting to be looked up."""

    name: str


@dataclass(frozen=True, eq=False)
class _Storage:
    """The numbers that tensors are views of, as one flat tensor."""

    flat: Tensor


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
        What was pickled. Containers may be shared, deeply nested or contain themselves: whoever
        walks them must not trust their shape.
    Raises:
        CheckpointError: The file is damaged, refers to a global or uses an opcode that is not
            allowed, or asks for more than it pays for.
    """
    machine = _Machine(where, content)
    # The standard library's parser warns of unknown escapes in strings; they are refused anyway.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for opcode, argument, position in _instructions(content, where):
            if opcode == "STOP":
                machine.expect(position + 1 == len(content), "it goes on after its end")
                return machine.result()
            machine.execute(opcode, argument)
    raise damaged(where, "it ends before its STOP")


def _instructions(content: bytes, where: str) -> Iterator[tuple[str, Any, int]]:
    """Yield (opcode, argument, position), at most ``MAX_OPCODES`` of them."""
    parsed = pickletools.genops(content)
    for _ in range(MAX_OPCODES):
        try:
            opcode, argument, position = next(parsed)
        except StopIteration:
            return
        except (ValueError, OverflowError) as error:  # what the parser raises on other bytes
            raise damaged(where, printable(str(error))) from error
        yield opcode.name, argument, position or 0
    raise CheckpointError(f"{where} has more than {MAX_OPCODES} pickle opcodes")


class _Machine:
    """The pickle machine on plain values: a stack, the stacks below its marks, a memo."""

    def __init__(self, where: str, content: bytes) -> None:
        self.where, self.content, self.size = where, content, len(content)
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.budget = (
            2 * self.size
        )  # every number is paid for twice: in a storage and in its tensor

    def execute(self, opcode: str, argument: Any) -> None:
        """Run one instruction."""
        if opcode in _PUSHES:
            self.push(argument)
        elif opcode in _FRESH:
            self.stack.append(_FRESH[opcode]())
        elif opcode in _INSTRUCTIONS:
            _INSTRUCTIONS[opcode](self, argument)
        else:
            raise refused_opcode(self.where, opcode)

    def result(self) -> Any:
        """Return what STOP leaves."""
        self.expect(len(self.stack) == 1 and not self.below, "its stack is not empty at the end")
        return self.stack[0]

    def expect(self, is_so: bool, finding: str) -> None:
        """Refuse the file where ``is_so`` is False."""
        if not is_so:
            raise damaged(self.where, finding)

    def pay(self, num_bytes: int) -> None:
        """Take memory that the file's own size must cover."""
        self.budget -= num_bytes
        self.expect(self.budget >= 0, f"its tensors claim more than the file's {self.size} bytes")

    def push(self, value: Any) -> None:
        # Arithmetic on long integers is not linear in their length.
        is_short = not isinstance(value, int) or value.bit_length() <= _MAX_INT_BITS
        self.expect(is_short, f"it holds an integer of more than {_MAX_INT_BITS} bits")
        self.stack.append(bytes(value) if isinstance(value, bytearray) else value)

    def pop(self) -> Any:
        self.expect(bool(self.stack), "its stack underflows")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        self.expect(bool(self.below), "it misses a MARK")
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type, opcode: str) -> Any:
        """Return what lies on top of the stack, which must be a ``kind``."""
        self.expect(bool(self.stack), "its stack underflows")
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise damaged(self.where, f"{opcode} on {_describe(value)}")
        return value

    def key(self, value: Any) -> Any:
        """Return a dict's key or a set's member: short enough to hash in constant time."""
        is_name = isinstance(value, str) and len(value) <= _MAX_KEY_CHARS
        is_number = isinstance(value, int) and value.bit_length() <= _MAX_KEY_BITS
        self.expect(is_name or is_number, f"it has a key that is no name ({_describe(value)})")
        return value

    def fill(self, target: dict[Any, Any], items: list[Any]) -> None:
        """Put keys and values, one after the other, into a dict."""
        self.expect(len(items) % 2 == 0, "it has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.key(key)] = value

    # --- instructions -------------------------------------------------------------------------

    def proto(self, version: int) -> None:
        if version not in PROTOCOLS:
            raise CheckpointError(
                f"{self.where} is a pickle of protocol {version}, known are 0 to {PROTOCOLS[-1]}"
            )

    def frame(self, length: int) -> None:
        self.expect(length <= self.size, f"a frame claims {length} of {self.size} bytes")

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def drop(self, _: None) -> None:
        self.pop()

    def drop_to_mark(self, _: None) -> None:
        self.pop_to_mark()

    def duplicate(self, _: None) -> None:
        self.stack.append(self.top(object, "DUP"))

    def put(self, index: int) -> None:
        self.memo[index] = self.top(object, "PUT")

    def memoize(self, _: None) -> None:
        self.put(len(self.memo))

    def get(self, index: int) -> None:
        self.expect(index in self.memo, f"it recalls entry {index} of its memo, which is empty")
        self.stack.append(self.memo[index])

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def tuple_to_mark(self, _: None) -> None:
        items = self.pop_to_mark()
        self.stack.append(tuple(items))

    def list_to_mark(self, _: None) -> None:
        items = self.pop_to_mark()
        self.stack.append(items)

    def dict_to_mark(self, _: None) -> None:
        made: dict[Any, Any] = {}
        self.fill(made, self.pop_to_mark())
        self.stack.append(made)

    def append(self, _: None) -> None:
        item = self.pop()
        self.top(list, "APPEND").append(item)

    def appends(self, _: None) -> None:
        items = self.pop_to_mark()
        self.top(list, "APPENDS").extend(items)

    def set_item(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self.fill(self.top(dict, "SETITEM"), [key, value])

    def set_items(self, _: None) -> None:
        items = self.pop_to_mark()
        self.fill(self.top(dict, "SETITEMS"), items)

    def add_items(self, _: None) -> None:
        items = self.pop_to_mark()
        self.top(set, "ADDITEMS").update(map(self.key, items))

    def find(self, name: str) -> None:
        """GLOBAL: push the name of an allowed constructor."""
        name = name.replace(" ", ".")
        if name not in _CONSTRUCTORS:
            raise refused_global(self.where, name, self.content)
        self.stack.append(_Global(name))

    def find_on_stack(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            found = f"{_describe(module)} and {_describe(name)}"
            raise damaged(self.where, f"STACK_GLOBAL takes two names, got {found}")
        self.find(f"{module}.{name}")

    def construct(self, _: None) -> None:
        """REDUCE and NEWOBJ: ask one of our own constructors."""
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, _Global) or not isinstance(arguments, tuple):
            found = f"{_describe(name)} with {_describe(arguments)}"
            raise damaged(self.where, f"REDUCE takes a global with a tuple, got {found}")
        try:
            self.stack.append(_CONSTRUCTORS[name.name](self, *arguments))
        except TypeError as error:  # other arguments than ours take
            raise damaged(self.where, f"{name.name} got arguments that do not fit") from error

    def build(self, _: None) -> None:
        """Keep the state beside the record; nothing is set on anything."""
        state = self.pop()
        record = self.top(Record, "BUILD")
        self.expect(record.state is None, f"BUILD fills {printable(record.name)} twice")
        record.state = state


def _describe(value: Any) -> str:
    """Name a value's kind, without looking inside."""
    return f"the global {value.name}" if isinstance(value, _Global) else type(value).__name__


# --- constructors: what a global stands for ---------------------------------------------------


def _dict(machine: _Machine) -> dict[Any, Any]:
    return {}


def _set(machine: _Machine, items: list[Any]) -> set[Any]:
    machine.expect(isinstance(items, list), f"a set of {_describe(items)}")
    machine.pay(len(items))
    return {machine.key(item) for item in items}


_DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


def _storage(machine: _Machine, content: bytes) -> _Storage:
    """A storage that was saved as a torch file inside the pickle."""
    is_file = isinstance(content, bytes) and content.startswith(torch_file.LEGACY_MAGIC)
    machine.expect(is_file, "torch.storage._load_from_bytes got something else than a torch file")
    storage = torch_file.read(content, machine.where)
    is_storage = isinstance(storage, torch.storage.TypedStorage)
    machine.expect(is_storage, f"a {type(storage).__name__} where a storage is expected")
    machine.expect(storage.dtype in _DTYPES, f"a storage of {storage.dtype}")
    flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
    machine.pay(flat.numel() * flat.element_size())
    return _Storage(flat)


def _tensor(
    machine: _Machine,
    storage: _Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
) -> Tensor:
    """A view of a storage; it may repeat none of its numbers."""
    is_whole = isinstance(storage, _Storage) and len(size) == len(stride)
    sizes = [offset, *size, *stride]
    is_whole = is_whole and all(type(n) is int and 0 <= n < 2**48 for n in sizes)
    machine.expect(is_whole, "a tensor without a storage, or with sizes that are none")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    fits = numel == 0 or (last < storage.flat.numel() and numel <= storage.flat.numel())
    machine.expect(fits, f"a tensor of {numel} numbers in a storage of {storage.flat.numel()}")
    machine.pay(numel * storage.flat.element_size())
    return storage.flat.as_strided(size, stride, offset if numel else 0)


def _parameter(machine: _Machine, data: Tensor, requires_grad: bool, hooks: Any) -> Tensor:
    machine.expect(isinstance(data, Tensor), f"a parameter made of {_describe(data)}")
    return data


def _persistent(machine: _Machine, meta: dict[str, Any]) -> Record:
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


def _dtype(machine: _Machine, code: str, align: bool = False, copy: bool = True) -> Record:
    if not isinstance(code, str) or code not in _SCALARS:
        name = code if isinstance(code, str) else _describe(code)
        raise refused_global(machine.where, f"numpy.dtype({name})", machine.content)
    return Record("numpy.dtype", (code,))


def _scalar(machine: _Machine, dtype: Record, content: bytes) -> bool | int | float:
    is_dtype = isinstance(dtype, Record) and dtype.name == "numpy.dtype"
    machine.expect(is_dtype and isinstance(content, bytes), "a number without type or bytes")
    code = _SCALARS[dtype.args[0]]
    is_big = isinstance(dtype.state, tuple) and dtype.state[1:2] == (">",)
    machine.expect(len(content) == struct.calcsize(f"={code}"), "a number of another size")
    value: bool | int | float = struct.unpack(f"{'>' if is_big else '<'}{code}", content)[0]
    return value


def _array(machine: _Machine, *args: Any) -> Record:
    """An array's description: no checkpoint keeps weights in one, so it is not rebuilt."""
    return Record("numpy.ndarray", args)


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "dnnlib.util.EasyDict": _dict,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
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

_PUSHES = frozenset(
    (
        "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT",
        "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
        "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
    )
)  # fmt: skip

# MARK, GLOBAL, INST, PERSID, EMPTY_LIST and EMPTY_DICT; text is taken for text.
_OLD_STARTS = (b"(", b"c", b"i", b"P", b"]", b"}")

_FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.proto,
    "FRAME": _Machine.frame,
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_to_mark,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.tuple_to_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_to_mark,
    "DICT": _Machine.dict_to_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": _Machine.find_on_stack,
    "REDUCE": _Machine.construct,
    "NEWOBJ": _Machine.construct,
    "BUILD": _Machine.build,
}
"""What a file may do. INST, OBJ, EXT1-4, PERSID, NEWOBJ_EX and the rest have no entry."""
