"""The whole program on a GPU, held against the CPU: images, scores, training, evaluation.

``GANC_TEST_DEVICE=cpu`` rehearses these tests where there is no card.
"""

import contextlib
import copy
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc.checkpoints.store import load, save
from ganc.devices import exact_float32
from ganc.diagnosis import doctor
from ganc.distillation import kinds
from ganc.distillation.distill import distill
from ganc.distillation.draws import Draws
from ganc.distillation.execution import Execution
from ganc.distillation.pair_batches import SideBatch
from ganc.distillation.reals import RealBatch
from ganc.distillation.recipes import resolve_recipe
from ganc.evaluation.evaluate import evaluate
from ganc.models.model import Model
from ganc.models.network import Translator
from ganc.pruning.plan import prune
from ganc.sampling import sample
from ganc.scores import kept_channels
from ganc.scoring.score import score
from ganc.showcase.pipeline import REAL, TEACHER
from tests.conftest import make_model
from tests.data.pictures import png, write_folder
from tests.distillation.conftest import pruned
from tests.distillation.parts import make_parts
from tests.distillation.test_loop import metrics
from tests.distillation.test_one_device import RUNS
from tests.families import FAMILIES, make_cyclegan, make_stylegan3
from tests.scoring.density.cases import QUICK, make_sngan_pair

pytestmark = pytest.mark.gpu

CPU, DEVICE = torch.device("cpu"), torch.device(os.environ.get("GANC_TEST_DEVICE", "cuda"))

MODELS: dict[str, Callable[[], Model]] = {
    **FAMILIES,
    "stylegan2 conditional": lambda: make_model(c_dim=3),
    "stylegan2 resnet": lambda: make_model(architecture=("resnet", "skip"), conv_clamp=1.0),
    "stylegan3-r conditional": lambda: make_stylegan3(c_dim=2, is_rotation_equivariant=True),
    "cyclegan": make_cyclegan,
}


@pytest.fixture(scope="module")
def faces() -> Iterator[tuple[Model, Path]]:
    """The embedded teacher, and its real images."""
    with resources.as_file(resources.files("ganc.showcase")) as carried:
        yield load(carried / TEACHER), carried / REAL


# --- images


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("noise_mode", ["random", "const"])
def test_images_are_those_of_the_cpu(name: str, noise_mode: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    settings: dict[str, Any] = {"noise_mode": noise_mode}
    if isinstance(model.generator, Translator):
        if noise_mode == "const":
            pytest.skip("a translator has no noise")
        side = model.generator.img_resolution
        pictures = {f"{i}.png": png(side, seed=i) for i in range(4)}
        settings = {"input": write_folder(tmp_path / "in", pictures)}
    assert_same_images(model, settings)


def test_the_embedded_teachers_images_are_those_of_the_cpu(faces: tuple[Model, Path]) -> None:
    assert_same_images(faces[0], {})


def assert_same_images(model: Model, settings: Mapping[str, Any]) -> None:
    expected = sample(model, 4, device=CPU, **settings)
    with exact_float32():
        found = sample(model, 4, device=DEVICE, **settings)
    # Sums of float32 products in another order: 1e-6 of what is summed, a few layers deep.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# --- scores

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "diversity": ("diversity", {"samples": 8, "batch": 4, "num_directions": 4}),
    "diversity by batches": (
        "diversity",
        {"samples": 8, "batch": 4, "num_directions": 4, "direction_batch": 2},
    ),
    "content": ("content", {"samples": 8, "batch": 4}),
    "activation": ("activation", {"samples": 8, "batch": 4}),
    "asv": ("asv", {"samples": 8, "batch": 4}),
    "style": ("style", {"samples": 8}),
    "rebuild": ("rebuild", {"samples": 8, "batch": 4}),
    "l1-in": ("l1-in", {}),
    "l1-out": ("l1-out", {"effective": True, "samples": 8}),
    "random": ("random", {}),
    "mix": ("diversity:0.7,content:0.3", {"samples": 8}),
}


@pytest.mark.parametrize("name", METHODS)
def test_scores_keep_the_channels_of_the_cpu(name: str) -> None:
    method, settings = METHODS[name]
    assert_same_scores(make_model(), method, settings)


