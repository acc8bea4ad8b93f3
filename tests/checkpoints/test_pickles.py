"""The pickle reader: what it reads equals what was pickled, and nothing of a file ever runs."""

import functools
import io
import json
import pickle
import pickletools
import re
import resource
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganc.checkpoints import pickles, torch_file
from ganc.checkpoints.store import load
from ganc.errors import EXIT_INPUT, CheckpointError
from ganc.models.model import Model
from tests import forked
from tests.checkpoints.attacks import (
    ATTACKS,
    CANARY,
    SHELL,
    TORCH_ATTACKS,
    WRAPS,
    Attack,
    call,
    text,
    two,
)
from tests.conftest import GOLDEN, Outcome

VALID = {
    "pkl": GOLDEN / "nvidia-stylegan3-t-16" / "net.pkl",
    "old_pkl": GOLDEN / "nvidia-stylegan2-ada-16-orig" / "net.pkl",
    "pt": GOLDEN / "files" / "dcp" / "dcp_0.7_32px_a5.0_n4_t1.00_model.pt",
    "legacy_pt": GOLDEN / "files" / "rosinality" / "legacy.pt",
    "pth": GOLDEN / "files" / "mimicry" / "netG_100000_steps.pth",
}

# --- what is read -----------------------------------------------------------------------------

_scalars = st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.text()
_scalars |= st.floats(allow_nan=False)
_keys = st.text(max_size=20) | st.integers(-(2**59), 2**59)
_data = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(_keys, inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(_keys, max_size=4)
    ),
    max_leaves=20,
)


def read(value: Any, protocol: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about a class that its own pickles use
        return pickles.read(pickle.dumps(value, protocol=protocol), "x.pkl")


@settings(deadline=None)
@given(data=_data, protocol=st.sampled_from([2, 3, 4, 5]))
def test_plain_data_is_read_as_python_reads_it(data: Any, protocol: int) -> None:
    assert read(data, protocol) == data


@pytest.mark.parametrize("protocol", [0, 1])
def test_text_protocols_are_read_as_well(protocol: int) -> None:
    data = {"name": ["ü\n", 1, -2.5, True, None, (3, 4), (), 2**80, {}]}
    assert read(data, protocol) == data


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_and_ordered_dicts(protocol: int) -> None:
    data = OrderedDict(a=b"\x00\xff", b=OrderedDict(c=bytes(300)))
    assert read(data, protocol) == {"a": b"\x00\xff", "b": {"c": bytes(300)}}


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(2, 3, 4),
        torch.arange(24).reshape(4, 6).t(),
        torch.arange(24, dtype=torch.float16)[5:20:3],
        torch.tensor(3.5, dtype=torch.float64),
        torch.zeros(0, 3),
        torch.tensor([True, False]),
        torch.arange(6, dtype=torch.uint8).view(3, 2),
        torch.nn.Parameter(torch.randn(3, 2)),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{list(tensor.shape)}",
)
def test_tensors_are_rebuilt_bit_for_bit(tensor: torch.Tensor, protocol: int) -> None:
    again = read({"t": tensor}, protocol)["t"]
    assert torch.equal(again, tensor.detach())
    assert again.dtype == tensor.dtype
    assert again.stride() == tensor.stride()


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "number",
    [np.float64(2**0.5), np.float32(-0.1), np.float16(3), np.int64(-5), np.uint8(255), np.bool_(1)],
    ids=lambda number: number.dtype.name,
)
def test_numpy_numbers_become_plain_ones(number: np.generic, protocol: int) -> None:
    again = read(number, protocol)
    assert again == number
    assert type(again) is type(number.item())


def test_numpy_arrays_stay_inert() -> None:
    record = read(np.arange(6.0).reshape(2, 3), 4)
    assert isinstance(record, pickles.Record)
    assert record.name == "numpy.ndarray"


