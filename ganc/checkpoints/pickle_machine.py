"""A machine for Python pickles that cannot run anything.

The standard library parses the instructions (``pickletools.genops``); the machine executes them on
plain values: None, bool, int, float, str, bytes, list, tuple, dict, set, tensors, and inert
objects. No attribute of a Python object is read or set and nothing is called on behalf of the file:
a global is a name, looked up in a table that the reader of a format wrote (``pickles``,
``torch_file``). Every other global and every instruction that no checkpoint needs is refused by
name.

Bounds: no recursion; a number of instructions; keys that hash in constant time; and a budget of
bytes, which the file itself pays for: whatever makes more than an instruction's worth of memory
(tensors and their storages, encoded text, sets) is charged to it. Files within files share the
budget of the outermost.
"""

import io
import math
import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from torch import Tensor

from ganc.checkpoints.header import damaged
from ganc.checkpoints.refusals import printable, refused_global, refused_opcode
from ganc.errors import CheckpointError

PROTOCOLS = range(6)

MAX_OPCODES = 1_000_000
"""Ten times what a 1024 px checkpoint of three networks has; bounds time and small objects."""

# A file's numbers are paid for in their storage, and in each tensor that shares it: tied weights,
# a network that is there twice. What is not numbers has the rest.
_SHARES = 5
_FREE_BYTES = 2**20
_SET_BYTES, _MEMBER_BYTES = 200, 64

_MAX_KEY_CHARS = 1000
_MAX_KEY_BITS = 60  # below the modulus of Python's integer hash: no two keys collide by design
_MAX_INT_BITS = 128
_MAX_ARGUMENTS = 16
_MAX_DIMENSIONS = 64  # as torch


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


@dataclass(eq=False)
class Inert:
    """An object of which nothing but its attributes is kept, such as a loop's options.

    Attributes:
        state: What it would be filled with; of most classes the attributes by name.
    """

    state: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Global:
    """An allowed name, waiting to be looked up."""

    name: str


@dataclass(frozen=True, eq=False)
class Storage:
    """The numbers that tensors are views of, as one flat tensor."""

    flat: Tensor


class Budget:
    """What the pickles of one file may still ask for.

    Args:
        where: What messages call the file.
        size: Its bytes.
    """

    def __init__(self, where: str, size: int) -> None:
        self.where, self.size = where, size
        self.opcodes = MAX_OPCODES
        self.num_bytes = _SHARES * size + _FREE_BYTES

    def pay(self, num_bytes: int) -> None:
        """Take memory that the file's own size must cover."""
        self.num_bytes -= num_bytes
        if self.num_bytes < 0:
            raise damaged(self.where, f"it claims more than its {self.size} bytes hold")

    def step(self) -> None:
        """Take one instruction."""
        self.opcodes -= 1
        if self.opcodes < 0:
            raise CheckpointError(f"{self.where} has more than {MAX_OPCODES} pickle opcodes")


Known = Mapping[str, Callable[..., Any] | None]
"""Global → what it stands for, called with the machine and the arguments; None: never called."""