@pytest.mark.parametrize("family", ["stylegan3", "sngan"])
@pytest.mark.parametrize("name", ["diversity", "asv"])
def test_scores_of_other_families(family: str, name: str) -> None:
    method, settings = METHODS[name]
    assert_same_scores(FAMILIES[family](), method, settings)


def assert_same_scores(model: Model, method: str, settings: Mapping[str, Any]) -> None:
    expected = score(model, method, device=CPU, **settings)
    found = score(model, method, device=DEVICE, **settings)
    for group, values in expected.values.items():
        largest = values.abs().max().item()
        torch.testing.assert_close(found[group], values, rtol=1e-3, atol=1e-5 * largest)
        assert kept_channels(found[group], 0.5) == kept_channels(values, 0.5), group


def test_density_plays_the_game_of_the_cpu(tmp_path: Path) -> None:
    """Its first losses: what the agents make of them, by a high learning rate, rounding decides."""
    settings: dict[str, Any] = {"samples": 24, "density": QUICK}
    first = {}
    for name, device in (("cpu", CPU), ("there", DEVICE)):
        log = tmp_path / name
        scores = score(make_sngan_pair(), "density", device=device, log=log, **settings)
        assert all(((values > 0) & (values < 1)).all() for values in scores.values.values())
        first[name] = json.loads(log.read_text().splitlines()[0])
    assert first["there"].keys() == first["cpu"].keys()
    for loss in ("d_loss", "g_loss", "generator_macs", "discriminator_macs"):
        assert first["there"][loss] == pytest.approx(first["cpu"][loss], rel=2e-2), loss  # TF32


# --- pruning


@pytest.mark.parametrize("steps", [0, 8])
@pytest.mark.parametrize("name", ["faces", "sngan", "stylegan3"])
def test_a_fit_comes_as_near_as_on_the_cpu(
    faces: tuple[Model, Path], name: str, steps: int
) -> None:
    teacher = faces[0] if name == "faces" else FAMILIES[name]()
    scores = score(teacher, "l1-out", device=CPU)
    settings: dict[str, Any] = {"prune_ratio": 0.5, "refit": True, "refit_samples": 48}
    images = sample(teacher, 16, device=CPU)

    def distance(student: Model) -> float:
        return float((sample(student, 16, device=CPU) - images).abs().mean())

    sliced = distance(prune(teacher, scores, prune_ratio=0.5))
    on_cpu, found = (
        distance(prune(teacher, scores, refit_steps=steps, device=device, **settings))
        for device in (CPU, DEVICE)
    )
    assert found < sliced
    assert found == pytest.approx(on_cpu, rel=0.02)  # Adam's signs, where a gradient is nearly 0


# --- training


@pytest.fixture
def same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw on the CPU whatever the device: a GPU's generator draws other numbers."""
    rows = Draws._rows

    def drawn(draws: Draws, *arguments: Any, **settings: Any) -> Tensor:
        on_cpu = Draws(draws.seed, draws.batch, CPU, draws.rank, draws.world)
        return rows(on_cpu, *arguments, **settings).to(draws.device)

    monkeypatch.setattr(Draws, "_rows", drawn)


def make_trainer(run: str, execution: Execution) -> tuple[Any, Any]:
    """Return a trainer of one of ``RUNS``, and a batch for it, on the execution's device."""
    build, name, numbers = RUNS[run]
    teacher = build()
    student = prune(teacher, score(teacher, "l1-out", device=CPU), prune_ratio=0.3)
    chance = {"augment_p": 0.5} if "augment" in numbers else {}
    recipe = resolve_recipe(name, {"batch": 4, "perceptual": "none"} | numbers | chance)
    trainer = kinds.ROWS[recipe.kind].trainer(make_parts(student, teacher, recipe, execution))
    random, own = torch.Generator().manual_seed(0), teacher.generator

    def images(channels: int) -> Tensor:
        shape = (recipe.reals_per_step, channels, own.img_resolution, own.img_resolution)
        return (torch.rand(shape, generator=random) * 2 - 1).to(execution.device)

    if trainer.kind == "translation":
        return trainer, SideBatch(images(own.in_channels), images(own.img_channels))
    c = torch.eye(own.c_dim)[[i % own.c_dim for i in range(4)]] if own.c_dim else None
    return trainer, RealBatch(images(3), None if c is None else c.to(execution.device))


