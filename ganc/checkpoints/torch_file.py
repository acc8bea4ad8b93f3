"""Files that ``torch.save`` wrote, read without running anything they say.

Both kinds hold a pickle that refers to storages by key: in an archive each of them is an entry of
its own, before 2020 they followed the pickle. ``pickle_machine`` reads the pickle.
"""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints import inert
from ganc.checkpoints.header import damaged
from ganc.checkpoints.pickle_machine import (
    Budget,
    Global,
    Inert,
    Known,
    Machine,
    Storage,
    describe,
    make_dict,
    make_ordered_dict,
    make_parameter,
    make_set,
    make_tensor,
)
from ganc.checkpoints.refusals import printable
from ganc.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch.save wrote before it used zip files: a pickle of this number comes first."""

_MOST_ENTRIES = 100_000
_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OverflowError, LookupError,
               OSError, EOFError, RuntimeError)  # fmt: skip
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


def read(content: bytes, where: str) -> Any:
    """Read a torch file into plain containers and tensors.

    Args:
        content: The whole file.
        where: What messages call it.
    Raises:
        CheckpointError: The file is damaged, refers to a global that is not data, or claims more
            than it holds.
    """
    budget = Budget(where, len(content))
    if content.startswith(ZIP_MAGIC):
        return _read_archive(content, budget)
    return read_legacy(content, budget)


def read_legacy(content: bytes, budget: Budget) -> Any:
    """Read a torch file of before 2020, which may lie inside another file.

    Args:
        content: The whole file.
        budget: That of the file which it lies in.
    """
    storages = _LaterStorages()
    machine = Machine(budget, content, _KNOWN, storages.load)
    stream = io.BytesIO(content)
    _, _, _, tree, keys = (machine.run(stream) for _ in range(5))  # magic, protocol, system first
    is_list = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    machine.expect(is_list, "it lists no storages")
    storages.fill(machine, keys, memoryview(content)[stream.tell() :])
    return tree


def _read_archive(content: bytes, budget: Budget) -> Any:
    where = budget.where
    if content.count(b"PK\x01\x02") > _MOST_ENTRIES:
        raise damaged(where, f"an archive of more than {_MOST_ENTRIES} entries")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_entries(archive, len(content), where)
            storages = _ArchivedStorages(archive)
            pickled = storages.entry("data.pkl")
            return Machine(budget, pickled, _KNOWN, storages.load).run_whole(pickled)
    except CheckpointError:
        raise
    except _UNREADABLE as error:  # what the standard library makes of a damaged archive
        raise damaged(where, printable(str(error) or type(error).__name__)) from error


def _check_entries(archive: zipfile.ZipFile, size: int, where: str) -> None:
    """Refuse archives of other programs, and one that would unpack to more than it weighs."""
    entries = archive.infolist()
    _check_kind([entry.filename for entry in entries], where)
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:  # torch never compresses
        raise CheckpointError(
            f"{where} is not a torch file: its entry {printable(packed[0])} is compressed",
            "if a torch file was zipped again, pack it without compression (zip -0)",
        )
    claimed = sum(entry.file_size for entry in entries)
    if claimed > size:
        raise damaged(where, f"its entries claim {claimed} bytes, the file has {size}")


def _check_kind(names: Sequence[str], where: str) -> None:
    """Refuse archives of other programs, which their entries' names tell."""
    for pattern, what, way_out in _OTHER_ARCHIVES:
        inner = next((name for name in names if re.search(pattern, name)), None)
        if inner is not None:
            name = printable(inner)
            raise CheckpointError(f"{where} is {what.format(name=name)}", way_out)


