"""Budgets in milliseconds, against a clock whose times are known in closed form."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganc.errors import MissingDependencyError, UsageError
from ganc.models.model import Model
from ganc.models.network import ImageGenerator
from ganc.options import parse_duration
from ganc.pruning import budget
from ganc.pruning.latency import latency as latency_module
from ganc.pruning.latency.cost_file import read_costs, write_costs
from ganc.pruning.latency.interpolation import LayerCost, Span, sampled_sizes
from ganc.pruning.latency.latency import CLOSE, MOST_MEASURED, LatencyTable
from ganc.pruning.latency.layers import Layers
from ganc.pruning.latency.measuring import Stand
from ganc.pruning.options import PruneOptions
from ganc.pruning.plan import choose, make_plan, prune
from ganc.pruning.slicing import apply_plan
from ganc.runtimes.graph import Graph
from ganc.runtimes.measure import RUNTIMES, Timing
from ganc.runtimes.program import Program
from ganc.runtimes.runtime import Conditions
from ganc.scores import Scores
from ganc.scoring.score import score
from tests.conftest import Outcome, make_model
from tests.families import FAMILIES
from tests.test_budgets import PLANS, rounded

Ganc = Callable[..., Outcome]
Widths = dict[str, int]

OVERHEAD = 0.7
every_family = pytest.mark.parametrize("family", list(FAMILIES))


def milliseconds(program: Program) -> float:
    """A layer's time, linear in what it reads and in what it makes: interpolation is exact."""
    features = program.traced.get("x0", torch.zeros(1))
    weights = sum(tensor.numel() for tensor in program.module.parameters())
    return 0.01 + 1e-4 * features.numel() + 1e-3 * weights


SUMS: dict[tuple[object, ...], float] = {}


def sum_of_layers(generator: ImageGenerator) -> float:
    widths = tuple(generator.config["widths"].values())
    if (generator.architecture, widths) not in SUMS:
        layers = Layers(generator, 1)
        programs = layers.programs([(layer, layers.sizes(layer)) for layer in layers.layers])
        SUMS[generator.architecture, widths] = sum(map(milliseconds, programs))
    return SUMS[generator.architecture, widths]


@dataclasses.dataclass(frozen=True)
class Clock(Stand):
    """Stands in for a machine."""

    def check(self) -> None:
        pass

    def conditions(self) -> Conditions:
        return Conditions("fake 1.0", self.dtype, 2, "fake processor")

    def machine(self) -> dict[str, str | int]:
        return {"processor": "fake", "threads": 2}

    def least(self, programs: Sequence[Program]) -> list[float]:
        LOG.extend(programs)
        return [
            self.truth(p.generator) if isinstance(p, Graph) else milliseconds(p) for p in programs
        ]

    def whole(self, generator: ImageGenerator) -> Timing:
        LOG.append("whole")
        taken = self.truth(generator)
        return Timing(taken, taken, 1, self.conditions())

    def truth(self, generator: ImageGenerator) -> float:
        return sum_of_layers(generator) + OVERHEAD


class Slow(Clock):
    """Layers take longer in company, the more the larger the network is."""

    def whole(self, generator: ImageGenerator) -> Timing:
        LOG.append("whole")
        taken = self.truth(generator) ** 1.3
        return Timing(taken, taken, 1, self.conditions())


LOG: list[Any] = []


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(budget, "Stand", Clock)
    LOG.clear()
    return


@cache
def source(family: str) -> tuple[Model, Scores]:
    model = FAMILIES[family]()
    return model, score(model, "random")


def taken(model: Model, widths: Widths) -> float:
    config = model.generator.config
    own = {name: n for name, n in widths.items() if not name.startswith("discriminator.")}
    with torch.device("meta"):
        network = type(model.generator)(**{**config, "widths": {**config["widths"], **own}})
    return sum_of_layers(network) + OVERHEAD