class Machine:
    """The pickle machine on plain values: a stack, the stacks below its marks, a memo.

    Args:
        budget: The file's.
        content: The file, for what a refusal tells of it.
        known: All globals that are allowed.
        load: What stands for a persistent id, given the machine and the id; None refuses them.
    """

    def __init__(
        self,
        budget: Budget,
        content: bytes,
        known: Known,
        load: "Callable[[Machine, Any], Any] | None" = None,
    ) -> None:
        self.budget, self.content, self.known, self.load = budget, content, known, load
        self.where, self.size = budget.where, budget.size
        self._reset()

    def _reset(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> Any:
        """Read one pickle of protocol 0 to 5, to its STOP.

        Returns:
            What was pickled. Containers may be shared, deeply nested or contain themselves: whoever
            walks them must not trust their shape.
        Raises:
            CheckpointError: It is damaged, refers to a global or uses an opcode that is not
                allowed, or asks for more than the file pays for.
        """
        self._reset()
        # The standard library's parser warns of unknown escapes in strings; they are refused.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for opcode, argument in self._instructions(stream):
                if opcode == "STOP":
                    return self.result()
                self.execute(opcode, argument)
        raise damaged(self.where, "it ends before its STOP")

    def run_whole(self, content: bytes) -> Any:
        """Read a pickle after which nothing follows; raises as ``run``."""
        stream = io.BytesIO(content)
        found = self.run(stream)
        self.expect(not stream.read(1), "it goes on after its end")
        return found

    def _instructions(self, stream: BinaryIO) -> Iterator[tuple[str, Any]]:
        parsed = pickletools.genops(stream)
        while True:
            self.budget.step()
            try:
                opcode, argument, _ = next(parsed)
            except StopIteration:
                return
            except (ValueError, OverflowError) as error:  # what the parser raises on other bytes
                raise damaged(self.where, printable(str(error))) from error
            yield opcode.name, argument

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
        self.budget.pay(num_bytes)

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
            raise damaged(self.where, f"{opcode} on {describe(value)}")
        return value

    def key(self, value: Any) -> Any:
        """Return a dict's key or a set's member: short enough to hash in constant time."""
        is_short = isinstance(value, str | bytes) and len(value) <= _MAX_KEY_CHARS
        is_number = isinstance(value, int) and value.bit_length() <= _MAX_KEY_BITS
        is_key = is_short or is_number or value is None or isinstance(value, float)
        self.expect(is_key, f"it has a key that is no name ({describe(value)})")
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
        self.pay(_MEMBER_BYTES * len(items))
        self.top(set, "ADDITEMS").update(map(self.key, items))

    def find(self, name: str) -> None:
        """GLOBAL: push an allowed name."""
        name = name.replace(" ", ".")
        if name not in self.known:
            raise refused_global(self.where, name, self.content)
        self.stack.append(Global(name))

    def find_on_stack(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            found = f"{describe(module)} and {describe(name)}"
            raise damaged(self.where, f"STACK_GLOBAL takes two names, got {found}")
        self.find(f"{module}.{name}")

    def construct(self, _: None) -> None:
        """REDUCE and NEWOBJ: ask what the reader put in the global's place."""
        arguments, name = self.pop(), self.pop()
        make = self.known.get(name.name) if isinstance(name, Global) else None
        if make is None or not isinstance(arguments, tuple):
            found = f"{describe(name)} with {describe(arguments)}"
            raise damaged(self.where, f"REDUCE takes a global with a tuple, got {found}")
        try:
            self.expect(len(arguments) <= _MAX_ARGUMENTS, f"{len(arguments)} arguments")
            self.stack.append(make(self, *arguments))
        except TypeError as error:  # other arguments than ours take
            raise damaged(self.where, f"{describe(name)} got arguments that do not fit") from error

    def build(self, _: None) -> None:
        """Keep the state beside the object; nothing is set on anything.

        An ordered dict's own attributes (a state dict's versions of its modules) are left behind.
        """
        state = self.pop()
        target = self.top(object, "BUILD")
        if isinstance(target, Record | Inert):
            self.expect(target.state is None, f"BUILD fills {describe(target)} twice")
            target.state = state
        elif not isinstance(target, dict):
            raise damaged(self.where, f"BUILD on {describe(target)}")

    def persistent(self, _: None) -> None:
        """BINPERSID: ask the reader for what lies outside the pickle."""
        if self.load is None:
            raise refused_opcode(self.where, "BINPERSID")
        self.stack.append(self.load(self, self.pop()))


def describe(value: Any) -> str:
    """Name a value's kind, without looking inside."""
    if isinstance(value, Record):
        return printable(value.name)
    return f"the global {value.name}" if isinstance(value, Global) else type(value).__name__


# --- what several formats have in common ------------------------------------------------------


def make_dict(machine: Machine, *args: Any) -> dict[Any, Any]:
    """Stand for a dict with more to it: it is filled afterwards."""
    return {}


def make_ordered_dict(machine: Machine, pairs: list[Any] | None = None) -> dict[Any, Any]:
    """Stand for an ordered dict, which Python 2 pickled as a list of [key, value] lists."""
    pairs = [] if pairs is None else pairs
    is_pairs = isinstance(pairs, list) and all(isinstance(p, list) and len(p) == 2 for p in pairs)
    machine.expect(is_pairs, f"an ordered dict of {describe(pairs)}")
    machine.pay(_MEMBER_BYTES * len(pairs))
    return {machine.key(key): value for key, value in pairs}


def make_set(machine: Machine, items: list[Any] | None = None) -> set[Any]:
    """Stand for a set of a list, which may be recalled many times."""
    items = [] if items is None else items
    machine.expect(isinstance(items, list), f"a set of {describe(items)}")
    machine.pay(_SET_BYTES + _MEMBER_BYTES * len(items))
    return {machine.key(item) for item in items}


def make_tensor(
    machine: Machine,
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    """Stand for a view of a storage; numbers that it repeats are paid for as often."""
    is_view = isinstance(storage, Storage) and isinstance(size, tuple) and isinstance(stride, tuple)
    is_view = is_view and len(size) == len(stride) <= _MAX_DIMENSIONS
    is_view = is_view and all(type(n) is int and 0 <= n < 2**48 for n in (offset, *size, *stride))
    machine.expect(is_view, "a tensor without a storage, or with sizes that are none")
    numel, held = math.prod(size), storage.flat.numel()
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    machine.expect(numel == 0 or last < held, f"a tensor of {numel} numbers in a storage of {held}")
    machine.pay(numel * storage.flat.element_size())
    return storage.flat.as_strided(size, stride, offset if numel else 0)


def make_parameter(
    machine: Machine, data: Tensor, requires_grad: bool, hooks: Any, state: Any = None
) -> Tensor:
    """Stand for a parameter."""
    machine.expect(isinstance(data, Tensor), f"a parameter made of {describe(data)}")
    return data


def _empty_set(machine: Machine, _: None) -> None:
    machine.stack.append(make_set(machine))


_PUSHES = frozenset(
    (
        "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT",
        "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
        "BINSTRING", "SHORT_BINSTRING",  # names that Python 2 pickled
        "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
    )
)  # fmt: skip

_FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}

_INSTRUCTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": Machine.proto,
    "FRAME": Machine.frame,
    "MARK": Machine.mark,
    "POP": Machine.drop,
    "POP_MARK": Machine.drop_to_mark,
    "DUP": Machine.duplicate,
    "PUT": Machine.put,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": Machine.memoize,
    "GET": Machine.get,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "TUPLE": Machine.tuple_to_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": Machine.list_to_mark,
    "DICT": Machine.dict_to_mark,
    "APPEND": Machine.append,
    "APPENDS": Machine.appends,
    "SETITEM": Machine.set_item,
    "SETITEMS": Machine.set_items,
    "ADDITEMS": Machine.add_items,
    "GLOBAL": Machine.find,
    "STACK_GLOBAL": Machine.find_on_stack,
    "REDUCE": Machine.construct,
    "NEWOBJ": Machine.construct,
    "BUILD": Machine.build,
    "EMPTY_SET": _empty_set,
    "BINPERSID": Machine.persistent,
}
"""What a file may do. INST, OBJ, EXT1-4, PERSID, NEWOBJ_EX and the rest have no entry."""
