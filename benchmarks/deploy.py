"""What a student takes where it is deployed: every runtime and precision, on this processor.

The same generators (random weights, every group pruned alike) in PyTorch, through torch.compile, in
ONNX Runtime and in OpenVINO: milliseconds at batch 1 and 8, bytes, and what the precision costs the
images, beside what pruning (and training) cost them. All sides of a generator take turns, several
rounds of a second each, because machines that others use as well are slower for minutes; medians
over the rounds. A generator's figures are written at once: the same command goes on with the next
one where it was cut short. A Markdown table of all of them ends it.

    OMP_NUM_THREADS=2 python benchmarks/deploy.py --figures deploy.json
    python benchmarks/deploy.py --figures onnx.json --models sngan-128 --runtimes onnx
    python benchmarks/deploy.py --figures deploy.json --checkpoints student.safetensors \
        --teacher teacher.safetensors
    python benchmarks/deploy.py --figures tiny.json --tiny
"""

import argparse
import json
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import figures
import torch

import ganc
from ganc.models import resnet_translator, sngan, stylegan2, unet_translator
from ganc.models.model import Model
from ganc.models.network import ImageGenerator
from ganc.perceptual.channels import SEEN
from ganc.perceptual.distance import load_perceptual
from ganc.runtimes.graph import Graph, graph_of
from ganc.runtimes.measure import RUNTIMES, measure
from ganc.runtimes.runtime import Executable, FileRuntime, Runtime

BATCHES = (1, 8)
SPEEDUP = 10.9
COMPARED = (range(4), range(4, 8))
ROUNDS = 3

MODELS: dict[str, Callable[[], ImageGenerator]] = {
    "stylegan2-256": lambda: stylegan2.Generator(512, 0, 512, 256, 3),
    "sngan-128": lambda: sngan.Generator(128, 128, 3),
    "unet-256": lambda: unet_translator.Generator(3, 3),
    "resnet9-256": lambda: resnet_translator.Generator(3, 3),
}
TINY: dict[str, Callable[[], ImageGenerator]] = {
    "stylegan2": lambda: stylegan2.Generator(16, 0, 16, 16, 3, channel_max=16),
    "sngan": lambda: sngan.Generator(16, 32, 3),
    "unet": lambda: unet_translator.Generator(3, 3, num_downs=5, base_width=8),
    "resnet": lambda: resnet_translator.Generator(
        3, 3, img_resolution=32, num_blocks=2, base_width=8
    ),
}


class Deployed(NamedTuple):
    """A student, and the network that it stands for, if that is known."""

    name: str
    student: ImageGenerator
    teacher: ImageGenerator | None


def deployed(settings: argparse.Namespace) -> Iterator[Deployed]:
    """Yield what is measured: checkpoints as they are, or random generators, pruned."""
    if settings.checkpoints:
        teacher = ganc.load(settings.teacher).generator if settings.teacher else None
        for path in settings.checkpoints:
            yield Deployed(path.stem, ganc.load(path).generator, teacher)
        return
    for name, make in (TINY if settings.tiny else MODELS).items():
        if not settings.models or name in settings.models:
            torch.manual_seed(0)
            model = Model(generator=make().eval())
            speedup = 2.0 if settings.tiny else SPEEDUP
            scores = ganc.score(model, "random")
            student = ganc.prune(model, scores, speedup=speedup)
            yield Deployed(name, student.generator, model.generator)


@torch.no_grad()
def to_teacher(graph: Graph, teacher: ImageGenerator | None) -> dict[str, float]:
    """Return how far a student's images in float32 are from its teacher's."""
    if teacher is None or teacher.img_channels not in SEEN:
        return {}
    other = graph_of(teacher)
    pairs = [(graph.reference(x), other.reference(x)) for x in map(graph.draw, COMPARED)]
    return {"to_teacher": _perceptual(*(torch.cat(side) for side in zip(*pairs, strict=True)))}


class Side(NamedTuple):
    """A generator in a runtime and a precision; ``what`` is known before it runs."""

    what: dict[str, Any]
    executable: Executable


def prepared(graph: Graph, settings: argparse.Namespace, folder: Path) -> list[Side]:
    """Bring a generator into every runtime and precision."""
    sides = []
    for name in settings.runtimes:
        runtime = RUNTIMES[name]
        for dtype in runtime.precisions:
            if settings.dtypes and dtype not in settings.dtypes:
                continue
            runtime.check(dtype)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # exporters speak of their own internals
                executable, size = _loaded(graph, runtime, dtype, folder)
            what = {"runtime_name": name, "dtype": dtype, "bytes": size}
            sides.append(Side(what | vars(executable.conditions), executable))
    return sides