@pytest.mark.parametrize("run", RUNS)
def test_two_steps_have_the_losses_of_the_cpu(same_draws: None, run: str) -> None:
    found = []
    for device in (CPU, DEVICE):
        execution = Execution(device, "fp32")
        trainer, batch = make_trainer(run, execution)
        with execution.arithmetic():
            trainer.prepare(batch)
            found.append([trainer.step(step, batch) for step in (0, 1)])
    for expected, losses in zip(*found, strict=True):
        assert losses.keys() == expected.keys()
        for name, value in losses.items():
            assert value.device.type == DEVICE.type
            # Adam's first step is the sign of a gradient: where that is nearly 0, rounding decides.
            rel = allowed(name, 2e-2)
            assert value.item() == pytest.approx(expected[name].item(), rel=rel, abs=1e-3), name
    if trainer.kind != "sngan":  # of whose discriminator the last of several steps is told
        name, value = next(iter(found[1][0].items()))  # before anything has moved
        assert value.item() == pytest.approx(found[0][0][name].item(), rel=1e-4), name


def allowed(name: str, rel: float, norms: float | None = None) -> float:
    """Return how far a loss may be off, relatively.

    The penalty of path length is the square of a difference of nearly equal numbers.
    """
    if name == "path_length":
        return 10 * rel
    return norms if norms is not None and "norm" in name else rel


@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize("run", RUNS)
def test_no_step_waits_for_the_gpu(run: str, precision: str) -> None:
    trainer, batch = make_trainer(run, Execution(DEVICE, precision))
    for step in (0, 16):  # tables and work space that are made once
        trainer.step(step, batch)
    with waiting_forbidden():
        for step in (32, 35):  # regularisers are due, then a move of ada
            trainer.step(step, batch)


@contextlib.contextmanager
def waiting_forbidden() -> Iterator[None]:
    """Let torch refuse what makes the host wait for the GPU."""
    if DEVICE.type != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode is a prototype, torch says
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(DEVICE.type != "cuda", reason="graphs are CUDA's")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize("run", [name for name in RUNS if RUNS[name][1] != "i2i"])
def test_recorded_steps_have_the_losses_of_others(run: str, precision: str) -> None:
    """From the third step on each phase is a replay."""
    found = []
    for cuda_graphs in (False, True):
        execution = Execution(DEVICE, precision, cuda_graphs=cuda_graphs)
        trainer, batch = make_trainer(run, execution)
        with execution.arithmetic():
            trainer.prepare(batch)
            found.append([trainer.step(step, batch) for step in (0, 16, 32, 33)])
    assert all(phase.replay is not None for phase in trainer.recorder.phases.values())
    for expected, losses in zip(*found, strict=True):
        assert losses.keys() == expected.keys()
        for name, value in losses.items():
            own = allowed(name, 2e-2 if precision == "fp32" else 0.1, norms=0.25)
            assert value.item() == pytest.approx(expected[name].item(), rel=own, abs=1e-3), name


Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Run a few steps of distillation on the device."""
    teacher = make_model()
    student = pruned(teacher)
    numbers = {"batch": 4, "perceptual": "effnet-lite0", "perceptual_resolution": 32,
               "r1_interval": 3, "pl_interval": 2}  # fmt: skip

    def run(name: str, *, steps: int, **settings: Any) -> Path:
        settings = {"overrides": numbers, "device": DEVICE, "log_every": 1} | settings
        distill(student, teacher, tmp_path / name, steps=steps, **settings)
        return tmp_path / name

    return run


def test_a_resumed_run_goes_on_as_the_uninterrupted_one(train: Train) -> None:
    whole = train("whole", steps=4, precision="fp32")
    train("parts", steps=2, precision="fp32")
    parts = train("parts", steps=4, precision="fp32", resume="latest")
    # The same numbers from the same state, but cuDNN may choose other kernels, and sums of atomic
    # additions come in any order: rounding, which Adam's signs may carry on.
    assert_close_series(whole, parts, rel=1e-2)
    student = load(parts / "student.safetensors")
    assert {tensor.device for tensor in student.tensors().values()} == {CPU}
    assert torch.isfinite(sample(student, 4, device=CPU)).all()


def test_bf16_is_close_to_fp32(train: Train) -> None:
    exact, rounded = (train(name, steps=2, precision=name) for name in ("fp32", "bf16"))
    assert_close_series(exact, rounded, rel=0.05, norms=0.25)


def test_channels_last_is_close_to_the_usual_layout(train: Train) -> None:
    plain = train("plain", steps=2, precision="fp32")
    assert_close_series(
        plain, train("last", steps=2, precision="fp32", channels_last=True), rel=0.01
    )


def assert_close_series(one: Path, other: Path, *, rel: float, norms: float | None = None) -> None:
    for expected, found in zip(metrics(one), metrics(other), strict=True):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value == pytest.approx(
                expected[name], rel=allowed(name, rel, norms), abs=1e-3
            ), name


@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's own, of several kinds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_compiled_teacher_gives_the_same_losses(same_draws: None, precision: str) -> None:
    """With TF32 allowed too: torch's compiler may not look at its older switches then."""
    found = []
    for compiles in (False, True):
        execution = Execution(DEVICE, precision, compiles=compiles)
        trainer, batch = make_trainer("stylegan2", execution)
        with execution.arithmetic():
            found.append(trainer.step(1, batch))
    rel = 1e-3 if precision == "fp32" else 0.05
    for name, value in found[1].items():
        own = allowed(name, rel, norms=0.25)
        assert value.item() == pytest.approx(found[0][name].item(), rel=own, abs=1e-3), name


