"""Every way a run can be hurt, and that it goes on as if nothing had happened."""

import dataclasses
import errno
import functools
import json
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


def interrupt_at(call: int, counts: Callable[..., bool], interrupt: Callable[[], None]) -> None:
    """Interrupt the forked process before its ``call``-th call that counts, and at all later ones.

    Syncing a file counts always. The one whose turn it is loses half of itself: it was never
    promised to reach the disk.
    """
    made, fsync = 0, os.fsync

    def count(event: str, values: tuple[Any, ...]) -> None:
        nonlocal made
        if event == "os.fsync" or counts(event, values):
            made += 1
            if made > call:
                interrupt()

    def counted_fsync(descriptor: int) -> None:
        if made == call and stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
        count("os.fsync", ())
        fsync(descriptor)

    sys.addaudithook(count)  # for good: this process is the child's
    os.fsync = counted_fsync


ONE_STEP = {"steps": 1, "save_every": 1, "sample_every": 1, "log_every": 1, "keep_last": 1}


def die_at(folder: Path, call: int) -> None:
    interrupt_at(call, is_change, lambda: os.kill(os.getpid(), signal.SIGKILL))
    train_on(folder, "run", **ONE_STEP)


@pytest.mark.slow
def test_death_before_any_system_call_loses_nothing(folder: Path) -> None:
    train_on(folder, "whole", **ONE_STEP)
    expected, call = content(folder / "whole"), 0
    while forked.exit_code(forked.start(die_at, folder, call)) == -signal.SIGKILL:
        train_on(folder, "run", **ONE_STEP)
        assert_whole(folder / "run", expected)
        shutil.rmtree(folder / "run")
        call += 1
    assert_whole(folder / "run", expected)  # that one came through
    assert call > 60


def said(folder: Path) -> int:
    return os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def fill_disk_at(folder: Path, call: int) -> None:
    """Train until the disk is full: nothing can be made, opened for writing or synced any more."""

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    descriptor = said(folder)
    interrupt_at(call, is_growth, fail)
    tell(descriptor, lambda: train_on(folder, "run", **ONE_STEP))


def limit_files(folder: Path, limit: int) -> None:
    """Train where no file may be larger than ``limit`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def train() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            train_on(folder, "run", **ONE_STEP)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    tell(said(folder), train)


def tell(descriptor: int, train: Callable[[], None]) -> None:
    """Train; write a failure's line to an open file, and make its exit code the process's."""
    try:
        train()
    except GancError as error:
        os.write(descriptor, error.message.encode())
        sys.exit(error.exit_code)


@pytest.mark.slow
def test_a_full_disk_at_any_call_loses_nothing(folder: Path) -> None:
    train_on(folder, "whole", **ONE_STEP)
    expected, call = content(folder / "whole"), 0
    while code := forked.exit_code(forked.start(fill_disk_at, folder, call)):
        message = (folder / "said").read_text()
        assert (code, message.rpartition(": ")[2]) == (
            3, "no space left on the device, nothing was written",
        )  # fmt: skip
        train_on(folder, "run", **ONE_STEP)
        assert_whole(folder / "run", expected)
        shutil.rmtree(folder / "run")
        call += 1
    assert_whole(folder / "run", expected)
    assert call > 30


@pytest.mark.slow
def test_a_file_that_is_cut_short_loses_nothing(folder: Path) -> None:
    train_on(folder, "whole", **ONE_STEP)
    expected = content(folder / "whole")
    sizes = {path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file()}
    for size in sorted(sizes - {0}):
        assert forked.exit_code(forked.start(limit_files, folder, size - 1)) == 3, size
        assert (folder / "said").read_text().endswith("cannot be written: File too large")
        train_on(folder, "run", **ONE_STEP)
        assert_whole(folder / "run", expected)
        shutil.rmtree(folder / "run")
    assert len(sizes) > 6


LONG = {"steps": 72, "save_every": 2, "sample_every": 7, "log_every": 2, "keep_last": 2}


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
def test_death_at_12_random_moments_loses_nothing(folder: Path) -> None:
    assert forked.exit_code(forked.start(train_whole, folder)) == 0
    first, last = json.loads((folder / "clock").read_text())
    latest = first + 5 * (last - first) / LONG["steps"]
    moments, steps = random.Random(0), []
    for _ in range(12):
        process = forked.start(die_after, folder, moments.uniform(0, latest))
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
