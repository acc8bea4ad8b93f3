"""The run as a user sees it: its folder, resuming, stopping, and every way it can fail."""

import json
import shutil
import signal
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ganc.checkpoints.store import load, save
from ganc.distillation import run_folder
from ganc.distillation.distill import DistillResult
from ganc.distillation.monitor import TrainingStatus
from ganc.distillation.trainers.player import Player
from ganc.distillation.trainers.style import StyleTrainer
from ganc.errors import (
    ComputationError,
    DataError,
    InputError,
    Interrupted,
    OutputError,
    UsageError,
    WeightsError,
)
from ganc.models.model import Model
from tests.conftest import make_model

Train = Callable[..., DistillResult]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the loss series without its timings."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") >= 0
    return lines


def tensors(folder: Path, step: int) -> dict[str, bytes]:
    """Read the weights and optimisers of a checkpoint."""
    snapshot = run_folder.load_snapshot(folder, folder / "checkpoints" / str(step), print)
    named = {**snapshot.student.tensors(), **snapshot.ema.tensors()}
    named |= {f"optimizer.{k}": v for k, v in snapshot.optimizers.items()} | snapshot.trainer
    return {name: tensor.numpy().tobytes() for name, tensor in named.items()}


def test_a_run_folder_holds_what_the_design_says(train: Train, tmp_path: Path) -> None:
    result = train(steps=5, sample_every=2, save_every=2, keep_last=2)
    folder = tmp_path / "run"
    assert result.output == str(folder)
    assert result.steps == 5
    assert json.loads((folder / "recipe.json").read_text())["batch"] == 4
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4, 5]
    assert metrics(folder)[-1]["images"] == 20
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [
        "0.png", "2.png", "4.png", "5.png",
    ]  # fmt: skip
    assert run_folder.steps(folder) == [4, 5]
    assert list(folder.glob("events.out.tfevents*"))
    expected = {"d_loss", "r1", "g_loss", "g_adversarial", "latent_direction", "path_length",
                "path_length_mean", "d_grad_norm", "g_grad_norm"}  # fmt: skip
    assert set(result.losses) == expected
    assert result.losses["g_loss"] == metrics(folder)[-1]["g_loss"]


def test_the_student_is_the_average_with_its_history(
    train: Train, tmp_path: Path, student: Model, teacher: Model
) -> None:
    train(steps=3)
    made = load(tmp_path / "run" / "student.safetensors")
    average = load(tmp_path / "run" / "checkpoints" / "3" / "ema.safetensors")
    for name, tensor in average.tensors().items():
        assert torch.equal(made.tensors()[name], tensor)
    assert made.discriminator is not None
    assert made.widths["b8.conv0"] == student.widths["b8.conv0"]
    *before, step = made.provenance
    assert before == student.provenance
    assert (step["command"], step["steps"], step["seed"], step["data"]) == (
        "distill", 3, 0, "teacher",
    )  # fmt: skip
    assert step["parent"] == student.content_hash()
    assert step["teacher"] == teacher.content_hash()
    assert step["recipe"]["name"] == "ganc"


def test_the_models_passed_in_are_untouched(train: Train, student: Model, teacher: Model) -> None:
    before = student.content_hash(), teacher.content_hash()
    required = teacher.generator.mapping.fc0.weight.requires_grad
    train(steps=2)
    assert (student.content_hash(), teacher.content_hash()) == before
    assert teacher.generator.mapping.fc0.weight.requires_grad is required


def test_the_sample_grid_shows_both(train: Train, tmp_path: Path) -> None:
    train(steps=1)
    with Image.open(tmp_path / "run" / "samples" / "1.png") as image:
        assert image.size == (2 * 4 * 16 + 4, 8 * 16)
        assert image.mode == "RGB"


