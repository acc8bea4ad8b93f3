"""``-`` as a path, and what becomes of a command whose reader leaves; through real pipes."""

import fcntl
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image
from typer.main import get_command

from ganc import cli
from ganc.commands._dash import STDIN, Dash, check_dashes, dashes_of
from ganc.errors import EXIT_CODES, UsageError
from tests import forked
from tests.conftest import Outcome

Ganc = Callable[..., Outcome]
PROGRAM = [sys.executable, "-m", "ganc"]
COMMANDS: dict[str, Any] = get_command(cli.app).commands  # type: ignore[attr-defined]
DISK_IS_FULL = (
    b"error: stdout cannot be written: No space left on device\n"
    b"hint: send it to a file or pipe that takes it\n"
)
SMALL_PIPE = 4096
"""Bytes that a pipe holds at least; less than any checkpoint."""


def pipe_without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def leave_at_once(*arguments: object) -> tuple[int, bytes]:
    """Run a command whose reader has gone; return its exit code and stderr."""
    writer = pipe_without_reader()
    command = [*PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    return done.returncode, done.stderr


def leave_after_one_byte(*arguments: object, capacity: int) -> tuple[int, bytes]:
    """Run a command whose reader takes one byte of a pipe that holds ``capacity`` of them."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, capacity)
    command = [*PROGRAM, *map(str, arguments)]
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        assert len(os.read(reader, 1)) == 1
        os.close(reader)
        _, err = process.communicate()
    return process.returncode, err


class Forked(NamedTuple):
    """``ganc`` in a forked process, for commands that would wait for torch to load.

    Attributes:
        process: Writes its stdout where it was told to.
        path: Holds what it says on stderr.
    """

    process: BaseProcess
    path: Path

    @classmethod
    def start(cls, folder: Path, stdout: int, *arguments: object) -> "Forked":
        """Start a command; its stderr goes to a file in a folder."""
        words, err = [str(argument) for argument in arguments], folder / "said"
        return cls(forked.start(be_ganc, DupFd(stdout), err, words), err)

    def end(self) -> tuple[int, bytes]:
        """Return its exit code and what it said."""
        return forked.exit_code(self.process), self.path.read_bytes()


def be_ganc(stdout: Any, err: Path, words: list[str]) -> None:
    os.dup2(stdout.detach(), 1)
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT), 2)
    sys.argv = ["ganc", *words]
    cli.main()


def leave_a_fork(folder: Path, count: int, *arguments: object, capacity: int) -> tuple[int, bytes]:
    """Run a forked command whose reader takes ``count`` bytes of a pipe that holds ``capacity``."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, capacity)
    if not count:
        os.close(reader)
    command = Forked.start(folder, writer, *arguments)
    os.close(writer)
    if count:
        assert len(os.read(reader, count)) == count
        os.close(reader)
    return command.end()


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash with ``$ganc`` in it."""
    variables = {**os.environ, "ganc": " ".join(PROGRAM), **environment}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=variables)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("prune", "--help"), ("info", "CKPT"),
                  ("info", "CKPT", "--json"), ("doctor", "--help")], ids=" ".join,
)  # fmt: skip
def test_reader_that_is_gone_ends_in_141(arguments: tuple[str, ...], checkpoint: Path) -> None:
    given = [checkpoint if argument == "CKPT" else argument for argument in arguments]
    assert leave_at_once(*given) == (141, b"")


@pytest.mark.parametrize("extra", [(), ("--json",)], ids=["table", "json"])
def test_all_that_was_written_ends_in_0(checkpoint: Path, extra: tuple[str, ...]) -> None:
    outcome = leave_after_one_byte("info", checkpoint, *extra, capacity=1 << 20)
    assert outcome == (0, b"")


def test_more_than_the_pipe_holds_ends_in_141(checkpoint: Path, tmp_path: Path) -> None:
    assert checkpoint.stat().st_size > SMALL_PIPE
    words = ("import", checkpoint, "-o", "-", "-q")
    assert leave_a_fork(tmp_path, 1, *words, capacity=SMALL_PIPE) == (141, b"")


@pytest.mark.parametrize(("bound", "code"), [("macs<=1T", 141), ("macs<=1", 1)])
def test_requirement_outlives_its_reader(
    checkpoint: Path, tmp_path: Path, bound: str, code: int
) -> None:
    arguments = ("eval", checkpoint, "--metrics", "macs", "--require", bound)
    assert leave_a_fork(tmp_path, 0, *arguments, capacity=SMALL_PIPE) == (code, b"")


@pytest.mark.parametrize(
    ("form", "bound", "code"), [((), "macs<=1T", 0), ((), "macs<=1", 1), (["--json"], "macs<=1", 1)]
)
def test_requirement_is_told_whatever_is_read(
    checkpoint: Path, tmp_path: Path, form: list[str], bound: str, code: int
) -> None:
    arguments = ("eval", checkpoint, "--metrics", "macs", "--require", bound, *form)
    assert leave_a_fork(tmp_path, 1, *arguments, capacity=1 << 20) == (code, b"")


@pytest.mark.slow
def test_head_sees_the_first_line_and_the_shell_the_code(checkpoint: Path) -> None:
    done = shell(
        '$ganc eval "$CKPT" --metrics macs --require "macs<=1" | head -1; exit ${PIPESTATUS[0]}',
        CKPT=str(checkpoint),
    )
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (1, 1, "")


@pytest.mark.parametrize("bound", ["macs<=1T", "macs<=1"])
def test_requirement_and_a_report_larger_than_the_pipe(
    checkpoint: Path, tmp_path: Path, bound: str
) -> None:
    words = ("eval", checkpoint, "--metrics", "macs", "--require", bound, "--report", "-", "-q")
    outcome = leave_a_fork(tmp_path, 1, *words, capacity=SMALL_PIPE)
    assert outcome == (141 if bound == "macs<=1T" else 1, b"")


@pytest.mark.parametrize(
    ("arguments", "code", "finding"),
    [(("info", "nowhere"), 3, b"nowhere does not exist"), (("inf",), 2, b"inf")],
)
def test_errors_keep_their_code_without_a_reader(
    tmp_path: Path, arguments: tuple[str, ...], code: int, finding: bytes
) -> None:
    got, err = leave_a_fork(tmp_path, 0, *arguments, capacity=SMALL_PIPE)
    assert got == code
    assert finding in err


def test_stderr_without_a_reader_changes_nothing(checkpoint: Path) -> None:
    writer = pipe_without_reader()
    for name, code in ((str(checkpoint), 0), ("nowhere", 3)):
        command = [*PROGRAM, "info", name, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer)
        assert done.returncode == code
        assert json.loads(done.stdout or "{}").get("architecture") == (
            None if code else "stylegan2"
        )
    os.close(writer)


def test_both_streams_in_one_pipe(checkpoint: Path) -> None:
    done = shell('$ganc info "$CKPT" 2>&1 | true; exit ${PIPESTATUS[0]}', CKPT=str(checkpoint))
    assert done.returncode in (0, 141)  # `true` may end before or after
    assert done.stdout == done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [("--help",), ("info", "CKPT")])
def test_full_disk_behind_stdout_ends_in_3(arguments: tuple[str, ...], checkpoint: Path) -> None:
    given = [str(checkpoint) if argument == "CKPT" else argument for argument in arguments]
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*PROGRAM, *given], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (3, DISK_IS_FULL)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk_behind_a_checkpoint_on_stdout_ends_in_3(
    checkpoint: Path, tmp_path: Path
) -> None:
    with open("/dev/full", "wb") as full:
        outcome = Forked.start(tmp_path, full.fileno(), "import", checkpoint, "-o", "-", "-q").end()
    assert outcome == (3, DISK_IS_FULL)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_requirement_outlives_a_full_disk(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("eval", checkpoint, "--metrics", "macs", "--require", "macs<=1")
    with open("/dev/full", "wb") as full:
        code, err = Forked.start(tmp_path, full.fileno(), *arguments).end()
    assert code == 1
    assert err.startswith(b"error: stdout cannot be written")


@pytest.mark.parametrize(
    ("closed", "code", "err"),
    [(">&-", 3, "stdout cannot be written"), ("2>&-", 0, ""), (">&- 2>&-", 3, ""),
     ("<&-", 0, "")],
)  # fmt: skip
def test_closed_streams(checkpoint: Path, closed: str, code: int, err: str) -> None:
    done = shell(f'$ganc info "$CKPT" --json {closed}', CKPT=str(checkpoint))
    assert done.returncode == code, done.stderr
    assert err in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout == "") == (code != 0)


def test_nothing_for_stderr_lands_on_stdout() -> None:
    done = shell("$ganc info nowhere --json 2>&-")
    assert (done.returncode, done.stdout) == (3, "")


def test_closed_stdin_is_named() -> None:
    done = shell("$ganc info - <&-")
    assert done.returncode == 3
    assert done.stderr.startswith("error: stdin is closed\n")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero")
def test_a_device_is_no_checkpoint(ganc: Ganc, tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    for path in ("/dev/zero", tmp_path / "endless"):
        outcome = ganc("info", path)
        assert (outcome.code, outcome.err) == (3, f"error: {path} is no file, expected a file\n")


def test_a_terminal_gets_no_files(checkpoint: Path) -> None:
    master, terminal = pty.openpty()
    for extra, code in (((), 2), (("--dry-run",), 0)):
        command = [*PROGRAM, "import", str(checkpoint), "-o", "-", *extra]
        done = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, text=True)
        assert done.returncode == code
        assert ("--output - would fill the terminal" in done.stderr) == (code == 2)
    os.close(terminal)
    os.close(master)


@pytest.fixture
def piped(capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., bytes]:
    """Run a command in this process and return the bytes that it writes to stdout."""

    def run(*arguments: object) -> bytes:
        assert cli.run([str(argument) for argument in arguments]) == 0
        return capsysbinary.readouterr().out

    return run


def write_all(descriptor: int, content: bytes) -> None:
    """Write to a pipe and close it."""
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(content)


@pytest.mark.parametrize("arguments", ["info FILE --json", "import FILE -o - -q"])
def test_what_the_shell_gives_as_a_pipe_is_read_once(
    piped: Callable[..., bytes], checkpoint: Path, arguments: str
) -> None:
    content = checkpoint.read_bytes()
    reader, writer = os.pipe()
    with ThreadPoolExecutor() as pool:
        pool.submit(write_all, writer, content)
        found = piped(*arguments.replace("FILE", f"/dev/fd/{reader}").split())  # bash: <(cat …)
    os.close(reader)
    if "import" in arguments:
        assert found == content
    else:
        plain = json.loads(piped("info", checkpoint, "--json"))
        assert json.loads(found)["params"] == plain["params"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, in which no file named - may appear."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not (folder / "-").exists()


def test_sample_writes_its_png_to_stdout(
    piped: Callable[..., bytes], checkpoint: Path, elsewhere: Path
) -> None:
    given = ("sample", checkpoint, "-n", 3, "-q", "-o")
    content = piped(*given, "-")
    piped(*given, "grid.png")
    assert content == (elsewhere / "grid.png").read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"


@pytest.mark.slow
def test_eval_writes_its_report_to_stdout(
    piped: Callable[..., bytes], checkpoint: Path, elsewhere: Path
) -> None:
    given = ("eval", checkpoint, "--metrics", "macs", "-q", "--report")
    content = piped(*given, "-")
    assert piped(*given, "page.html")  # the table
    assert content == (elsewhere / "page.html").read_bytes()
    assert content.startswith(b"<!doctype html>")


@pytest.mark.slow
def test_eval_reads_an_earlier_result_from_stdin(
    ganc: Ganc, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("eval", checkpoint, "--metrics", "macs", "--json")
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        pipe.write(ganc(*words).out)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        done = ganc(*words, "--against", "-")
    assert json.loads(done.out)["against"]["values"][0]["difference"] == 0


def test_what_is_no_earlier_result_is_named(
    ganc: Ganc, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{}")))
    outcome = ganc("eval", checkpoint, "--metrics", "macs", "--against", "-")
    assert outcome.code == 3
    assert outcome.err.startswith("error: stdin is not a result of ganc eval")


@pytest.mark.parametrize(
    ("arguments", "findings"),
    [
        (("prune", "-", "--scores", "-", "-o", "x"), ["only one of CKPT and --scores can be -"]),
        (("score", "-", "--compare", "-"), ["only one of CKPT and --compare can be -"]),
        (("import", "-", "-", "-o", "x"), ["only one of SRC can be -"]),
        (("eval", "-", "--against", "-"), ["only one of CKPT… and --against can be -"]),
        (("sample", "x", "-o", "-", "--json"), ["--output - and --json both write stdout"]),
        (("export", "x", "-o", "-", "--json"), ["--output - and --json both write stdout"]),
        (("score", "x", "-o", "-", "--json"), ["--output - and --json both write stdout"]),
        (("eval", "x", "--report", "-"), ["--report - and the table both", "--quiet"]),
        (("eval", "x", "--report", "-", "--json"), ["--report - and --json both write stdout"]),
        (("eval", "x", "--report", "-", "--json", "-q"), ["--report - and --json both"]),
        (("eval", "x", "--report", "-", "--dry-run"), ["--report - and the table both"]),
        (("sample", "x", "-o", "y", "--input", "-"), ["--input cannot be -", "CKPT, --output"]),
        (("distill", "x", "-o", "-"), ["--output cannot be -", "./-"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_streams_that_cannot_be_shared_exit_2(
    ganc: Ganc, elsewhere: Path, arguments: tuple[str, ...], findings: list[str]
) -> None:
    outcome = ganc(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 2
    for finding in findings:
        assert finding in outcome.err
    assert list(elsewhere.iterdir()) == []


def options_with_values() -> Iterator[Any]:
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False):
                dash = dashes_of(command.callback).get(parameter.name)
                yield pytest.param(name, parameter, dash, id=f"{name} {parameter.opts[0]}")


@pytest.mark.parametrize(("name", "parameter", "dash"), list(options_with_values()))
def test_dash_works_where_help_says_so_and_nowhere_else(
    ganc: Ganc, elsewhere: Path, name: str, parameter: Any, dash: Dash | None
) -> None:
    text = parameter.help or ""
    assert (dash is not None and dash.help in text) == ("stdin" in text or "stdout" in text)
    given: list[str] = []
    for other in COMMANDS[name].params:
        if other.required or other is parameter:
            flag = [] if other.param_type_name == "argument" else [other.opts[0]]
            given += [*flag, "-" if other is parameter else "absent"]
    if dash is None:
        assert ganc(name, *given).code == 2
        assert list(elsewhere.iterdir()) == []
    else:
        values = {other.name: None for other in COMMANDS[name].params}
        values |= {"quiet": True, "dry_run": True, parameter.name: "-"}
        check_dashes(COMMANDS[name].params, values, dashes_of(COMMANDS[name].callback))


def test_one_list_may_hold_one_dash() -> None:
    command = COMMANDS["import"]
    for sources, is_refused in ((["-", "a"], False), (["-", "a", "-"], True)):
        try:
            check_dashes([command.params[0]], {"sources": sources}, {"sources": STDIN})
            assert not is_refused
        except UsageError:
            assert is_refused


def test_help_names_every_exit_code(ganc: Ganc) -> None:
    words = " ".join(ganc("--help").out.split())
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning.partition(':')[0]}" in words
