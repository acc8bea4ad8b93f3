"""Writing files: what is there stays, what a killed writer left goes, whatever the name is."""

import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ganc.errors import CheckpointError, OutputError
from ganc.files import (
    atomic_write,
    check_output,
    is_temporary,
    move_into_place,
    read_whole,
    remove_leftovers,
    write_together,
)


def write(path: Path, text: str = "new", *, force: bool = False) -> None:
    with atomic_write(path, force=force) as temporary:
        temporary.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture(params=["hard links", "no hard links"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test on both kinds; FAT and some network drives know no hard links."""

    def refuse(*names: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param != "hard links":
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("file_system")
def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def write_meanwhile() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("mine")
            path.write_text("another's")

    with pytest.raises(OutputError, match="out exists already") as caught:
        write_meanwhile()
    assert caught.value.hint == "pass --force to overwrite it"
    assert (path.read_text(), names(tmp_path)) == ("another's", ["out"])


@pytest.mark.usefixtures("file_system")
def test_a_new_file_is_whole_and_has_the_usual_permissions(tmp_path: Path) -> None:
    write(tmp_path / "out")
    (tmp_path / "usual").touch()
    assert (tmp_path / "out").read_text() == "new"
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "out").stat().st_nlink == 1
    assert names(tmp_path) == ["out", "usual"]


def test_a_name_that_was_reserved_in_vain_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*names: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="out cannot be written: Input/output error"):
        write(tmp_path / "out")
    assert names(tmp_path) == []


def test_force_replaces_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_write(path, force=True) as temporary:
        temporary.write_text("mine")
        path.write_text("another's")
    assert path.read_text() == "mine"
    path.unlink()
    with pytest.raises(OutputError, match="not a regular file"), atomic_write(path, force=True):
        os.mkfifo(path)  # while it is written
    assert (path.is_fifo(), names(tmp_path)) == (True, ["out"])


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127 + "a"], ids=["ascii", "two bytes each"])
def test_names_may_be_as_long_as_the_system_takes(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    write(tmp_path / name, force=True)
    assert names(tmp_path) == [name]
    for call in (write, lambda path: check_output(path, force=True)):
        with pytest.raises(OutputError, match="File name too long") as caught:
            call(tmp_path / (name + "a"))
        assert caught.value.hint == "choose a shorter name"


# Links and special files.


@contextmanager
def special(path: Path, kind: str) -> Iterator[None]:
    """Put something at ``path`` that is no file."""
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            with chdir(path.parent):
                server.bind(path.name)  # a whole path may be too long
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(kind)
        yield


def identity(path: Path) -> tuple[int, int, int]:
    """Return what changes with a file itself; to follow a link changes its time of access."""
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_mtime_ns


@pytest.mark.parametrize(
    "kind", ["fifo", "socket", "folder", "/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]
)
@pytest.mark.parametrize("hops", [0, 1, 2])
def test_what_is_no_file_is_refused_behind_links_too(tmp_path: Path, kind: str, hops: int) -> None:
    path = tmp_path / "0"
    with special(path, kind):
        before = identity(path)
        for hop in range(1, hops + 1):
            path = tmp_path / str(hop)
            path.symlink_to(str(hop - 1))
        for force in (False, True):
            with pytest.raises(OutputError, match=r"is not a regular file|is a folder"):
                write(path, force=force)
        assert identity(tmp_path / "0") == before
        assert len(names(tmp_path)) == 1 + hops


def test_the_file_behind_a_link_is_written(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to("target")
    with pytest.raises(OutputError, match="link is a link to target, which does not exist"):
        write(link)
    assert names(tmp_path) == ["link"]
    for text in ("one", "two"):  # a target that is yet to come, and one that is there
        write(link, text, force=True)
        assert (link.is_symlink(), target.read_text()) == (True, text)
    with pytest.raises(OutputError, match="link exists already"):
        write(link)


def test_links_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    loop, astray = tmp_path / "loop", tmp_path / "astray"
    loop.symlink_to("loop")
    astray.symlink_to("absent/file")
    for force, finding in ((False, "is a link to"), (True, "Too many levels of symbolic links")):
        with pytest.raises(OutputError, match=finding):
            write(loop, force=force)
    for force, finding in ((False, "is a link to"), (True, r"folder \S*/absent does not exist")):
        with pytest.raises(OutputError, match=finding):
            write(astray, force=force)
    assert names(tmp_path) == ["astray", "loop"]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no /dev/shm")
def test_shared_memory_holds_files() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for _ in range(2):
            write(Path(folder, "out"), force=True)


# What killed writers leave.

WRITER = """
import sys
from pathlib import Path
from ganc.files import atomic_write

with atomic_write(Path(sys.argv[1]), force=True) as temporary:
    temporary.write_text("half")
    print(flush=True)
    sys.stdin.read()
    temporary.write_text("whole")
"""


@contextmanager
def writing(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that is in the middle of writing a file, until its stdin ends."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    own = [".out.notes.tmp", ".ganc-notes.tmp", ".ganc-0123456789ab-notes.tmp"]
    for name in own:
        (tmp_path / name).write_text("mine")
    for path in (out, other):
        with writing(path) as process:
            process.kill()
    assert len(names(tmp_path)) == 5
    with writing(out) as process:  # it lives: what it writes is left alone, though not whole
        assert len([name for name in names(tmp_path) if is_temporary(name)]) == 2
        write(out, "first")
        process.communicate()
        assert process.returncode == 0
    assert out.read_text() == "whole"
    assert len(left := set(names(tmp_path)) - {*own, "out"}) == 1  # of the other file
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([*own, "out"])
    assert is_temporary(*left)


def test_leftovers_that_are_links_or_pipes_hurt_nobody(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with writing(tmp_path / "out") as process:
        process.kill()
    (name,) = set(names(tmp_path)) - {"precious"}
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("precious")
    write(tmp_path / "out")
    assert names(tmp_path) == sorted([name, "out", "precious"])
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_temporary_that_was_taken_for_a_leftover_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, count = tempfile.mkstemp, 0

    def make_and_lose(**options: Any) -> tuple[int, str]:
        nonlocal count
        count += 1
        descriptor, name = make(**options)
        if count < 3:
            remove_leftovers(tmp_path)  # between making and locking
        return descriptor, name

    monkeypatch.setattr(tempfile, "mkstemp", make_and_lose)
    write(tmp_path / "out")
    assert (count, names(tmp_path)) == (3, ["out"])


def test_writers_of_one_file_do_not_hurt_each_other(tmp_path: Path) -> None:
    texts = [str(number) * 1000 for number in range(8)]
    threads = [
        threading.Thread(target=lambda text=text: [write(tmp_path / "out", text, force=True)
                                                   for _ in range(20)])
        for text in texts
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "out").read_text() in texts
    assert names(tmp_path) == ["out"]


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with writing(tmp_path / "out") as process:
        process.kill()
    monkeypatch.setattr(fcntl, "flock", refuse)
    write(tmp_path / "out")
    assert len(names(tmp_path)) == 2


def test_move_into_place_is_durable_and_excludes(tmp_path: Path) -> None:
    for force in (True, False):
        (tmp_path / "part").write_text(str(force))
        (tmp_path / "out").unlink(missing_ok=True)
        move_into_place(tmp_path / "part", tmp_path / "out", force=force)
        assert (tmp_path / "out").read_text() == str(force)


# Reading.


def test_a_pipe_is_read_whole_and_once(tmp_path: Path) -> None:
    fifo, content = tmp_path / "fifo", os.urandom(1 << 18)  # four times what a pipe holds
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(content,))
    writer.start()
    assert read_whole(fifo, CheckpointError) == content
    writer.join()


@pytest.mark.parametrize(
    ("name", "finding"),
    [("/dev/zero", "is no file"), (".", "is a folder"), ("absent", "does not exist"),
     ("a" * 300, "cannot be read: File name too long")],
)  # fmt: skip
def test_other_inputs_are_refused(name: str, finding: str) -> None:
    with pytest.raises(CheckpointError, match=finding):
        read_whole(Path(name), CheckpointError)


def together(folder: Path, text: str) -> dict[Path, Path]:
    """Return two places → two finished files elsewhere."""
    made = folder / f"made-{text}"
    made.mkdir()
    for name in ("m.bin", "m.xml"):
        (made / name).write_text(text)
    return {folder / name: made / name for name in ("m.bin", "m.xml")}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_files_of_one_writer_are_replaced_together(tmp_path: Path) -> None:
    write_together(together(tmp_path, "old"))
    assert contents(tmp_path) == {"m.bin": "old", "m.xml": "old"}
    new = together(tmp_path, "new")
    with pytest.raises(OutputError, match="exists already"):
        write_together(new)
    assert contents(tmp_path) == {"m.bin": "old", "m.xml": "old"}
    write_together(new, force=True)
    assert contents(tmp_path) == {"m.bin": "new", "m.xml": "new"}


@pytest.mark.parametrize("fails_at", [0, 1])
@pytest.mark.parametrize("is_new", [False, True])
def test_where_one_cannot_be_replaced_none_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, is_new: bool
) -> None:
    if not is_new:
        write_together(together(tmp_path, "old"))
    before, calls = contents(tmp_path), []

    def move(temporary: Path, path: Path, *, force: bool) -> None:
        assert not (tmp_path / "m.xml").exists()  # what is opened first is never of the other pair
        calls.append(path)
        if len(calls) > fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        move_into_place(temporary, path, force=force)

    monkeypatch.setattr("ganc.files.move_into_place", move)
    with pytest.raises(OutputError, match="no space left"):
        write_together(together(tmp_path, "new"), force=True)
    assert contents(tmp_path) == before