# --- files, evaluation, diagnosis


def test_a_model_on_the_gpu_is_saved_as_on_the_cpu(tmp_path: Path) -> None:
    model = make_model()
    there = copy.deepcopy(model).to(DEVICE)
    save(model, tmp_path / "cpu.safetensors")
    save(there, tmp_path / "there.safetensors")
    assert there.content_hash() == model.content_hash()
    assert (tmp_path / "cpu.safetensors").read_bytes() == (
        tmp_path / "there.safetensors"
    ).read_bytes()


ALIKE = {"fd": 2e-3, "kd": 2e-3, "l1": 1e-3, "psnr": 1e-3, "perceptual": 1e-3, "macs": 0.0,
         "perceptual-diversity": 1e-3, "precision": 0.05, "recall": 0.05, "density": 0.05,
         "coverage": 0.05, "perceptual-ppl": 0.05, "irs": 0.05, "vendi": 1e-3}  # fmt: skip
"""Metric → how far a GPU may be off, relatively. Of the sets' shares one image in 32 may change
sides; a step along a path is 1e-4 long, which rounding reaches."""


def test_evaluation_finds_what_it_finds_on_the_cpu(faces: tuple[Model, Path]) -> None:
    teacher, data = faces
    student = prune(teacher, score(teacher, "l1-out", device=CPU), prune_ratio=0.2)
    on_cpu, found = (
        evaluate(
            student, [*ALIKE, "memory", *more], teacher=teacher, data=data, samples=32,
            device=device,
        )["metrics"]
        for device, more in ((CPU, ()), (DEVICE, ("latency",)))
    )  # fmt: skip
    for name, rel in ALIKE.items():
        assert found[name] == pytest.approx(on_cpu[name], rel=rel, abs=1e-4), name
    assert found["latency"] > 0
    assert found["memory"] > found["memory-weights"] == on_cpu["memory-weights"]


def test_projection_runs(faces: tuple[Model, Path]) -> None:
    teacher, data = faces
    settings: dict[str, Any] = {"projection_images": 1, "projection_steps": 2}
    values = [
        evaluate(teacher, ["perceptual-projection"], data=data, device=device, **settings)
        for device in (CPU, DEVICE)
    ]
    expected, found = (value["metrics"]["perceptual-projection"] for value in values)
    assert found == pytest.approx(expected, rel=0.05)  # a line search takes other steps soon


def test_the_device_passes_the_doctor() -> None:
    report = doctor(DEVICE)
    assert report["device_error"] < 1e-4
    assert report["device"] == str(DEVICE)