@every_family
@pytest.mark.parametrize("allocation", PLANS)
@pytest.mark.parametrize("round_to", [1, 2])
def test_the_largest_plan_within_the_latency(family: str, allocation: str, round_to: int) -> None:
    model, scores = source(family)
    full = {name: len(values) for name, values in scores.values.items()}
    plans = [
        rounded(widths, full, round_to, 1) for widths in PLANS[allocation](full, scores.values, 1)
    ]
    times = {tuple(p.values()): taken(model, p) for p in plans[:: max(1, len(plans) // 4)]}
    for widths, own in times.items():
        plan = make_plan(
            model, scores, latency=own + 1e-6, allocation=allocation, round_to=round_to
        )
        small = tuple(plan.widths().values())
        assert taken(model, plan.widths()) <= own + 1e-6
        assert sum(small) >= sum(widths)  # the plan that was asked for fits, and is no larger
        timing = plan.settings["timing"]
        assert timing["predicted_ms"] == pytest.approx(timing["measured_ms"])
        assert timing["measured_ms"] == pytest.approx(taken(model, plan.widths()))


def test_what_was_measured_corrects_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "Stand", Slow)
    model, scores = source("stylegan2")
    whole = taken(model, {}) ** 1.3
    for share in (0.5, 0.7, 0.9):
        LOG.clear()
        plan = make_plan(model, scores, latency=share * whole, allocation="global")
        found = taken(model, plan.widths()) ** 1.3
        assert plan.settings["timing"]["measured_ms"] == pytest.approx(found)
        assert 0.9 * share * whole <= found <= share * whole
        assert 1 < LOG.count("whole") <= MOST_MEASURED + 1 or found >= CLOSE * share * whole


def test_a_trial_measures_no_plan() -> None:
    model, scores = source("stylegan2")
    options = PruneOptions(latency=0.8 * taken(model, {}))
    plan = choose(model, scores, options, is_trial=True)
    assert "whole" not in LOG
    assert "measured_ms" not in plan.settings["timing"]
    assert plan.keep == make_plan(model, scores, latency=options.latency).keep


def test_a_plan_says_how_it_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, scores = source("sngan")
    most = 0.8 * taken(model, {})
    student = prune(model, scores, latency=f"{most:.6f}ms", dtype="bf16")
    settings = student.provenance[-1]["settings"]
    assert settings["latency"] == pytest.approx(most, abs=1e-6)
    assert settings["timing"] == {
        "predicted_ms": pytest.approx(settings["timing"]["measured_ms"]),
        "measured_ms": pytest.approx(taken(student, {})),
        "batch": 1, "runtime": "fake 1.0", "precision": "bf16", "threads": 2,
        "processor": "fake processor",
    }  # fmt: skip


def test_a_latency_that_no_plan_has_names_the_fastest(
    ganc: Ganc, checkpoint: Path, tmp_path: Path
) -> None:
    model = make_model()
    scores = score(model, "random")
    scores.save(tmp_path / "scores.safetensors")
    fastest = make_plan(model, scores, prune_ratio=0.99)
    time = taken(model, fastest.widths())
    done = ganc(
        "prune", checkpoint, "--scores", tmp_path / "scores.safetensors", "--latency", "0.5ms",
        "-o", tmp_path / "x.safetensors",
    )  # fmt: skip
    assert done.code == 2
    assert "no plan takes at most 0.5 ms: the fastest, --prune-ratio 0.875, takes" in done.err
    assert f"takes {time:.3g} ms predicted, {time:.3g} measured (fake 1.0, fp32, 2 th" in done.err
    assert "raise --latency" in done.err
    assert not (tmp_path / "x.safetensors").exists()


@pytest.fixture
def command(checkpoint: Path, tmp_path: Path, ganc: Ganc) -> Callable[..., Outcome]:
    score(make_model(), "random").save(tmp_path / "scores.safetensors")

    def run(*words: object) -> Outcome:
        return ganc(
            "prune", checkpoint, "--scores", tmp_path / "scores.safetensors", "-o",
            tmp_path / "small.safetensors", *words,
        )  # fmt: skip

    return run


def test_the_command_prints_both_times(command: Callable[..., Outcome], tmp_path: Path) -> None:
    most = 0.8 * taken(make_model(), {})
    done = command("--latency", f"{most:.4f}ms", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["latency"]
    assert found["measured_ms"] <= found["most_ms"] == pytest.approx(most, abs=1e-4)
    assert (found["runtime"], found["threads"]) == ("fake 1.0", 2)
    done = command("--latency", f"{most:.4f}", "--force")
    assert "ms measured" in done.out
    assert "fake processor" in done.out


def test_a_dry_run_predicts_and_writes_nothing(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    most = 0.8 * taken(make_model(), {})
    done = command("--latency", f"{most:.4f}ms", "--dry-run", "--json")
    settings = json.loads(done.out)["settings"]
    assert settings["timing"]["predicted_ms"] <= most
    assert 0 < settings["prune_ratio"] < 1
    assert "measured_ms" not in settings["timing"]
    assert not (tmp_path / "small.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "finding"),
    [
        (("--latency", "soon"), "`soon` is not a time; allowed: a number of milliseconds, 20ms"),
        (("--latency", "0ms"), "--latency 0 must be a positive number"),
        (("--latency", "20ms", "--macs", "4G"), "got --macs and --latency"),
        (("--latency", "20ms", "--runtime", "onyx"), "unknown --runtime `onyx`"),
        (("--latency", "20ms", "--batch", 0), "--batch"),
        (("--macs", "4G", "--dtype", "int8", "--batch", 2), "--dtype, --batch: how to run the"),
    ],
)
def test_what_is_refused(
    command: Callable[..., Outcome], words: tuple[object, ...], finding: str
) -> None:
    for extra in ((), ("--dry-run",)):
        done = command(*words, *extra)
        assert done.code == 2
        assert finding in done.err


def test_a_runtime_that_is_missing(
    command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(budget, "Stand", Stand)
    monkeypatch.setattr("ganc.extras.import_module", absent)
    done = command("--latency", "20ms", "--runtime", "onnx")
    assert done.code == MissingDependencyError.exit_code
    assert "pip install 'ganc[export]'" in done.err
    done = command("--latency", "20ms", "--dtype", "int4")
    assert done.code == 2
    assert "unknown --dtype `int4`" in done.err


def test_a_latency_counts_the_generator() -> None:
    model, _ = source("stylegan2")
    scores = score(model, "l1-in", discriminator=True)
    own = {k: v for k, v in scores.values.items() if k.startswith("discriminator.")}
    with pytest.raises(UsageError, match="--latency counts the generator"):
        make_plan(model, Scores(own, "l1-in"), latency=1.0)
    both = make_plan(model, scores, latency=0.8 * taken(model, {}), allocation="uniform")
    assert len(both.keep["discriminator.b8.conv0"]) < model.widths["discriminator.b8.conv0"]


@pytest.mark.parametrize(("text", "value"), [("20ms", 20), ("0.02s", 20), ("7.5", 7.5)])
def test_times(text: str, value: float) -> None:
    assert parse_duration(text) == pytest.approx(value)


# -- layers ---------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("batch", [1, 3])
def test_layers_run_alone_at_any_width(family: str, batch: int) -> None:
    model, _ = source(family)
    layers = Layers(model.generator, batch)
    owned = {name for layer in layers.layers for axis in layer.axes for name in axis}
    assert owned >= {g.name for g in model.generator.groups()}
    for widths in (layers.full, layers.typical, dict.fromkeys(layers.full, 1)):
        wanted = [(layer, layers.sizes(layer, widths)) for layer in layers.layers]
        for (layer, sizes), program in zip(wanted, layers.programs(wanted), strict=True):
            made = program.module(**program.traced)
            assert isinstance(made, Tensor)
            assert made.shape[0] == batch
            if len(layer.axes) == 2:
                assert made.shape[1] == sizes[1]


def test_layers_of_one_shape_are_one() -> None:
    model, _ = source("stylegan3")
    layers = Layers(model.generator, 1)
    keys = [layers.key(layer, layers.sizes(layer)) for layer in layers.layers]
    assert keys[1] == keys[2] == keys[3]
    assert len(set(keys)) == 4
    other = Layers(model.generator, 2)
    assert not set(keys) & {other.key(layer, other.sizes(layer)) for layer in other.layers}


# -- interpolation --------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [(512, 128), (64, 24), (48,), (7, 5), (3,), (1, 1), (153, 50)])
def test_linear_costs_are_found_at_every_width(full: tuple[int, ...]) -> None:
    def cost(sizes: tuple[int, ...]) -> float:
        return float(torch.tensor([1.0 + 0.01 * n for n in sizes]).double().prod())

    axes = [Span(1, n) for n in full]
    table = LayerCost(axes, {sizes: cost(sizes) for sizes in sampled_sizes(axes)})
    for share in (0.35, 0.5, 0.81, 1.0):
        sizes = tuple(axis.whole_blocks(max(1, int(share * axis.most))) for axis in axes)
        assert table.at(sizes) == pytest.approx(cost(sizes))


def test_widths_between_blocks_cost_more_where_they_do() -> None:
    def cost(sizes: tuple[int, ...]) -> float:
        factors = {0: 1.0, 8: 1.1}
        factor = 1.0
        for n in sizes:
            factor *= factors.get(n % 16, 1.3)
        blocks = [-(-n // 16) * 16 for n in sizes]
        return factor * (5 + blocks[0] * blocks[1])

    full = (512, 256)
    axes = [Span(1, n) for n in full]
    table = LayerCost(axes, {sizes: cost(sizes) for sizes in sampled_sizes(axes)})
    for sizes in ((64, 64), (72, 64), (65, 64), (65, 72), (511, 248), (200, 255)):
        assert table.at(sizes) == pytest.approx(cost(sizes))
    assert table.at((63, 63)) > table.at((64, 64))


def test_few_widths_are_measured() -> None:
    sampled = sampled_sizes([Span(1, 512)] * 2)
    assert len(sampled) == 13
    assert all(n % 16 == 0 for sizes in sampled[:9] for n in sizes)
    assert {n % 16 for sizes in sampled[9:] for n in sizes} == {8, 5}
    assert sampled_sizes([Span(2, 10)]) == [(2,), (4,), (10,)]  # two groups side by side


# -- the cache ------------------------------------------------------------------------------------

MACHINE: dict[str, str | int] = {"processor": "fake", "threads": 2}


def test_layers_are_measured_once() -> None:
    model, scores = source("unet_translator")
    most = 0.8 * taken(model, {})
    first = make_plan(model, scores, latency=most)
    assert len(LOG) > 20
    LOG.clear()
    again = make_plan(model, scores, latency=most, allocation="uniform")
    assert set(LOG) == {"whole"}
    assert again.keep == first.keep


def test_another_machines_costs_are_not_believed(tmp_path: Path) -> None:
    found: list[str] = []
    write_costs(MACHINE, {"a": 1.0}, found.append)
    write_costs(MACHINE, {"b": 2.0}, found.append)
    assert read_costs(MACHINE, found.append) == {"a": 1.0, "b": 2.0}
    other = MACHINE | {"processor": "another"}
    assert read_costs(other, found.append) == {}
    assert not found
    (file,) = (tmp_path / "cache" / "latency").iterdir()
    write_costs(other, {"a": 9.0}, found.append)
    (theirs,) = set((tmp_path / "cache" / "latency").iterdir()) - {file}
    theirs.replace(file)
    assert read_costs(MACHINE, found.append) == {}
    assert "it is of another machine" in found[0]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"machine": {}}', '{"machine": {"processor": "fake", "threads": 2}, '
                '"costs": {"a": 0}}', '{"machine": {}, "costs": {"a": NaN}}'],
)  # fmt: skip
def test_a_damaged_cache_is_measured_again(tmp_path: Path, content: str) -> None:
    found: list[str] = []
    write_costs(MACHINE, {"a": 1.0}, found.append)
    (file,) = (tmp_path / "cache" / "latency").iterdir()
    file.write_text(content)
    assert read_costs(MACHINE, found.append) == {}
    assert "layers are measured again" in found[0]
    write_costs(MACHINE, {"a": 1.0}, found.append)
    assert read_costs(MACHINE, found.append) == {"a": 1.0}


def test_the_machine_is_all_that_times_depend_on() -> None:
    stand = Stand("torch", "fp32", 1, torch.device("cpu"))
    machine = stand.machine()
    assert machine["processor"]
    assert machine["threads"] == torch.get_num_threads()
    for other in (
        Stand("onnx", "fp32", 1, stand.device), Stand("torch", "bf16", 1, stand.device),
        Stand("torch", "fp32", 2, stand.device),
    ):  # fmt: skip
        assert other.machine() != machine


# -- real clocks ----------------------------------------------------------------------------------


def test_a_real_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "Stand", Stand)
    model, scores = source("stylegan2")
    plan = make_plan(model, scores, latency=60_000)
    timing = plan.settings["timing"]
    assert plan.settings["prune_ratio"] == 0
    assert 0 < timing["predicted_ms"] < 60_000
    assert 0 < timing["measured_ms"] < 60_000
    assert timing["runtime"].startswith("PyTorch")


@pytest.mark.slow
def test_a_real_clock_of_onnx_runtime() -> None:
    model, _ = source("sngan")
    stand = Stand("onnx", "fp32", 2, torch.device("cpu"))
    layers = Layers(model.generator, 2)
    wanted = [(layer, layers.sizes(layer)) for layer in layers.layers]
    programs = layers.programs(wanted)
    assert min(stand.least(programs)) > 0
    executables = RUNTIMES["onnx"].prepare_each(programs)
    for program, executable in zip(programs, executables, strict=True):
        expected = program.module(**program.traced)
        torch.testing.assert_close(executable.run(program.traced), expected, atol=1e-4, rtol=1e-4)


def test_a_student_is_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, scores = source("stylegan2")
    seen: list[ImageGenerator] = []
    monkeypatch.setattr(
        Clock, "whole",
        lambda self, g: (seen.append(g), Timing(1.0, 1.0, 1, self.conditions()))[1],
    )  # fmt: skip
    plan = make_plan(model, scores, latency=1.0)
    expected = apply_plan(model, plan).generator
    assert torch.equal(seen[-1].synthesis.b8.conv0.weight, expected.synthesis.b8.conv0.weight)


def test_a_table_predicts_what_no_layer_owns() -> None:
    model, _ = source("stylegan2")
    table = LatencyTable(
        model.generator, Clock("torch", "fp32", 1, torch.device("cpu")), lambda *_: None, print
    )
    assert table.constant == pytest.approx(OVERHEAD)
    assert latency_module.CLOSE < 1