@dataclass(frozen=True)
class _Reference:
    """A persistent id: which storage is meant."""

    key: str
    dtype: torch.dtype
    numel: int
    view: tuple[int, int] | None

    @classmethod
    def of(cls, machine: Machine, found: Any) -> "_Reference":
        is_known = isinstance(found, tuple) and len(found) in (5, 6) and found[0] == "storage"
        machine.expect(is_known, f"it refers to {describe(found)} outside its pickle")
        _, kind, key, _, numel, *rest = found
        dtype = _STORAGES.get(kind.name) if isinstance(kind, Global) else None
        is_key = isinstance(key, str) and type(numel) is int and 0 <= numel < 2**48
        if dtype is None or not is_key:
            raise damaged(machine.where, f"it refers to a storage of {describe(kind)}")
        return cls(key, dtype, numel, cls._view(machine, rest, numel))

    @staticmethod
    def _view(machine: Machine, rest: list[Any], numel: int) -> tuple[int, int] | None:
        """Return which numbers an old file means: (first, count)."""
        if not rest or rest[0] is None:
            return None
        is_view = isinstance(rest[0], tuple) and len(rest[0]) == 3
        start, count = rest[0][1:] if is_view else (-1, -1)
        is_view = type(start) is int and type(count) is int and 0 <= start <= start + count <= numel
        machine.expect(is_view and count >= 0, "a view that is not of its storage")
        return start, count

    @property
    def num_bytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass
class _ArchivedStorages:
    """The storages of an archive, read when they are first referred to."""

    archive: zipfile.ZipFile
    loaded: dict[str, Storage] = field(default_factory=dict)

    def entry(self, name: str) -> bytes:
        """Return an entry of the folder that everything lies in; checked against its CRC-32."""
        folder = self.archive.namelist()[0].split("/", 1)[0]
        return self.archive.read(f"{folder}/{name}")

    def load(self, machine: Machine, found: Any) -> Storage:
        wanted = _Reference.of(machine, found)
        if wanted.key not in self.loaded:
            machine.pay(wanted.num_bytes)
            numbers = self.entry(f"data/{wanted.key}") if wanted.numel else b""
            is_whole = len(numbers) >= wanted.num_bytes
            machine.expect(is_whole, f"storage {printable(wanted.key)} is cut off")
            flat = torch.empty(wanted.numel, dtype=wanted.dtype)
            _copy(memoryview(numbers), flat)
            if self._is_big_endian():
                flat.untyped_storage().byteswap(wanted.dtype)
            self.loaded[wanted.key] = Storage(flat)
        return self.loaded[wanted.key]

    def _is_big_endian(self) -> bool:
        try:
            return self.entry("byteorder") == b"big"
        except KeyError:  # older than that entry
            return False


@dataclass
class _LaterStorages:
    """The storages of an old file: their numbers follow when all of them are known."""

    known: dict[str, Tensor] = field(default_factory=dict)

    def load(self, machine: Machine, found: Any) -> Storage:
        wanted = _Reference.of(machine, found)
        if wanted.key not in self.known:
            machine.pay(wanted.num_bytes)
            self.known[wanted.key] = torch.empty(wanted.numel, dtype=wanted.dtype)
        flat = self.known[wanted.key]
        is_same = (flat.numel(), flat.dtype) == (wanted.numel, wanted.dtype)
        machine.expect(is_same, f"storage {printable(wanted.key)} has two sizes")
        start, count = wanted.view or (0, wanted.numel)
        return Storage(flat[start : start + count])

    def fill(self, machine: Machine, keys: Sequence[str], numbers: memoryview) -> None:
        """Take the numbers of all storages: of each its length, and the numbers themselves."""
        is_complete = len(keys) == len(self.known) and set(keys) == self.known.keys()
        machine.expect(is_complete, "it lists other storages than it refers to")
        for key in keys:
            flat = self.known[key]
            (length,) = struct.unpack("<q", numbers[:8]) if len(numbers) >= 8 else (-1,)
            end = 8 + flat.numel() * flat.element_size()
            is_whole = length == flat.numel() and end <= len(numbers)
            machine.expect(is_whole, f"storage {printable(key)} is cut off")
            _copy(numbers[8:end], flat)
            numbers = numbers[end:]


def _copy(numbers: memoryview, flat: Tensor) -> None:
    """Fill a storage from as many bytes."""
    if flat.numel():
        raw = flat.view(torch.uint8).numpy()
        raw[:] = numbers[: raw.size]


# --- what the globals of a torch file stand for -----------------------------------------------