@pytest.mark.parametrize("freeze_mapping", [False, True])
def test_resume_gives_the_losses_of_an_uninterrupted_run(
    train: Train, tmp_path: Path, freeze_mapping: bool
) -> None:
    overrides = {"freeze_mapping": freeze_mapping}
    train("whole", steps=8, overrides=overrides)
    train("parts", steps=3, overrides=overrides, save_every=2)
    train("parts", steps=6, resume="latest", log_every=1)
    train("parts", steps=8, resume="latest", save_every=1, keep_last=9)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert tensors(tmp_path / "parts", 8) == tensors(tmp_path / "whole", 8)
    whole, parts = (tmp_path / name / "student.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_rate_that_falls_is_found_again(train: Train, tmp_path: Path) -> None:
    train("run", steps=6, overrides={"lr_decay": 1, "lr_warmup": 2}, save_every=3, keep_last=9)
    whole = metrics(tmp_path / "run"), tensors(tmp_path / "run", 6)
    train("run", steps=6, resume=tmp_path / "run" / "checkpoints" / "3")
    assert (metrics(tmp_path / "run"), tensors(tmp_path / "run", 6)) == whole


def test_resume_cuts_the_metrics_back(train: Train, tmp_path: Path) -> None:
    train(steps=6, save_every=3)
    folder = tmp_path / "run"
    before = metrics(folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "imag')  # what a killed run was writing
    train(steps=6, resume=folder / "checkpoints" / "3")
    assert metrics(folder) == before


def test_resume_finds_everything_by_itself(
    train: Train, tmp_path: Path, teacher: Model, student: Model
) -> None:
    save(teacher, tmp_path / "teacher.safetensors")
    save(student, tmp_path / "student.safetensors")
    paths = {k: tmp_path / f"{k}.safetensors" for k in ("teacher", "student")}
    train("whole", steps=4)
    train(steps=2, seed=0, **paths)
    from ganc.distillation.distill import distill

    with pytest.raises(UsageError, match="--steps 1 is less than the 2 that the run has done"):
        distill(None, None, tmp_path / "run", resume="latest", steps=1, device="cpu")
    result = distill(None, None, tmp_path / "run", resume="latest", steps=4, device="cpu")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    again = distill(None, None, tmp_path / "run", resume="latest", device="cpu")
    assert (again.steps, again.losses) == (4, result.losses)


def test_other_settings_are_refused_and_named(
    train: Train, tmp_path: Path, student: Model, teacher: Model
) -> None:
    train(steps=1)
    with pytest.raises(InputError, match=r"lr is 0\.002 there and 0\.1 here; seed is 0 t"):
        train(resume="latest", overrides={"lr": 0.1}, seed=1)
    with pytest.raises(InputError, match="latent_direction_weight is 30"):
        train(resume="latest", recipe="gan", overrides={"perceptual": "none"})
    with pytest.raises(InputError, match="started with another teacher than"):
        train(resume="latest", teacher=make_model(seed=5))
    with pytest.raises(InputError, match="started with another student than"):
        train(resume="latest", student=make_model(seed=5))
    with pytest.raises(UsageError, match="this run needs its teacher"):
        train(resume="latest", teacher=None)  # it was given as an object


def test_a_folder_that_holds_a_run_is_refused(train: Train) -> None:
    train(steps=1)
    with pytest.raises(OutputError, match="holds a run already, at step 1") as caught:
        train(steps=1)
    assert "--resume latest" in (caught.value.hint or "")


def test_a_folder_that_is_not_empty_is_refused(train: Train, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        train("other")
    assert [p.name for p in other.iterdir() if p.name != ".lock"] == ["notes.txt"]


def test_a_folder_in_use_is_refused(train: Train, tmp_path: Path) -> None:
    train(steps=1)
    with (
        run_folder.hold(tmp_path / "run"),
        pytest.raises(OutputError, match="is in use by another process"),
    ):
        train(steps=2, resume="latest")
    train(steps=2, resume="latest")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "missing/run"}, OutputError, r"folder .*missing does not exist"),
        ({"recipe": "nope"}, UsageError, "unknown recipe"),
        ({"student": None}, UsageError, "a student is needed"),
        ({"keep_last": 0}, UsageError, "--keep-last 0 is below 1"),
        ({"resume": "latest"}, InputError, "holds no complete checkpoint"),
    ],
    ids=["no folder", "recipe", "no student", "keep_last", "resume"],
)
def test_a_failed_start_leaves_nothing(
    train: Train, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(**arguments)
    assert not (tmp_path / "run").exists()


def test_a_start_that_was_killed_at_once_can_be_repeated(train: Train, tmp_path: Path) -> None:
    leftover = tmp_path / "run" / "checkpoints" / ".tmp-0"
    leftover.mkdir(parents=True)
    (leftover / "ema.safetensors").write_bytes(b"half")
    (tmp_path / "run" / "recipe.json").write_text("{}")
    train(steps=1)
    assert not leftover.exists()


def test_a_users_own_files_stay(train: Train, tmp_path: Path) -> None:
    train(steps=1)
    run = tmp_path / "run"
    own = [run / ".notes.tmp", run / "samples" / ".a.b.tmp", run / "checkpoints" / ".tmp-notes"]
    for path in own:
        path.write_text("mine")
    train(steps=2, resume="latest")
    assert [path.read_text() for path in own] == ["mine"] * 3


def test_missing_perceptual_weights_stop_before_anything_is_written(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError) as caught:
        train(overrides={"perceptual": "lpips-vgg"}, offline=True)
    assert "--perceptual effnet-lite0|none" in (caught.value.hint or "")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_run_is_refused(train: Train, tmp_path: Path) -> None:
    train("a", steps=1)
    train("b", steps=1)
    with pytest.raises(InputError, match="is not a checkpoint of"):
        train("a", steps=2, resume=tmp_path / "b" / "checkpoints" / "1")


def test_a_loss_that_is_not_finite_stops_the_run(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = StyleTrainer.step

    def poisoned(self: StyleTrainer, number: int, *rest: Any) -> dict[str, torch.Tensor]:
        if number == 4:
            self.generator.synthesis.b4.const.data[0] = float("nan")
        return step(self, number, *rest)

    monkeypatch.setattr(StyleTrainer, "step", poisoned)
    with pytest.raises(ComputationError) as caught:
        train(steps=20, save_every=2)
    message = str(caught.value)
    assert message.startswith("step 5: ")
    assert "g_loss nan" in message
    assert message.endswith(f"last good checkpoint: {tmp_path / 'run' / 'checkpoints' / '4'}")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4]
    made = load(tmp_path / "run" / "student.safetensors")
    assert all(tensor.isfinite().all() for tensor in made.tensors().values())


def test_a_gradient_that_is_not_finite_stops_the_run(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    descend = Player.descend
    monkeypatch.setattr(Player, "descend", lambda *args: descend(*args) * float("inf"))
    with pytest.raises(ComputationError, match="step 1: d_grad_norm inf, g_grad_norm inf"):
        train(steps=3)


def test_free_space_is_checked_first(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"0\.0 MiB free, the run needs 0\.\d MiB"):
        train(steps=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_ends_the_run(
    train: Train, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    train("whole", steps=6)

    def progress(what: str, done: int, total: int) -> None:
        if done == 2:
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match="interrupted at step 3 of 6") as caught:
        train(steps=6, progress=progress)
    assert caught.value.exit_code == code
    assert run_folder.steps(tmp_path / "run")[-1] == 3
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    train(steps=6, resume="latest")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_other_threads_can_train(train: Train, tmp_path: Path) -> None:
    thread = threading.Thread(target=train, kwargs={"steps": 1})
    thread.start()
    thread.join()
    assert run_folder.steps(tmp_path / "run") == [0, 1]


def test_the_gan_recipe_needs_no_perceptual_network(train: Train) -> None:
    result = train(steps=1, recipe="gan")
    assert not {"pixel_l1", "perceptual", "latent_direction"} & set(result.losses)
    assert "g_adversarial" in result.losses


def test_the_perceptual_term_is_logged(train: Train) -> None:
    numbers = {"perceptual": "effnet-lite0", "perceptual_resolution": 32}
    losses = train(steps=1, overrides=numbers).losses
    expected = losses["g_adversarial"] + 3 * losses["perceptual"]
    expected += 30 * losses["latent_direction"]
    assert losses["g_loss"] == pytest.approx(expected, rel=1e-5)
    assert losses["perceptual"] > 0


def test_distillation_brings_the_student_closer(train: Train, tmp_path: Path) -> None:
    numbers = {"adversarial_weight": 0.0, "pl_weight": 0.0, "lr": 0.01}
    train(steps=60, recipe="stylekd", overrides=numbers)
    series = [line["pixel_l1"] for line in metrics(tmp_path / "run")]
    assert sum(series[-10:]) < 0.75 * sum(series[:10])


def test_an_observer_sees_where_the_run_is(train: Train) -> None:
    seen: list[TrainingStatus] = []
    result = train(steps=6, log_every=2, on_log=seen.append, evaluate=lambda _: {"fd": 4.0},
                   eval_every=4)  # fmt: skip
    assert [status.step for status in seen] == [2, 4, 6]
    assert [status.images for status in seen] == [8, 16, 24]
    assert seen[0].evaluation == {"step": 0, "fd": 4.0}
    assert seen[-1].losses == result.losses
    assert all(0 < status.seconds_per_step < result.seconds for status in seen)
    assert seen[1].seconds_left == pytest.approx(2 * seen[1].seconds_per_step)
    assert seen[-1].seconds_left == 0
    assert (seen[0].process_bytes or 0) > 100 * 2**20  # torch alone takes more
    assert seen[0].device_bytes is None


def test_a_resume_keeps_the_schedule(train: Train, tmp_path: Path) -> None:
    train(steps=2, save_every=1, keep_last=2)
    train(steps=5, resume="latest")
    assert run_folder.steps(tmp_path / "run") == [4, 5]
    train(steps=7, resume="latest", keep_last=1)
    assert run_folder.steps(tmp_path / "run") == [7]


def write_zip(path: Path, count: int, *, broken: int = 0) -> Path:
    random = torch.Generator().manual_seed(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            pixels = torch.randint(0, 256, (16, 16, 3), generator=random, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(file := path.parent / "one.png")
            content = file.read_bytes()
            archive.writestr(f"{i:04}.png", content[:60] if i < broken else content)
    return path


def test_images_can_come_from_a_data_set(train: Train, tmp_path: Path) -> None:
    data = write_zip(tmp_path / "data.zip", 120, broken=1)
    warnings: list[str] = []
    train("whole", steps=4, data=data, warn=warnings.append)
    assert "0000.png" in warnings[0]
    train(steps=2, data=data)
    moved = tmp_path / "moved.zip"
    data.rename(moved)
    with pytest.raises(DataError, match=r"data\.zip"):
        train(steps=4, resume="latest")
    train(steps=4, resume="latest", data=moved)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    other = write_zip(tmp_path / "other.zip", 40)
    with pytest.raises(InputError, match="started with another data than"):
        train(resume="latest", data=other)


def test_the_provenance_counts_the_images(train: Train, tmp_path: Path) -> None:
    data = write_zip(tmp_path / "data.zip", 120, broken=1)
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("notes.txt", "x")
    warnings: list[str] = []
    train(steps=1, data=data, warn=warnings.append)
    step = load(tmp_path / "run" / "student.safetensors").provenance[-1]
    assert (step["data_images"], step["data_left_out"]) == (119, {".txt": 1})
    assert warnings[0] == f"{data}: 1 file left out, no images: 1 .txt"
