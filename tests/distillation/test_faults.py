"""Every way a run can be hurt, and that it goes on as if nothing had happened."""

import contextlib
import dataclasses
import errno
import functools
import itertools
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ganc.checkpoints.store import save
from ganc.data.stream import usable_images
from ganc.distillation import run_folder
from ganc.distillation.distill import DistillResult, distill
from ganc.distillation.recipes import RECIPES
from ganc.distillation.settings import Choices, TrainingSettings, new_settings, resumed_settings
from ganc.errors import CheckpointError, DataError, GancError, InputError
from ganc.models.model import Model
from ganc.models.stylegan2 import Generator
from ganc.models.stylegan2_discriminator import Discriminator
from ganc.progress import ignore
from tests import forked
from tests.distillation.conftest import pruned

NUMBERS = {"batch": 4, "perceptual": "none", "r1_interval": 3, "pl_interval": 2}
FILES = ("state.json", "student.safetensors", "ema.safetensors", "optimizers.safetensors",
         "trainer.safetensors")  # fmt: skip

Train = Callable[..., DistillResult]


def make_tiny() -> Model:
    """Build a StyleGAN2 of 8 px: these tests train it some hundred times."""
    torch.manual_seed(0)
    widths = {"b4.const": 4, "b4.conv1": 3, "b8.conv0": 4, "b8.conv1": 3}
    d_widths = {"b8.fromrgb": 3, "b8.conv0": 4, "b8.conv1": 3, "b4.conv": 3, "b4.fc": 4}
    mapping = {"num_layers": 1}
    generator = Generator(4, 0, 4, 8, 3, mapping_kwargs=mapping, widths=widths)
    discriminator = Discriminator(0, 8, 3, mapping_kwargs=mapping, widths=d_widths)
    return Model(generator.eval(), discriminator.eval())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds a teacher and its student, and runs to be."""
    teacher = make_tiny()
    save(teacher, tmp_path / "teacher.safetensors")
    save(pruned(teacher), tmp_path / "student.safetensors")
    return tmp_path


def train_on(folder: Path, run: str, **schedule: Any) -> None:
    """Start a run or, where it has a checkpoint, go on with it: what a user would do."""
    resume = "latest" if run_folder.steps(folder / run) else None
    distill(
        folder / "student.safetensors", folder / "teacher.safetensors", folder / run,
        overrides=NUMBERS, device="cpu", resume=resume, **schedule,
    )  # fmt: skip


def content(run: Path) -> dict[str, Any]:
    """Read what a run must have come to: its losses, its weights and optimisers, its student."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    newest = run / "checkpoints" / str(run_folder.steps(run)[-1])
    names = [*(name for name in FILES if name != "state.json")]
    found: dict[str, Any] = {name: (newest / name).read_bytes() for name in names}
    return found | {"metrics": lines, "student": (run / "student.safetensors").read_bytes()}


def assert_whole(run: Path, expected: dict[str, Any]) -> None:
    """Check a finished run against one that nothing happened to."""
    found = content(run)
    assert found["metrics"] == expected["metrics"]
    assert [name for name in expected if found[name] != expected[name]] == []
    assert [path for path in run.rglob(".*") if path.name != ".lock"] == []  # nothing half-written


def is_growth(event: str, values: tuple[Any, ...]) -> bool:
    """Whether a call, as Python's audit reports it, needs space on the disk."""
    flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    return event == "os.mkdir" or (event == "open" and bool(values[2] & flags))


def is_change(event: str, values: tuple[Any, ...]) -> bool:
    """Whether a call changes files in any way."""
    others = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod")
    return event in others or is_growth(event, values)


class Calls:
    """The calls that count, of the process that makes one: it is to be forked for this.

    Syncing a file counts always.

    Attributes:
        made: How many there have been.
    """

    def __init__(
        self, counts: Callable[..., bool], before: Callable[[int, int | None], None]
    ) -> None:
        """Call ``before`` with the number of the call, from 0, and the file that is synced."""
        self.made, self._counts, self._before = 0, counts, before
        self._is_busy, self._fsync = False, os.fsync
        os.fsync = self._counted_fsync
        sys.addaudithook(self._audit)  # for good

    def _audit(self, event: str, values: tuple[Any, ...]) -> None:
        if not self._is_busy and self._counts(event, values):
            self._count(None)

    def _counted_fsync(self, descriptor: int) -> None:
        self._count(descriptor)
        self._fsync(descriptor)

    def _count(self, descriptor: int | None) -> None:
        call, self.made, self._is_busy = self.made, self.made + 1, True
        try:
            self._before(call, descriptor)
        finally:
            self._is_busy = False