def test_names_of_numpy_1_and_2_mean_the_same() -> None:
    new = pickle.dumps(np.float64(1.5), protocol=3)
    old = new.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert new != old
    assert pickles.read(old, "x.pkl") == pickles.read(new, "x.pkl") == 1.5


def test_records_print_without_their_parts() -> None:
    record = pickles.Record("a")
    for _ in range(60):  # printed in full, this would have 2^60 parts
        record = pickles.Record("a", (record, record), [record, record])
    assert repr(record) == "Record(name='a')"


# --- attacks ----------------------------------------------------------------------------------


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder while a test runs: every canary would land here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANC_CANARY", str(tmp_path / CANARY))
    return tmp_path


def refuse(path: Path) -> CheckpointError:
    """Load a file, which must be refused in one printable line that begins with its name."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    error = caught.value
    assert error.exit_code == EXIT_INPUT
    assert error.message.startswith(str(path))
    assert error.message.isprintable()
    assert len(error.message) < 500
    return error


def test_the_corpus_is_large_and_has_no_doubles() -> None:
    assert len(ATTACKS) >= 150
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert sum(attack.runs for attack in ATTACKS) >= 15


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_every_attack_is_refused_by_name(attack: Attack, sandbox: Path) -> None:
    path = sandbox / "attack.pkl"
    path.write_bytes(attack.content)
    assert re.search(attack.finding, refuse(path).message)
    assert [file.name for file in sandbox.iterdir()] == ["attack.pkl"]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_every_attack_inside_a_torch_file(attack: Attack, wrap: str, sandbox: Path) -> None:
    path = sandbox / "attack.pt"
    path.write_bytes(WRAPS[wrap](attack.content))
    message = refuse(path).message
    if attack.runs:
        assert re.search(r"global \S+,|opcode [A-Z_]+,", message)
    assert [file.name for file in sandbox.iterdir()] == ["attack.pt"]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_every_attack_on_the_command_line(
    attack: Attack, sandbox: Path, ganc: Callable[..., Outcome]
) -> None:
    (sandbox / "attack.pkl").write_bytes(attack.content)
    for command in (["info", "attack.pkl"], ["import", "attack.pkl", "-o", "out.safetensors"]):
        outcome = ganc(*command)
        assert outcome.code == EXIT_INPUT
        assert outcome.out == ""
        assert outcome.err.startswith("attack.pkl") or "attack.pkl" in outcome.err.splitlines()[0]
        assert "Traceback" not in outcome.err
    assert [file.name for file in sandbox.iterdir()] == ["attack.pkl"]


_CONTROL = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if attack.runs], ids=lambda attack: attack.name
)
def test_the_canary_sings_under_plain_pickle(attack: Attack, sandbox: Path) -> None:
    # The control: without it the tests above would pass with attacks that do nothing.
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CONTROL], input=attack.content, check=False,
        capture_output=True,
    )  # fmt: skip
    assert (sandbox / CANARY).exists()


FORBIDDEN = (
    "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "webbrowser.", "pty.", "exec",
    "compile", "import", "marshal.", "code.__new__", "function.__new__", "pickle.",
)  # fmt: skip


def load_none(contents: Iterable[bytes]) -> None:
    for content in contents:
        with pytest.raises(CheckpointError):
            load(io.BytesIO(content))


def be_watched(said: Path) -> None:
    """Load every attack under Python's own audit events; write those that mean more than reading.

    The last is an import of our own, which shows that the hook works.
    """
    files = [attack.content for attack in ATTACKS]
    files += [wrap(content) for wrap in WRAPS.values() for content in files]
    load_none(content for content in files if len(content) < 2**15)  # lazy imports happen here
    seen: list[str] = []

    def watch(event: str, values: tuple[Any, ...]) -> None:
        is_write = event == "open" and values[1] not in ("r", "rb", None)
        if event.startswith(FORBIDDEN) or is_write:
            seen.append(f"{event} {values!r:.200}")

    sys.addaudithook(watch)
    load_none(files)
    with suppress(ModuleNotFoundError):
        import this_module_does_not_exist  # type: ignore[import-not-found]  # noqa: F401
    said.write_text("\n".join(seen[:5]))


@pytest.mark.slow
def test_the_interpreter_saw_nothing_run(tmp_path: Path) -> None:
    # No import, no exec, no process, no written file.
    assert forked.exit_code(forked.start(be_watched, tmp_path / "seen")) == 0
    first, *_ = (tmp_path / "seen").read_text().splitlines()
    assert first.startswith("import ('this_module_does_not_exist'")


def test_shell_is_what_it_says() -> None:
    assert "posix" in json.dumps([str(arg) for _, arg, _ in pickletools.genops(SHELL)])


# --- torch archives ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("attack", TORCH_ATTACKS, ids=lambda attack: attack.name)
def test_torch_files_that_ask_for_too_much(attack: Attack, wrap: str, sandbox: Path) -> None:
    path = sandbox / "attack.pt"
    path.write_bytes(WRAPS[wrap](attack.content))
    assert re.search(attack.finding, refuse(path).message)


def be_confined() -> None:
    """Load every attack with 200 MB of memory more than this process has."""
    files = [wrap(attack.content) for wrap in WRAPS.values() for attack in TORCH_ATTACKS]
    files += [attack.content for attack in ATTACKS]
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 200 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    load_none(files)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_attack_stays_within_200_mb() -> None:
    assert forked.exit_code(forked.start(be_confined)) == 0


_TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
    torch.uint16, torch.float8_e4m3fn,
]  # fmt: skip


@pytest.mark.parametrize("is_zip", [True, False])
def test_torch_files_are_read_as_torch_reads_them(is_zip: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    shared = torch.nn.Parameter(base)
    shared.note = "kept beside"  # type: ignore[attr-defined]
    types = _TYPES if is_zip else _TYPES[:-2]  # the newest types have no class of storages
    tree = {
        "types": {str(dtype): base.to(dtype) for dtype in types},
        "views": [base, base.t(), base[1:, ::2], base[:1].expand(3, 6), torch.zeros(0, 3)],
        "parameters": [shared, torch.nn.Parameter(base[0])],
        "state": torch.nn.BatchNorm2d(3).state_dict(),
        "plain": {1: None, None: 2.5, 0.5: "x", "b": b"\xff"},
        "tied": [base, base],
    }
    file = io.BytesIO()
    torch.save(tree, file, _use_new_zipfile_serialization=is_zip)
    again = torch_file.read(file.getvalue(), "x.pt")
    assert_same(again, torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    views = again["views"]
    assert views[0].untyped_storage().data_ptr() == views[1].untyped_storage().data_ptr()


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
        assert found.tolist() == expected.tolist()
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    else:
        assert found == expected


def test_numbers_of_big_endian_machines_are_turned() -> None:
    file = io.BytesIO()
    torch.save({"t": torch.tensor([1.0, -2.5])}, file)
    turned = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(turned, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in entry.filename:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(entry.filename, content)
    assert torch_file.read(turned.getvalue(), "x.pt")["t"].tolist() == [1.0, -2.5]


def test_ordered_dicts_of_python_2() -> None:
    pairs = b"](](" + text("a") + b"K\x01e](U\x01bK\x02ee"  # U: a string of Python 2
    content = WRAPS["legacy"](two(call("collections", "OrderedDict", pairs)) + two(b"]"))
    assert torch_file.read(content, "x.pth") == {"a": 1, "b": 2}


def repack(path: Path, compression: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return stream.getvalue()


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    path.write_bytes(repack(VALID["pt"], zipfile.ZIP_DEFLATED))
    assert "is compressed" in refuse(path).message
    path.write_bytes(repack(VALID["pt"], zipfile.ZIP_STORED))
    assert load(path).params() == load(VALID["pt"]).params()


def test_archives_that_claim_more_than_they_hold(tmp_path: Path) -> None:
    content = bytearray(repack(VALID["pt"], zipfile.ZIP_STORED))
    entry = content.index(b"PK\x01\x02")  # the table at the end: its sizes are at 20 and 24
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    path = tmp_path / "bomb.pt"
    path.write_bytes(content)
    assert "entries claim" in refuse(path).message


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_that_claim_more_than_the_file(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    state = {"input.input": torch.zeros(1).expand(10**6, 10**6)}
    torch.save({"g_ema": state}, path, _use_new_zipfile_serialization=not legacy)
    assert "claims more than its" in refuse(path).message


@pytest.mark.parametrize("wrap", WRAPS)
def test_keys_that_would_be_hashed_for_ever(wrap: str, tmp_path: Path) -> None:
    attack = next(attack for attack in ATTACKS if attack.name == "key_without_pops")
    path = tmp_path / "bomb.pt"
    path.write_bytes(WRAPS[wrap](attack.content))
    assert "a key that is no name" in refuse(path).message


def test_tied_weights_are_no_bomb(tmp_path: Path) -> None:
    tree = torch.load(VALID["legacy_pt"], weights_only=True)
    torch.save({**tree, "g": tree["g_ema"]}, tmp_path / "tied.pt")
    assert load(tmp_path / "tied.pt").params() == 77427


# --- fuzz -------------------------------------------------------------------------------------


def structure(content: bytes) -> list[int]:
    """Return where a file says what it holds: everything but the numbers of its tensors."""
    if not content.startswith(b"\x80\x03") and not content.startswith(b"\x80\x04"):
        ends = 20_000  # torch files: names at the start, the archive's table at the end
        return [*range(min(ends, len(content))), *range(max(0, len(content) - ends), len(content))]
    starts = [at or 0 for _, _, at in pickletools.genops(content)]
    spans = zip(starts, [*starts[1:], len(content)], strict=True)
    return [at for start, end in spans if end - start < 60 for at in range(start, end)]


CONTENTS = {name: path.read_bytes() for name, path in VALID.items()}
STRUCTURES = {name: structure(content) for name, content in CONTENTS.items()}


class Edit(NamedTuple):
    """One change of a file's bytes."""

    kind: str
    position: int
    value: bytes

    def apply(self, content: bytes) -> bytes:
        at = min(self.position, max(0, len(content) - 1))
        before, after = content[:at], content[at:]
        if self.kind == "set":
            return before + self.value + after[len(self.value) :]
        if self.kind == "insert":
            return before + self.value + after
        if self.kind == "delete":
            return before + after[len(self.value) :]
        if self.kind == "cut":
            return before
        source = int.from_bytes(self.value, "little") % max(1, len(content))  # splice
        return before + content[source : source + 40] + after


def edits(name: str) -> st.SearchStrategy[list[Edit]]:
    last = len(CONTENTS[name]) - 1
    edit = st.builds(
        Edit,
        kind=st.sampled_from(["set", "insert", "delete", "splice", "set", "insert", "cut"]),
        position=st.sampled_from(STRUCTURES[name]) | st.integers(0, last),
        value=st.binary(min_size=1, max_size=8),
    )
    return st.lists(edit, min_size=1, max_size=3)


def load_or_refuse(content: bytes) -> Model | CheckpointError:
    """Return the model or the one error that a broken file may give; others go through."""
    try:
        return load(io.BytesIO(content))
    except CheckpointError as error:
        return error


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_mutated_files_give_clean_errors_or_a_model(name: str, sandbox: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=200, deadline=20_000, database=None)  # two loaded cores
    @given(changes=edits(name))
    def check(changes: list[Edit]) -> None:
        content = functools.reduce(lambda bytes_, edit: edit.apply(bytes_), changes, CONTENTS[name])
        outcome = load_or_refuse(content)
        assert isinstance(outcome, Model) or outcome.message.isprintable()

    check()
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 300_000
    assert not list(sandbox.iterdir())
