"""The command line as its users see it: results, exit codes, one-line errors, pipes."""

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from typer import Abort

from ganc import cli, files
from ganc.checkpoints.store import load, save
from ganc.cli import explain
from ganc.errors import EXIT_COMPUTATION, EXIT_INPUT, EXIT_INTERRUPTED, InputError, OutputError
from ganc.files import check_output
from ganc.models.model import Model
from tests import forked
from tests.conftest import GOLDEN, Outcome, make_model

Ganc = Callable[..., Outcome]
ROSINALITY = GOLDEN / "files" / "rosinality" / "networks.pt"


def assert_one_line(outcome: Outcome, code: int, *findings: str) -> None:
    """Check exit code, an empty stdout, and an error of one line plus at most one hint."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    lines = [line for line in outcome.err.splitlines() if not line.startswith("warning:")]
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2, outcome.err
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert "Traceback" not in outcome.err
    for finding in findings:
        assert finding in outcome.err


def scores_of(ganc: Ganc, checkpoint: Path, method: str = "random") -> Path:
    path = checkpoint.with_name(f"{method}.scores.safetensors")
    assert ganc("score", checkpoint, "--method", method, "-o", path).code == 0
    return path


def test_import_info_score_prune_sample(ganc: Ganc, tmp_path: Path) -> None:
    own = tmp_path / "teacher.safetensors"
    imported = json.loads(ganc("import", ROSINALITY, "-o", own, "--json").out)
    assert imported["networks"] == ["generator", "discriminator"]

    info = json.loads(ganc("info", own, "--json").out)
    assert info["architecture"] == "stylegan2"
    assert (info["resolution"], info["params"], info["macs"]) == (32, 77427, 5795328)
    assert info["widths"]["b8.conv0"] == 28
    assert [step["command"] for step in info["provenance"]] == ["import"]

    scores = tmp_path / "s.safetensors"
    arguments = ("--method", "diversity", "--samples", 6, "--batch", 3, "--json")
    scored = json.loads(ganc("score", own, *arguments, "-o", scores).out)
    assert (scored["method"], scored["samples"]) == ("diversity", 6)
    assert [group["name"] for group in scored["groups"]][:2] == ["b4.const", "b4.conv1"]
    assert all(g["min"] <= g["mean"] <= g["max"] for g in scored["groups"])

    small = tmp_path / "small.safetensors"
    pruned = json.loads(
        ganc("prune", own, "--scores", scores, "-o", small, "--speedup", 8, "--json").out
    )
    assert pruned["macs"]["before"] == 5795328
    assert pruned["macs"]["after"] <= 5795328 / 8
    again = json.loads(ganc("info", small, "--json").out)
    assert again["widths"] == pruned["widths"]
    assert (again["params"], again["macs"]) == (pruned["params"]["after"], pruned["macs"]["after"])
    assert [step["command"] for step in again["provenance"]] == ["import", "prune"]

    grid = tmp_path / "grid.png"
    assert json.loads(ganc("sample", small, "-o", grid, "-n", 3, "--json").out)["images"] == 3
    assert grid.read_bytes().startswith(b"\x89PNG")


def test_info_of_a_foreign_checkpoint_equals_its_import(ganc: Ganc, tmp_path: Path) -> None:
    ganc("import", ROSINALITY, "-o", tmp_path / "own.safetensors")
    foreign = ganc("info", ROSINALITY, "--json")
    assert "recognised as" in foreign.err
    own = ganc("info", tmp_path / "own.safetensors", "--json")
    assert own.err == ""
    assert json.loads(foreign.out) == json.loads(own.out)


def test_tables_for_people_are_on_stdout(ganc: Ganc, checkpoint: Path) -> None:
    outcome = ganc("info", checkpoint)
    assert outcome.code == 0
    assert "stylegan2" in outcome.out
    assert "b8.conv0" in outcome.out
    assert "\x1b" not in outcome.out + outcome.err  # no colour codes off a terminal


def test_default_name_of_scores(
    ganc: Ganc, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ganc("score", checkpoint, "--method", "l1-out").code == 0
    assert (tmp_path / "model.l1-out.scores.safetensors").exists()


DRY = [
    ("import", ROSINALITY, "-o", "x.safetensors"),
    ("score", "absent.safetensors", "--method", "diversity"),
    ("prune", "absent.safetensors", "--scores", "absent", "-o", "x", "--macs", "4.1G"),
    ("sample", "absent.safetensors", "-o", "x.png"),
    ("distill", "absent.safetensors", "--teacher", "absent", "-o", "run"),
    ("eval", "absent.safetensors", "--metrics", "macs"),
    ("export", "absent.safetensors", "-o", "x.onnx"),
    ("demo", "-o", "somewhere"),
]


@pytest.mark.parametrize("arguments", DRY, ids=lambda a: str(a[0]))
def test_dry_run_stops_before_any_file(
    ganc: Ganc, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = ganc(*arguments, "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["command"] == arguments[0]
    assert document["settings"]
    assert list(tmp_path.iterdir()) == []
    assert ganc(*arguments, "--dry-run").out.strip()


def test_dry_run_resolves_counts(ganc: Ganc) -> None:
    outcome = ganc(
        "prune", "a", "--scores", "s", "-o", "x", "--macs", "4.1G", "--dry-run", "--json"
    )
    assert json.loads(outcome.out)["settings"]["macs"] == 4.1e9


@pytest.mark.parametrize(
    ("arguments", "findings"),
    [
        (("score", "x", "--metod", "random"), ["unknown option `--metod`", "`--method`"]),
        (("scoore", "x"), ["scoore", "score"]),
        (("score", "x", "--method", "divrsity"), ["unknown method `divrsity`", "`diversity`"]),
        (("score", "x", "--method", "random", "--samples", "3"), ["takes no --samples"]),
        (("score", "x", "--samples", "many"), ["--samples", "a count, or auto"]),
        (("score", "x", "--seed", "-1"), ["--seed"]),
        (("prune", "x", "-o", "y"), ["--scores"]),
        (("prune", "x", "--scores", "s", "-o", "y", "--macs", "4x"), ["`4x` is not a count"]),
        (("sample", "x", "-o", "y", "--labels", "a"), ["none of: 3 or 0,3,7 or 0-9 (classes)"]),
        (("info",), ["CKPT"]),
        ((), ["missing command", "ganc --help"]),
        (("export", "x", "-o", "y", "--format", "onx"), ["`onnx`"]),
        (("eval", "x", "--metrics", "macss"), ["`macs`"]),
        (("distill", "x", "--teacher", "y", "-o", "z", "--recipe", "stylkd"), ["`stylekd`"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_exits_2_and_says_what_is_allowed(
    ganc: Ganc, arguments: tuple[str, ...], findings: list[str]
) -> None:
    assert_one_line(ganc(*arguments), 2, *findings)


@pytest.mark.parametrize("budget", [(), ("--prune-ratio", "0.5", "--macs", "1M")])
def test_prune_takes_exactly_one_budget(
    ganc: Ganc, checkpoint: Path, tmp_path: Path, budget: tuple[str, ...]
) -> None:
    scores = scores_of(ganc, checkpoint)
    outcome = ganc("prune", checkpoint, "--scores", scores, "-o", tmp_path / "x", *budget)
    assert_one_line(outcome, 2, "exactly one of --prune-ratio, --macs, --speedup, --params")


def test_plan_that_removes_nothing_is_refused(ganc: Ganc, checkpoint: Path, tmp_path: Path) -> None:
    scores = scores_of(ganc, checkpoint)
    outcome = ganc(
        "prune", checkpoint, "--scores", scores, "-o", tmp_path / "x", "--prune-ratio", "0.01"
    )
    assert_one_line(outcome, 2, "removes nothing")
    assert not (tmp_path / "x").exists()


def text_file(path: Path) -> str:
    path.write_text("hello, I am a text file with a borrowed name")
    return "is not a checkpoint"


def truncated(path: Path) -> str:
    save(make_model(), path)
    path.write_bytes(path.read_bytes()[:-100])
    return "is damaged"


def flipped(path: Path) -> str:
    save(make_model(), path)
    content = bytearray(path.read_bytes())
    content[-1000] ^= 4
    path.write_bytes(content)
    return "do not match their checksum"


def folder(path: Path) -> str:
    path.mkdir()
    return "is a folder"


def missing(path: Path) -> str:
    return "does not exist"


@pytest.mark.parametrize("spoil", [text_file, truncated, flipped, folder, missing])
@pytest.mark.parametrize(
    "command", ["import", "score", "prune", "sample", "eval", "export", "distill"]
)
def test_bad_checkpoints_exit_3(
    ganc: Ganc, tmp_path: Path, checkpoint: Path, command: str, spoil: Callable[[Path], str]
) -> None:
    path, output = tmp_path / "spoiled.safetensors", tmp_path / "output"
    finding = spoil(path)
    extra: tuple[Any, ...] = ("-o", output)
    if command == "prune":
        extra = ("-o", output, "--prune-ratio", 0.5, "--scores", scores_of(ganc, checkpoint))
    if command == "eval":
        extra = ("--metrics", "macs")
    if command == "distill":
        extra = ("-o", output, "--teacher", checkpoint, "--perceptual", "none")
    if command == "score":
        extra = ("-o", output, "--method", "random")
    before = sorted(p.name for p in tmp_path.iterdir())
    assert_one_line(ganc(command, path, *extra), 3, str(path), finding)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_scores_of_another_model_exit_3(ganc: Ganc, checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save(make_model(seed=3), other)
    outcome = ganc(
        "prune", other, "--scores", scores_of(ganc, checkpoint), "-o", tmp_path / "x",
        "--prune-ratio", "0.5",
    )  # fmt: skip
    assert_one_line(outcome, 3, "another checkpoint", "ganc score")


@pytest.mark.parametrize("command", ["import", "score", "prune", "sample", "export"])
def test_existing_output_is_refused_untouched(
    ganc: Ganc, checkpoint: Path, tmp_path: Path, command: str
) -> None:
    output = tmp_path / "precious"
    output.write_text("do not lose me")
    extra = {
        "score": ("--method", "random"),
        "prune": ("--scores", "absent", "--prune-ratio", 0.5),
    }.get(command, ())
    assert_one_line(ganc(command, checkpoint, "-o", output, *extra), 3, "exists already", "--force")
    assert output.read_text() == "do not lose me"


def test_force_overwrites(ganc: Ganc, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "old"
    output.write_text("old")
    assert ganc("import", checkpoint, "-o", output, "--force").code == 0
    assert load(output).params() > 0


def test_output_in_a_missing_folder_is_refused(
    ganc: Ganc, checkpoint: Path, tmp_path: Path
) -> None:
    outcome = ganc("import", checkpoint, "-o", tmp_path / "no" / "x")
    assert_one_line(outcome, 3, "does not exist", "mkdir")


@pytest.mark.parametrize("command", ["import", "score", "sample"])
def test_full_disk_leaves_nothing_behind(
    ganc: Ganc, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ganc.files.os.fsync", full)
    extra = ("--method", "random") if command == "score" else ()
    output = tmp_path / "out"
    assert_one_line(
        ganc(command, checkpoint, "-o", output, *extra), 3, "no space left", str(output)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.name]


@pytest.mark.slow
def test_pipes(tmp_path: Path, checkpoint: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def start(source: Path, target: Path, *words: object) -> BaseProcess:
        return forked.start(be_ganc_between, source, target, [*map(str, words)])

    own, scores = tmp_path / "own", tmp_path / "scores.bin"
    none = Path(os.devnull)
    assert forked.exit_code(start(none, own, "import", ROSINALITY, "-o", "-", "-q")) == 0
    words = ("score", "-", "--method", "random", "-o", "-", "-q")
    assert forked.exit_code(start(own, scores, *words)) == 0
    words = ("prune", "-", "--scores", str(scores), "--prune-ratio", "0.7", "-o", "-", "-q")
    ends = start(own, pipe, *words), start(pipe, shown := tmp_path / "shown", "info", "-", "--json")
    assert [forked.exit_code(process) for process in ends] == [0, 0]
    assert json.loads(shown.read_text())["params"] == 27132
    assert (tmp_path / "said").read_text() == ""


def be_ganc_between(source: Path, target: Path, words: list[str]) -> None:
    """Be ``ganc WORDS <source >target 2>>said``."""
    sys.stdin = os.fdopen(os.open(source, os.O_RDONLY))
    os.dup2(os.open(target, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(os.open(target.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.argv = ["ganc", *words]
    cli.main()


def test_what_never_ends_is_refused(
    ganc: Ganc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = ganc("info", "/dev/zero")
    assert (outcome.code, outcome.err.splitlines()[0]) == (
        EXIT_INPUT, "error: /dev/zero is no file, expected a file"
    )  # fmt: skip
    monkeypatch.setattr(files, "MAX_STREAM_BYTES", 100)
    with pytest.raises(InputError, match="the stream gives more than 100 bytes"):
        load(io.BytesIO(bytes(101)))


def aborted_by(cause: BaseException) -> BaseException:
    error = Abort()
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted"),
        (aborted_by(EOFError("no data")), EXIT_COMPUTATION, "internal error: EOFError: no data"),
        (MemoryError(), EXIT_COMPUTATION, "out of memory"),
        (ZeroDivisionError("division by zero"), EXIT_COMPUTATION, "internal error"),
        (SystemExit(1), EXIT_COMPUTATION, "internal error"),  # a library's; 1 has its own meaning
    ],
)
def test_other_ends_have_their_codes(error: BaseException, code: int, message: str) -> None:
    got, text, _ = explain(error)
    assert got == code
    assert text is not None
    assert message in text


def test_debug_shows_the_traceback(ganc: Ganc) -> None:
    outcome = ganc("info", "nowhere.safetensors", "--debug")
    assert outcome.code == 3
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-2].startswith("error: nowhere.safetensors does not exist")


def test_labels_and_truncation_reach_the_model(ganc: Ganc, tmp_path: Path) -> None:
    path = tmp_path / "conditional.safetensors"
    save(make_model(c_dim=3), path)
    images = []
    for number, extra in enumerate(
        [(), ("--labels", "0-2"), ("--labels", "1"), ("--truncation", "0")]
    ):
        output = tmp_path / f"{number}.png"
        assert ganc("sample", path, "-o", output, "-n", 4, *extra).code == 0
        images.append(output.read_bytes())
    assert len(set(images)) == 4
    assert_one_line(ganc("sample", path, "-o", tmp_path / "x", "--labels", "3"), 2, "0 to 2")


def test_model_without_generator(ganc: Ganc, model: Model, tmp_path: Path) -> None:
    save(Model(discriminator=model.discriminator), tmp_path / "d.safetensors")
    assert json.loads(ganc("info", tmp_path / "d.safetensors", "--json").out)["params"] > 0
    for command in ("sample", "score", "export"):
        outcome = ganc(command, tmp_path / "d.safetensors", "-o", tmp_path / "x")
        assert_one_line(outcome, 3, "no generator")
    assert_one_line(ganc("eval", tmp_path / "d.safetensors"), 3, "no generator")
    assert ganc("eval", tmp_path / "d.safetensors", "--metrics", "macs,params").code == 0


def test_distill_names_a_missing_model_before_missing_weights(
    ganc: Ganc, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GANC_OFFLINE", "1")
    run = tmp_path / "run"
    assert_one_line(ganc("distill", checkpoint, "-o", run), 2, "needs real images", "--data")
    assert_one_line(ganc("distill", "--teacher", checkpoint, "-o", run), 2, "student is needed")
    outcome = ganc("distill", checkpoint, "--teacher", checkpoint, "-o", run)
    assert_one_line(outcome, 3, "vgg16", "--perceptual effnet-lite0|none")
    assert not run.exists()


@pytest.mark.parametrize("value", ["nan", "inf", "1e40"])
def test_truncation_is_a_finite_number(
    ganc: Callable[..., Outcome], checkpoint: Path, tmp_path: Path, value: str
) -> None:
    for arguments in (
        ("sample", checkpoint, "-o", tmp_path / "x.png", "--truncation", value),
        ("eval", checkpoint, "--metrics", "macs", "--truncation", value),
    ):
        assert_one_line(ganc(*arguments), 2, "--truncation", "not a finite number")
    assert not (tmp_path / "x.png").exists()


def test_a_bound_is_a_finite_number(ganc: Callable[..., Outcome], checkpoint: Path) -> None:
    done = ganc("eval", checkpoint, "--metrics", "macs", "--require", "macs<=1e400")
    assert_one_line(done, 2, "the bound is not a finite number")


def test_outputs_replace_files_alone(
    ganc: Callable[..., Outcome], checkpoint: Path, tmp_path: Path
) -> None:
    fifo, target, link = (tmp_path / name for name in ("fifo", "target.png", "link.png"))
    os.mkfifo(fifo)
    target.write_bytes(b"x")
    link.symlink_to(target)
    for path in (fifo, "/proc/self/fd/1"):
        done = ganc("sample", checkpoint, "-n", 1, "-o", path, "--force")
        assert_one_line(done, 3, "is not a regular file", "- ")
    assert fifo.is_fifo()
    for path in ("/dev/null", "/dev/stdout"):
        with pytest.raises(OutputError, match="is not a regular file"):
            check_output(Path(path), force=True)
    done = ganc("sample", checkpoint, "-n", 1, "-o", link, "--force")
    assert done.code == 0
    assert link.is_symlink()
    assert target.read_bytes().startswith(b"\x89PNG")
