"""Hand-made hostile pickles.

Whatever could run something would create the file ``CANARY`` in the current folder, and nothing
else. ``Attack.runs`` marks those that do so under Python's own ``pickle.loads``: the control that
shows the canary works.
"""

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import torch

CANARY = "ganc-canary"
COMMAND = f"touch {CANARY}"
CODE = f"open({CANARY!r}, 'w').close()"
PROTO2, PROTO4 = b"\x80\x02", b"\x80\x04"


class Attack(NamedTuple):
    """A hostile file.

    Attributes:
        name: For the test's id.
        content: The pickle.
        finding: What the refusal must say (a regular expression).
        runs: Whether ``pickle.loads`` would trip the canary.
    """

    name: str
    content: bytes
    finding: str
    runs: bool = False


# --- the parts pickles are made of ------------------------------------------------------------


def name_of(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def blob(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return name_of(module, name) + b"(" + b"".join(arguments) + b"tR"


def two(*parts: bytes) -> bytes:
    return PROTO2 + b"".join(parts) + b"."


def four(*parts: bytes) -> bytes:
    return PROTO4 + b"".join(parts) + b"."


def storage(numbers: int = 4) -> bytes:
    """A storage as NVIDIA's pickles hold one: a legacy torch file."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about this class, which the format needs
        torch.save(torch.zeros(numbers).storage(), stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def load_storage(content: bytes) -> bytes:
    return call("torch.storage", "_load_from_bytes", blob(content))


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(inner: bytes, offset: int, size: bytes, stride: bytes) -> bytes:
    hooks = call("collections", "OrderedDict")
    arguments = [inner, number(offset), size, stride, b"\x89", hooks]
    return call("torch._utils", "_rebuild_tensor_v2", *arguments)


def persistent(class_name: str, state: bytes = b"}", version: int = 6) -> bytes:
    meta = (
        b"}("
        + text("type") + text("class") + text("version") + number(version)
        + text("module_src") + text(CODE) + text("class_name") + text(class_name)
        + text("state") + state + b"u"
    )  # fmt: skip
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", meta)


def as_torch_zip(pickled: bytes) -> bytes:
    """The pickle where a torch file keeps its own."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def as_torch_legacy(pickled: bytes) -> bytes:
    """The pickle behind the headers that old torch files start with."""
    headers = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    return b"".join(pickle.dumps(header, protocol=2) for header in headers) + pickled


def spec_of_dtype(code: str) -> bytes:
    return call("numpy", "dtype", text(code), b"\x89", b"\x88")


# --- the corpus -------------------------------------------------------------------------------

SHELL = two(call("posix", "system", text(COMMAND)))

_NAMED: list[tuple[str, str, bytes, bool]] = [
    # module, name, arguments, whether pickle.loads trips the canary
    ("os", "system", text(COMMAND), True),
    ("posix", "system", text(COMMAND), True),
    ("nt", "system", text(COMMAND), False),
    ("os", "popen", text(COMMAND), False),
    ("os", "execvp", text("touch") + b"]" + text(CANARY) + b"a", False),
    ("subprocess", "check_call", b"]" + text("touch") + b"a" + text(CANARY) + b"a", True),
    ("subprocess", "Popen", text(COMMAND), False),
    ("builtins", "eval", text(CODE), True),
    ("builtins", "exec", text(CODE), True),
    ("__builtin__", "eval", text(CODE), True),
    ("builtins", "compile", text(CODE) + text("x") + text("exec"), False),
    ("builtins", "__import__", text("os"), False),
    ("builtins", "open", text(CANARY) + text("w"), True),
    ("io", "open", text(CANARY) + text("w"), True),
    ("builtins", "getattr", name_of("collections", "OrderedDict") + text("__init__"), False),
    ("builtins", "setattr", name_of("collections", "OrderedDict") + text("x") + b"N", False),
    ("builtins", "map", name_of("builtins", "exec") + b"]" + text(CODE) + b"a", False),
    ("builtins", "type", text("X") + b")}", False),
    ("builtins", "object", b"", False),
    ("importlib", "import_module", text("antigravity"), False),
    ("runpy", "run_module", text("this"), False),
    ("runpy", "run_path", text(CANARY), False),
    ("webbrowser", "open", text("http://localhost:9"), False),
    ("pty", "spawn", text(COMMAND), False),
    ("pip", "main", b"]" + text("--version") + b"a", False),
    ("pip._internal.cli.main", "main", b"]", False),
    ("shutil", "rmtree", text(CANARY), False),
    ("ctypes", "CDLL", text(CANARY), False),
    ("code", "interact", b"", False),
    ("timeit", "timeit", text(CODE), False),
    ("cProfile", "run", text(CODE), True),
    ("bdb", "Bdb", b"", False),
    ("pdb", "run", text(CODE), False),
    ("pickle", "loads", blob(SHELL), True),
    ("_pickle", "loads", blob(SHELL), True),
    ("marshal", "loads", blob(b"\xe9\x01\x00\x00\x00"), False),
    ("torch", "load", text(CANARY), False),
    ("torch.serialization", "load", text(CANARY), False),
    ("torch.hub", "load", text("owner/name") + text("model"), False),
    ("torch.jit", "load", text(CANARY), False),
    ("torch", "classes", b"", False),
    ("torch._utils", "_rebuild_tensor", b"", False),
    ("torch._utils", "_rebuild_parameter_with_state", b"", False),
    ("torch.nn.modules.linear", "Linear", b"K\x01K\x01", False),
    ("torch.utils.cpp_extension", "load_inline", text("x") + text(CODE), False),
    ("numpy", "load", text(CANARY), False),
    ("numpy.testing._private.utils", "runstring", text(CODE) + b"}", True),
    ("functools", "partial", name_of("os", "system") + text(COMMAND), False),
    ("operator", "attrgetter", text("system"), False),
    ("operator", "methodcaller", text("system") + text(COMMAND), False),
    ("types", "CodeType", b"", False),
    ("types", "FunctionType", b"", False),
    ("copyreg", "_reconstructor", name_of("builtins", "object") * 2 + b"N", False),
    ("copyreg", "__newobj__", name_of("builtins", "object"), False),
    ("copyreg", "add_extension", text("os") + text("system") + b"K\x01", False),
    ("dnnlib.util", "call_func_by_name", text("os.system"), False),
    ("dnnlib.util", "get_obj_by_name", text("os.system"), False),
    ("dnnlib.util", "open_url", text("http://localhost:9"), False),
    ("torch_utils.persistence", "_src_to_module", text(CODE), False),
    ("torch_utils.persistence", "import_hook", text(CODE), False),
    ("torch_utils.custom_ops", "get_plugin", text(CODE), False),
    ("training.networks", "Generator", b"", False),
    ("argparse", "Namespace", b"", False),
    ("__main__", "CODE", b"", False),
    ("ganc.cli", "main", b"", False),
    ("ganc.checkpoints.store", "load", text(CANARY), False),
]

_GLOBALS = [
    Attack(
        f"{module}.{name}", two(call(module, name, arguments)), rf"global {module}\.{name},", runs
    )
    for module, name, arguments, runs in _NAMED
]

_OTHER_WAYS = [
    Attack("text_protocol", f"cos\nsystem\n(V{COMMAND}\ntR.".encode(), r"global os\.system", True),
    Attack(
        "stack_global",
        four(text("os"), text("system"), b"\x93", text(COMMAND), b"\x85R"),
        r"global os\.system",
        True,
    ),
    Attack(
        "memoised_callable",
        two(name_of("os", "system"), b"q\x00", text(COMMAND), b"\x85R"),
        r"global os\.system",
        True,
    ),
    Attack(
        "newobj", two(name_of("os", "system"), text(COMMAND), b"\x85\x81"), r"global os\.system"
    ),
    Attack(
        "nested_reduce",
        two(call("collections", "OrderedDict"), b"0", call("os", "system", text(COMMAND))),
        r"global os\.system",
        True,
    ),
    Attack(
        "inside_the_arguments",
        two(call("collections", "OrderedDict", call("os", "system", text(COMMAND)))),
        r"global os\.system",
        True,
    ),
    Attack(
        "below_the_result", two(call("os", "system", text(COMMAND)), b"0}"), r"os\.system", True
    ),
    Attack("inst", PROTO2 + f"(V{COMMAND}\nios\nsystem\n.".encode(), "opcode INST", True),
    Attack("inst_of_an_allowed_name", two(b"(icollections\nOrderedDict\n"), "opcode INST"),
    Attack("obj", two(b"(", name_of("collections", "OrderedDict"), b"o"), "opcode OBJ"),
    Attack("newobj_ex", four(name_of("collections", "OrderedDict"), b")}\x92"), "opcode NEWOBJ_EX"),
    Attack("ext1", two(b"\x82\x01"), "opcode EXT1"),
    Attack("ext2", two(b"\x83\x01\x00"), "opcode EXT2"),
    Attack("ext4", two(b"\x84\x01\x00\x00\x00"), "opcode EXT4"),
    Attack("persid", b"(Pstorage\n.", "opcode PERSID"),
    Attack("binpersid", two(text("storage"), b"Q"), "opcode BINPERSID"),
    Attack("next_buffer", b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    Attack("readonly_buffer", b"\x80\x05\x97\x98.", "opcode NEXT_BUFFER"),
    Attack("string", two(b"S'\\z'\n"), "opcode STRING"),
    Attack("frozenset", four(b"(\x91"), "opcode FROZENSET"),
    Attack(
        "dotted_name",
        four(text("collections"), text("OrderedDict.__init__.__globals__"), b"\x93"),
        r"global collections\.OrderedDict\.__init__\.__globals__",
    ),
    Attack(
        "dotted_module",
        two(name_of("collections.OrderedDict", "fromkeys")),
        r"global collections\.OrderedDict\.fromkeys",
    ),
    Attack("space_in_the_name", two(b"cos system\n\n"), r"global os\.system"),
    Attack("empty_name", two(name_of("", "")), r"global \."),
    Attack(
        "escape_in_the_name",
        four(text("os\x1b[31m"), text("system\n"), b"\x93"),
        r"global os\\x1b\[31m\.system\\n,",
    ),
    Attack("endless_name", four(text("o" * 10**6), text("system"), b"\x93"), r"global o{120}…,"),
    Attack("stack_global_of_numbers", four(b"K\x01K\x02\x93"), "two names, got int and int"),
    Attack("stack_global_of_lists", four(b"]]\x93"), "two names, got list and list"),
    Attack("stack_global_of_bytes", four(blob(b"os"), blob(b"system"), b"\x93"), "bytes and bytes"),
    Attack(
        "call_of_a_result", two(call("collections", "OrderedDict"), b")R"), "REDUCE takes a global"
    ),
    Attack(
        "call_of_a_string", two(text("os.system"), text(COMMAND), b"\x85R"), "REDUCE takes a global"
    ),
    Attack(
        "arguments_that_are_none", two(name_of("collections", "OrderedDict"), b"NR"), "REDUCE takes"
    ),
    Attack(
        "arguments_that_do_not_fit", two(call("collections", "OrderedDict", b"]" * 3)), "do not fit"
    ),
]

_STATES = [
    Attack(
        "build_on_a_dict",
        two(call("collections", "OrderedDict"), b"}", text("__class__"), text("x"), b"sb"),
        "no known layout",  # what would be set is left behind
    ),
    Attack(
        "build_on_a_class",
        two(name_of("dnnlib.util", "EasyDict"), b"}", text("__setattr__"), text("x"), b"sb"),
        r"BUILD on the global dnnlib\.util\.EasyDict",
    ),
    Attack("build_on_a_list", two(b"]}b"), "BUILD on list"),
    Attack(
        "build_of_setstate",
        two(
            spec_of_dtype("f8"),
            b"}",
            text("__setstate__"),
            name_of("os", "system"),
            b"sb",
            text(COMMAND),
            b"b",
        ),
        r"global os\.system",
    ),
    Attack("build_twice", two(spec_of_dtype("f8"), b")b)b"), "fills numpy.dtype twice"),
    Attack("module_source", two(persistent("Generator")), "is missing"),
    Attack(
        "another_class", two(persistent("ProjectedDiscriminator")), "class ProjectedDiscriminator"
    ),
    Attack("class_with_escapes", two(persistent("X\x1b]0;x\x07")), r"class X\\x1b\]0;x\\x07"),
    Attack("newer_persistence", two(persistent("Generator", version=99)), "persistent classes"),
    Attack(
        "persistent_without_meta",
        two(call("torch_utils.persistence", "_reconstruct_persistent_obj", b"N")),
        "without a description",
    ),
    Attack("persistent_without_state", two(persistent("Generator", b"N")), "or its state"),
    Attack("object_array", two(spec_of_dtype("O8")), r"global numpy\.dtype\(O8\)"),
    Attack(
        "structured_array",
        two(call("numpy", "dtype", b"]", b"\x89", b"\x88")),
        r"numpy\.dtype\(list",
    ),
    Attack(
        "object_scalar",
        two(call("numpy.core.multiarray", "scalar", b"N", blob(SHELL))),
        "number without type",
    ),
    Attack(
        "scalar_of_another_size",
        two(call("numpy.core.multiarray", "scalar", spec_of_dtype("f8"), blob(b"123"))),
        "number of another size",
    ),
]

_NUMBER_FOR_A_MODULE = b"}(" + text("_modules") + b"}" + text("b4") + b"K\x01s" + b"u"

_INNER = [
    Attack("inner_zip", two(load_storage(as_torch_zip(SHELL))), "something else than a torch file"),
    Attack("inner_pickle", two(load_storage(SHELL)), "something else than a torch file"),
    Attack("inner_legacy_file", two(load_storage(as_torch_legacy(SHELL))), r"global posix\.system"),
    Attack(
        "inner_text", two(call("torch.storage", "_load_from_bytes", text("x"))), "something else"
    ),
    Attack(
        "inner_tensor",
        two(load_storage(as_torch_legacy(b"\x80\x02K\x01.\x80\x02]."))),
        "a int where a storage is expected",
    ),
    Attack("tensor_of_a_list", two(tensor(b"]", 0, numbers(1), numbers(1))), "without a storage"),
    Attack(
        "tensor_past_the_end",
        two(tensor(load_storage(storage()), 2, numbers(4), numbers(1))),
        "4 numbers in a storage of 4",
    ),
    Attack(
        "tensor_before_the_start",
        two(tensor(load_storage(storage()), -1, numbers(4), numbers(1))),
        "sizes that are none",
    ),
    Attack(
        "parameter_of_a_list",
        two(call("torch._utils", "_rebuild_parameter", b"]", b"\x88", b"}")),
        "parameter made of list",
    ),
    Attack(
        "module_that_is_a_number", two(persistent("Generator", _NUMBER_FOR_A_MODULE)), "b4 is a int"
    ),
]


def _doubling(step: bytes, levels: int = 60) -> bytes:
    """A structure of 2^levels paths in a few bytes: every level holds the one before twice."""
    return b")q\x000" + (step + b"q\x000") * levels + b"h\x00"


def _modules(levels: int, *names: str) -> bytes:
    """Modules that hold the one before under each of these names."""
    children = b"}(" + b"".join(text(name) + b"h\x00" for name in names) + b"u"
    module = persistent("SynthesisBlock", b"}" + text("_modules") + children + b"s")
    return persistent("SynthesisBlock") + b"q\x000" + (module + b"q\x000") * levels + b"h\x00"


def _recalled_storage(times: int = 5000) -> bytes:
    """One storage in the file, thousands in memory."""
    loader = (
        name_of("torch.storage", "_load_from_bytes") + b"q\x00" + blob(storage(1000)) + b"\x85q\x01"
    )
    return two(b"](", loader, b"R", b"h\x00h\x01R" * times, b"e")


_TOO_MUCH = [
    Attack("huge_bytes", two(b"\x8e", struct.pack("<Q", 2**62), b"x"), "damaged"),
    Attack("huge_bytes_beyond_memory", two(b"\x8e", struct.pack("<Q", 2**63)), "damaged"),
    Attack("huge_text", two(b"\x8d", struct.pack("<Q", 2**60), b"x"), "damaged"),
    Attack("huge_bytearray", b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"x.", "damaged"),
    Attack("huge_frame", four(b"\x95", struct.pack("<Q", 2**60), b"N"), "a frame claims"),
    Attack(
        "huge_integer",
        two(b"\x8b", struct.pack("<i", 10**6), b"\x7f" * 10**6),
        "more than 128 bits",
    ),
    Attack("negative_length", two(b"\x8b", struct.pack("<i", -1)), "damaged"),
    Attack("huge_text_integer", two(b"L", b"9" * 10**5, b"L\n"), "damaged"),
    Attack("huge_memo_index", two(b"Nr", struct.pack("<I", 2**32 - 1)), "no known layout"),
    Attack(
        "expanded_tensor",
        two(tensor(load_storage(storage()), 0, numbers(10**6, 10**6), numbers(0, 0))),
        "claims more than its",
    ),
    Attack(
        "overflowing_sizes",
        two(tensor(load_storage(storage()), 0, numbers(2**62, 4), numbers(1, 1))),
        "sizes that are none",
    ),
    Attack("recalled_storage", _recalled_storage(), "claims more than its"),
    Attack(
        "recalled_arguments",
        two(name_of("numpy", "ndarray"), b"q\x00(", b"N" * 10**5, b"tq\x01", b"h\x00h\x01R" * 1000),
        "100000 arguments",
    ),
    Attack(
        "recalled_set",
        two(
            name_of("builtins", "set"),
            b"q\x00](",
            b"".join(map(number, range(10**4))),
            b"e\x85q\x01",
            b"h\x00h\x01R" * 1000,
        ),
        "claims more than its",
    ),
    Attack("empty_sets", four(b"(", b"\x8f" * 900_000, b"t"), "claims more than its"),
    Attack(
        "tensor_of_many_dimensions",
        two(tensor(load_storage(storage()), 0, numbers(*[1] * 100), numbers(*[1] * 100))),
        "sizes that are none",
    ),
    Attack("too_many_opcodes", two(b"N0" * 600_000, b"N"), "more than 1000000 pickle opcodes"),
    Attack("nested_lists", two(b"]" * 100_000, b"a" * 99_999), "no known layout"),
    Attack("nested_tuples", two(b")", b"\x85" * 100_000), "no known layout"),
    Attack(
        "nested_dicts", two((b"}" + text("x")) * 50_000, b"N", b"s" * 50_000), "no known layout"
    ),
    Attack("nested_marks", two(b"(" * 100_000), "stack is not empty"),
    Attack("nested_modules", two(_modules(1000, "a")), "no module of its own"),
    Attack("doubling_lists", two(_doubling(b"(h\x00h\x00l")), "no known layout"),
    Attack("doubling_tuples", two(_doubling(b"h\x00h\x00\x86")), "no known layout"),
    Attack("doubling_modules", two(_modules(60, "a", "b")), "no module of its own"),
    Attack(
        "key_that_is_a_tuple_of_tuples",
        two(b"}", _doubling(b"h\x00h\x00\x86"), b"Ns"),
        "key that is no name",
    ),
    Attack(
        "key_without_pops",
        two(b")q\x00", b"h\x00h\x00\x86q\x00" * 60, b"}h\x00Ns"),
        "key that is no name",
    ),
    Attack("key_that_is_endless", two(b"}", text("x" * 2000), b"Ns"), "key that is no name"),
    Attack("member_that_is_a_list", two(call("builtins", "set", b"]]a")), "key that is no name"),
    Attack("keys_that_collide", two(b"}", number(2**61 - 1), b"Ns"), "key that is no name"),
    Attack("list_in_itself", two(b"]q\x00h\x00a"), "no known layout"),
    Attack("dict_in_itself", two(b"}q\x00", text("G_ema"), b"h\x00s"), "no known layout"),
]

_BROKEN = [
    Attack("truncated", SHELL[:4], "damaged"),
    Attack("no_stop", PROTO2 + b"N", "damaged"),
    Attack("nothing_but_stop", PROTO2 + b".", "stack is not empty"),
    Attack("two_pickles", two(b"N") + SHELL, "goes on after its end"),
    Attack("trailing_bytes", two(b"N") + b"x", "goes on after its end"),
    Attack("unknown_protocol", b"\x80\x06N.", "protocol 6"),
    Attack("unknown_opcode", two(b"\xff"), "damaged"),
    Attack("reduce_on_nothing", two(b"R"), "underflows"),
    Attack("pop_on_nothing", two(b"0N"), "underflows"),
    Attack("pop_below_a_mark", two(b"N(0"), "underflows"),
    Attack("tuple_without_mark", two(b"t"), "misses a MARK"),
    Attack("append_to_nothing", two(b"Na"), "underflows"),
    Attack("append_to_a_dict", two(b"}Na"), "APPEND on dict"),
    Attack(
        "setitem_on_a_global",
        two(name_of("collections", "OrderedDict"), text("x"), b"Ns"),
        r"SETITEM on the global collections\.OrderedDict",
    ),
    Attack("key_without_value", two(b"}(", text("x"), b"u"), "key without a value"),
    Attack("memo_of_nothing", two(b"q\x00"), "underflows"),
    Attack("recall_of_nothing", two(b"h\x07"), "entry 7 of its memo"),
    Attack("recall_of_a_later_entry", two(b"h\x00q\x00"), "entry 0 of its memo"),
    Attack(
        "memo_overwritten",
        two(name_of("collections", "OrderedDict"), b"q\x00", text("os"), b"q\x00h\x00)R"),
        "REDUCE takes a global",
    ),
    Attack("name_left_over", two(name_of("torch.storage", "_load_from_bytes")), "no known layout"),
    Attack("name_that_is_not_ascii", two(b"c\xc3\xb6s\nsystem\n"), "damaged"),
]

ATTACKS = _GLOBALS + _OTHER_WAYS + _STATES + _INNER + _TOO_MUCH + _BROKEN


def persistent_id(kind: str = "FloatStorage", key: str = "0", numel: int = 4) -> bytes:
    """How a torch file's pickle refers to a storage."""
    kind_of = name_of("torch", kind)
    return b"(" + text("storage") + kind_of + text(key) + text("cpu") + number(numel) + b"tQ"


def encode(value: str, encoding: str) -> bytes:
    return call("_codecs", "encode", text(value), text(encoding))


# The result of each call, and the same again, are the arguments of the next.
_HEX = name_of("_codecs", "encode") + b"q\x00" + text("A" * 64) + b"q\x01" + b"".join(
    b"0h\x00h\x01" + text("hex") + b"\x86Rq\x01" for _ in range(31)
)  # fmt: skip

TORCH_ATTACKS = [
    Attack("hex_31_times", two(_HEX), "something else than text in latin1"),
    Attack("punycode", two(encode("\u4e00" * 60_000, "punycode")), "than text in latin1"),
    Attack("encoded_bytes", two(call("_codecs", "encode", blob(b"x"), text("latin1"))), "latin1"),
    Attack("not_latin", two(encode("\u4e00", "latin1")), "not latin1"),
    Attack(
        "recalled_text",
        two(
            name_of("_codecs", "encode"), b"q\x00", text("A" * 10**5), text("latin1"), b"\x86q\x01",
            b"](", b"h\x00h\x01R" * 10**4, b"e",
        ),
        "claims more than its",
    ),
    Attack(
        "endless_bytearray", two(call("builtins", "bytearray", number(10**11))), "no known|exhaust"
    ),
    Attack("endless_tensor", two(call("torch", "FloatTensor", number(10**11))), "global torch.Flo"),
    Attack("expanded_set", two(call("builtins", "set", number(10**11))), "a set of int"),
    Attack("endless_storage", two(persistent_id(numel=10**11)), "claims more than its"),
    Attack("storage_of_no_type", two(persistent_id(kind="Tensor")), "a storage of the global"),
    Attack("storage_without_size", two(persistent_id(numel=-1)), "refers to a storage"),
    Attack("persistent_number", two(b"K\x01Q"), "refers to int outside"),
    Attack(
        "recalled_tensor",
        two(
            b"](", persistent_id(numel=0), b"q\x00", tensor(b"h\x00", 0, numbers(0), numbers(1)),
            tensor(b"h\x00", 0, numbers(10**9), numbers(0)), b"e",
        ),
        "1000000000 numbers in a storage of 0",
    ),
    Attack(
        "not_dense",
        two(call("torch._utils", "_rebuild_meta_tensor_no_storage", b"NNNN")),
        "holds a meta tensor",
    ),
]  # fmt: skip
"""Pickles of torch files that ask for more than a file can hold."""

WRAPS: dict[str, Callable[[bytes], bytes]] = {"zip": as_torch_zip, "legacy": as_torch_legacy}
"""Where else a pickle is found."""