def cut_in_half(path: Path | int) -> None:
    """Lose half of a file that is about to be synced: it was never promised to reach the disk."""
    os.truncate(path, os.stat(path).st_size // 2)


ONE_STEP = {"steps": 1, "save_every": 1, "sample_every": 1, "log_every": 1, "keep_last": 1}


def copy_at_every_call(folder: Path) -> None:
    """Train; keep as ``at-<call>`` what the run's files would be if the process died there."""
    run = folder / "run"

    def keep(call: int, descriptor: int | None) -> None:
        if not run.exists():
            return
        shutil.copytree(run, kept := folder / f"at-{call}")
        synced = None if descriptor is None else os.fstat(descriptor)
        for path in run.rglob("*") if synced and stat.S_ISREG(synced.st_mode) else ():
            if os.path.samestat(path.stat(), synced):
                cut_in_half(kept / path.relative_to(run))

    calls = Calls(is_change, keep)
    train_on(folder, "run", **ONE_STEP)
    (folder / "calls").write_text(str(calls.made))


def die_at(folder: Path, last: int) -> None:
    """Train, and die before a call."""

    def die(call: int, descriptor: int | None) -> None:
        if call == last:
            os.kill(os.getpid(), signal.SIGKILL)

    Calls(is_change, die)
    train_on(folder, "run", **ONE_STEP)


def state(run: Path) -> dict[str, bytes]:
    """Return what a run's files hold, under names without their random part."""
    return {
        re.sub(r"-\w{8}\.tmp$", "", str(path.relative_to(run))): (
            path.read_bytes() if path.is_file() else b""
        )
        for path in run.rglob("*")
    }


@pytest.mark.slow
def test_death_before_any_system_call_loses_nothing(folder: Path) -> None:
    """A process that is killed leaves its files as they are: a copy of them is as good."""
    train_on(folder, "whole", **ONE_STEP)
    expected, run = content(folder / "whole"), folder / "run"
    assert forked.exit_code(forked.start(copy_at_every_call, folder)) == 0
    assert_whole(run, expected)
    shutil.rmtree(run)
    copies = [folder / f"at-{call}" for call in range(int((folder / "calls").read_text()))]
    assert len(copies) > 60
    assert [path.exists() for path in copies].count(False) < 3  # before there was a folder
    middle = len(copies) // 2
    dead = forked.exit_code(forked.start(die_at, folder, middle))
    assert dead == -signal.SIGKILL
    assert names(run) == names(copies[middle])
    before: dict[str, bytes] = {}
    for copy in filter(Path.exists, copies):
        if (now := state(copy)) != before:
            shutil.rmtree(run, ignore_errors=True)
            copy.rename(run)
            train_on(folder, "run", **ONE_STEP)
            assert_whole(run, expected)
        before = now


def names(run: Path) -> set[str]:
    """Return which files a run has; that of the events has its time and process in its name."""
    return {name.partition("tfevents")[0] for name in state(run)}


def fill_disk_at_every_call(folder: Path) -> None:
    """Train where the disk is full from a call on, then where it is not; so for each call."""
    expected, run = content(folder / "whole"), folder / "run"
    full_from: float = math.inf

    def fail(call: int, descriptor: int | None) -> None:
        if call == full_from and descriptor and stat.S_ISREG(os.fstat(descriptor).st_mode):
            cut_in_half(descriptor)
        if call >= full_from:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls, before = Calls(is_growth, fail), {"": b""}
    for call in itertools.count():
        calls.made, full_from = 0, call
        error = failure(folder)
        full_from = math.inf
        if error is None:
            break
        assert (error.exit_code, error.message.rpartition(": ")[2]) == (
            3, "no space left on the device, nothing was written",
        )  # fmt: skip
        if (now := timeless(run)) != before:
            train_on(folder, "run", **ONE_STEP)
            assert_whole(run, expected)
        before = now
        shutil.rmtree(run, ignore_errors=True)
    assert_whole(run, expected)  # that one came through
    assert call > 30


def failure(folder: Path) -> GancError | None:
    """Train; return why that failed."""
    try:
        train_on(folder, "run", **ONE_STEP)
    except GancError as error:
        return error
    return None


def timeless(run: Path) -> dict[str, bytes]:
    """Return what a run's files hold but for what the clock says, and hashes of that."""
    found = {}
    for name, held in state(run).items():
        if "tfevents" in name:
            found["tfevents"] = str(len(held)).encode()
        else:
            found[name] = re.sub(rb"[0-9a-f.]+", b"", held) if ".json" in name else held
    return found


@pytest.mark.slow
def test_a_full_disk_at_any_call_loses_nothing(folder: Path) -> None:
    train_on(folder, "whole", **ONE_STEP)
    assert forked.exit_code(forked.start(fill_disk_at_every_call, folder)) == 0


@contextlib.contextmanager
def files_limited(limit: int) -> Iterator[None]:
    """Let no file become larger than ``limit`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_file_that_is_cut_short_loses_nothing(folder: Path) -> None:
    train_on(folder, "whole", **ONE_STEP)
    expected = content(folder / "whole")
    sizes = {path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file()}
    for size in sorted(sizes - {0}):
        with files_limited(size - 1):
            error = failure(folder)
        assert error is not None, size
        assert error.exit_code == 3
        assert error.message.endswith("cannot be written: File too large")
        train_on(folder, "run", **ONE_STEP)
        assert_whole(folder / "run", expected)
        shutil.rmtree(folder / "run")
    assert len(sizes) > 6


LONG = {"steps": 48, "save_every": 2, "sample_every": 7, "log_every": 2, "keep_last": 2}


def slow_sync() -> None:
    """Let syncing a file cost as much as a disk's would, in computing time."""
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        end = time.process_time() + 0.002
        while time.process_time() < end:
            pass
        fsync(descriptor)

    os.fsync = slow_fsync


def train_whole(folder: Path) -> None:
    """Train without dying; note when the first step and the last one were done."""
    slow_sync()
    began, clock = time.process_time(), []
    train_on(folder, "whole", **LONG, progress=lambda *_: clock.append(time.process_time()))
    (folder / "clock").write_text(json.dumps([clock[0] - began, clock[-1] - began]))


def die_after(folder: Path, seconds: float) -> None:
    """Train, and die after so much computing time, wherever that is."""
    slow_sync()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which is: to end the process on the spot
    signal.setitimer(signal.ITIMER_PROF, seconds)
    train_on(folder, "run", **LONG)


@pytest.mark.slow
def test_death_at_8_random_moments_loses_nothing(folder: Path) -> None:
    assert forked.exit_code(forked.start(train_whole, folder)) == 0
    first, last = json.loads((folder / "clock").read_text())
    latest = 2 * first + 7 * (last - first) / LONG["steps"]
    moments, steps = random.Random(0), []
    for eighth in range(8):  # the first while it starts
        seconds = latest * (eighth + moments.random()) / 8
        process = forked.start(die_after, folder, seconds)
        assert forked.exit_code(process) == -signal.SIGPROF
        steps.append(max(run_folder.steps(folder / "run"), default=-1))
    assert steps == sorted(steps)
    assert len(set(steps)) > 3  # the deaths were spread over the run
    train_on(folder, "run", **LONG)
    assert_whole(folder / "run", content(folder / "whole"))
    events = EventAccumulator(str(folder / "run"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("losses/g_loss")]
    lines = content(folder / "run")["metrics"]
    assert shown == [(line["step"], pytest.approx(line["g_loss"], rel=1e-6)) for line in lines]


def damages(content: bytes, chance: random.Random) -> Iterator[bytes]:
    """Yield damaged copies: flipped bits, cut at several places."""
    for _ in range(12):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        yield bytes(damaged)
    for length in (0, 1, len(content) // 2, len(content) - 1):
        yield content[:length]


@pytest.mark.parametrize("name", FILES)
def test_any_damage_falls_back_to_the_checkpoint_before(
    train: Train, tmp_path: Path, name: str
) -> None:
    train(steps=2, save_every=1)
    run, chance = tmp_path / "run", random.Random(0)
    path = run / "checkpoints" / "2" / name
    intact = path.read_bytes()
    state = run_folder.load_snapshot(run, "latest", print).state
    for damaged in damages(intact, chance):
        path.write_bytes(damaged)
        warnings: list[str] = []
        snapshot = run_folder.load_snapshot(run, "latest", warnings.append)
        if snapshot.state == state:  # 1e-08 became 1E-08: the same state
            assert name == "state.json"
            continue
        assert snapshot.step == 1
        assert len(warnings) == 1
        assert str(path) in warnings[0]
        assert warnings[0].endswith("; trying the checkpoint before it")
    path.unlink()
    assert run_folder.load_snapshot(run, "latest", ignore).step == 1
    with pytest.raises(CheckpointError):
        run_folder.load_snapshot(run, run / "checkpoints" / "2", ignore)


def test_a_run_outlives_its_damaged_checkpoint(train: Train, tmp_path: Path) -> None:
    train("whole", steps=6)
    train(steps=4, save_every=2)
    (tmp_path / "run" / "checkpoints" / "4" / "ema.safetensors").unlink()
    warnings: list[str] = []
    train(steps=3, save_every=1, keep_last=1, resume="latest", warn=warnings.append)
    assert [("checkpoints/4" in warning) for warning in warnings] == [True]
    assert run_folder.steps(tmp_path / "run") == [3]  # not the damaged one in its place
    train(steps=6, resume="latest", save_every=1, keep_last=1)
    assert_whole(tmp_path / "run", content(tmp_path / "whole"))


def test_a_future_that_was_given_up_is_gone(train: Train, tmp_path: Path) -> None:
    train("whole", steps=5)
    train(steps=6, save_every=2)
    train(steps=3, save_every=1, keep_last=1, resume=tmp_path / "run" / "checkpoints" / "2")
    assert run_folder.steps(tmp_path / "run") == [3]
    train(steps=5, resume="latest", keep_last=1)
    assert_whole(tmp_path / "run", content(tmp_path / "whole"))


def test_a_data_file_that_vanishes_is_named(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    random_bytes = random.Random(0)
    for i in range(40):
        Image.frombytes("RGB", (16, 16), random_bytes.randbytes(768)).save(images / f"{i:02}.png")
    uncached = functools.partial(usable_images, cache_bytes=0)  # as of a set too large for memory
    monkeypatch.setattr("ganc.distillation.reals.usable_images", uncached)
    train("whole", steps=12, data=images)

    def vanish(what: str, done: int, total: int) -> None:
        if (what, done) == ("distilling", 3):
            images.rename(tmp_path / "elsewhere")

    with pytest.raises(DataError, match=r"images/\d\d\.png") as caught:
        train(steps=12, data=images, save_every=2, log_every=1, progress=vanish)
    assert "\n" not in str(caught.value)
    (tmp_path / "elsewhere").rename(images)
    train(steps=12, resume="latest")
    assert_whole(tmp_path / "run", content(tmp_path / "whole"))


TRANSLATOR = {"recipe": "i2i", "data": "pairs", "data_b": "others", "seed": 1}
CHANGES: dict[str, tuple[Any, str]] = {
    "recipe": (dataclasses.replace(RECIPES["i2i"], name="mine"), "name is i2i there and mine here"),
    "seed": (2, "seed is 1 there and 2 here"),
    "data": ("moved", ""),  # their content is compared: test_loop
    "data_b": ("moved", ""),
    "swap": (True, "swap is False there and True here"),
    "unpaired": (True, "unpaired is None there and True here"),
    "resize": (True, "resize is False there and True here"),
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainingSettings)])
def test_no_setting_changes_on_resume(name: str) -> None:
    architecture = "resnet_translator"
    saved = new_settings(Choices(**TRANSLATOR), architecture, has_teacher=True).to_json()
    value, message = CHANGES[name]
    asked = Choices(**{name: value})
    if not message:
        now = resumed_settings(asked, saved, "run", architecture, has_teacher=True)
        assert getattr(now, name) == str(Path(value).resolve())
        return
    with pytest.raises(InputError, match=re.escape(f"run has other settings: {message}")):
        resumed_settings(asked, saved, "run", architecture, has_teacher=True)


def test_recipe_numbers_do_not_change_on_resume() -> None:
    saved = new_settings(Choices(), "stylegan2", has_teacher=True).to_json()
    asked = Choices(overrides={"lr": 0.1, "r1_gamma": 5.0})
    message = "run has other settings: lr is 0.002 there and 0.1 here; r1_gamma is 1.0 there"
    with pytest.raises(InputError, match=re.escape(message)):
        resumed_settings(asked, saved, "run", "stylegan2", has_teacher=True)