def _old_tensor(machine: Machine, storage: Storage, offset: int, size: Any, stride: Any) -> Tensor:
    """A tensor as torch 0.1 wrote it."""
    return make_tensor(machine, storage, offset, size, stride)


def _typed_tensor(
    machine: Machine,
    storage: Storage,
    offset: int,
    size: Any,
    stride: Any,
    requires_grad: bool,
    hooks: Any,
    dtype: Global,
    metadata: Any = None,
) -> Tensor:
    """A tensor of a type that has no class of storages."""
    found = _DTYPES.get(dtype.name) if isinstance(dtype, Global) else None
    if found is None or not isinstance(storage, Storage):
        raise damaged(machine.where, f"a tensor of {describe(dtype)}")
    is_whole = storage.flat.dtype == torch.uint8 and storage.flat.numel() % found.itemsize == 0
    machine.expect(is_whole, f"a storage that is none of {dtype.name}")
    return make_tensor(machine, Storage(storage.flat.view(found)), offset, size, stride)


def _tensor_with_attributes(
    machine: Machine, rebuild: Global, kind: Any, args: Any, state: Any
) -> Tensor:
    is_plain = isinstance(rebuild, Global) and rebuild.name == "torch._utils._rebuild_tensor_v2"
    machine.expect(is_plain and isinstance(args, tuple), "a tensor of a class of its own")
    return make_tensor(machine, *args[:_TENSOR_ARGUMENTS])


_TENSOR_ARGUMENTS = 7


def _not_dense(kind: str) -> Callable[..., Any]:
    def refuse(machine: Machine, *args: Any) -> Any:
        raise CheckpointError(
            f"{machine.where} holds a {kind} tensor, expected a dense one",
            "save it as a dense one: tensor.to_dense(), tensor.dequantize()",
        )

    return refuse


def _encoded(machine: Machine, text: str, encoding: str) -> bytes:
    """Bytes as pickles of protocol 2 hold them, the only use that they have for an encoding."""
    is_latin = isinstance(text, str) and encoding in ("latin1", "latin-1")
    machine.expect(is_latin, "_codecs.encode with something else than text in latin1")
    machine.pay(len(text))
    try:
        return text.encode("latin1")
    except UnicodeEncodeError as error:
        raise damaged(machine.where, "_codecs.encode got text that is not latin1") from error


def _inert(machine: Machine, *args: Any) -> Inert:
    return Inert()


_STORAGES = {
    f"torch.{prefix}{name}Storage": dtype
    for prefix in ("", "cuda.")
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
        "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32,
        "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
        "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64,
    }.items()
} | {"torch.storage.UntypedStorage": torch.uint8}  # fmt: skip

_DTYPES = {
    str(dtype): dtype
    for dtype in (
        *_STORAGES.values(), torch.complex32, torch.uint16, torch.uint32, torch.uint64,
        torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
    )
}  # fmt: skip

_NAMES = (*_STORAGES, *_DTYPES, "torch.Tensor", "torch.nn.parameter.Parameter", *inert.FACTORIES)

_KNOWN: Known = {
    **dict.fromkeys(_NAMES),
    **dict.fromkeys(inert.OBJECTS, _inert),
    **dict.fromkeys(inert.DICTS, make_dict),
    "collections.OrderedDict": make_ordered_dict,
    "collections.Counter": make_dict,
    "builtins.set": make_set,
    "__builtin__.set": make_set,
    "_codecs.encode": _encoded,
    "torch._utils._rebuild_tensor": _old_tensor,
    "torch._utils._rebuild_tensor_v2": make_tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": make_parameter,
    "torch._utils._rebuild_parameter_with_state": make_parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
    "torch._utils._rebuild_sparse_tensor": _not_dense("sparse"),
    "torch._utils._rebuild_nested_tensor": _not_dense("nested"),
    "torch._utils._rebuild_qtensor": _not_dense("quantized"),
    "torch._utils._rebuild_meta_tensor_no_storage": _not_dense("meta"),
    "torch.serialization._get_layout": _inert,
}
"""Everything a torch file may refer to."""