@torch.no_grad()
def rows(graph: Graph, sides: list[Side], runs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Measure all sides in turns; yield the figures of each."""
    times: dict[tuple[int, int], list[float]] = {}
    inputs = {batch: graph.draw(range(batch)) for batch in BATCHES}
    for _ in range(ROUNDS):
        for number, side in enumerate(sides):
            for batch in BATCHES:
                timing = measure(side.executable, inputs[batch], **runs)
                times.setdefault((number, batch), []).append(timing.median_ms)
    for number, side in enumerate(sides):
        found = dict(side.what)
        for batch in BATCHES:
            own = times[number, batch]
            found[f"batch{batch}_ms"] = statistics.median(own)
            found |= {f"batch{batch}_least_ms": min(own), f"batch{batch}_most_ms": max(own)}
        yield found | _errors(graph, side.executable)


def _loaded(
    graph: Graph, runtime: Runtime, dtype: str, folder: Path
) -> tuple[Executable, int | None]:
    """Return a program in its runtime, and the bytes of its file where it has one."""
    if not isinstance(runtime, FileRuntime):
        return runtime.prepare(graph, dtype), None
    own = Path(tempfile.mkdtemp(dir=folder))
    path = runtime.make(graph, own, dtype)
    size = sum(file.stat().st_size for file in own.glob(f"{path.stem}.*"))
    return runtime.open(path, dtype), size


def _errors(graph: Graph, executable: Executable) -> dict[str, float]:
    """Return how far images are from PyTorch's in float32."""
    pairs = [(executable.run(x), graph.reference(x)) for x in map(graph.draw, COMPARED)]
    images, expected = (torch.cat(side) for side in zip(*pairs, strict=True))
    moved = images - expected
    found = {
        "max_abs_error": moved.abs().max().item(),
        "relative_rms": (moved.square().mean().sqrt() / expected.std()).item(),
    }
    if expected.shape[1] in SEEN:
        found["perceptual"] = _perceptual(images, expected)
    return found


def _perceptual(images: torch.Tensor, others: torch.Tensor) -> float:
    distance = load_perceptual("effnet-lite0", offline=True)
    return distance(images.clamp(-1, 1), others.clamp(-1, 1)).mean().item()


def table(measured: list[dict[str, Any]]) -> str:
    """Return a Markdown table: beside PyTorch's float32, and beside the distance to the teacher."""
    lines = [
        "| generator | runtime | computed in | batch 1, ms | | batch 8, ms | | MB | largest error"
        " | perceptual | of the distance to the teacher |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for found in measured:
        first = {"model": found["model"], "runtime_name": "torch", "dtype": "fp32"}.items()
        whole = next((other for other in measured if first <= other.items()), None)
        cells = [found["model"], found["runtime_name"], found["precision"]]
        for batch in BATCHES:
            took = found[f"batch{batch}_ms"]
            factor = f"{whole[f'batch{batch}_ms'] / took:.2f}x" if whole else ""
            cells += [f"{took:.3g}", factor]
        size, distance = found["bytes"], found.get("perceptual")
        share = distance / found["to_teacher"] if distance and "to_teacher" in found else None
        cells += [
            "" if size is None else f"{size / 1e6:.3g}",
            f"{found['max_abs_error']:.2g}",
            "" if distance is None else f"{distance:.2g}",
            "" if share is None else f"{share:.2%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def is_there(path: Path | None, model: str) -> bool:
    """Tell whether an earlier run has measured a generator."""
    if path is None or not path.exists():
        return False
    return any(found["model"] == model for found in json.loads(path.read_text()))


def main() -> None:
    """Measure what is not there yet and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    figures.add_option(parser)
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *TINY], help="default: all")
    parser.add_argument("--checkpoints", nargs="+", type=Path, help="models of your own, instead")
    parser.add_argument("--teacher", type=Path, help="of these; its distance is the yardstick")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--dtypes", nargs="+", help="default: all that a runtime has")
    parser.add_argument("--tiny", action="store_true", help="tiny models, few runs: to try it")
    settings = parser.parse_args()
    runs = {"enough_sec": 0.0 if settings.tiny else 1.0}
    shown = []
    for model, student, teacher in deployed(settings):
        if is_there(settings.figures, model):
            continue
        graph = graph_of(student)
        beside = {"model": model, "macs": student.macs()} | to_teacher(graph, teacher)
        with tempfile.TemporaryDirectory() as folder:
            for found in rows(graph, prepared(graph, settings, Path(folder)), runs):
                shown.append(beside | found)
                figures.record(settings.figures, "deploy", **shown[-1])
    print(table(json.loads(settings.figures.read_text()) if settings.figures else shown))


if __name__ == "__main__":
    main()
